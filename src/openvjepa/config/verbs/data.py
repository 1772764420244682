"""Settings of `vjepa data`, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from openvjepa.config.parts import LabelConfig, LoaderConfig
from openvjepa.config.ranges import Config, Range, Seed, Share, Text, Whole, Workers
from openvjepa.errors import ConfigError


@dataclass(frozen=True)
class CheckConfig(LabelConfig, LoaderConfig):
    """Settings of `vjepa data check`."""

    source: Text
    """Folder, list or CSV file of videos."""
    workers: Workers | None = field(default=None, kw_only=True)
    """Decoding processes; None: one per core, at most 8."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True)
class ShapesConfig(Config):
    """Settings of `vjepa data make-shapes`."""

    out: Text = "shapes"
    """Output folder: videos/*.mp4 and index.csv (path, motion, appearance, split)."""
    train: Whole = 480
    """Training videos."""
    val: Whole = 96
    """Validation videos."""
    test: Whole = 192
    """Test videos."""
    size: Annotated[int, Range(16, 4096)] = 64
    """Height and width, px (even)."""
    frames: Annotated[int, Range(1, 100_000)] = 16
    """Frames per video."""
    fps: Annotated[int, Range(1, 1000)] = 8
    """Frames per second."""
    texture: Share = 0.0
    """Contrast of a fixed texture on the background, from 0 (none) to 1."""
    clutter: Annotated[int, Range(0, 10_000)] = 0
    """Number of small, static distractor shapes on the background."""
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
    """Settings of `vjepa data make-physics`."""

    out: Text = "physics"
    """Output folder: videos/*.mp4 and index.csv (path, scene, pair, possible, kind, split)."""
    train: Whole = 480
    """Training videos, all physically possible."""
    val: Whole = 28
    """Validation pairs of one possible and one impossible video."""
    test: Whole = 140
    """Test pairs."""
    size: Annotated[int, Range(32, 4096)] = 64
    """Height and width, px (even)."""
    frames: Annotated[int, Range(12, 100_000)] = 24
    """Frames per video; the event happens between 40 % and 60 % of them."""
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
    """Settings of `vjepa data prepare`."""

    source: Text
    """Folder, list or CSV file of videos."""
    out: Text
    """Output folder for the copies and their index.csv; must differ from the source."""
    short_side: Annotated[int, Range(16, 2**14)] = 256
    """Shorter side of a copy, px (even). Smaller videos keep their size."""
    gop: Annotated[int, Range(1, 10_000)] = 12
    """Maximum number of frames between key frames."""
    crf: Annotated[int, Range(0, 51)] = 23
    """x264 quality (CRF), 0 to 51: lower is better; 18 is visually lossless, and +6 halves the file size."""
    workers: Annotated[int, Range(1, 256)] | None = None
    """Worker processes; None: one per core."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.short_side % 2:
            raise ConfigError(f"short_side {self.short_side} px: choose an even number")
