"""Settings of pretraining and of the model, as frozen dataclasses.

Field names are unique over the parts of one command, so that each is one flag on the command line (`--frame-step 2`)
and one line in its section of the YAML file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from openvjepa.config.objective import ObjectiveConfig, ViewsConfig
from openvjepa.config.ranges import Range, check_ranges
from openvjepa.errors import ConfigError
from openvjepa.grid import TokenGrid

# name: (embed_dim, depth, num_heads, MLP hidden / embed_dim). Spec section 1.1; the first two are for the demo. The
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
_WIDTH, _COUNT, _SIDE = (1, 2**16), (1, 1024), (1, 2**14)
_MODEL_RANGES: dict[str, Range] = {
    "img_size": _SIDE, "num_frames": _SIDE, "patch_size": _COUNT, "tubelet_size": _COUNT, "embed_dim": _WIDTH,
    "depth": _COUNT, "num_heads": _COUNT, "mlp_ratio": (1e-3, 64.0), "levels": (0, 1023), "predictor_embed_dim": _WIDTH,
    "predictor_depth": _COUNT, "predictor_num_heads": _COUNT, "num_mask_tokens": (0, 1024), "predictor_levels": _COUNT,
    "predictor_out_dim": (1, 2**24),
}  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """Encoder and predictor. `arch` names a size; embed_dim, depth, num_heads and mlp_ratio replace its numbers."""

    arch: str = "vit_tiny"
    """Encoder size: vit_femto, vit_pico, vit_tiny, vit_small, vit_base, vit_large, vit_huge, vit_giant,
    vit_giant_xformers (V-JEPA 2's ViT-g), vit_gigantic_xformers (2.1's ViT-G)."""
    img_size: int | tuple[int, int] = 224
    """Height and width of a clip, px (one number: square)."""
    num_frames: int = 16
    """Frames in a clip; 1 builds the image model."""
    patch_size: int = 16
    """Side of a patch, px."""
    tubelet_size: int = 2
    """Frames in a tubelet."""
    embed_dim: int | None = None
    """Width of the encoder; None: the size's own."""
    depth: int | None = None
    """Blocks of the encoder; None: the size's own."""
    num_heads: int | None = None
    """Attention heads of the encoder; None: the size's own."""
    mlp_ratio: float | None = None
    """Hidden width of the MLP over embed_dim; None: the size's own."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """MLP of the encoder: two linear layers around a GELU, or three as SwiGLU (Meta's wide_silu: take 2/3 of mlp_ratio)."""
    positions: Literal["sincos", "rope-tiled", "rope"] = "sincos"
    """sincos: fixed codes, added once (V-JEPA 1). rope-tiled: queries and keys are turned in every block, with the table that
    V-JEPA 2 was trained with. rope: true rotations (V-JEPA 2.1)."""
    uniform_power: bool = True
    """sincos: same number of position channels for time, height and width (all released V-JEPA 1 models)."""
    time_attention: Literal["full", "causal", "tubelet"] = "full"
    """Which tokens a token of the encoder looks at: all of the clip (V-JEPA), those of its own and earlier tubelets (causal),
    or those of its own tubelet. Prediction of the next latent needs one of the last two."""
    interpolate_rope: bool = False
    """rope: rows and columns of any frame are stretched to the span of 256 px in the encoder (V-JEPA 2.1)."""
    modality_embed: bool = False
    """Single frames have a patch embedding of their own, and learned embeddings tell images from videos (V-JEPA 2.1)."""
    levels: tuple[int, ...] = ()
    """Blocks (from 0, the last one included) whose outputs have a norm of their own (V-JEPA 2.1); empty: one final norm."""
    predictor_kind: Literal["masked", "action"] = "masked"
    """masked: predicts hidden tokens. action: predicts the next frame from actions and states (V-JEPA 2-AC; loading only)."""
    predictor_embed_dim: int = 384
    """Width of the predictor."""
    predictor_depth: int = 12
    """Blocks of the predictor."""
    predictor_num_heads: int | None = None
    """Attention heads of the predictor; None: as many as the encoder (V-JEPA 1)."""
    num_mask_tokens: int = 2
    """Mask tokens: one per mask configuration (sincos) or clip length (rope). 0: noisy target features take their place."""
    predictor_levels: int = 1
    """How many of the levels, from the last one back, the predictor reads and predicts (V-JEPA 2.1 g and G: 4)."""
    predictor_out_dim: int | None = None
    """Width of the features predicted; None: those of the encoder (V-JEPA 2.1 B and L: 1664, of their teacher)."""
    predict_context: bool = False
    """The predictor has a second output, for the visible tokens (V-JEPA 2.1's dense loss)."""
    predictor_interpolate_rope: bool = False
    """rope: as interpolate_rope, in the predictor (on in Meta's training of 2.1, off in its released loader)."""

    def __post_init__(self) -> None:
        if self.arch not in ENCODER_SIZES:
            raise ConfigError(f"arch {self.arch[:40]!r} is unknown: choose one of {', '.join(ENCODER_SIZES)}")
        check_ranges(self, _MODEL_RANGES)
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


@dataclass(frozen=True)
class MaskConfig:
    """One mask: which tokens are predicted, the rest being the context (spec section 3)."""

    kind: Literal["multiblock", "tube"] = "multiblock"
    """multiblock: union of blocks; tube: random patches, the same in every frame."""
    num_blocks: int = 8
    """Blocks whose union is predicted (multiblock)."""
    spatial_scale: tuple[float, float] = (0.15, 0.15)
    """Area of a block as a share of the frame, least and most."""
    temporal_scale: tuple[float, float] = (1.0, 1.0)
    """Length of a block as a share of the clip, least and most."""
    aspect_ratio: tuple[float, float] = (0.75, 1.5)
    """Height over width of a block, least and most."""
    max_temporal_keep: float = 1.0
    """Share of the clip, from its start, that the context may use."""
    max_keep: int | None = None
    """Most context tokens; None: no limit."""
    ratio: float = 0.9
    """Share of the patches that are predicted (tube)."""


SHORT_RANGE = MaskConfig(num_blocks=8, spatial_scale=(0.15, 0.15))
LONG_RANGE = MaskConfig(num_blocks=2, spatial_scale=(0.7, 0.7))
IMAGE_MASK = MaskConfig(num_blocks=10, spatial_scale=(0.15, 0.15))


@dataclass(frozen=True)
class DataConfig:
    """What to read and how clips are cut from it. The clip's shape is the model's."""

    label: str | None = None
    """Column of a CSV that holds the label; None: the column `label`, or the only one there is."""
    mix: tuple[float, ...] | None = None
    """Weights of the sources, one each; None: every video counts the same."""
    images: tuple[str, ...] = ()
    """Folders, lists or CSV files of images to train on beside the videos, each kind with half of the loss (V-JEPA 2.1)."""
    image_size: int | None = None
    """Height and width of an image, px; None: those of a clip."""
    image_batch: int | None = None
    """Images in an optimiser step; None: as many as clips."""
    frame_step: int | None = 4
    """Every n-th frame of the video (V-JEPA 1); not together with fps."""
    fps: float | None = None
    """Frames per second of a clip, by time (V-JEPA 2); replaces frame_step."""
    crop_scale: tuple[float, float] = (0.3, 1.0)
    """Area of the random crop as a share of the frame, least and most."""
    crop_ratio: tuple[float, float] = (0.75, 1.35)
    """Width over height of the random crop, least and most."""
    hflip: float = 0.5
    """Probability of a horizontal flip."""
    cache: bool = False
    """Keep the decoded frames of every video in memory: for small sets of small videos."""
    workers: int | None = None
    """Processes that load data; None: one fewer than the cores, at most 8 (0 with cache)."""
    max_bad: float = 0.1
    """Share of unreadable videos at which the run stops."""

    def __post_init__(self) -> None:
        if (self.frame_step is None) == (self.fps is None):
            raise ConfigError(
                "give exactly one of frame_step and fps (the other is None on the command line, null in YAML)"
            )
        for name in ("crop_scale", "crop_ratio"):
            least, most = getattr(self, name)
            if not 0 < least <= most:
                raise ConfigError(f"{name} {least}, {most}: give two numbers above 0, the smaller one first")
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"workers {self.workers}: give 0 or more")
        if not 0 <= self.max_bad <= 1 or not 0 <= self.hflip <= 1:
            raise ConfigError("max_bad and hflip must lie in 0..1")


@dataclass(frozen=True)
class MaskingConfig:
    """The masks of a step. One encoder pass and one predictor pass are run for each."""

    masks: tuple[MaskConfig, ...] = (SHORT_RANGE, LONG_RANGE)
    """The masks (YAML only)."""
    image_masks: tuple[MaskConfig, ...] = (IMAGE_MASK,)
    """The masks of images (YAML only)."""
    truncation: Literal["random", "first"] = "random"
    """How samples of a batch come to one length: random ids (unbiased), or the first ones as in Meta's code, which drops
    late frames (only 18-29 % of the last time step survives at batch 8)."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedules, each a pure function of the step."""

    lr: float = 6.25e-4
    """Learning rate after the warm-up."""
    start_lr: float = 2e-4
    """Learning rate at the start of the warm-up."""
    final_lr: float = 1e-6
    """Learning rate at the end of the (stretched) schedule."""
    warmup: float = 40 / 300
    """Warm-up as a share of the steps."""
    decay: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls after the warm-up (linear: V-JEPA 2's cooldown)."""
    weight_decay: float = 0.04
    """Weight decay at the start (none on biases and norms)."""
    final_weight_decay: float = 0.4
    """Weight decay at the end of the (stretched) schedule."""
    ema: tuple[float, float] = (0.998, 1.0)
    """Momentum of the target encoder at the start and at the end of the (stretched) schedule."""
    schedule_scale: float = 1.25
    """The schedules are stretched over this many times the steps (Meta's ipe_scale)."""
    clip_grad: float | None = 10.0
    """Largest gradient norm, of encoder and predictor apart, after the warm-up; None: no limit."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's betas."""
    eps: float = 1e-8
    """AdamW's epsilon."""


@dataclass(frozen=True)
class TrainConfig:
    """The run."""

    steps: int = 5000
    """Optimiser steps."""
    batch_size: int = 16
    """Clips in an optimiser step, over all devices and accumulated passes."""
    micro_batch: int | None = None
    """Clips in one pass of one device; smaller than batch_size: gradients are accumulated. None: all at once."""
    seed: int = 0
    """Sample order, clips, crops, masks and initial weights follow from it."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast where the hardware has it."""
    activation_checkpointing: bool = False
    """Compute the inside of every block again for its gradient: much less memory, a third more time, same numbers."""
    compile: bool = False
    """Compile the transformer blocks (torch.compile) before the first step. For GPUs: CPUs gain nothing."""
    threads: int | None = None
    """CPU threads of the model; None: torch's choice."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    save_every: int = 500
    """Steps between two checkpoints."""
    keep_last: int = 2
    """Checkpoints kept."""
    monitor_every: int = 250
    """Steps between two looks at collapse: feature std, effective rank, kNN; 0: never."""
    resume: bool = False
    """Go on from the newest checkpoint in the run folder."""
    overwrite: bool = False
    """Delete what an earlier run left in the run folder."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "save_every", "keep_last"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ConfigError("micro_batch must be at least 1")


@dataclass(frozen=True)
class PretrainConfig:
    """Everything `vjepa pretrain` does; saved as config.yaml in the run folder."""

    sources: tuple[str, ...] = ()
    """Folders, lists or CSV files of videos; those marked as val or test are not trained on."""
    out: str = "runs/pretrain"
    """Run folder."""
    init: str | None = None
    """Model to start from: a pretraining run (with its optimiser's state, as V-JEPA 2's cooldown does), or anything that
    load_model reads. Its model settings are kept, but for img_size and num_frames. None: random weights."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.data.images and self.model.positions == "sincos" and self.init is None:
            raise ConfigError(
                "images beside videos need rotary positions: set positions to rope, or use a vjepa2.1 preset"
            )
        pooled = self.objective.uses_next_latent or bool(self.objective.views_coeff)
        if self.data.images and pooled:
            raise ConfigError("images beside videos go with masked prediction alone: set the other weights to 0")
        if self.objective.uses_next_latent and self.model.time_attention == "full" and self.init is None:
            raise ConfigError(
                "prediction of the next latent needs time_attention causal or tubelet: with full attention a latent "
                "holds the future already"
            )
