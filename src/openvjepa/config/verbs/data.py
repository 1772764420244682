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


Percent = Annotated[float, Range(0, 90)]


@dataclass(frozen=True)
class DivideConfig(LabelConfig):
    """Settings of `vjepa data split`."""

    source: Text
    """Folder, list or CSV file of videos."""
    out: Text = "list.csv"
    """CSV file to write: the columns of the source plus `split` or `fold`."""
    test: Percent | None = None
    """Percentage of test videos; None: 20, or 0 with folds."""
    val: Percent | None = None
    """Percentage of validation videos; None: 10, or 0 with folds."""
    folds: Annotated[int, Range(2, 1000)] | None = None
    """Number of cross-validation folds: write a column `fold` instead of `split`."""
    group: Text | None = None
    """CSV column with the person, camera or source of each video; a group is never divided."""
    near_duplicates: bool = True
    """Keep near-duplicates in one split (decodes three frames of each video). Copies of a file are never divided."""
    whole_files: bool = True
    """Keep all segments of a file (start, end) in one split. Overlapping segments are never divided."""
    seed: Seed = 0
    """Random seed of the split, which does not depend on the order of the list."""
    workers: Workers | None = None
    """Decoding processes; None: one per core, at most 8."""
    overwrite: bool = False
    """Replace the list if it exists."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.out.lower().endswith(".csv"):
            raise ConfigError(f"out {self.out}: name a file that ends with .csv")
        if self.folds is not None and (self.test or self.val):
            raise ConfigError("folds take the place of test and val: give one or the other")
        if sum(self.percent.values()) >= 100:
            raise ConfigError("test and val must add up to less than 100 percent")
        if self.folds is None and not any(self.percent.values()):
            raise ConfigError("test and val are both 0: there is nothing to divide")

    @property
    def percent(self) -> dict[str, float]:
        """Split that is held out -> percent of the videos."""
        return {"test": 20.0 if self.test is None else self.test, "val": 10.0 if self.val is None else self.val}


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
    """Random seed of the videos."""

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
    """Random seed of the videos."""

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
    audio: bool = True
    """Keep the sound, without encoding it again (AAC, MP3, AC-3, Opus, FLAC, ALAC)."""
    workers: Annotated[int, Range(1, 256)] | None = None
    """Worker processes; None: one per core."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.short_side % 2:
            raise ConfigError(f"short_side {self.short_side} px: choose an even number")
