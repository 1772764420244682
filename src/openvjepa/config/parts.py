"""Settings that several commands share.

A command's configuration derives from the parts it needs: each setting is defined once, as one flag and one YAML key, and a
function that needs a part accepts any configuration derived from it, such as `make_runtime(config: ComputeConfig)`. A command
with a different default redefines the field.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from openvjepa.config.clips import Fit, Placement
from openvjepa.config.ranges import Config, Count, FrameRate, ProperShare, Seed, Share, Text, Threads, Workers, choose
from openvjepa.errors import ConfigError

PartT = TypeVar("PartT", bound=Config)

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Tune = Literal["head", "last", "lora", "all"]
"""Which weights of the encoder are fine-tuned."""
Head = Literal["attentive", "linear"]
"""Classifiers for fine-tuning."""
Combine = Literal["mean", "vote"]
"""How the predictions of several classifiers are combined."""
Split = Literal["auto", "train", "val", "test", "all"]
"""Splits for evaluation."""

ALTERNATIVES = {"frame_step": "fps", "fps": "frame_step"}
"""Mutually exclusive settings: setting one unsets the other of a preset or configuration file."""


@dataclass(frozen=True, kw_only=True)
class ComputeConfig(Config):
    """Device, precision and threads."""

    device: Text = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: Precision = "fp32"
    """auto: bf16 autocast if the hardware supports it, fp16 on a GPU without bf16 (V100, T4), else fp32."""
    threads: Threads | None = None
    """CPU threads for the model; None: PyTorch's default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", self.device):
            raise ConfigError(
                f"device {self.device[:40]!r} is unknown: {choose(self.device, ('auto', 'cpu', 'cuda', 'cuda:N', 'mps'))}"
            )


@dataclass(frozen=True, kw_only=True)
class LoaderConfig(Config):
    """Data loading."""

    workers: Workers | None = None
    """Data loading processes; None: number of cores - 1, at most 8."""


@dataclass(frozen=True, kw_only=True)
class RateConfig(Config):
    """Sampling of the frames of a clip."""

    frame_step: Count | None = None
    """Use every n-th frame of the video. If fps is not given either: as in pretraining, else 4."""
    fps: FrameRate | None = None
    """Frames per second of a clip, sampled by time stamp; mutually exclusive with frame_step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frame_step is not None and self.fps is not None:
            raise ConfigError("give frame_step or fps, not both (the other is None, in YAML null)")


@dataclass(frozen=True, kw_only=True)
class ClipConfig(RateConfig):
    """Sampling of the clips of a video."""

    segments: Count | None = None
    """Clips per video; None: as in the evaluation of the classifier. Time grows in proportion."""
    views: Count | None = None
    """Crops per clip, along the longer side; None: as in the evaluation of the classifier. Time grows in proportion."""
    placement: Placement | None = None
    """Position of several clips. centers: at the centers of equal parts of the video; ends: evenly from the first frame to the
    last (the published protocol). None: as in the evaluation of the classifier, else centers."""
    fit: Fit | None = None
    """How a frame is fitted to the model's input size. crop: center crop (the published protocol); squeeze: the whole frame,
    aspect ratio not preserved; pad: the whole frame, with bars; three: three crops along the longer side; auto: crop, or
    squeeze if a crop would lose more than a fifth of the frame. None: as in the evaluation of the classifier, else auto."""


@dataclass(frozen=True, kw_only=True)
class LabelConfig(Config):
    """Label column."""

    label: Text | None = None
    """CSV column with the label; None: the column `label`, or the only label column."""


@dataclass(frozen=True, kw_only=True)
class LabelSource(LabelConfig):
    """Labeled videos."""

    source: str = ""
    """Folder, list or CSV file of labeled videos."""


@dataclass(frozen=True, kw_only=True)
class ClassesConfig(Config):
    """Which classes are left out."""

    exclude: tuple[Text, ...] = ()
    """Classes whose videos are left out."""
    min_videos: Count = 1
    """Leave out classes with fewer videos than this."""


@dataclass(frozen=True, kw_only=True)
class SplitConfig(LabelSource, ClassesConfig):
    """Training, validation and test videos."""

    val_source: Text | None = None
    """Validation videos; None: the split `val` of source, or a random part of its training videos."""
    test_source: Text | None = None
    """Test videos; None: the split `test` of source, or a random part of its training videos."""
    val_share: ProperShare = 0.15
    """Fraction of the training videos of each class used for validation, if the source has no split `val`."""
    test_share: ProperShare = 0.15
    """Fraction of the training videos of each class used for testing, if the source has no split `test`."""
    seed: Seed = 0
    """Random seed of splits, clips, initial weights and sample order."""
    max_bad: Share = 0.1
    """Maximum fraction of unreadable videos; the run stops with an error above it."""
    group: Text | None = None
    """CSV column with the person, camera or source of each video. A group is never divided between splits, and confidence
    intervals treat groups, not videos, as independent."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val_share + self.test_share >= 1:
            raise ConfigError("val_share and test_share must add up to less than 1")


def part(config: Any, kind: type[PartT]) -> PartT:
    """One part of a configuration on its own."""
    return kind(**{item.name: getattr(config, item.name) for item in fields(kind)})
