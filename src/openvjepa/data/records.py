"""Videos and images with what a list says about them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class VideoRecord:
    """One video or image: its file, and what the list says about it."""

    path: str
    label: int | None = None
    """Number of its class."""
    split: str | None = None
    frames: int | None = None
    fps: float | None = None
    """Frames per second."""
    duration: float | None = None
    """Seconds."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", os.fspath(self.path))


@dataclass(frozen=True)
class VideoIndex:
    """A list of videos and images; `classes` names the labels, or is None when there are none."""

    records: tuple[VideoRecord, ...]
    classes: tuple[str, ...] | None
    source: str
    columns: tuple[str, ...] = ()
    """Columns of a CSV that could be labels."""
    labels_from: str = ""
    """Where the labels come from, in words."""

    def __len__(self) -> int:
        return len(self.records)

    @property
    def labels(self) -> list[int]:
        """Label of each video; -1 where there is none."""
        return [-1 if record.label is None else record.label for record in self.records]

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
    return tuple(sorted(names, key=int) if all(map(is_whole, names)) else sorted(names))


def is_whole(text: str) -> bool:
    """Whether a text is a whole number."""
    return re.fullmatch("-?[0-9]+", text) is not None
