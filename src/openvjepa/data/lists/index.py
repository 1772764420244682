"""Lists of videos and images and their labels, read from whatever names them: folders, CSV files, plain lists."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from openvjepa.data.lists.activitynet import read_activitynet
from openvjepa.data.lists.folders import BY_FOLDER, read_folder
from openvjepa.data.lists.records import SPLITS, Row, VideoIndex, VideoRecord, sorted_classes
from openvjepa.data.lists.tables import Table, beside, list_rows, read_table, table_rows
from openvjepa.data.media.files import expanded, why_not_readable
from openvjepa.data.media.video import MEDIA_EXTENSIONS
from openvjepa.errors import DataError

__all__ = ["SPLITS", "VideoIndex", "VideoRecord", "read_index", "sorted_classes", "stratified_split"]

_log = logging.getLogger("openvjepa")
_INDEX = "index.csv"
_TABLES = ("labels.csv", "metadata.csv")  # in a folder, these are read like index.csv where they have a column of paths


def read_index(source: str | Path, *, label: str | None = None, group: str | None = None) -> VideoIndex:
    """Read a list of videos and images.

    Images in folders are pictures of their own, so that ImageNet's layout is read as it is meant, whatever their names and
    sizes are: numbered photographs of one size are common. A folder of frames counts as one video only where a list or a
    CSV names that folder as a path.

    Args:
        source: one of
            - a folder with an index.csv, a labels.csv, a metadata.csv or a single CSV file of another name;
            - a folder of class folders, also train/, val/, test/ of them: the label of a file is the name of the top folder
              that it lies in, however deep; files beside the class folders have no label;
            - a CSV with a header: a column `path` (or file, filename, video, video_path), label columns, optional `split`,
              `frames`, `fps`, `duration`, `start`, `end`; separated by commas, semicolons or tabs. With start or end (seconds),
              a row means that part of its video, and clips are cut from there alone;
            - ActivityNet's JSON of segments (`database`, with `annotations`), beside or above its videos;
            - a list of `path label` lines with integer labels, or of paths alone;
            - a single video or image.
            Paths in a file are relative to its folder; `~` is the home directory.
        label: CSV column of the label; None: `label`, or the only one that can be one. With several and no choice, the
            index has no labels.
        group: CSV column of people, cameras or sources (`VideoRecord.group`).

    Raises:
        DataError: missing, empty or malformed; a wrong row is named by its line. Or the same video (or part of it) has two
            labels.
    """
    path = expanded(source)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if reason := why_not_readable(path):
        raise DataError(f"{path}: {reason}")
    if path.is_dir():
        table = _table_in(path)
        if table is None and group is not None:
            raise DataError(f"{path}: a folder without a CSV file has no column {group!r} for --group")
        return _read_text(table, label, group) if table else _index(path, read_folder(path), BY_FOLDER)
    if path.suffix.lower() in MEDIA_EXTENSIONS:
        return VideoIndex((VideoRecord(str(path)),), None, str(path))
    if path.suffix.lower() == ".json":
        return _index(path, read_activitynet(path), "annotations of the file")
    return _read_text(path, label, group)


def source_table(source: str | Path) -> Table | None:
    """The CSV file that `read_index` reads; None where the videos are listed by something else.

    Raises:
        DataError: it cannot be read.
    """
    path = expanded(source)
    if path.is_dir():
        path = _table_in(path)
    if path is None or path.suffix.lower() in {*MEDIA_EXTENSIONS, ".json"}:
        return None
    return read_table(path)


def _table_in(folder: Path) -> Path | None:
    """The CSV file in a folder that lists its videos."""
    if (folder / _INDEX).is_file():
        return folder / _INDEX
    tables = sorted(path for path in folder.glob("*.csv") if path.is_file() and not path.name.startswith("."))
    named = [folder / name for name in _TABLES if folder / name in tables]
    for path in named or (tables if len(tables) == 1 else []):
        try:
            if read_table(path):
                return path
        except DataError as error:
            _log.warning("%s: not read as a list of videos (%s)", path, error)
    if tables:
        names = ", ".join(path.name for path in tables[:3])
        _log.warning("%s: %s not read as a list of videos: name a file instead of the folder to use it", folder, names)
    return None


def _read_text(path: Path, label: str | None, group: str | None = None) -> VideoIndex:
    table = read_table(path)
    if table is None and group is not None:
        raise DataError(f"{path}: a list without a header has no column {group!r} for --group")
    if table is None:
        return _index(path, list_rows(path), "the list")
    index = _index(path, table_rows(table, label, group), "")
    others = [name for name in table.candidates if name != group]
    column = label or ("label" if "label" in others else others[0] if index.classes else "")
    return replace(index, columns=table.candidates, labels_from=f"column {column}" if column else "")


def _index(path: Path, rows: Sequence[Row], labels_from: str) -> VideoIndex:
    """Number the class names, integers by value and others by name."""
    classes = sorted_classes({row.label for row in rows if row.label})
    number = {name: i for i, name in enumerate(classes)}
    folder = Path() if path.is_dir() else path.parent
    records = tuple(
        replace(row.record, path=str(beside(folder, row.record.path)), label=number[row.label] if row.label else None)
        for row in rows
    )
    _check_labels(path, records, classes)
    return VideoIndex(records, classes or None, str(path), labels_from=labels_from if classes else "")


def _check_labels(path: Path, records: Sequence[VideoRecord], classes: Sequence[str]) -> None:
    """Refuse the same video, or the same part of it, with two labels, and a whole video with another label than its part."""
    parts: dict[str, int] = {}
    wholes: dict[str, int] = {}
    labels: dict[str, set[int]] = {}
    for record in records:
        if record.label is None:
            continue
        file = os.path.abspath(record.path)
        labels.setdefault(file, set()).add(record.label)
        known = parts if record.is_part else wholes
        key = file + record.name.removeprefix(record.path)
        if (first := known.setdefault(key, record.label)) != record.label:
            _refuse(path, record.name, classes, (first, record.label), "" if record.is_part else _GIVE_TIMES)
    for file, label in wholes.items():
        if others := labels[file] - {label}:
            _refuse(path, file, classes, (label, min(others)), _GIVE_TIMES)


_GIVE_TIMES = ": give columns start and end where its parts differ"


def _refuse(path: Path, name: str, classes: Sequence[str], labels: tuple[int, int], advice: str) -> None:
    first, second = (classes[label] for label in labels)
    raise DataError(f"{path}: {name} has the labels {first!r} and {second!r}{advice}")


def stratified_split(index: VideoIndex, *, val: float, test: float, seed: int) -> VideoIndex:
    """Give every labeled video a split, class by class, in an order that follows from the seed.

    A class keeps at least one video for each part, as long as it has three; of two, one is for training and one for test.
    """
    rng = np.random.default_rng((seed, 7))
    splits: dict[int, str] = {}
    classes: dict[int, list[int]] = {}
    for i, label in enumerate(index.labels):
        classes.setdefault(label, []).append(i)
    for label in sorted(classes):
        members = rng.permutation(classes[label])
        count_test = min(max(1, round(test * len(members))), len(members) - 1)
        count_val = min(max(1, round(val * len(members))), len(members) - 1 - count_test)
        for rank, i in enumerate(members):
            splits[int(i)] = "test" if rank < count_test else "val" if rank < count_test + count_val else "train"
    return replace(index, records=tuple(replace(r, split=splits[i]) for i, r in enumerate(index.records)))
