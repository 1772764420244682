"""Settings of `vjepa data`, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from openvjepa.config.parts import LabelConfig, LoaderConfig
from openvjepa.config.ranges import Config, Range, Seed, Share, Text, Whole, Workers
from openvjepa.errors import ConfigError


@dataclass(frozen=True)
class CheckConfig(LabelConfig, LoaderConfig):
    """`vjepa data check`: which videos."""

    source: Text
    """Folder, list or CSV file of videos."""
    workers: Workers | None = field(default=None, kw_only=True)
    """Processes that decode; None: one per core, at most 8."""
    json: bool = False
    """Print JSON, for programs."""


@dataclass(frozen=True)
class ShapesConfig(Config):
    """`vjepa data make-shapes`: how many videos of moving shapes, how large, how hard."""

    out: Text = "shapes"
    """Folder to write: videos/*.mp4 and index.csv (path, motion, appearance, split)."""
    train: Whole = 480
    """Videos of the split train."""
    val: Whole = 96
    """Videos of the split val."""
    test: Whole = 192
    """Videos of the split test."""
    size: Annotated[int, Range(16, 4096)] = 64
    """Height and width, px (even)."""
    frames: Annotated[int, Range(1, 100_000)] = 16
    """Frames in a video."""
    fps: Annotated[int, Range(1, 1000)] = 8
    """Frames per second."""
    texture: Share = 0.0
    """Contrast of a fixed fine texture on the background, 0 to 1."""
    clutter: Annotated[int, Range(0, 10_000)] = 0
    """Small still shapes strewn over the background."""
    seed: Seed = 0
    """The videos follow from it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size % 2:
            raise ConfigError(f"size {self.size} px: choose an even number")
        if self.train + self.val + self.test < 1:
            raise ConfigError("train, val and test are all 0: there must be at least one video")


@dataclass(frozen=True)
class PhysicsConfig(Config):
    """`vjepa data make-physics`: how many videos and pairs, how large, how long."""

    out: Text = "physics"
    """Folder to write: videos/*.mp4 and index.csv (path, scene, pair, possible, kind, split)."""
    train: Whole = 480
    """Possible videos of the split train."""
    val: Whole = 28
    """Pairs of the split val, a possible and an impossible video each."""
    test: Whole = 140
    """Pairs of the split test."""
    size: Annotated[int, Range(32, 4096)] = 64
    """Height and width, px (even)."""
    frames: Annotated[int, Range(12, 100_000)] = 24
    """Frames in a video; the event lies between 40 % and 60 % of them."""
    fps: Annotated[int, Range(1, 1000)] = 8
    """Frames per second."""
    seed: Seed = 0
    """The videos follow from it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size % 2:
            raise ConfigError(f"size {self.size} px: choose an even number")
        if self.train + self.val + self.test < 1:
            raise ConfigError("train, val and test are all 0: there must be at least one video")


@dataclass(frozen=True)
class PrepareConfig(Config):
    """`vjepa data prepare`: which videos, and what their copies are like."""

    source: Text
    """Folder, list or CSV file of videos."""
    out: Text
    """Folder for the copies and their index.csv, apart from the originals."""
    short_side: Annotated[int, Range(16, 2**14)] = 256
    """Height or width of a copy, whichever is less, px (even); a smaller video keeps its size."""
    gop: Annotated[int, Range(1, 10_000)] = 12
    """Frames from one key frame to the next, at most."""
    crf: Annotated[int, Range(0, 51)] = 23
    """Loss of quality, 0 to 51: 18 is hardly seen, and 6 more halve the size of the files."""
    workers: Annotated[int, Range(1, 256)] | None = None
    """Processes; None: one per core."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.short_side % 2:
            raise ConfigError(f"short_side {self.short_side} px: choose an even number")
