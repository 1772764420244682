"""Settings of fine-tuning, as a frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from openvjepa.config.parts import ClipConfig, ComputeConfig, Head, LoaderConfig, Precision, SplitConfig, Tune
from openvjepa.config.ranges import Count, Few, Range, Rate, Scale, Share, ShareBelowOne, Text
from openvjepa.errors import ConfigError


@dataclass(frozen=True)
class FinetuneConfig(SplitConfig, ClipConfig, ComputeConfig, LoaderConfig):
    """Settings of `vjepa finetune`; saved as config.yaml in the run folder."""

    model: str = ""
    """Encoder to start from, with its classifier if it has one: a name that `vjepa models` lists, a checkpoint file, a Hugging
    Face folder or id, or a run folder."""
    out: Text = "runs/finetune"
    """Run folder."""
    tune: Tune = "head"
    """Which weights are trained. head: the classifier only; last: also the last blocks; lora: also low-rank adapters in all
    blocks (needs peft); all: all weights."""
    last_blocks: Few = 2
    """Number of trained encoder blocks with `--tune last`."""
    lora_rank: Few = 8
    """Rank of the adapters with `--tune lora`."""
    head: Head = "attentive"
    """attentive: cross-attention with a learned query. linear: a linear layer on the mean of the tokens."""
    head_depth: Few = 1
    """Number of blocks of a new attentive classifier."""
    new_head: bool = False
    """Replace the classifier of the model by a new one."""
    epochs: Count | None = None
    """Epochs; None: 20, or more to reach 600 steps."""
    batch_size: Count = 16
    """Batch size per optimizer step, in clips."""
    micro_batch: Count | None = None
    """Clips per forward pass; gradients are accumulated over batch_size. None: batch_size."""
    lr: Rate = 3e-3
    """Learning rate of the classifier after the warm-up."""
    encoder_lr: Rate | None = None
    """Learning rate of the last encoder block; None: lr / 30, or lr / 3 for LoRA."""
    layer_decay: Annotated[float, Range(0, 1, above=True)] = 0.75
    """Layer-wise decay: learning rate of a block divided by that of the next block (always 1 for LoRA)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate schedule after the warm-up: cosine decay to 0, or constant."""
    warmup: ShareBelowOne = 0.1
    """Warm-up, as a fraction of all steps."""
    weight_decay: Rate = 0.05
    """Weight decay of AdamW (not applied to biases and norms); 0: Adam."""
    clip_grad: Annotated[float, Range(0, 1e9, above=True)] | None = 1.0
    """Maximum gradient norm, separately for encoder and classifier; None: no clipping."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: weight the loss inversely to class frequency."""
    label_smoothing: ShareBelowOne = 0.0
    """Label smoothing."""
    mixup: Annotated[float, Range(0, 100)] = 0.0
    """Mixup alpha (0.8 is common); 0: no mixup."""
    randaugment: Annotated[int, Range(0, 29)] = 0
    """Magnitude of RandAugment, 1 to 29 (9 is common; needs kornia), the same for all frames of a clip; 0: off."""
    erasing: Share = 0.0
    """Probability of random erasing (needs kornia)."""
    hflip: Share = 0.0
    """Probability of a horizontal flip; use it only if labels do not depend on left and right."""
    crop_scale: Scale = (0.5, 1.0)
    """Range of the area of the random crop, as a fraction of the frame."""
    train_views: Few = 4
    """Clips per training video if the encoder is frozen and augmentation is off: the center clip plus random clips.
    Otherwise a new random clip is drawn in every epoch."""
    cache: bool = True
    """Cache features if the encoder is frozen and augmentation is off: every clip is encoded once."""
    cache_dir: Text | None = None
    """Folder of cached features, which runs can share; None: `features` in the run folder."""
    patience: Count | None = None
    """Early stopping: epochs without improvement in validation accuracy; None: off."""
    segments: Count = field(default=2, kw_only=True)
    """Clips per video at evaluation; their softmax outputs are averaged."""
    views: Count = field(default=1, kw_only=True)
    """Crops per clip (along the longer side) at evaluation; their softmax outputs are averaged."""
    eval_batch: Count = 32
    """Batch size at evaluation and feature extraction, in clips."""
    precision: Precision | None = field(default=None, kw_only=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    """auto: bf16 autocast if the hardware supports it, fp16 on a GPU without bf16 (V100, T4), else fp32.
    None: fp32 if the encoder is frozen, else auto."""
    watts: Annotated[float, Range(0, 1e6, above=True)] | None = None
    """Power draw in W, for the emission estimate in the model card; None: 100 W, or 400 W with a GPU."""
    grams_per_kwh: Annotated[float, Range(0, 1e6)] = 480.0
    """Carbon intensity in g CO2 per kWh, for the emission estimate; 480 is the world average (Ember, 2023)."""
    resume: bool = False
    """Resume from the latest checkpoint in the run folder."""
    overwrite: bool = False
    """Delete the results of an earlier run in the run folder. Cached features are kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % (self.micro_batch or self.batch_size):
            raise ConfigError(f"batch_size {self.batch_size} is not a multiple of micro_batch {self.micro_batch}")
        if self.mixup and (self.micro_batch or self.batch_size) < 2:
            raise ConfigError("mixup mixes the clips of a pass: micro_batch must be at least 2")

    @property
    def fixed_clips(self) -> bool:
        """Whether every epoch uses the same `train_views` clips of each video, so that features can be cached."""
        return self.tune == "head" and not self.randaugment and not self.erasing and not self.mixup and not self.hflip
