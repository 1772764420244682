"""Videos and images with what a list says about them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from openvjepa.data.media.video import LATE, Video, open_video
from openvjepa.errors import DataError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class VideoRecord:
    """A video or image: its path and its entries in the list."""

    path: str
    label: int | None = None
    """Number of its class."""
    split: str | None = None
    frames: int | None = None
    fps: float | None = None
    """Frames per second."""
    duration: float | None = None
    """Seconds."""
    start: float | None = None
    """Start of the part of the video that is meant, s; None: its beginning."""
    end: float | None = None
    """End of that part, s; None: the end of the video."""
    group: str | None = None
    """What it has in common with other videos: a person, a camera, a source."""
    fold: str | None = None
    """Part of a cross-validation that it is tested in."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", os.fspath(self.path))
        if reason := self._wrong_part():
            raise DataError(f"{self.path}: {reason}")

    def _wrong_part(self) -> str | None:
        """Why start and end cannot be meant."""
        if not self.is_part:
            return None
        start, end = 0.0 if self.start is None else self.start, self.end
        if not 0 <= start < math.inf or (end is not None and not start < end < math.inf):
            return f"start {self.start} and end {end}: they must be seconds from 0 on, the end after the start"
        if self.duration is not None and (start >= self.duration or (end or 0.0) > self.duration + LATE):
            return f"start {self.start} and end {end} lie outside of its duration, {self.duration:g} s"
        return None

    @property
    def is_part(self) -> bool:
        """Whether only a part of the video is meant."""
        return self.start is not None or self.end is not None

    @property
    def name(self) -> str:
        """The path, of a part with its times: the same for the same frames of the same file."""
        if not self.is_part:
            return self.path
        return f"{self.path} [{_seconds(self.start or 0.0)}-{'' if self.end is None else _seconds(self.end)} s]"

    def open(self, *, threads: int = 1) -> Video:
        """The video, or the part of it that is meant.

        Raises:
            VideoError: it cannot be read, or has no such part.
        """
        return open_video(self.path, threads=threads, start=self.start, end=self.end)

    def overlaps(self, other: VideoRecord) -> bool:
        """Whether two records show the same frames of the same file, by its path."""
        if os.path.abspath(self.path) != os.path.abspath(other.path):
            return False
        ends = (math.inf if record.end is None else record.end for record in (self, other))
        own_end, other_end = ends
        return (self.start or 0.0) < other_end and (other.start or 0.0) < own_end


def as_record(file: str | Path | VideoRecord) -> VideoRecord:
    """A file as a record of the whole of it; a record as it is."""
    return file if isinstance(file, VideoRecord) else VideoRecord(str(file))


def _seconds(time: float) -> str:
    return f"{time:.3f}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class VideoIndex:
    """A list of videos and images. `classes` are the class names, or None without labels."""

    records: tuple[VideoRecord, ...]
    classes: tuple[str, ...] | None
    source: str
    columns: tuple[str, ...] = ()
    """Columns of a CSV that could be labels."""
    labels_from: str = ""
    """Where the labels come from, in words."""

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def labels(self) -> list[int]:
        """Label of each video; -1 where there is none. Computed once: callers index it video by video."""
        return [-1 if record.label is None else record.label for record in self.records]

    @property
    def groups(self) -> list[str] | None:
        """Group of each video; None where a video has none."""
        found = [record.group for record in self.records if record.group is not None]
        return found if len(found) == len(self.records) else None

    def select(self, split: str) -> VideoIndex:
        """The videos of one split."""
        return replace(self, records=tuple(record for record in self.records if record.split == split))

    def without(self, *splits: str) -> VideoIndex:
        """The videos that are in none of these splits."""
        return replace(self, records=tuple(record for record in self.records if record.split not in splits))


@dataclass(frozen=True)
class Row:
    """A video of a list whose classes have no numbers yet."""

    record: VideoRecord
    label: str | None = None
    """Name of its class."""


def sorted_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in the order of their numbers: by value if all are whole numbers, else by name."""
    names = list(names)
    return tuple(sorted(names, key=lambda name: (int(name), name)) if all(map(is_whole, names)) else sorted(names))


def is_whole(text: str) -> bool:
    """Whether a text is a whole number."""
    return re.fullmatch("-?[0-9]+", text) is not None
