"""report.html of `vjepa evaluate --window`: metrics, and labeled beside predicted segments of each video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from openvjepa.inference.temporal.evaluation import TemporalResult, pieces_of
from openvjepa.inference.temporal.scores import Piece
from openvjepa.reports import pages as report
from openvjepa.reports.templates import part
from openvjepa.reports.video import COLORS, OTHER

_Rect = tuple[float, float, str, str]  # left edge, width, color, title
SHOWN = 40  # videos
_ABOUT = (
    "Accuracy over time is the share of the labeled time under the right class. F1 counts a predicted segment as right when it "
    "overlaps a labeled one of its class by that much (intersection over union). The edit score compares the order of the "
    "segments alone. Time without a label is not evaluated."
)


def write_temporal(result: TemporalResult, facts: Mapping[str, Any]) -> Path:
    """Write report.html.

    Raises:
        CheckpointError: it cannot be written.
    """
    name, last = list(result.metrics.items())[-1]
    lead = (
        f"{name}: {last.accuracy:.1f} % accuracy over time ({last.accuracy_interval}, 95 %), F1@0.5 {last.f1['0.5']:.1f}, on "
        f"{result.seconds:.0f} labeled seconds of {len(result.videos)} videos."
    )
    head = ("run", "accuracy %", "95 %", "class mean %", *(f"F1@{overlap}" for overlap in last.f1), "edit")
    rows = [
        [
            name,
            f"{m.accuracy:.1f}",
            str(m.accuracy_interval),
            *(f"{value:.1f}" for value in (m.mean_class, *m.f1.values(), m.edit)),
        ]
        for name, m in result.metrics.items()
    ]
    recalls = [(name, f"{value:.1f}") for name, value in last.recall.items()]
    sections = [
        report.Section("Metrics", report.plain_table(head, rows) + report.paragraph(_ABOUT)),
        report.Section(f"Classes: {name}", report.plain_table(("class", "share of its time %"), recalls)),
        report.Section("Segments", _bands(result)),
        report.run_facts({**facts, **({"cannot be read": result.skipped} if result.skipped else {})}),
    ]
    return report.write_report(result.out / "report.html", "Evaluation over time", sections, lead=lead)


def _bands(result: TemporalResult) -> Markup:
    """Two bars for each video: labeled above, predicted below; the longest classes have colors of their own."""
    time = dict.fromkeys(range(len(result.classes)), 0.0)
    for video in result.videos:
        for start, end, label in video.truth:
            time[label] += end - start
    order = sorted(time, key=lambda label: -time[label])
    colors = dict(zip(order, COLORS, strict=False))  # the others share one color
    videos: list[tuple[str, float, list[list[_Rect]]]] = []
    for video in result.videos[:SHOWN]:
        found = pieces_of(video.timelines[-1])
        first = min(piece[0] for piece in (*video.truth, *found))
        last = max(piece[1] for piece in (*video.truth, *found))
        bars = [_bar(pieces, first, last, result.classes, colors) for pieces in (video.truth, found)]
        videos.append((Path(video.path).name, last - first, bars))
    legend = [(color, result.classes[label]) for label, color in colors.items()]
    return part("bands", legend, videos, max(0, len(result.videos) - SHOWN))


def _bar(
    pieces: Sequence[Piece], first: float, last: float, classes: Sequence[str], colors: Mapping[int, str]
) -> list[_Rect]:
    """The pieces of a bar that is 1000 wide."""
    scale = 1000 / max(last - first, 1e-9)
    return [
        (
            (start - first) * scale,
            (end - start) * scale,
            colors.get(label, OTHER),
            f"{classes[label]} {start:.1f} - {end:.1f} s",
        )
        for start, end, label in pieces
    ]
