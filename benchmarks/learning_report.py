"""The table and the figure of `learning.py report`."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

PROBES = ("linear", "attentive", "knn", "grid")
BASELINES = ("untrained", "pixels", "descriptor")
Line = dict[str, Any]


def report(args: argparse.Namespace) -> None:
    """Print a Markdown table, mean and (lowest - highest) of the seeds; draw accuracy against CPU-minutes."""
    lines = [json.loads(line) for line in Path(args.results).read_text().splitlines()]
    groups: dict[tuple[str, str, str, float, bool], list[Line]] = defaultdict(list)
    for line in lines:
        for label in line["results"]:
            groups[line["data"], label, line["recipe"], line["budget"], line["final"]].append(line)
    print("| data | features | CPU-min | seeds | " + " | ".join(PROBES) + " |\n|" + "---|" * (4 + len(PROBES)))
    for (data, label, recipe, _, final), group in groups.items():
        minutes = np.mean([line["cpu_s"] for line in group]) / 60
        split = "" if final else " (val)"
        for name in ("pretrained", *BASELINES):
            cells = [spread(values(group, label, name, probe, args.labels)) for probe in PROBES]
            if any(cells):
                shown = f"**{recipe}**" if name == "pretrained" else f"... {name}"
                cost = f"{minutes:.1f}" if name == "pretrained" else "0"
                print(f"| {data}, {label}{split} | {shown} | {cost} | {len(group)} | " + " | ".join(cells) + " |")
    if args.figure:
        draw(groups, args.labels, Path(args.figure))


def values(group: list[Line], label: str, features: str, probe: str, count: str) -> list[float]:
    """Accuracies of the seeds, where they were measured."""
    found = [line["results"].get(label, {}).get(features, {}).get(probe, {}).get(count) for line in group]
    return [value for value in found if value is not None]


def spread(found: list[float]) -> str:
    """Mean and (lowest - highest)."""
    if not found:
        return ""
    return f"{np.mean(found):.1f}" + (f" ({min(found):.1f} - {max(found):.1f})" if len(found) > 1 else "")


def draw(groups: dict[tuple[str, str, str, float, bool], list[Line]], count: str, path: Path) -> None:
    """A row for each data set and label, a column for each probe; a point is the mean of the seeds, a bar their range."""
    groups = {key: group for key, group in groups.items() if key[-1]}
    rows = list(dict.fromkeys(key[:2] for key in groups))
    recipes = list(dict.fromkeys(key[2] for key in groups))
    colors = {recipe: f"C{number}" for number, recipe in enumerate(recipes)}
    figure = Figure(figsize=(13, 2.8 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(PROBES), squeeze=False)
    for axes_row, (data, label) in zip(grid, rows, strict=True):
        for axes, probe in zip(axes_row, PROBES, strict=True):
            for recipe in recipes:
                points = []
                for (set_name, kind, name, _, _), group in groups.items():
                    found = values(group, label, "pretrained", probe, count)
                    if (set_name, kind, name) == (data, label, recipe) and found:
                        points.append((np.mean([line["cpu_s"] for line in group]) / 60, found))
                _plot(axes, sorted(points, key=lambda point: point[0]), recipe, colors[recipe])
            here = [line for key, group in groups.items() if key[:2] == (data, label) for line in group]
            for name, style in zip(BASELINES, ("--", ":", "-."), strict=True):
                found = values(here, label, name, probe, count)
                if found:
                    axes.axhline(np.mean(found), color="gray", linewidth=0.9, linestyle=style, label=name)
            axes.set_xlim(0, 1.15 * max(line["cpu_s"] for line in here) / 60)
            axes.set_title(f"{data}, {label}: {probe}", fontsize=9)
            axes.set_xlabel("CPU-minutes of pretraining", fontsize=8)
        axes_row[0].legend(fontsize=7)
        axes_row[0].set_ylabel("test top-1, %")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _plot(axes: Any, points: list[tuple[float, list[float]]], recipe: str, color: str) -> None:
    if not points:
        return
    means = [np.mean(found) for _, found in points]
    low = [mean - min(found) for mean, (_, found) in zip(means, points, strict=True)]
    high = [max(found) - mean for mean, (_, found) in zip(means, points, strict=True)]
    axes.errorbar(
        [x for x, _ in points], means, [low, high], fmt="o-", color=color, markersize=4, capsize=3, label=recipe
    )
