"""From answers over time to segments: smoothing, a minimum length, and lists that other commands read.

Shapes: W windows, C classes.
"""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openvjepa.data.lists.cells import safe_cell
from openvjepa.inference.timeline import Timeline
from openvjepa.weights.files import whole_file

COLUMNS = ("path", "start", "end", "label", "probability")

_log = logging.getLogger("openvjepa")


def refined(timeline: Timeline, *, smooth: float | None = None, min_length: float | None = None) -> Timeline:
    """A timeline with its probabilities smoothed, then without segments that are too short; None: leave out that step.

    Args:
        timeline: the answers.
        smooth: as for `smoothed`.
        min_length: as for `without_short`.
    """
    line = timeline if smooth is None else smoothed(timeline, smooth)
    return line if min_length is None else without_short(line, min_length)


def smoothed(timeline: Timeline, seconds: float) -> Timeline:
    """The mean probabilities over the readable windows whose middles lie within `seconds` / 2 of a window's own."""
    middles = np.array([(start + end) / 2 for start, end in timeline.spans])
    near = np.abs(middles[:, None] - middles[None]) <= seconds / 2 + 1e-9
    near[:, list(timeline.skipped)] = False
    near[list(timeline.skipped)] = False
    weights = near / np.maximum(near.sum(1, keepdims=True), 1)
    return replace(timeline, probabilities=weights @ timeline.probabilities)


def without_short(timeline: Timeline, seconds: float) -> Timeline:
    """The classes of windows that form no segment shorter than `seconds` and otherwise have the most probability.

    Of all such segmentations it is the one with the greatest expected time under the right class, if probabilities are
    calibrated: the sum over windows of the time that each stands for, times the probability of its class. It is found by
    dynamic programming. A stretch between unreadable windows that is shorter as a whole is one segment.
    """
    labels: list[int | None] = []
    borders = np.array(timeline.borders())
    for unreadable, group in groupby(range(len(timeline.spans)), key=lambda number: number in timeline.skipped):
        numbers = list(group)
        if unreadable:
            labels += [None] * len(numbers)
            continue
        edges = borders[numbers[0] : numbers[-1] + 2]
        labels += [int(label) for label in _best_labels(timeline.probabilities[numbers], edges, seconds)]
    return replace(timeline, chosen=tuple(labels))


def _best_labels(shares: NDArray[np.float64], edges: NDArray[np.float64], seconds: float) -> NDArray[np.int64]:
    """Class of each window [W] of probabilities [W, C] between edges [W + 1], s."""
    count, classes = shares.shape
    gains = np.concatenate([np.zeros((1, classes)), np.cumsum(shares * np.diff(edges)[:, None], axis=0)])
    best = np.full(count + 1, -np.inf)  # of segmentations that end at an edge
    best[0] = 0.0
    came: list[tuple[int, int]] = [(0, 0)] * (count + 1)  # start and class of the last segment
    lead, begin = np.full(classes, -np.inf), np.zeros(classes, np.int64)  # best start of a segment of each class so far
    allowed = -1  # latest start that has been looked at
    for end in range(1, count + 1):
        while allowed + 1 < end and edges[end] - edges[allowed + 1] >= seconds - 1e-9:
            allowed += 1
            better = best[allowed] - gains[allowed] > lead
            lead[better], begin[better] = (best[allowed] - gains[allowed])[better], allowed
        label = int(np.argmax(gains[end] + lead))
        if np.isfinite(lead[label]):
            best[end], came[end] = gains[end][label] + lead[label], (int(begin[label]), label)
    if not np.isfinite(best[count]):  # shorter than a segment
        return np.full(count, int(np.argmax(gains[count])), np.int64)
    labels, end = np.empty(count, np.int64), count
    while end:
        start, label = came[end]
        labels[start:end], end = label, start
    return labels


def write_segments(path: Path, timelines: Sequence[Timeline]) -> None:
    """One line for each segment: absolute path, start, end (s of the file), label, mean probability.

    The file is a list of videos, as `vjepa probe` and `vjepa train` read them. Segments touch and do not overlap; time that
    cannot be read is left out.

    Raises:
        CheckpointError: it cannot be written.
    """
    gaps = 0
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for line in timelines:
            for scene in line.scenes():
                if scene.label is None:
                    gaps += 1
                    continue
                times = (f"{line.offset + time:.6f}" for time in (scene.start, scene.end))
                cells = [os.path.abspath(line.path), *times, line.classes[scene.label], f"{scene.probability:.6f}"]
                writer.writerow(map(safe_cell, cells))
    if gaps:
        _log.warning("%s: %d segments that cannot be read are left out", path, gaps)
