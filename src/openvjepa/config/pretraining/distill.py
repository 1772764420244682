"""Settings of distillation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from openvjepa.config.parts import ComputeConfig, LabelConfig, LoaderConfig, Precision
from openvjepa.config.ranges import Count, Few, Pixels, Range, Rate, Scale, Seed, Share, ShareBelowOne, Text, Weight
from openvjepa.errors import ConfigError


@dataclass(frozen=True)
class DistillConfig(LabelConfig, ComputeConfig, LoaderConfig):
    """Settings of `vjepa distill`; saved as config.yaml in the run folder."""

    sources: tuple[Text, ...] = ()
    """Folders, lists or CSV files of videos; those marked as val or test are not trained on."""
    teacher: str = ""
    """Encoder to learn from: anything that load_model reads. It stays as it is."""
    student: Text = "nano"
    """Encoder to train: a preset of `vjepa pretrain`, a size such as vit_tiny (with the clip, patches and positions of the
    teacher), or a model to start from."""
    out: Text = "runs/distill"
    """Run folder."""
    student_size: Pixels | None = None
    """Height and width of the student's clips, px; None: those of a preset or model, or those of the teacher."""
    clips: Few = 2
    """Clips of each video: the plain one, and random crops at random times. The teacher encodes each once."""
    crop_scale: Scale = (0.5, 1.0)
    """Range of the area of the random crop, as a share of the frame."""
    token_coeff: Weight = 1.0
    """Weight of the loss on tokens."""
    pooled_coeff: Weight = 1.0
    """Weight of the loss on the mean token."""
    steps: Count = 1000
    """Optimizer steps."""
    batch_size: Count = 32
    """Clips in an optimizer step."""
    lr: Rate = 1e-3
    """Learning rate after the warm-up; falls to 0 on a cosine."""
    warmup: ShareBelowOne = 0.05
    """Warm-up as a share of the steps."""
    weight_decay: Rate = 0.05
    """AdamW's weight decay (none on biases and norms)."""
    clip_grad: Annotated[float, Range(0, 1e9, above=True)] | None = 1.0
    """Largest gradient norm, of encoder and projectors apart; None: no limit."""
    seed: Seed = 0
    """Seed of clips, sample order and initial weights."""
    precision: Precision = field(default="auto", kw_only=True)
    """auto: bf16 autocast if the hardware supports it, for teacher and student."""
    feature_dtype: Literal["float32", "float16"] = "float16"
    """Type of the teacher's features on disk."""
    cache_dir: Text | None = None
    """Folder of the teacher's features, which runs can share; None: features in the run folder."""
    eval_batch: Count = 32
    """Clips in a pass where nothing is trained."""
    max_bad: Share = 0.1
    """Share of unreadable videos at which the run stops."""
    log_every: Count = 10
    """Steps between two lines of metrics.jsonl."""
    save_every: Count = 200
    """Steps between two checkpoints."""
    resume: bool = False
    """Resume from the newest checkpoint in the run folder."""
    overwrite: bool = False
    """Delete the results of an earlier run in the run folder; encoded features are kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.token_coeff or self.pooled_coeff):
            raise ConfigError("both losses have the weight 0: set token_coeff or pooled_coeff")
