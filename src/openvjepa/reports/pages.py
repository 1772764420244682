"""report.html: one file with nothing outside it, that a person can open, read on a telephone, and send on.

A report is a list of sections; each function here makes one from plain arrays and dicts, and every text is escaped.
Shapes: T frames, H x W px; N = t * h * w tokens of D channels; C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray

from openvjepa.grid import TokenGrid
from openvjepa.metrics import wilson
from openvjepa.reports import charts as figures
from openvjepa.reports.templates import TEMPLATES, environment, part
from openvjepa.weights.files import write_file

# key of metrics.jsonl: (title, draw it smoothed). The order is the order in the report.
CURVES: dict[str, tuple[str, bool]] = {
    "loss": ("Loss", True),
    "feature_std": ("Feature standard deviation", False),
    "rankme": ("Effective rank of features (RankMe)", False),
    "knn": ("Online kNN accuracy", False),
    "lr": ("Learning rate", False),
    "clips_per_s": ("Clips per second", True),
}


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it (HTML, escaped already)."""

    title: str
    body: str


@dataclass(frozen=True)
class Prediction:
    """What a probe says about one video.

    `frames` uint8 [T, H, W, 3]; `probabilities` pairs each class name with 0..1, likeliest first; `truth` where known.
    """

    name: str
    frames: NDArray[np.uint8]
    probabilities: Sequence[tuple[str, float]]
    truth: str | None = None


def write_report(path: str | Path, title: str, sections: Sequence[Section], *, lead: str = "") -> Path:
    """Write the sections as one HTML page; a file of that name is replaced only when the new one is complete.

    Args:
        path: the file.
        title: heading of the page.
        sections: in order.
        lead: a paragraph under the heading (plain text).

    Raises:
        CheckpointError: it cannot be written.
    """
    style = (TEMPLATES.parent / "report.css").read_text("utf-8") + (TEMPLATES / "report" / "report.css").read_text(
        "utf-8"
    )
    shown = [{"title": section.title, "body": Markup(section.body)} for section in sections]
    page = (
        environment("report")
        .get_template("page.html")
        .render(title=title, lead=lead, sections=shown, style=Markup(style))
    )
    return write_file(Path(path), page.encode())


def paragraph(text: str) -> Markup:
    """Plain text as an escaped paragraph."""
    return part("paragraph", text)


def plain_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """An HTML table of plain texts; the first column names the rows."""
    return part("table", head, rows)


def chart_row(drawn: Sequence[Markup], *, wide: bool = False) -> Markup:
    """Charts side by side, as many as fit."""
    return part("charts", drawn, wide=wide)


def wide_picture(pixels: NDArray[np.uint8], alt: str) -> Markup:
    """A picture uint8 [H, W, 3] that may be wider than the page."""
    return part("scroll", figures.png(pixels, alt))


def training_curves(rows: Sequence[Mapping[str, Any]], *, title: str = "Training") -> Section:
    """Loss and collapse monitors over the steps.

    Args:
        rows: of metrics.jsonl (`openvjepa.train.logs.read_metrics`); each holds `step` and any of the keys of CURVES.
        title: heading.
    """
    charts: list[Markup] = []
    for key, (name, smooth) in CURVES.items():
        points = [(row["step"], row[key]) for row in rows if "step" in row and _is_number(row.get(key))]
        if len(points) > 1:
            steps, values = zip(*points, strict=True)
            charts.append(figures.line_chart(name, steps, {key: values}, smooth=smooth))
    note = paragraph(
        "The loss alone says little: it also falls when the encoder collapses and gives every clip the same features. "
        "Healthy features keep their standard deviation and rank."
    )
    body = note + chart_row(charts) if charts else paragraph("No metrics were recorded.")
    return Section(title, body)


def accuracy_table(
    results: Mapping[str, Mapping[str, Mapping[str, float]]],
    chance: Mapping[str, float],
    *,
    title: str = "Accuracy",
    note: str = "Top-1 accuracy on the test split, in percent. The mark in a cell is chance.",
    videos: int | None = None,
) -> Section:
    """Test accuracy by label, features and probe, with the lead of the first features over the others.

    Args:
        results: label -> features -> probe -> top-1 in percent. The first features are those the others are
            compared with.
        chance: label -> accuracy of a guess, percent.
        title: heading.
        note: paragraph above the tables.
        videos: how many were tested, for intervals of 95 % (Wilson); None: none are shown.
    """
    tables = [_accuracy_of_label(label, features, chance[label], videos) for label, features in results.items()]
    return Section(title, Markup("").join([paragraph(note), *tables]))


def _accuracy_of_label(
    label: str, features: Mapping[str, Mapping[str, float]], chance: float, videos: int | None
) -> Markup:
    probes = list(dict.fromkeys(probe for row in features.values() for probe in row))
    rows = [(name, [row.get(probe) for probe in probes]) for name, row in features.items()]
    (first, ours), *others = rows
    differences = [(first, other, list(map(_difference, ours, theirs))) for other, theirs in others]
    values = {value for _, row in rows for value in row if value is not None}
    intervals = {} if videos is None else {value: str(wilson(value / 100 * videos, videos)) for value in values}
    return part("accuracies", label, chance, probes, rows, differences, intervals)


def _difference(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else round(ours - theirs, 1) + 0.0  # no minus before a zero


def confusion_matrices(
    matrices: Mapping[str, tuple[ArrayLike, Sequence[str]]], *, title: str = "Confusion matrices"
) -> Section:
    """One picture per entry: name -> (counts [C, C] with rows true and columns predicted, C class names)."""
    charts = [figures.confusion_chart(name, matrix, classes) for name, (matrix, classes) in matrices.items()]
    note = paragraph("Rows are the true classes, columns the predicted ones; numbers are percent of a row.")
    return Section(title, note + chart_row(charts, wide=True))


def feature_pca(
    clips: Sequence[tuple[str, NDArray[np.uint8], Mapping[str, ArrayLike]]],
    grid: TokenGrid,
    *,
    title: str = "Features over a clip",
) -> Section:
    """The features of each token as a color, under the frames they belong to.

    Args:
        clips: (name, frames uint8 [T, H, W, 3] as the encoder saw them, encoder name -> features [N, D]).
        grid: tokens of the clip; one frame is shown for each of its `t` steps.
        title: heading.
    """
    blocks: list[Markup] = []
    for name, frames, features in clips:
        shown = figures.enlarge(frames[np.linspace(0, len(frames) - 1, grid.t).round().astype(int)], 96)
        side = max(shown.shape[1:3])
        rows = [("frames", figures.png(figures.strip(shown), f"{name}: {grid.t} frames"))]
        for encoder, tokens in features.items():
            colors = figures.enlarge(figures.pca_colors(tokens, grid), side)
            picture = _fit(colors, shown.shape[1], shown.shape[2])
            alt = f"{name}: features of the {encoder} encoder, similar features in similar colors"
            rows.append((encoder, figures.png(figures.strip(picture), alt)))
        blocks.append(part("strips", name, rows))
    note = paragraph(
        "Each token is colored by the three main directions (PCA) of the features of its clip: tokens of like color "
        "have like features. The colors of two rows are not comparable."
    )
    return Section(title, Markup("").join([note, *blocks]))


def _fit(frames: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Frames [T, h, w, 3] in another size, nearest pixel."""
    rows = np.arange(height) * frames.shape[1] // height
    columns = np.arange(width) * frames.shape[2] // width
    return frames[:, rows][:, :, columns]


def predictions(items: Sequence[Prediction], *, title: str = "Predictions", frames: int = 6) -> Section:
    """Frames of each video beside its likeliest classes.

    Args:
        items: the videos.
        title: heading.
        frames: how many are shown of each, evenly spaced.
    """
    cards: list[dict[str, Any]] = []
    for item in items:
        chosen = np.linspace(0, len(item.frames) - 1, min(frames, len(item.frames))).round().astype(int)
        picture = figures.png(figures.strip(figures.enlarge(item.frames[chosen], 72)), f"frames of {item.name}")
        right = bool(item.probabilities) and item.probabilities[0][0] == item.truth
        card = {"name": item.name, "truth": item.truth, "right": right}
        cards.append({**card, "picture": picture, "probabilities": item.probabilities})
    return Section(title, part("cards", cards))


def run_facts(facts: Mapping[str, Any], *, title: str = "The run") -> Section:
    """What ran, where and how long, as a table; a value that is itself a mapping opens as indented text."""
    rows = [
        (name, "", "\n".join(_lines(value))) if isinstance(value, Mapping) else (name, _short(value), None)
        for name, value in facts.items()
    ]
    return Section(title, part("facts", rows))


def _lines(values: Mapping[str, Any], indent: str = "") -> list[str]:
    lines: list[str] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {_short(value)}")
    return lines


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
