"""Settings that several commands share.

A command's configuration derives from the parts it needs, so each setting is written down once, is one flag and one key, and
a function that needs a part takes any configuration that has it: `make_runtime(config: ComputeConfig)`. A command with another
default states the field again.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from openvjepa.config.clips import Fit, Placement
from openvjepa.config.ranges import Config, Count, FrameRate, ProperShare, Seed, Share, Text, Threads, Workers
from openvjepa.errors import ConfigError

PartT = TypeVar("PartT", bound=Config)

Precision = Literal["auto", "fp32", "bf16"]
Tune = Literal["head", "last", "lora", "all"]
"""What is trained of an encoder when it is fine-tuned."""
Head = Literal["attentive", "linear"]
"""Classifiers that an encoder is fine-tuned with."""
Combine = Literal["mean", "vote"]
"""How the answers of several classifiers are combined."""
Split = Literal["auto", "train", "val", "test", "all"]
"""Videos that classifiers are evaluated on."""

ALTERNATIVES = {"frame_step": "fps", "fps": "frame_step"}
"""Settings of which one replaces the other: whoever sets one by name over a preset or a file leaves out the other."""


@dataclass(frozen=True, kw_only=True)
class ComputeConfig(Config):
    """What the model runs on."""

    device: Text = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: Precision = "fp32"
    """auto: bf16 autocast where the hardware has it."""
    threads: Threads | None = None
    """CPU threads of the model; None: torch's choice."""


@dataclass(frozen=True, kw_only=True)
class LoaderConfig(Config):
    """How videos are read."""

    workers: Workers | None = None
    """Processes that load data; None: one fewer than the cores, at most 8."""


@dataclass(frozen=True, kw_only=True)
class RateConfig(Config):
    """Which frames of a video form a clip."""

    frame_step: Count | None = None
    """Every n-th frame of the video; None, and fps None too: as in pretraining, else 4."""
    fps: FrameRate | None = None
    """Frames per second of a clip, by time; not together with frame_step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frame_step is not None and self.fps is not None:
            raise ConfigError("give frame_step or fps, not both (the other is None, in YAML null)")


@dataclass(frozen=True, kw_only=True)
class ClipConfig(RateConfig):
    """Which clips of a video a model is shown."""

    segments: Count | None = None
    """Clips along a video; None: as many as the classifier was evaluated with. More cost more."""
    views: Count | None = None
    """Crops along the longer side of each clip; None: as many as the classifier was evaluated with. More cost more."""
    placement: Placement | None = None
    """Where several clips lie. centers: in the middle of equal parts of the video; ends: from its first frame to its last (the
    published protocol). None: as the classifier was evaluated with, else centers."""
    fit: Fit | None = None
    """How a frame is brought to the model's size. crop: its center (the published protocol); squeeze: all of it, distorted; pad:
    all of it, with bars; three: three crops along the longer side; auto: crop, or squeeze where a crop would lose more than a
    fifth of the frame. None: as the classifier was evaluated with, else auto."""


@dataclass(frozen=True, kw_only=True)
class LabelConfig(Config):
    """Which of their labels videos have."""

    label: Text | None = None
    """Column of a CSV that holds the label; None: the column `label`, or the only one there is."""


@dataclass(frozen=True, kw_only=True)
class LabelSource(LabelConfig):
    """Videos with labels."""

    source: str = ""
    """Folder, list or CSV file of labeled videos."""


@dataclass(frozen=True, kw_only=True)
class SplitConfig(LabelSource):
    """Which videos a classifier is trained on, chosen with and tested on."""

    val_source: Text | None = None
    """Videos to choose the best classifier with; None: the split `val` of source, or a part of its training videos."""
    test_source: Text | None = None
    """Videos to report the accuracy of; None: the split `test` of source, or a part of its training videos."""
    val_share: ProperShare = 0.15
    """Share of the training videos of each class that becomes the split val where none is given."""
    test_share: ProperShare = 0.15
    """Share of the training videos of each class that becomes the split test where none is given."""
    seed: Seed = 0
    """Splits, clips, initial weights and sample order follow from it."""
    max_bad: Share = 0.1
    """Share of unreadable videos at which the run stops."""
    group: Text | None = None
    """Column of a CSV that names the person, camera or source of each video: none of them is divided by splits, and intervals
    count them in place of videos."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val_share + self.test_share >= 1:
            raise ConfigError("val_share and test_share must add up to less than 1")


def part(config: Any, kind: type[PartT]) -> PartT:
    """One part of a configuration on its own."""
    return kind(**{item.name: getattr(config, item.name) for item in fields(kind)})
