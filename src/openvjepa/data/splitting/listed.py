"""`vjepa data split`: a list of videos with a column of splits or folds."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from openvjepa.atomic import replacing
from openvjepa.config import DivideConfig, command
from openvjepa.data.lists.cells import csv_text
from openvjepa.data.lists.index import read_index, source_table
from openvjepa.data.lists.records import SPLITS, VideoIndex
from openvjepa.data.splitting.divide import divide, folds_for
from openvjepa.data.splitting.units import Pair, Units, find_units
from openvjepa.errors import ConfigError, DataError

log = logging.getLogger("openvjepa")

MOST_CLASSES = 50  # numbers with more different values than this are measurements: tenths of their range are stratified
BINS = 10


@dataclass(frozen=True)
class SplitReport:
    """Result of `vjepa data split`."""

    out: Path
    parts: tuple[str, ...]
    """The splits or folds."""
    counts: dict[str, dict[str, int]]
    """Class -> part -> videos."""
    total: int
    units: int
    """Sets of videos that are never divided."""
    notes: tuple[str, ...]
    """What was kept together, and what may be wrong, in words."""


@command(DivideConfig, "source")
def split_list(config: DivideConfig) -> SplitReport:
    """Split videos and write them as a list.

    The same videos and seed give the same split in whatever order they are listed.

    Raises:
        ConfigError: the list exists already.
        DataError: the videos cannot be read, or not be divided so.
    """
    out = Path(config.out)
    if out.exists() and not config.overwrite:
        raise ConfigError(f"{out}: exists already: add --overwrite to replace it, or choose another --out")
    index = read_index(config.source, label=config.label, group=config.group)
    if config.group is not None and (bare := [r.path for r in index.records if not r.group]):
        raise DataError(f"{index.source}: {len(bare)} videos have no {config.group}, such as {bare[0]}")
    order = sorted(range(len(index)), key=lambda i: (os.path.abspath(index.records[i].path), index.records[i].name))
    records = [index.records[i] for i in order]
    units = find_units(records, whole_files=config.whole_files, near=config.near_duplicates, workers=config.workers)
    strata, names = _strata(index, order)
    if config.folds is None:
        shares = {name: percent / 100 for name, percent in config.percent.items()}
        found = divide(strata, units.numbers, shares, config.seed)
        parts = tuple(name for name in SPLITS if name == "train" or shares[name])
    else:
        found = [str(fold) for fold in folds_for(strata, units.numbers, config.folds, config.seed)]
        parts = tuple(str(number + 1) for number in range(config.folds))
    chosen = dict(zip(order, found, strict=True))
    column = "split" if config.folds is None else "fold"
    _write(out, index, [chosen[i] for i in range(len(index))], column)
    counts = _counts(strata, names, found, parts)
    notes = (*_kept(index, order, units, config), *_doubts(index, counts, parts))
    return SplitReport(out, parts, counts, len(index), units.count, notes)


def _strata(index: VideoIndex, order: Sequence[int]) -> tuple[list[int], tuple[str, ...]]:
    """Class of each video in the given order, and the names of the classes; of many numbers, tenths."""
    if index.classes is None:
        return [0] * len(order), ("all videos",)
    labels = [index.labels[i] for i in order]
    if len(index.classes) > MOST_CLASSES and (values := _numbers(index.classes)) is not None and -1 not in labels:
        given = np.array([values[label] for label in labels])
        edges = np.unique(np.quantile(given, np.linspace(0, 1, BINS + 1)))
        bins = np.clip(np.searchsorted(edges, given, side="right") - 1, 0, len(edges) - 2)
        spans = (f"{low:g} - {high:g}" for low, high in pairwise(edges))
        return [int(place) for place in bins], tuple(spans)
    if -1 in labels:
        return [len(index.classes) if label < 0 else label for label in labels], (*index.classes, "(no label)")
    return labels, index.classes


def _numbers(classes: Sequence[str]) -> list[float] | None:
    try:
        return [float(name) for name in classes]
    except ValueError:
        return None


def _counts(
    strata: Sequence[int], names: Sequence[str], found: Sequence[str], parts: Sequence[str]
) -> dict[str, dict[str, int]]:
    tally = Counter(zip(strata, found, strict=True))
    there = sorted(set(strata))
    return {names[i]: {part: tally[i, part] for part in parts} for i in there}


def _write(out: Path, index: VideoIndex, found: Sequence[str], column: str) -> None:
    """The rows of the source in its order, with the column; paths count from the folder of the list where they lie in it."""
    table = source_table(index.source)
    rows: list[dict[str, object]] = (
        [dict(row) for row in table.rows] if table else [_row(index, i) for i in range(len(index))]
    )
    for row, record, part in zip(rows, index.records, found, strict=True):
        row |= {"path": _path(record.path, out), column: part}
    header = list(table.header) if table else [name for name in ("path", "label", "start", "end") if name in rows[0]]
    if column in header:
        log.warning("%s: its column %s is replaced in %s", index.source, column, out)
    else:
        header.append(column)
    try:
        with replacing(out) as temporary:
            temporary.write_text(csv_text(header, rows), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from None


def _row(index: VideoIndex, place: int) -> dict[str, object]:
    record = index.records[place]
    row: dict[str, object] = {"path": record.path}
    if index.classes:
        row["label"] = "" if record.label is None else index.classes[record.label]
    if any(other.is_part for other in index.records):
        row |= {"start": "" if record.start is None else record.start, "end": "" if record.end is None else record.end}
    return row


def _path(path: str, out: Path) -> str:
    file, folder = Path(os.path.abspath(path)), Path(os.path.abspath(out.parent))
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)


def _kept(index: VideoIndex, order: Sequence[int], units: Units, config: DivideConfig) -> list[str]:
    """What was kept together, in words."""

    def example(pairs: Sequence[Pair]) -> str:
        a, b = (index.records[order[i]].name for i in pairs[0])
        return f"{len(pairs)} pairs, such as {a} and {b}"

    notes: list[str] = []
    if config.group is not None:
        notes.append(f"{len({record.group for record in index.records})} of {config.group} are kept whole")
    if units.copies:
        notes.append(f"copies of the same file: {example(units.copies)}")
    if units.alike:
        notes.append(f"near-duplicates, kept together: {example(units.alike)}")
    pairs = [(order[a], order[b]) for a, b in (*units.copies, *units.alike)]
    labels = index.labels
    if index.classes and (odd := [pair for pair in pairs if labels[pair[0]] != labels[pair[1]]]):
        a, b = odd[0]
        said = [f"{index.records[i].name} ({'none' if labels[i] < 0 else index.classes[labels[i]]})" for i in (a, b)]
        notes.append(f"{len(odd)} of these pairs have two labels, such as {said[0]} and {said[1]}: look at them")
    if units.unreadable:
        path, reason = next(iter(units.unreadable.items()))
        notes.append(f"{len(units.unreadable)} videos cannot be read, such as {path}: {reason}; they stay in the list")
    return notes


def _doubts(index: VideoIndex, counts: Mapping[str, Mapping[str, int]], parts: Sequence[str]) -> list[str]:
    """Classes that some part lacks."""
    notes = []
    if index.classes is None and index.columns:
        notes.append(
            f"no label was chosen, so that classes may differ between parts: --label is one of {', '.join(index.columns)}"
        )
    for part in parts:
        if lacking := [name for name, row in counts.items() if not row[part]]:
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            notes.append(f"{part} has no videos of {', '.join(lacking[:5])}{more}: too few of them, or too few groups")
    return notes
