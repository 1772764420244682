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
"""Tokens of a clip, at most: 256 frames of 720 px. A file that asks for more is damaged or hostile."""


@dataclass(frozen=True)
class ModelConfig(Config):
    """Encoder and predictor. `arch` names a size; embed_dim, depth, num_heads and mlp_ratio replace its numbers."""

    arch: str = "vit_tiny"
    """Encoder size: vit_femto, vit_pico, vit_tiny, vit_small, vit_base, vit_large, vit_huge, vit_giant,
    vit_giant_xformers (V-JEPA 2's ViT-g), vit_gigantic_xformers (2.1's ViT-G)."""
    img_size: Pixels | tuple[Pixels, Pixels] = 224
    """Height and width of a clip, px (one number: square)."""
    num_frames: Pixels = 16
    """Frames in a clip; 1 builds the image model."""
    patch_size: Few = 16
    """Side of a patch, px."""
    tubelet_size: Few = 2
    """Frames in a tubelet."""
    embed_dim: Width | None = None
    """Width of the encoder; None: the size's own."""
    depth: Few | None = None
    """Blocks of the encoder; None: the size's own."""
    num_heads: Few | None = None
    """Attention heads of the encoder; None: the size's own."""
    mlp_ratio: MlpRatio | None = None
    """Hidden width of the MLP over embed_dim; None: the size's own."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """MLP of the encoder: two linear layers around a GELU, or three as SwiGLU (Meta's wide_silu: take 2/3 of mlp_ratio)."""
    positions: Literal["sincos", "rope-tiled", "rope"] = "sincos"
    """sincos: fixed codes, added once (V-JEPA 1). rope-tiled: queries and keys are rotated in every block, with the table that
    V-JEPA 2 was trained with. rope: true rotations (V-JEPA 2.1)."""
    uniform_power: bool = True
    """sincos: same number of position channels for time, height and width (all released V-JEPA 1 models)."""
    time_attention: Literal["full", "causal", "tubelet"] = "full"
    """Which tokens a token of the encoder looks at: all of the clip (V-JEPA), those of its own and earlier tubelets (causal),
    or those of its own tubelet, which then knows its row and column but no time. Prediction of the next latent needs one of
    the last two."""
    output_positions: bool = False
    """sincos: position codes are added to the encoder's output once more, for probes that read single tokens: objectives on
    pooled tokens let a token forget where it stands."""
    interpolate_rope: bool = False
    """rope: rows and columns of any frame are stretched to the span of 256 px in the encoder (V-JEPA 2.1)."""
    modality_embed: bool = False
    """Single frames have a patch embedding of their own, and learned embeddings tell images from videos (V-JEPA 2.1)."""
    levels: tuple[Annotated[int, Range(0, 1023)], ...] = ()
    """Blocks (from 0, the last one included) whose outputs have a norm of their own (V-JEPA 2.1); empty: one final norm."""
    predictor_kind: Literal["masked", "action"] = "masked"
    """masked: predicts hidden tokens. action: predicts the next frame from actions and states (V-JEPA 2-AC; loading only)."""
    predictor_embed_dim: Width = 384
    """Width of the predictor."""
    predictor_depth: Few = 12
    """Blocks of the predictor."""
    predictor_num_heads: Few | None = None
    """Attention heads of the predictor; None: as many as the encoder (V-JEPA 1)."""
    num_mask_tokens: Annotated[int, Range(0, 1024)] = 2
    """Mask tokens: one per mask configuration (sincos) or clip length (rope). 0: noisy target features take their place."""
    predictor_levels: Few = 1
    """How many of the levels, from the last one back, the predictor reads and predicts (V-JEPA 2.1 g and G: 4)."""
    predictor_out_dim: Annotated[int, Range(1, 2**24)] | None = None
    """Width of the features predicted; None: those of the encoder (V-JEPA 2.1 B and L: 1664, of their teacher)."""
    predict_context: bool = False
    """The predictor has a second output, for the visible tokens (V-JEPA 2.1's dense loss)."""
    predictor_interpolate_rope: bool = False
    """rope: as interpolate_rope, in the predictor (on in Meta's training of 2.1, off in its released loader)."""

    def __post_init__(self) -> None:
        if self.arch not in ENCODER_SIZES:
            raise ConfigError(f"arch {str(self.arch)[:40]!r} is unknown: {choose(str(self.arch), ENCODER_SIZES)}")
        super().__post_init__()
        for name, width, heads in (
            ("embed_dim", self.dims.embed_dim, self.dims.num_heads),
            ("predictor_embed_dim", self.predictor_embed_dim, self.predictor_heads),
        ):
            if width % heads:
                raise ConfigError(f"{name} {width} does not divide by its {heads} attention heads")
            self._check_positions(name, width, width // heads)
        if self.dims.embed_dim * self.dims.mlp_ratio < 1:
            raise ConfigError(f"mlp_ratio {self.dims.mlp_ratio:g} leaves the MLP no channels: give a larger one")
        if self.levels and (sorted(set(self.levels)) != list(self.levels) or self.levels[-1] != self.dims.depth - 1):
            raise ConfigError(
                f"levels {self.levels}: give ascending blocks, ending with the last, {self.dims.depth - 1}"
            )
        if not 1 <= self.predictor_levels <= max(1, len(self.levels)):
            raise ConfigError(f"predictor_levels {self.predictor_levels}: the encoder has {max(1, len(self.levels))}")
        if self.output_positions and self.positions != "sincos":
            raise ConfigError(f"output_positions adds sin-cos codes: set positions to sincos, not {self.positions}")
        if self.interpolate_rope or self.predictor_interpolate_rope:
            if self.positions != "rope":
                raise ConfigError(f"interpolate_rope works with positions rope, not {self.positions}")
            if self.patch_size > 128:  # a frame of 256 px would have a single row, and all tokens one place
                raise ConfigError(f"patch_size {self.patch_size}: interpolate_rope works with patches up to 128 px")
        if self.grid.tokens > MOST_TOKENS:  # an impossible geometry fails here, before any work
            raise ConfigError(
                f"a clip of {self.grid.tokens} tokens: choose fewer frames, a smaller img_size or larger patches, for at "
                f"most {MOST_TOKENS} tokens"
            )

    def _check_positions(self, name: str, width: int, head_width: int) -> None:
        """A width that the position scheme can be built for."""
        if self.positions != "sincos" and (head_width % 2 or head_width < 6):
            raise ConfigError(
                f"{name} {width} has heads of {head_width} channels: rotary positions need an even number, at least 6"
            )
        divisor = 4 if self.num_frames == 1 else 1 if self.uniform_power else 8
        if self.positions == "sincos" and width % divisor:
            raise ConfigError(f"{name} {width}: sin-cos codes of this model need a multiple of {divisor}")

    @property
    def dims(self) -> EncoderDims:
        """The encoder's numbers after `arch` and its replacements."""
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
        """Tokens of a clip of the size the model was made for."""
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
