"""Settings of pretraining, as frozen dataclasses.

Field names are unique over the parts of one command, so that each is one flag on the command line (`--frame-step 2`)
and one line in its section of the YAML file.
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
    """One mask: which tokens are predicted, the rest being the context (Bardes et al. 2024, section 3.2)."""

    kind: Literal["multiblock", "tube"] = "multiblock"
    """multiblock: union of blocks; tube: random patches, the same in every frame."""
    num_blocks: Annotated[int, Range(1, 1024)] = 8
    """Blocks whose union is predicted (multiblock)."""
    spatial_scale: Scale = (0.15, 0.15)
    """Area of a block as a share of the frame, least and most."""
    temporal_scale: Scale = (1.0, 1.0)
    """Length of a block as a share of the clip, least and most."""
    aspect_ratio: Aspect = (0.75, 1.5)
    """Height over width of a block, least and most."""
    max_temporal_keep: Annotated[float, Range(0, 1, above=True)] = 1.0
    """Share of the clip, from its start, that the context may use."""
    max_keep: Count | None = None
    """Most context tokens; None: no limit."""
    ratio: Share = 0.9
    """Share of the patches that are predicted (tube)."""


SHORT_RANGE = MaskConfig(num_blocks=8, spatial_scale=(0.15, 0.15))
LONG_RANGE = MaskConfig(num_blocks=2, spatial_scale=(0.7, 0.7))
IMAGE_MASK = MaskConfig(num_blocks=10, spatial_scale=(0.15, 0.15))


@dataclass(frozen=True)
class DataConfig(LabelConfig, RateConfig, LoaderConfig):
    """What to read and how clips are cut from it. The clip's shape is the model's."""

    mix: tuple[Annotated[float, Range(0, 1e9)], ...] | None = None
    """Weights of the sources, one each; None: every video counts the same."""
    images: tuple[Text, ...] = ()
    """Folders, lists or CSV files of images to train on beside the videos, each kind with half of the loss (V-JEPA 2.1)."""
    image_size: Pixels | None = None
    """Height and width of an image, px; None: those of a clip."""
    image_batch: Count | None = None
    """Images in an optimizer step; None: as many as clips."""
    frame_step: Count | None = field(default=None, kw_only=True)
    """Every n-th frame of the video (V-JEPA 1); None: 4, unless fps is given."""
    fps: FrameRate | None = field(default=None, kw_only=True)
    """Frames per second of a clip, by time (V-JEPA 2); in place of frame_step."""
    crop_scale: Scale = (0.3, 1.0)
    """Area of the random crop as a share of the frame, least and most."""
    crop_ratio: Aspect = (0.75, 1.35)
    """Width over height of the random crop, least and most."""
    hflip: Share = 0.5
    """Probability of a horizontal flip."""
    cache: bool = False
    """Keep the decoded frames of every video in memory: for small sets of small videos."""
    workers: Workers | None = field(default=None, kw_only=True)
    """Processes that load data; None: one fewer than the cores, at most 8 (0 with cache)."""
    max_bad: Share = 0.1
    """Share of unreadable videos at which the run stops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mix is not None and not sum(self.mix) > 0:
            raise ConfigError("mix: at least one source needs a weight above 0")
        if self.frame_step is None and self.fps is None:
            object.__setattr__(self, "frame_step", 4)


@dataclass(frozen=True)
class MaskingConfig(Config):
    """The masks of a step. One encoder pass and one predictor pass are run for each."""

    masks: Annotated[tuple[MaskConfig, ...], AtLeastOne()] = (SHORT_RANGE, LONG_RANGE)
    """The masks (YAML only)."""
    image_masks: Annotated[tuple[MaskConfig, ...], AtLeastOne()] = (IMAGE_MASK,)
    """The masks of images (YAML only)."""
    truncation: Literal["random", "first"] = "random"
    """How samples of a batch come to one length: random ids (unbiased), or the first ones as in Meta's code, which drops
    late frames (only 18-29 % of the last time step survives at batch 8)."""


@dataclass(frozen=True)
class OptimConfig(Config):
    """AdamW and its schedules, each a pure function of the step."""

    lr: Rate = 6.25e-4
    """Learning rate after the warm-up."""
    start_lr: Rate = 2e-4
    """Learning rate at the start of the warm-up."""
    final_lr: Rate = 1e-6
    """Learning rate at the end of the (stretched) schedule."""
    warmup: Share = 40 / 300
    """Warm-up as a share of the steps."""
    decay: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls after the warm-up (linear: V-JEPA 2's cooldown)."""
    weight_decay: Rate = 0.04
    """Weight decay at the start (none on biases and norms)."""
    final_weight_decay: Rate = 0.4
    """Weight decay at the end of the (stretched) schedule."""
    ema: tuple[Share, Share] = (0.998, 1.0)
    """Momentum of the target encoder at the start and at the end of the (stretched) schedule."""
    schedule_scale: Annotated[float, Range(1, 1000)] = 1.25
    """The schedules are stretched over this many times the steps (Meta's ipe_scale)."""
    clip_grad: Annotated[float, Range(0, 1e9, above=True)] | None = 10.0
    """Largest gradient norm, of encoder and predictor apart, after the warm-up; None: no limit."""
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.999)
    """AdamW's betas."""
    eps: Annotated[float, Range(0, 1, above=True)] = 1e-8
    """AdamW's epsilon."""


@dataclass(frozen=True)
class TrainConfig(ComputeConfig):
    """The run."""

    steps: Count = 5000
    """Optimizer steps."""
    batch_size: Count = 16
    """Clips in an optimizer step, over all devices and accumulated passes."""
    micro_batch: Count | None = None
    """Clips in one pass of one device; smaller than batch_size: gradients are accumulated. None: all at once."""
    seed: Seed = 0
    """Sample order, clips, crops, masks and initial weights follow from it."""
    precision: Precision = field(default="auto", kw_only=True)
    """auto: bf16 autocast where the hardware has it."""
    activation_checkpointing: bool = False
    """Compute the inside of every block again for its gradient: much less memory, a third more time, same numbers."""
    compile: bool = False
    """Compile the transformer blocks (torch.compile) before the first step. For GPUs: CPUs gain nothing."""
    log_every: Count = 10
    """Steps between two lines of metrics.jsonl."""
    save_every: Count = 500
    """Steps between two checkpoints."""
    keep_last: Count = 2
    """Checkpoints kept."""
    monitor_every: Whole = 250
    """Steps between two looks at collapse: feature std, effective rank, kNN; 0: never."""
    resume: bool = False
    """Go on from the newest checkpoint in the run folder."""
    overwrite: bool = False
    """Delete what an earlier run left in the run folder."""


@dataclass(frozen=True)
class PretrainConfig(Config):
    """Everything `vjepa pretrain` does; saved as config.yaml in the run folder."""

    sources: tuple[Text, ...] = ()
    """Folders, lists or CSV files of videos; those marked as val or test are not trained on."""
    out: Text = "runs/pretrain"
    """Run folder."""
    init: Text | None = None
    """Model to start from: a pretraining run (with its optimizer's state, as V-JEPA 2's cooldown does), or anything that
    load_model reads. Its model settings are kept, but for img_size and num_frames. None: random weights."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
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
