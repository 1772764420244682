"""Confusion matrices as PNG files and matplotlib figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from openvjepa.weights.files import whole_file


def draw_confusion(path: Path, title: str, counts: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Confusion matrix as a picture: counts [C, C], rows true, columns predicted, colored by share of the row."""
    figure = confusion_figure(title, counts, classes)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def confusion_figure(title: str, counts: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """What `draw_confusion` draws."""
    side = max(4.0, min(14.0, 2 + 0.4 * len(classes)))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= 25:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                dark = count > 0.5 * counts[row].sum()
                axes.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black")
    ticks = range(len(classes)) if len(classes) <= 60 else []
    axes.set_xticks(ticks, [classes[i] for i in ticks], rotation=90)
    axes.set_yticks(ticks, [classes[i] for i in ticks])
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title)
    return figure
