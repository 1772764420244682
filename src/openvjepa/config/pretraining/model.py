"""Settings of the model: encoder and predictor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from openvjepa.config.ranges import Config, Few, Pixels, Range, choose
from openvjepa.errors import ConfigError
from openvjepa.grid import TokenGrid

Width: TypeAlias = Annotated[int, Range(1, 2**16)]
MlpRatio: TypeAlias = Annotated[float, Range(1e-3, 64)]

# name: (embed_dim, depth, num_heads, MLP hidden / embed_dim), as in Meta's code; the first two are for the demo. The
# gigantic one is that of V-JEPA 2.1 (ratio 64/13); V-JEPA 1 and 2 released none.
ENCODER_SIZES: dict[str, tuple[int, int, int, float]] = {
    "vit_femto": (96, 4, 3, 4.0),
    "vit_pico": (128, 4, 4, 4.0),
    "vit_tiny": (192, 12, 3, 4.0),
    "vit_small": (384, 12, 6, 4.0),
    "vit_base": (768, 12, 12, 4.0),
    "vit_large": (1024, 24, 16, 4.0),
    "vit_huge": (1280, 32, 16, 4.0),
    "vit_giant": (1408, 40, 16, 48 / 11),
    "vit_giant_xformers": (1408, 40, 22, 48 / 11),
    "vit_gigantic_xformers": (1664, 48, 26, 64 / 13),
}


MOST_TOKENS = 2**18
"""Maximum number of tokens per clip (256 frames of 720 px); a file with more is damaged or malicious."""


@dataclass(frozen=True)
class ModelConfig(Config):
    """Encoder and predictor. `arch` selects a size; embed_dim, depth, num_heads and mlp_ratio override its values."""

    arch: str = "vit_tiny"
    """Encoder size: vit_femto, vit_pico, vit_tiny, vit_small, vit_base, vit_large, vit_huge, vit_giant,
    vit_giant_xformers (V-JEPA 2's ViT-g), vit_gigantic_xformers (2.1's ViT-G)."""
    img_size: Pixels | tuple[Pixels, Pixels] = 224
    """Height and width of a clip, px (one number: square)."""
    num_frames: Pixels = 16
    """Frames per clip; 1: an image model."""
    patch_size: Few = 16
    """Patch size, px."""
    tubelet_size: Few = 2
    """Frames per tubelet."""
    embed_dim: Width | None = None
    """Embedding dimension of the encoder; None: that of arch."""
    depth: Few | None = None
    """Number of encoder blocks; None: that of arch."""
    num_heads: Few | None = None
    """Attention heads of the encoder; None: that of arch."""
    mlp_ratio: MlpRatio | None = None
    """MLP hidden dimension / embed_dim; None: that of arch."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """MLP of the encoder: GELU or SwiGLU (for Meta's wide_silu use 2/3 of mlp_ratio)."""
    positions: Literal["sincos", "rope-tiled", "rope"] = "sincos"
    """Position encoding. sincos: fixed embeddings added to the input (V-JEPA 1). rope-tiled: the rotary variant that V-JEPA 2
    was trained with. rope: standard rotary embeddings (V-JEPA 2.1)."""
    uniform_power: bool = True
    """sincos: equal number of channels for time, height and width (all released V-JEPA 1 models)."""
    time_attention: Literal["full", "causal", "tubelet"] = "full"
    """Attention of the encoder over time: full (V-JEPA), causal (own and earlier tubelets), or tubelet (own tubelet only, with
    spatial position embeddings only). Next-latent prediction needs causal or tubelet."""
    output_positions: bool = False
    """sincos: add position embeddings to the encoder output as well. Useful for probes on single tokens, since objectives on
    pooled tokens do not preserve token positions."""
    interpolate_rope: bool = False
    """rope: rescale rows and columns to the range of a 256 px frame in the encoder (V-JEPA 2.1)."""
    modality_embed: bool = False
    """Use a separate patch embedding for images, and learned modality embeddings (V-JEPA 2.1)."""
    levels: tuple[Annotated[int, Range(0, 1023)], ...] = ()
    """Encoder blocks (from 0, including the last) with their own output norm (V-JEPA 2.1); empty: a single final norm."""
    predictor_kind: Literal["masked", "action"] = "masked"
    """masked: predicts masked tokens. action: predicts the next frame from actions and states (V-JEPA 2-AC; loading only)."""
    predictor_embed_dim: Width = 384
    """Embedding dimension of the predictor."""
    predictor_depth: Few = 12
    """Number of predictor blocks."""
    predictor_num_heads: Few | None = None
    """Attention heads of the predictor; None: as many as the encoder (V-JEPA 1)."""
    num_mask_tokens: Annotated[int, Range(0, 1024)] = 2
    """Number of mask tokens: one per mask configuration (sincos) or clip length (rope). 0: noisy target features instead."""
    predictor_levels: Few = 1
    """Number of levels, counted from the last, that the predictor reads and predicts (V-JEPA 2.1 g and G: 4)."""
    predictor_out_dim: Annotated[int, Range(1, 2**24)] | None = None
    """Dimension of the predicted features; None: that of the encoder (V-JEPA 2.1 B and L: 1664, that of their teacher)."""
    predict_context: bool = False
    """Also predict visible tokens (dense loss of V-JEPA 2.1)."""
    predictor_interpolate_rope: bool = False
    """rope: interpolate_rope for the predictor (on in Meta's training code of 2.1, off in its released loader)."""

    def __post_init__(self) -> None:
        if self.arch not in ENCODER_SIZES:
            raise ConfigError(f"arch {str(self.arch)[:40]!r} is unknown: {choose(str(self.arch), ENCODER_SIZES)}")
        super().__post_init__()
        for name, width, heads in (
            ("embed_dim", self.dims.embed_dim, self.dims.num_heads),
            ("predictor_embed_dim", self.predictor_embed_dim, self.predictor_heads),
        ):
            if width % heads:
                raise ConfigError(f"{name} {width} is not divisible by its {heads} attention heads")
            self._check_positions(name, width, width // heads)
        if self.dims.embed_dim * self.dims.mlp_ratio < 1:
            raise ConfigError(f"mlp_ratio {self.dims.mlp_ratio:g} is too small: the MLP would have no channels")
        if self.levels and (sorted(set(self.levels)) != list(self.levels) or self.levels[-1] != self.dims.depth - 1):
            raise ConfigError(
                f"levels {self.levels} must be ascending block numbers that end with the last block, {self.dims.depth - 1}"
            )
        if not 1 <= self.predictor_levels <= max(1, len(self.levels)):
            raise ConfigError(f"predictor_levels {self.predictor_levels}: the encoder has {max(1, len(self.levels))}")
        if self.output_positions and self.positions != "sincos":
            raise ConfigError(f"output_positions needs positions sincos, not {self.positions}")
        if self.interpolate_rope or self.predictor_interpolate_rope:
            if self.positions != "rope":
                raise ConfigError(f"interpolate_rope needs positions rope, not {self.positions}")
            if self.patch_size > 128:  # a frame of 256 px would have a single row, and all tokens one place
                raise ConfigError(f"patch_size {self.patch_size}: interpolate_rope supports patches of up to 128 px")
        if self.grid.tokens > MOST_TOKENS:  # an impossible geometry fails here, before any work
            raise ConfigError(
                f"a clip has {self.grid.tokens} tokens, more than {MOST_TOKENS}: reduce num_frames "
                "or img_size, or increase patch_size"
            )

    def _check_positions(self, name: str, width: int, head_width: int) -> None:
        """Check that the position encoding supports an embedding dimension."""
        if self.positions != "sincos" and (head_width % 2 or head_width < 6):
            raise ConfigError(
                f"{name} {width} has heads of {head_width} channels: rotary positions need an even number of at least 6"
            )
        divisor = 4 if self.num_frames == 1 else 1 if self.uniform_power else 8
        if self.positions == "sincos" and width % divisor:
            raise ConfigError(f"{name} {width}: sin-cos positions of this model need a multiple of {divisor}")

    @property
    def dims(self) -> EncoderDims:
        """Encoder dimensions, after overrides of `arch`."""
        embed_dim, depth, num_heads, mlp_ratio = ENCODER_SIZES[self.arch]
        return EncoderDims(
            self.embed_dim or embed_dim, self.depth or depth, self.num_heads or num_heads, self.mlp_ratio or mlp_ratio
        )

    @property
    def predictor_heads(self) -> int:
        """Attention heads of the predictor."""
        return self.predictor_num_heads or self.dims.num_heads

    @property
    def image_hw(self) -> tuple[int, int]:
        """(height, width) of a clip, px."""
        return (self.img_size, self.img_size) if isinstance(self.img_size, int) else self.img_size

    @property
    def grid(self) -> TokenGrid:
        """Token grid of a clip."""
        return TokenGrid.of_clip(
            self.num_frames, *self.image_hw, patch_size=self.patch_size, tubelet_size=self.tubelet_size
        )


@dataclass(frozen=True)
class EncoderDims:
    """Width, depth, heads and MLP ratio of an encoder."""

    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
