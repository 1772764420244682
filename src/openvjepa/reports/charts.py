"""Pictures of a report as text that stands inside an HTML page: SVG for charts, PNG for pixels.

Charts carry no colors of their own for text and axes but `currentColor`, so that they follow a light or a dark page.
Shapes: T frames, H x W px; N = t * h * w tokens of D channels.
"""

from __future__ import annotations

import base64
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import ArrayLike, NDArray

from openvjepa.grid import TokenGrid
from openvjepa.reports.templates import part

_INK = "#0a0b0c"  # stands for currentColor until the SVG is written
ACCENTS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "openvjepa",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def line_chart(
    title: str, x: ArrayLike, lines: Mapping[str, ArrayLike], *, x_label: str = "step", smooth: bool = False
) -> Markup:
    """Lines over x, as SVG.

    Args:
        title: what is drawn; also the text for those who cannot see it.
        x: positions, [P].
        lines: name -> values, each [P]; values that are not finite leave gaps.
        x_label: what x is.
        smooth: draws the values faintly under their running mean (over a twentieth of the line).
    """
    points = np.asarray(x, dtype=float)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.2, 2.5), layout="constrained")
        axes = figure.subplots()
        for (name, values), color in zip(lines.items(), itertools.cycle(ACCENTS), strict=False):
            y = np.asarray(values, dtype=float)
            if smooth and len(y) >= 20:
                axes.plot(points, y, color=color, alpha=0.3, linewidth=0.8)
                y = _running_mean(y, max(2, len(y) // 20))
            marker = "o" if len(y) <= 30 else None
            axes.plot(points, y, color=color, linewidth=1.6, marker=marker, markersize=3, label=_plain(name))
        axes.set_title(_plain(title), loc="left", fontweight="bold")
        axes.set_xlabel(x_label)
        axes.grid(axis="y", color=_INK, alpha=0.15, linewidth=0.6)
        if len(lines) > 1:
            axes.legend(frameon=False)
        return _svg(figure, f"{title}: {_in_words(lines)}")


def confusion_chart(title: str, matrix: ArrayLike, classes: Sequence[str]) -> Markup:
    """A confusion matrix in percent of each true class, as SVG.

    Args:
        title: what was classified.
        matrix: counts [C, C], rows true, columns predicted.
        classes: C names.
    """
    counts = np.asarray(matrix, dtype=float)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    number, side = len(classes), min(7.0, 1.8 + 0.42 * len(classes))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        color = np.array([int(ACCENTS[0][i : i + 2], 16) / 255 for i in (1, 3, 5)])
        pixels = np.concatenate([np.broadcast_to(color, (number, number, 3)), 0.04 + 0.8 * share[..., None]], -1)
        axes.imshow(pixels, interpolation="nearest")
        if number <= 12:
            for row, column in np.argwhere(share >= 0.005):
                axes.text(column, row, f"{100 * share[row, column]:.0f}", ha="center", va="center", fontsize=8)
        ticks = range(number) if number <= 40 else []
        names = [_shortened(classes[i]) for i in ticks]
        axes.set_xticks(ticks, names, rotation=90 if number > 4 else 0)
        axes.set_yticks(ticks, names)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title(_shortened(title, 40), loc="left", fontweight="bold")
        correct = 100 * np.trace(counts) / max(counts.sum(), 1)
        return _svg(figure, f"{title}: confusion matrix of {number} classes, {correct:.1f} % on the diagonal")


def png(pixels: NDArray[np.uint8], alt: str) -> Markup:
    """uint8 [H, W, 3] as an <img> that carries its own data; small pictures are drawn with sharp pixels."""
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(pixels), format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    height, width = pixels.shape[:2]
    return part("image", data, width, height, alt)


def strip(frames: NDArray[np.uint8], *, gap: int = 2) -> NDArray[np.uint8]:
    """Frames uint8 [T, H, W, 3] side by side with a white gap (px): [H, T * W + (T - 1) * gap, 3]."""
    blank = np.full((frames.shape[1], gap, 3), 255, np.uint8)
    pieces = [piece for frame in frames for piece in (frame, blank)]
    return np.concatenate(pieces[:-1], axis=1)


def enlarge(frames: NDArray[np.uint8], least: int) -> NDArray[np.uint8]:
    """Frames uint8 [T, H, W, 3] with every pixel repeated until a side has at least `least` px."""
    times = max(1, -(-least // min(frames.shape[1:3])))
    return frames.repeat(times, axis=1).repeat(times, axis=2)


def pca_colors(tokens: ArrayLike, grid: TokenGrid) -> NDArray[np.uint8]:
    """The three main directions of a clip's features as red, green and blue.

    Args:
        tokens: features [N, D] in the order of the grid.
        grid: (t, h, w) with N = t * h * w.

    Returns:
        uint8 [t, h, w, 3]; each direction runs from its 2nd to its 98th percentile.
    """
    features = np.asarray(tokens, dtype=np.float64)
    centered = features - features.mean(0)
    _, _, directions = np.linalg.svd(centered, full_matrices=False)
    directions = directions[:3] * np.where(directions[:3].sum(1, keepdims=True) < 0, -1, 1)  # the sign is arbitrary
    values = np.zeros((len(features), 3))
    values[:, : len(directions)] = centered @ directions.T
    low, high = np.percentile(values, [2, 98], axis=0)
    scaled = np.clip((values - low) / np.maximum(high - low, 1e-12), 0, 1)
    return np.rint(255 * scaled).astype(np.uint8).reshape(*grid.shape, 3)


def _running_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Mean of the last `width` finite values at each place, NaN where there is none."""
    finite = np.isfinite(values)
    total = np.cumsum(np.where(finite, values, 0.0))
    count = np.cumsum(finite)
    total[width:] -= total[:-width].copy()
    count[width:] -= count[:-width].copy()
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _in_words(lines: Mapping[str, ArrayLike]) -> str:
    words = []
    for name, values in lines.items():
        finite = [v for v in np.asarray(values, dtype=float) if np.isfinite(v)]
        words.append(f"{name} from {finite[0]:.3g} to {finite[-1]:.3g}" if finite else f"{name} without values")
    return "; ".join(words)


def _shortened(name: str, most: int = 20) -> str:
    """The name, cut to `most` characters."""
    return _plain(name if len(name) <= most else name[: most - 1] + "…")


def _plain(name: str) -> str:
    """The name for matplotlib: dollar signs are text, not mathematics."""
    return name.replace("$", r"\$")


def _svg(figure: Figure, alt: str) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[a-zA-Z0-9]+_[0-9.]+"', "", text)  # nothing refers to these, and they repeat over the page
    text = text.replace(_INK, "currentColor")
    return Markup(text.replace("<svg ", f"<svg {part('chart_attributes', alt)} ", 1))
