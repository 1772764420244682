"""report.html of `vjepa evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from openvjepa.features.sampling import ClipPlan
from openvjepa.inference.evaluation import EvaluateResult, Evaluation
from openvjepa.metrics import Metrics
from openvjepa.reports import charts as figures
from openvjepa.reports import pages as report

WRONG = 8  # wrong answers that are shown
_CALIBRATION = (
    "Videos are grouped by the probability of their likeliest class (15 groups). Where the line lies under the diagonal, the "
    "answers are less often right than their probabilities say; ECE is the mean distance, weighted by the number of videos."
)


def write_evaluation(result: EvaluateResult, plan: ClipPlan, facts: Mapping[str, Any]) -> Path:
    """Write report.html: figures with their cost, classes, confusion, calibration, the surest of the wrong answers.

    Args:
        result: what was found.
        plan: clips of the first run, whose frames are shown.
        facts: about the run, for its last section.

    Raises:
        CheckpointError: it cannot be written.
    """
    last = result.evaluations[-1]
    lead = (
        f"{last.name}: {last.metrics.top1:.1f} % top-1 accuracy on {len(result.index)} videos "
        f"(chance level {100 / len(result.classes):.1f} %)."
    )
    unreadable = f" {len(result.skipped)} files cannot be read and are left out." if result.skipped else ""
    if result.seen:
        unreadable += f" {result.seen} of the videos were seen in training or validation: the accuracy is too high."
    for run, reason in result.unknown.items():
        unreadable += f" Which videos {run} was trained on is not known ({reason}): the accuracy may be too high."
    sections = [
        report.Section("Metrics", _metrics(result.evaluations) + _differences(result)),
        report.Section(f"Classes: {last.name}", _classes(last.metrics)),
        report.confusion_matrices({v.name: (v.metrics.confusion, result.classes) for v in result.evaluations}),
        report.Section("Calibration", _calibration(result.evaluations)),
        *_wrong(result, last, plan),
        report.run_facts({**facts, **({"cannot be read": result.skipped} if result.skipped else {})}),
    ]
    return report.write_report(result.out / "report.html", "Evaluation", sections, lead=lead + unreadable)


def share(value: float | None) -> str:
    """A share in percent, for people."""
    return "–" if value is None else f"{value:.1f}"


def _metrics(evaluations: Sequence[Evaluation]) -> Markup:
    head = (
        "",
        "top-1 %",
        "95 % interval",
        "top-5 %",
        "class mean %",
        "ECE %",
        "log loss",
        "passes a video",
        "s a video",
        "s a pass",
    )
    rows = (
        (
            v.name,
            share(v.metrics.top1),
            str(v.metrics.top1_interval),
            *(share(x) for x in (v.metrics.top5, v.metrics.mean_class, v.metrics.ece)),
            f"{v.metrics.log_loss:.3f}",
            str(v.passes),
            f"{v.seconds_per_video:.3g}",
            f"{v.seconds_per_clip:.3g}",
        )
        for v in evaluations
    )
    note = (
        "Seconds are wall time on this machine, reading included; runs with one and the same encoder share its passes."
    )
    return report.plain_table(head, rows) + report.paragraph(note)


def _differences(result: EvaluateResult) -> Markup:
    """Which classifier is better on the same videos, where there are several."""
    rows = [
        (f"{ours} − {theirs}", str(lead), f"{lead.p_value:.2g}") for (ours, theirs), lead in result.differences.items()
    ]
    return report.plain_table(("accuracy", "points (95 %)", "p"), rows) if rows else Markup("")


def _classes(metrics: Metrics) -> Markup:
    head = ("class", "videos", "recall %", "95 %", "precision %", "F1 %", "most often confused with")
    rows = sorted(metrics.per_class, key=lambda row: (row.recall is None, row.recall or 0.0))
    return report.plain_table(
        head,
        (
            (
                row.name,
                str(row.videos),
                share(row.recall),
                str(row.recall_interval or "–"),
                share(row.precision),
                share(row.f1),
                row.confused_with or "",
            )
            for row in rows
        ),
    )


def _calibration(evaluations: Sequence[Evaluation]) -> Markup:
    charts: list[Markup] = []
    for evaluation in evaluations:
        filled = [b for b in evaluation.metrics.bins if b.confidence is not None]
        confidence = [100 * (b.confidence or 0.0) for b in filled]
        lines = {"right answers, %": [100 * (b.accuracy or 0.0) for b in filled], "calibrated": confidence}
        title = f"{evaluation.name}: ECE {evaluation.metrics.ece:.1f} %"
        charts.append(figures.line_chart(title, confidence, lines, x_label="probability, %"))
    bins = evaluations[-1].metrics.bins
    rows = (
        (f"{100 * b.low:.0f}-{100 * b.high:.0f} %", str(b.videos), _percent(b.confidence), _percent(b.accuracy))
        for b in bins
        if b.videos
    )
    counts = report.plain_table(("probability", "videos", "mean probability %", "right %"), rows)
    return report.paragraph(_CALIBRATION) + report.chart_row(charts) + counts


def _percent(value: float | None) -> str:
    return share(None if value is None else 100 * value)


def _wrong(result: EvaluateResult, evaluation: Evaluation, plan: ClipPlan) -> list[report.Section]:
    """Frames of the wrong answers with the highest probability, which are often wrong labels; nothing if all are right."""
    best = evaluation.probabilities.argmax(1)
    wrong = np.flatnonzero(best != result.labels)
    worst = wrong[np.argsort(-evaluation.probabilities[wrong, best[wrong]], kind="stable")][:WRONG]
    clips = plan.plain(result.index, segments=1, views=1)
    cards = []
    for place in worst.tolist():
        video, _, reason = clips[place]
        if not reason:
            order = evaluation.probabilities[place].argsort(kind="stable")[::-1][:5]
            said = [(result.classes[i], float(evaluation.probabilities[place, i])) for i in order]
            name, truth = Path(result.index.records[place].path).name, result.classes[int(result.labels[place])]
            cards.append(report.Prediction(name, video[0].permute(1, 2, 3, 0).numpy(), said, truth))
    return [report.predictions(cards, title="The surest of the wrong answers")] if cards else []
