"""Settings of `vjepa data`, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass

from openvjepa.errors import ConfigError


@dataclass(frozen=True)
class CheckConfig:
    """`vjepa data check`: which videos."""

    source: str
    """Folder, list or CSV file of videos."""
    label: str | None = None
    """Column of a CSV that holds the label; None: the column `label`, or the only one there is."""
    workers: int | None = None
    """Processes that decode; None: one per core, at most 8."""
    json: bool = False
    """Print JSON, for programs."""


@dataclass(frozen=True)
class ShapesConfig:
    """`vjepa data make-shapes`: how many videos of moving shapes, how large, how hard."""

    out: str = "shapes"
    """Folder to write: videos/*.mp4 and index.csv (path, motion, appearance, split)."""
    train: int = 480
    """Videos of the split train."""
    val: int = 96
    """Videos of the split val."""
    test: int = 192
    """Videos of the split test."""
    size: int = 64
    """Height and width, px (even)."""
    frames: int = 16
    """Frames in a video."""
    fps: int = 8
    """Frames per second."""
    texture: float = 0.0
    """Contrast of a fixed fine texture on the background, 0 to 1."""
    clutter: int = 0
    """Small still shapes strewn over the background."""
    seed: int = 0
    """The videos follow from it."""

    def __post_init__(self) -> None:
        if self.size < 16 or self.size % 2:
            raise ConfigError(f"size {self.size} px: choose an even number of at least 16")
        if min(self.train, self.val, self.test) < 0 or self.train + self.val + self.test < 1 or self.frames < 1:
            raise ConfigError(
                "train, val, test and frames must not be negative, and there must be at least one video and frame"
            )
        if not 0 <= self.texture <= 1 or self.clutter < 0 or self.fps < 1:
            raise ConfigError("texture must lie in 0..1, clutter must not be negative, fps must be at least 1")


@dataclass(frozen=True)
class PrepareConfig:
    """`vjepa data prepare`: which videos, and what their copies are like."""

    source: str
    """Folder, list or CSV file of videos."""
    out: str
    """Folder for the copies and their index.csv, apart from the originals."""
    short_side: int = 256
    """Height or width of a copy, whichever is less, px (even); a smaller video keeps its size."""
    gop: int = 12
    """Frames from one key frame to the next, at most."""
    crf: int = 23
    """Loss of quality, 0 to 51: 18 is hardly seen, and 6 more halve the size of the files."""
    workers: int | None = None
    """Processes; None: one per core."""

    def __post_init__(self) -> None:
        if self.short_side < 16 or self.short_side % 2:
            raise ConfigError(f"short_side {self.short_side} px: choose an even number of at least 16")
        if self.gop < 1 or not 0 <= self.crf <= 51 or (self.workers is not None and self.workers < 1):
            raise ConfigError("gop and workers must be at least 1, and crf must lie in 0..51")
