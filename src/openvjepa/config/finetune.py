"""Settings of fine-tuning, as a frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from openvjepa.config.commands import ProbeConfig
from openvjepa.config.parts import Head, Tune
from openvjepa.errors import ConfigError


@dataclass(frozen=True)
class FinetuneConfig:
    """Everything `vjepa finetune` does; saved as config.yaml in the run folder."""

    source: str = ""
    """Folder, list or CSV file of labelled videos: those to train on, or all of them."""
    model: str = ""
    """Encoder to start from, with its classifier if it has one: anything that load_model reads."""
    out: str = "runs/finetune"
    """Run folder."""
    val_source: str | None = None
    """Videos that choose the best epoch; None: the split `val` of source, or a part of its training videos."""
    test_source: str | None = None
    """Videos to report the accuracy of; None: the split `test` of source, or a part of its training videos."""
    label: str | None = None
    """Column of a CSV that holds the label; None: the column `label`, or the only one there is."""
    tune: Tune = "head"
    """What is trained beside the classifier. head: nothing; last: the last blocks; lora: low-rank adapters in all blocks
    (needs peft); all: everything."""
    last_blocks: int = 2
    """Blocks that are trained with `tune last`."""
    lora_rank: int = 8
    """Rank of the adapters of `tune lora`."""
    head: Head = "attentive"
    """attentive: a learned query reads the tokens. linear: a layer on their mean."""
    head_depth: int = 1
    """Blocks of a new attentive classifier."""
    new_head: bool = False
    """Start with a new classifier, though the model has one."""
    epochs: int | None = None
    """Times that every training video is shown; None: 20, more for small sets (600 steps)."""
    batch_size: int = 16
    """Clips in an optimiser step."""
    micro_batch: int | None = None
    """Clips in one pass; smaller than batch_size: gradients are accumulated. None: all at once."""
    lr: float = 3e-3
    """Learning rate of the classifier after the warm-up."""
    encoder_lr: float | None = None
    """Learning rate of the encoder's last block; None: a thirtieth of the classifier's, for LoRA a third."""
    layer_decay: float = 0.75
    """Learning rate of a block over that of the block after it (not for LoRA, which has 1)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Course of the learning rate after the warm-up: down to 0, or as it is."""
    warmup: float = 0.1
    """Warm-up as a share of the steps."""
    weight_decay: float = 0.05
    """AdamW's weight decay (none on biases and norms); 0: Adam."""
    clip_grad: float | None = 1.0
    """Largest gradient norm, of encoder and classifier apart; None: no limit."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: rare classes count more in the loss, so that all classes count the same."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""
    mixup: float = 0.0
    """Mix pairs of clips, with shares of a Beta distribution of this parameter (0.8 is common); 0: none."""
    randaugment: int = 0
    """Magnitude of RandAugment, 1 to 29 (9 is common; needs kornia), the same for all frames of a clip; 0: none."""
    erasing: float = 0.0
    """Probability that a random box of a clip is blackened (needs kornia)."""
    hflip: float = 0.0
    """Probability of a horizontal flip, where left and right do not matter to the labels."""
    crop_scale: tuple[float, float] = (0.5, 1.0)
    """Area of the random crop as a share of the frame, least and most."""
    train_views: int = 4
    """Clips of each training video where the encoder is frozen and nothing is augmented: the plain one and random ones.
    Otherwise there is a new random clip in every epoch."""
    cache: bool = True
    """Where the encoder is frozen and nothing is augmented, encode every clip once and train on the features."""
    cache_dir: str | None = None
    """Folder of encoded features, which runs can share; None: features in the run folder."""
    patience: int | None = None
    """Stop after so many epochs without a better one on validation; None: never."""
    frame_step: int | None = None
    """Every n-th frame of the video; None, and fps None too: as in pretraining, else 4."""
    fps: float | None = None
    """Frames per second of a clip, by time; not together with frame_step."""
    segments: int = 2
    """Clips along a video at evaluation; their softmax is averaged."""
    views: int = 1
    """Crops along the longer side of each clip at evaluation; their softmax is averaged."""
    val_share: float = 0.15
    """Share of the training videos of each class that becomes the split val where none is given."""
    test_share: float = 0.15
    """Share of the training videos of each class that becomes the split test where none is given."""
    max_bad: float = 0.1
    """Share of unreadable videos at which the run stops."""
    seed: int = 0
    """Splits, clips, initial weights and sample order follow from it."""
    eval_batch: int = 32
    """Clips in a pass where nothing is trained."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    precision: Literal["auto", "fp32", "bf16"] | None = None
    """auto: bf16 autocast where the hardware has it. None: fp32 where the encoder is frozen, else auto."""
    threads: int | None = None
    """CPU threads of the model; None: torch's choice."""
    workers: int | None = None
    """Processes that load data; None: one fewer than the cores, at most 8."""
    watts: float | None = None
    """Power of the computer, for the model card's estimate of emissions; None: 100 W, 400 W with a GPU."""
    grams_per_kwh: float = 480.0
    """CO2 of a kWh, g, for the same; 480 is the world's average (Ember, 2023)."""
    resume: bool = False
    """Go on from the newest checkpoint in the run folder."""
    overwrite: bool = False
    """Delete what an earlier run left in the run folder; encoded features are kept."""

    def __post_init__(self) -> None:
        _ = self.splits  # an impossible setting fails here, before any work
        for name in ("last_blocks", "lora_rank", "head_depth", "micro_batch", "patience", "eval_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1")
        if not (self.lr > 0 and 0 < self.layer_decay <= 1 and 0 <= self.warmup < 1 and 0 <= self.label_smoothing < 1):
            raise ConfigError("lr must be above 0, layer_decay in 0..1, warmup and label_smoothing in 0..1, below 1")
        if not 0 <= self.randaugment <= 29 or not 0 <= self.erasing <= 1:
            raise ConfigError("randaugment must lie in 0..29, erasing in 0..1")
        if self.mixup < 0 or not 0 <= self.hflip <= 1:
            raise ConfigError("mixup must be 0 or more, hflip must lie in 0..1")
        if self.batch_size % (self.micro_batch or self.batch_size):
            raise ConfigError(f"batch_size {self.batch_size} is not a multiple of micro_batch {self.micro_batch}")
        if self.mixup and (self.micro_batch or self.batch_size) < 2:
            raise ConfigError("mixup mixes the clips of a pass: micro_batch must be at least 2")

    @property
    def splits(self) -> ProbeConfig:
        """The settings that say which videos are shown, as `read_splits` takes them."""
        names = ("model", "source", "val_source", "test_source", "label", "val_share", "test_share", "seed")
        names += ("frame_step", "fps", "train_views", "segments", "views", "epochs", "batch_size")
        return ProbeConfig(**{name: getattr(self, name) for name in names})

    @property
    def fixed_clips(self) -> bool:
        """Whether training shows `train_views` clips of each video again and again, whose features can be kept."""
        return self.tune == "head" and not self.randaugment and not self.erasing and not self.mixup and not self.hflip
