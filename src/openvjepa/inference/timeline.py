"""Class probabilities over the time of a video: windows, and the scenes that they form.

Shapes: W windows, C classes.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openvjepa.data.lists.cells import safe_cell
from openvjepa.weights.files import whole_file

Span = tuple[float, float]
"""Start and end, s from the first frame."""


@dataclass(frozen=True)
class Scene:
    """A stretch of a video in which one class is the likeliest."""

    start: float
    end: float
    label: int | None
    """Number of the class; None where the video cannot be read."""
    probability: float
    """Mean over its windows."""
    windows: int


@dataclass(frozen=True, eq=False)
class Timeline:
    """Answers over a video."""

    path: str
    duration: float
    """s."""
    classes: tuple[str, ...]
    spans: tuple[Span, ...]
    """Of the windows."""
    probabilities: NDArray[np.float64]
    """[W, C]; the rows of unreadable windows are 0."""
    skipped: dict[int, str]
    """Number of an unreadable window -> reason."""
    start: float | None = None
    """Start of the part of the file that was followed, s; None: the whole file. `spans` count from the part's first frame."""
    end: float | None = None
    """End of that part, s."""
    offset: float = 0.0
    """Start of the part's first frame, s from the first of the file."""
    chosen: tuple[int | None, ...] | None = None
    """Class of each window, where it is not simply the likeliest one."""

    @property
    def labels(self) -> list[int | None]:
        """Class of each window, the likeliest one unless `chosen` says otherwise; None where it cannot be read."""
        if self.chosen is not None:
            return list(self.chosen)
        return [None if i in self.skipped else int(row.argmax()) for i, row in enumerate(self.probabilities)]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Probabilities of the whole video [C]: the mean over its windows."""
        return self.probabilities[[i for i in range(len(self.spans)) if i not in self.skipped]].mean(0)

    def borders(self) -> list[float]:
        """Times [W + 1] between which each window is the one whose middle is nearest."""
        middles = [(start + end) / 2 for start, end in self.spans]
        between = [(a + b) / 2 for a, b in pairwise(middles)]
        return [0.0, *between, self.duration]

    def at(self, time: float) -> int:
        """The window whose middle is nearest to a time, s."""
        return int(np.searchsorted(self.borders()[1:-1], time, side="right"))

    def scenes(self) -> list[Scene]:
        """Stretches of windows with the same likeliest class, one after the other, without gaps."""
        borders, labels, scenes = self.borders(), self.labels, list[Scene]()
        for label, group in groupby(range(len(labels)), key=labels.__getitem__):
            numbers = list(group)
            probability = 0.0 if label is None else float(self.probabilities[numbers, label].mean())
            scenes.append(Scene(borders[numbers[0]], borders[numbers[-1] + 1], label, probability, len(numbers)))
        return scenes


def write_csv(path: Path, timelines: Sequence[Timeline]) -> None:
    """One line for each window: path, start, end (s of the file), its class, its probability, then the probability of each class.

    The fields of a window that cannot be read are empty from the class on.

    Raises:
        CheckpointError: it cannot be written.
    """
    classes = timelines[0].classes if timelines else ()
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        header = ["path", "start", "end", "class", "probability", *(f"p({name})" for name in classes)]
        writer.writerow(map(safe_cell, header))
        for line in timelines:
            for (start, end), label, shares in zip(line.spans, line.labels, line.probabilities, strict=True):
                said = [] if label is None else [classes[label], *(f"{p:.6f}" for p in (shares[label], *shares))]
                times = (f"{line.offset + time:.3f}" for time in (start, end))
                cells = [line.path, *times, *(said or [""] * (2 + len(classes)))]
                writer.writerow(map(safe_cell, cells))
