"""Lists of videos and images and their labels: folders, Meta's `path label` lists, CSV files; and a check of every file."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Group, RenderableType
from rich.progress import track
from rich.table import Table

from openvjepa.data.cores import usable_cores
from openvjepa.data.images import is_image_name
from openvjepa.data.video import MEDIA_EXTENSIONS, VideoInfo, probe
from openvjepa.errors import DataError, VideoError

SPLITS = ("train", "val", "test")
_FACTS = {"frames": int, "fps": float, "duration": float}  # columns that describe a video, in VideoRecord's order
_OTHER_COLUMNS = frozenset(("path", "split", *_FACTS))


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


@dataclass(frozen=True)
class VideoIndex:
    """A list of videos and images; `classes` names the labels, or is None when there are none."""

    records: tuple[VideoRecord, ...]
    classes: tuple[str, ...] | None
    source: str

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


def read_index(source: str | Path, *, label: str | None = None) -> VideoIndex:
    """Read a list of videos and images.

    Images in folders are pictures of their own, so that ImageNet's layout is read as it is meant, whatever their names and
    sizes are: numbered photographs of one size are common. A folder of frames counts as one video only where a list or a
    CSV names that folder as a path.

    Args:
        source: a folder of class folders (also train/, val/, test/ of them), a flat folder (no labels), a folder with an
            index.csv, a CSV with a header (`path`, label columns, optional `split`, `frames`, `fps`, `duration`; paths
            relative to it), a list of `path label` lines with integer labels, or a single file.
        label: CSV column of the label; None: `label`, or the only one there is. With several and no choice, the index
            has no labels.

    Raises:
        DataError: missing, empty or malformed; a wrong row is named by its line.
    """
    path = Path(source)
    if path.is_dir():
        if (path / "index.csv").is_file():
            return _read_csv(path / "index.csv", label)
        return _read_folder(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    if path.suffix.lower() in MEDIA_EXTENSIONS:
        return VideoIndex((VideoRecord(str(path)),), None, str(path))
    header = next(csv.reader([_lines(path)[0][1]]))
    return _read_csv(path, label) if "path" in (name.strip() for name in header) else _read_list(path)


def stratified_split(index: VideoIndex, *, val: float, test: float, seed: int) -> VideoIndex:
    """Give every labelled video a split, class by class, in an order that follows from the seed.

    A class keeps at least one video for each part, as long as it has three; of two, one is for training and one for test.
    """
    rng = np.random.default_rng((seed, 7))
    splits: dict[int, str] = {}
    labels = index.labels
    for label in sorted(set(labels)):
        members = rng.permutation([i for i, other in enumerate(labels) if other == label])
        count_test = min(max(1, round(test * len(members))), len(members) - 1)
        count_val = min(max(1, round(val * len(members))), len(members) - 1 - count_test)
        for rank, i in enumerate(members):
            splits[int(i)] = "test" if rank < count_test else "val" if rank < count_test + count_val else "train"
    return replace(index, records=tuple(replace(r, split=splits[i]) for i, r in enumerate(index.records)))


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: not a text list of videos ({error})") from None
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise DataError(f"{path}: the list is empty")
    return lines


def _read_list(path: Path) -> VideoIndex:
    rows = []
    expected = "'path label' (or, in line 1, the header of a CSV with a column 'path')"
    for number, line in _lines(path):
        parts = line.rsplit("::", 1) if "::" in line else line.rsplit(" ", 1)
        if len(parts) < 2:
            raise DataError(f"{path}, line {number}: expected {expected}, found {line.strip()!r}")
        if not _is_whole(parts[1].strip()):
            raise DataError(f"{path}, line {number}: the label {parts[1].strip()!r} is not a whole number")
        rows.append((VideoRecord(parts[0].strip()), parts[1].strip()))
    return _labelled(path, rows)


def _read_csv(path: Path, label: str | None) -> VideoIndex:
    lines = _lines(path)
    header = [name.strip() for name in next(csv.reader([lines[0][1]]))]
    if "path" not in header:
        raise DataError(f"{path}: no column 'path' in its header {', '.join(header)}")
    column = _label_column(path, header, label)
    rows = []
    for number, line in lines[1:]:
        fields = next(csv.reader([line]))
        if len(fields) != len(header):
            raise DataError(f"{path}, line {number}: {len(fields)} fields, the header has {len(header)}")
        row = dict(zip(header, (field.strip() for field in fields), strict=True))
        if not row["path"]:
            raise DataError(f"{path}, line {number}: the path is empty")
        split = row.get("split") or None
        if split and split not in SPLITS:
            raise DataError(f"{path}, line {number}: split {split!r} is not one of {', '.join(SPLITS)}")
        try:
            facts = [kind(row[name]) if row.get(name) else None for name, kind in _FACTS.items()]
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not a number in {', '.join(_FACTS)}: {error}") from None
        rows.append((VideoRecord(row["path"], None, split, *facts), row[column] if column else None))
    if not rows:
        raise DataError(f"{path}: the list has a header but no videos")
    return _labelled(path, rows)


def _label_column(path: Path, header: list[str], label: str | None) -> str | None:
    candidates = [name for name in header if name not in _OTHER_COLUMNS]
    if label is not None:
        if label not in candidates:
            raise DataError(f"{path}: no label column {label!r}: choose one of {', '.join(candidates) or '(none)'}")
        return label
    if "label" in candidates:
        return "label"
    return candidates[0] if len(candidates) == 1 else None


def _read_folder(path: Path) -> VideoIndex:
    folders = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    if folders and {folder.name for folder in folders} <= set(SPLITS):
        rows = [
            (VideoRecord(str(file), split=split.name), group.name)
            for split in folders
            for group in sorted(split.iterdir())
            if group.is_dir()
            for file in _media(group)
        ]
    else:
        rows = [(VideoRecord(str(file)), folder.name) for folder in folders for file in _media(folder)]
    if not rows:
        rows = [(VideoRecord(str(file)), None) for file in _media(path)]
    if not rows:
        raise DataError(
            f"{path}: no videos in this folder or its class folders, nor images (name folders of frames in a list or CSV)"
        )
    return _labelled(path, rows)


def _media(folder: Path) -> list[Path]:
    """Videos and images directly in a folder, by name; none of the hidden ones that systems leave beside them."""
    files = [file for file in folder.iterdir() if file.suffix.lower() in MEDIA_EXTENSIONS]
    return sorted(file for file in files if file.is_file() and not file.name.startswith("."))


def _labelled(path: Path, rows: Sequence[tuple[VideoRecord, str | None]]) -> VideoIndex:
    """Number the class names, integers by value and others by name; paths in a file are relative to its folder."""
    classes = sorted_classes({name for _, name in rows if name})
    number = {name: i for i, name in enumerate(classes)}
    folder = Path() if path.is_dir() else path.parent
    records = tuple(
        replace(record, path=str(folder / record.path), label=number[name] if name else None) for record, name in rows
    )
    return VideoIndex(records, classes or None, str(path))


def sorted_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in the order of their numbers: by value if all are whole numbers, else by name."""
    names = list(names)
    return tuple(sorted(names, key=int) if all(map(_is_whole, names)) else sorted(names))


def _is_whole(text: str) -> bool:
    return re.fullmatch("-?[0-9]+", text) is not None


@dataclass(frozen=True)
class CheckReport:
    """What a full decode of every video and image of an index found."""

    index: VideoIndex
    good: tuple[VideoInfo, ...]
    bad: dict[str, str]
    """Path -> reason; files that decode with errors are in `good` and listed in `damaged`."""

    @property
    def images(self) -> int:
        """How many of the files are still images, by their names."""
        return sum(is_image_name(record.path) for record in self.index.records)

    @property
    def damaged(self) -> dict[str, int]:
        """Path -> packets that could not be decoded, for files that can be used all the same."""
        return {info.path: info.errors for info in self.good if info.errors}

    def to_dict(self) -> dict[str, object]:
        """The same for programs."""
        return {
            "source": self.index.source,
            "videos": len(self.index) - self.images,
            "images": self.images,
            "classes": dict(self._class_counts()),
            "frames": sum(info.frames for info in self.good),
            "seconds": round(sum(info.duration for info in self.good), 3),
            "sizes": _counts(f"{info.width}x{info.height}" for info in self.good),
            "codecs": _counts(info.codec for info in self.good),
            "bad": self.bad,
            "damaged": self.damaged,
        }

    def render(self) -> RenderableType:
        """The same for people."""
        images, moving = self.images, [info for info in self.good if info.fps]
        kinds = f"{len(self.index) - images} videos" + (f", {images} images" if images else "")
        table = Table(title=f"{self.index.source}: {kinds}", show_header=False, title_justify="left")
        durations = [info.duration for info in moving] or [0.0]
        table.add_row("readable", f"{len(self.good)} ({len(self.damaged)} of them with damaged packets)")
        table.add_row("duration", f"{min(durations):.2f} - {max(durations):.2f} s, median {median(durations):.2f} s")
        table.add_row("frames", f"{sum(info.frames for info in self.good)} in all")
        table.add_row("fps", _short(_counts(f"{info.fps:.4g}" for info in moving)))
        table.add_row("sizes", _short(_counts(f"{info.width}x{info.height}" for info in self.good)))
        table.add_row("codecs", _short(_counts(info.codec for info in self.good)))
        splits = _counts(record.split for record in self.index.records if record.split)
        table.add_row("splits", _short(splits) if splits else "none given")
        table.add_row("classes", _short(dict(self._class_counts())) if self.index.classes else "no labels")
        parts: list[RenderableType] = [table]
        notes = {**{p: f"{n} packets cannot be decoded" for p, n in self.damaged.items()}, **self.bad}
        if notes:
            problems = Table(
                "file", "reason", title=f"{len(self.bad)} bad, {len(self.damaged)} damaged", title_justify="left"
            )
            for path, reason in notes.items():
                problems.add_row(path, reason)
            parts.append(problems)
        return Group(*parts)

    def _class_counts(self) -> list[tuple[str, int]]:
        counts = Counter(self.index.labels)
        return [(name, counts[i]) for i, name in enumerate(self.index.classes or ())]


def check_index(source: str | Path, *, label: str | None = None, workers: int | None = None) -> CheckReport:
    """Decode every video and image of an index completely, several at a time, and report what is there.

    Raises:
        DataError: the index itself cannot be read, or a decoding process was ended from outside.
    """
    index = read_index(source, label=label)
    paths = [record.path for record in index.records]
    good, bad = [], {}
    try:
        with ProcessPoolExecutor(workers or min(8, usable_cores())) as pool:
            results = track(pool.map(_probe, paths, chunksize=4), "decoding", total=len(paths), transient=True)
            for path, result in zip(paths, results, strict=True):
                if isinstance(result, VideoInfo):
                    good.append(result)
                else:
                    bad[path] = result
    except BrokenProcessPool:
        raise DataError(f"{source}: a decoding process died, perhaps for lack of memory: use fewer workers") from None
    return CheckReport(index, tuple(good), bad)


def _probe(path: str) -> VideoInfo | str:
    try:
        return probe(path)
    except VideoError as error:
        return error.reason


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _short(counts: dict[str, int], most: int = 12) -> str:
    shown = ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:most])
    return shown + (f" and {len(counts) - most} more" if len(counts) > most else "") or "-"
