"""Settings of fine-tuning, as a frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from openvjepa.config.parts import ClipConfig, ComputeConfig, Head, LoaderConfig, Precision, SplitConfig, Tune
from openvjepa.config.ranges import Count, Few, Range, Rate, Scale, Share, ShareBelowOne, Text
from openvjepa.errors import ConfigError


@dataclass(frozen=True)
class FinetuneConfig(SplitConfig, ClipConfig, ComputeConfig, LoaderConfig):
    """Everything `vjepa finetune` does; saved as config.yaml in the run folder."""

    model: str = ""
    """Encoder to start from, with its classifier if it has one: anything that load_model reads."""
    out: Text = "runs/finetune"
    """Run folder."""
    tune: Tune = "head"
    """What is trained beside the classifier. head: nothing; last: the last blocks; lora: low-rank adapters in all blocks
    (needs peft); all: everything."""
    last_blocks: Few = 2
    """Blocks that are trained with `tune last`."""
    lora_rank: Few = 8
    """Rank of the adapters of `tune lora`."""
    head: Head = "attentive"
    """attentive: a learned query reads the tokens. linear: a layer on their mean."""
    head_depth: Few = 1
    """Blocks of a new attentive classifier."""
    new_head: bool = False
    """Start with a new classifier, though the model has one."""
    epochs: Count | None = None
    """Times that every training video is shown; None: 20, more for small sets (600 steps)."""
    batch_size: Count = 16
    """Clips in an optimizer step."""
    micro_batch: Count | None = None
    """Clips in one pass; smaller than batch_size: gradients are accumulated. None: all at once."""
    lr: Rate = 3e-3
    """Learning rate of the classifier after the warm-up."""
    encoder_lr: Rate | None = None
    """Learning rate of the encoder's last block; None: a thirtieth of the classifier's, for LoRA a third."""
    layer_decay: Annotated[float, Range(0, 1, above=True)] = 0.75
    """Learning rate of a block over that of the block after it (not for LoRA, which has 1)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Course of the learning rate after the warm-up: down to 0, or as it is."""
    warmup: ShareBelowOne = 0.1
    """Warm-up as a share of the steps."""
    weight_decay: Rate = 0.05
    """AdamW's weight decay (none on biases and norms); 0: Adam."""
    clip_grad: Annotated[float, Range(0, 1e9, above=True)] | None = 1.0
    """Largest gradient norm, of encoder and classifier apart; None: no limit."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: rare classes count more in the loss, so that all classes count the same."""
    label_smoothing: ShareBelowOne = 0.0
    """Share of the target that is spread over all classes."""
    mixup: Annotated[float, Range(0, 100)] = 0.0
    """Mix pairs of clips, with shares of a Beta distribution of this parameter (0.8 is common); 0: none."""
    randaugment: Annotated[int, Range(0, 29)] = 0
    """Magnitude of RandAugment, 1 to 29 (9 is common; needs kornia), the same for all frames of a clip; 0: none."""
    erasing: Share = 0.0
    """Probability that a random box of a clip is blackened (needs kornia)."""
    hflip: Share = 0.0
    """Probability of a horizontal flip, where left and right do not matter to the labels."""
    crop_scale: Scale = (0.5, 1.0)
    """Area of the random crop as a share of the frame, least and most."""
    train_views: Few = 4
    """Clips of each training video where the encoder is frozen and nothing is augmented: the plain one and random ones.
    Otherwise there is a new random clip in every epoch."""
    cache: bool = True
    """Where the encoder is frozen and nothing is augmented, encode every clip once and train on the features."""
    cache_dir: Text | None = None
    """Folder of encoded features, which runs can share; None: features in the run folder."""
    patience: Count | None = None
    """Stop after so many epochs without a better one on validation; None: never."""
    segments: Count = field(default=2, kw_only=True)
    """Clips along a video at evaluation; their softmax is averaged."""
    views: Count = field(default=1, kw_only=True)
    """Crops along the longer side of each clip at evaluation; their softmax is averaged."""
    eval_batch: Count = 32
    """Clips in a pass where nothing is trained."""
    precision: Precision | None = field(default=None, kw_only=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    """auto: bf16 autocast where the hardware has it. None: fp32 where the encoder is frozen, else auto."""
    watts: Annotated[float, Range(0, 1e6, above=True)] | None = None
    """Power of the computer, for the model card's estimate of emissions; None: 100 W, 400 W with a GPU."""
    grams_per_kwh: Annotated[float, Range(0, 1e6)] = 480.0
    """CO2 of a kWh, g, for the same; 480 is the world's average (Ember, 2023)."""
    resume: bool = False
    """Go on from the newest checkpoint in the run folder."""
    overwrite: bool = False
    """Delete what an earlier run left in the run folder; encoded features are kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % (self.micro_batch or self.batch_size):
            raise ConfigError(f"batch_size {self.batch_size} is not a multiple of micro_batch {self.micro_batch}")
        if self.mixup and (self.micro_batch or self.batch_size) < 2:
            raise ConfigError("mixup mixes the clips of a pass: micro_batch must be at least 2")

    @property
    def fixed_clips(self) -> bool:
        """Whether training shows `train_views` clips of each video again and again, whose features can be kept."""
        return self.tune == "head" and not self.randaugment and not self.erasing and not self.mixup and not self.hflip
