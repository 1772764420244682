"""Settings of pretraining, as frozen dataclasses.

Field names are unique across the sections, so that each is one flag on the command line (`--frame-step 2`) and one key in its
section of the YAML file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from openvjepa.config.parts import ComputeConfig, LabelConfig, LoaderConfig, Precision, RateConfig
from openvjepa.config.pretraining.model import ModelConfig
from openvjepa.config.pretraining.objective import ObjectiveConfig, ViewsConfig
from openvjepa.config.ranges import (
    Aspect,
    AtLeastOne,
    Config,
    Count,
    Few,
    FrameRate,
    Pixels,
    Range,
    Rate,
    Scale,
    Seed,
    Share,
    ShareBelowOne,
    Text,
    Whole,
    Workers,
)
from openvjepa.errors import ConfigError


@dataclass(frozen=True)
class MaskConfig(Config):
    """A mask: the tokens to predict; all others are context (Bardes et al. 2024, section 3.2)."""

    kind: Literal["multiblock", "tube"] = "multiblock"
    """multiblock: union of blocks; tube: random patches, the same in every frame."""
    num_blocks: Annotated[int, Range(1, 1024)] = 8
    """Number of blocks (multiblock)."""
    spatial_scale: Scale = (0.15, 0.15)
    """Range of the area of a block, as a fraction of the frame."""
    temporal_scale: Scale = (1.0, 1.0)
    """Range of the length of a block, as a fraction of the clip."""
    aspect_ratio: Aspect = (0.75, 1.5)
    """Range of the aspect ratio (height / width) of a block."""
    max_temporal_keep: Annotated[float, Range(0, 1, above=True)] = 1.0
    """Fraction of the clip, from its start, that the context may use."""
    max_keep: Count | None = None
    """Maximum number of context tokens; None: no limit."""
    ratio: Share = 0.9
    """Fraction of the patches to predict (tube)."""


SHORT_RANGE = MaskConfig(num_blocks=8, spatial_scale=(0.15, 0.15))
LONG_RANGE = MaskConfig(num_blocks=2, spatial_scale=(0.7, 0.7))
IMAGE_MASK = MaskConfig(num_blocks=10, spatial_scale=(0.15, 0.15))


@dataclass(frozen=True)
class DataConfig(LabelConfig, RateConfig, LoaderConfig):
    """Videos, clip sampling and augmentation. The clip shape is a setting of the model."""

    mix: tuple[Annotated[float, Range(0, 1e9)], ...] | None = None
    """Sampling weight of each source; None: uniform over all videos."""
    images: tuple[Text, ...] = ()
    """Folders, lists or CSV files of images to train on in addition to videos; each contributes half of the loss
    (V-JEPA 2.1)."""
    image_size: Pixels | None = None
    """Height and width of an image, px; None: img_size."""
    image_batch: Count | None = None
    """Images per optimizer step; None: batch_size."""
    frame_step: Count | None = field(default=None, kw_only=True)
    """Use every n-th frame of the video (V-JEPA 1); None: 4, unless fps is given."""
    fps: FrameRate | None = field(default=None, kw_only=True)
    """Frames per second of a clip, sampled by time stamp (V-JEPA 2); mutually exclusive with frame_step."""
    crop_scale: Scale = (0.3, 1.0)
    """Range of the area of the random crop, as a fraction of the frame."""
    crop_ratio: Aspect = (0.75, 1.35)
    """Range of the aspect ratio (width / height) of the random crop."""
    hflip: Share = 0.5
    """Probability of a horizontal flip."""
    cache: bool = False
    """Cache all decoded frames in memory (for small datasets)."""
    workers: Workers | None = field(default=None, kw_only=True)
    """Data loading processes; None: number of cores - 1, at most 8 (0 with cache)."""
    max_bad: Share = 0.1
    """Maximum fraction of unreadable videos; the run stops with an error above it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mix is not None and not sum(self.mix) > 0:
            raise ConfigError("mix: at least one source needs a weight above 0")
        if self.frame_step is None and self.fps is None:
            object.__setattr__(self, "frame_step", 4)


@dataclass(frozen=True)
class MaskingConfig(Config):
    """Masks of a training step, with one encoder and one predictor pass per mask."""

    masks: Annotated[tuple[MaskConfig, ...], AtLeastOne()] = (SHORT_RANGE, LONG_RANGE)
    """Masks of videos (YAML only)."""
    image_masks: Annotated[tuple[MaskConfig, ...], AtLeastOne()] = (IMAGE_MASK,)
    """Masks of images (YAML only)."""
    truncation: Literal["random", "first"] = "random"
    """How the tokens of a batch are truncated to equal length: random tokens (unbiased), or the first ones as in Meta's code,
    which drops late frames (only 18-29 % of the last time step remain at batch size 8)."""


@dataclass(frozen=True)
class OptimConfig(Config):
    """AdamW and its schedules, each a pure function of the step."""

    lr: Rate = 6.25e-4
    """Peak learning rate, after the warm-up."""
    start_lr: Rate = 2e-4
    """Learning rate at the start of the warm-up."""
    final_lr: Rate = 1e-6
    """Learning rate at the end of the (stretched, see schedule_scale) schedule."""
    warmup: Share = 40 / 300
    """Warm-up, as a fraction of all steps."""
    decay: Literal["cosine", "linear"] = "cosine"
    """Learning rate schedule after the warm-up (linear: cooldown of V-JEPA 2)."""
    weight_decay: Rate = 0.04
    """Weight decay at the start (not applied to biases and norms)."""
    final_weight_decay: Rate = 0.4
    """Weight decay at the end of the (stretched) schedule."""
    ema: tuple[Share, Share] = (0.998, 1.0)
    """EMA momentum of the target encoder at the start and at the end of the (stretched) schedule."""
    schedule_scale: Annotated[float, Range(1, 1000)] = 1.25
    """Length of the schedules as a multiple of the steps (ipe_scale in Meta's code)."""
    clip_grad: Annotated[float, Range(0, 1e9, above=True)] | None = 10.0
    """Maximum gradient norm after the warm-up, separately for encoder and predictor; None: no clipping."""
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.999)
    """Betas of AdamW."""
    eps: Annotated[float, Range(0, 1, above=True)] = 1e-8
    """Epsilon of AdamW."""


@dataclass(frozen=True)
class TrainConfig(ComputeConfig):
    """Training run."""

    steps: Whole = 5000
    """Optimizer steps; 0: save the model untrained. With resume, more steps than before lengthen the run."""
    batch_size: Count = 16
    """Clips per optimizer step, over all devices and accumulation steps."""
    micro_batch: Count | None = None
    """Clips per forward pass and device; gradients are accumulated over batch_size. None: no accumulation."""
    seed: Seed = 0
    """Random seed of sample order, clips, crops, masks and initial weights."""
    precision: Precision = field(default="auto", kw_only=True)
    """auto: bf16 autocast if the hardware supports it, fp16 on a GPU without bf16 (V100, T4), else fp32."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: much less memory, about a third more time, identical results."""
    compile: bool = False
    """Compile the transformer blocks with torch.compile (no gain on CPUs)."""
    log_every: Count = 10
    """Steps between log entries (metrics.jsonl, TensorBoard)."""
    save_every: Count = 500
    """Steps between checkpoints."""
    keep_last: Count = 2
    """Number of recent checkpoints to keep."""
    monitor_every: Whole = 250
    """Steps between collapse checks (feature std, effective rank, kNN accuracy); 0: off."""
    resume: bool = False
    """Resume from the latest checkpoint in the run folder."""
    overwrite: bool = False
    """Delete the results of an earlier run in the run folder."""


@dataclass(frozen=True)
class PretrainConfig(Config):
    """Settings of `vjepa pretrain`; saved as config.yaml in the run folder."""

    sources: tuple[Text, ...] = ()
    """Folders, lists or CSV files of videos. Videos marked as val or test are not used."""
    out: Text = "runs/pretrain"
    """Run folder."""
    init: Text | None = None
    """Model to initialize from: a pretraining run (including its optimizer state, as in the cooldown of V-JEPA 2), or any model
    that load_model reads. Its model settings are used, except img_size and num_frames. None: random weights."""
    tune: Literal["all", "last", "lora"] = "all"
    """What is trained of the encoder of `init`; the predictor is trained in any case. all: everything; last: the last blocks and
    the norm after them; lora: low-rank adapters in all blocks (needs peft), which are merged into the saved weights."""
    last_blocks: Few = 2
    """Blocks that are trained with `tune last`."""
    lora_rank: Few = 8
    """Rank of the adapters of `tune lora`."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tune != "all" and self.init is None:
            raise ConfigError(f"tune {self.tune} keeps most of a pretrained encoder as it is: give it with --init")
        if self.data.images and self.model.positions == "sincos" and self.init is None:
            raise ConfigError(
                "training on images and videos needs rotary positions: set positions to rope, or use a vjepa2.1 preset"
            )
        pooled = self.objective.uses_next_latent or bool(self.objective.views_coeff)
        if self.data.images and pooled:
            raise ConfigError(
                "images beside videos support masked prediction only: set next_coeff and views_coeff to 0"
            )
        if self.objective.uses_next_latent and self.model.time_attention == "full" and self.init is None:
            raise ConfigError(
                "next-latent prediction needs time_attention causal or tubelet: with full attention, latents already contain "
                "the future"
            )
