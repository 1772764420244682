"""What `vjepa evaluate` shows."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Column, Table

from openvjepa.cli.console import say, say_json, say_skipped, show
from openvjepa.config import EvaluateConfig
from openvjepa.inference.evaluation import EvaluateResult, Evaluation
from openvjepa.inference.temporal.evaluation import TemporalResult
from openvjepa.reports.runs.evaluate import share


def evaluate(result: EvaluateResult | TemporalResult, config: EvaluateConfig) -> None:
    """Metrics and cost of each classifier, and the classes of the last one; or JSON."""
    if config.json:
        say_json(result.to_dict())
        return
    if isinstance(result, TemporalResult):
        _over_time(result)
        return
    table = Table(
        Column("run", overflow="fold"),
        title=f"{len(result.index)} videos, {len(result.classes)} classes",
        title_justify="left",
    )
    large = result.evaluations[0].metrics.top5 is not None
    headings = ("top-1 %", "95 %", *(["top-5"] if large else []), "class mean", "ECE %", "log loss")
    for heading in (*headings, "clips", "s/video", "s/clip"):
        table.add_column(heading, justify="right")
    for evaluation in result.evaluations:
        s = evaluation.metrics
        figures = [s.top1, *([s.top5] if large else []), s.mean_class, s.ece]
        cost = (str(evaluation.passes), f"{evaluation.seconds_per_video:.3g}", f"{evaluation.seconds_per_clip:.3g}")
        first, *others = (f"{value:.1f}" for value in figures)
        row = (first, str(s.top1_interval), *others, f"{s.log_loss:.3f}", *cost)
        table.add_row(escape(evaluation.name), *row)
    show(table)
    show(_class_table(result.evaluations[-1]))
    for (ours, theirs), lead in result.differences.items():
        say(f"{ours} - {theirs}: {lead} points, p = {lead.p_value:.2g}")
    for evaluation in result.evaluations:
        if evaluation.unlike:
            say(f"{evaluation.name}: {evaluation.unlike} of {len(result.index)} videos are unlike the training videos")
    _notes(result, len(result.index))


def _over_time(result: TemporalResult) -> None:
    """Agreement of segments."""
    title = f"{len(result.videos)} videos, {result.seconds:.0f} s labeled, {len(result.classes)} classes"
    table = Table(Column("run", overflow="fold"), title=title, title_justify="left")
    overlaps = list(next(iter(result.metrics.values())).f1)
    headings = ("accuracy over time %", "95 %", "class mean", *(f"F1@{overlap}" for overlap in overlaps), "edit")
    for heading in (*headings, "segments", "predicted"):
        table.add_column(heading, justify="right")
    for name, s in result.metrics.items():
        shares = [f"{value:.1f}" for value in (s.mean_class, *s.f1.values(), s.edit)]
        row = (f"{s.accuracy:.1f}", str(s.accuracy_interval), *shares, str(s.segments), str(s.predicted))
        table.add_row(escape(name), *row)
    show(table)
    _notes(result, len(result.videos))


def _notes(result: EvaluateResult | TemporalResult, videos: int) -> None:
    """What was left out, and where the results are."""
    say_skipped(result.skipped)
    notes = [f"{len(result.skipped)} unreadable"] if result.skipped else []
    notes += [f"{result.left_out} left out (training or validation videos of a classifier)"] if result.left_out else []
    if result.seen:
        notes.append(f"{result.seen} of them seen in training: the accuracy is overestimated")
    if result.unknown:
        notes.append(f"training videos of {', '.join(result.unknown)} unknown: the accuracy may be overestimated")
    say("; ".join([f"{videos} videos", *notes, f"results in {result.out}: report.html, predictions.csv"]))


def _class_table(evaluation: Evaluation, most: int = 30) -> Table:
    """The classes, lowest recall first."""
    table = Table("class", title=escape(evaluation.name), title_justify="left")
    for heading in ("videos", "recall %", "95 %", "precision %"):
        table.add_column(heading, justify="right")
    table.add_column("most often confused with")
    rows = sorted(evaluation.metrics.per_class, key=lambda row: (row.recall is None, row.recall or 0.0))
    for row in rows[:most]:
        shares = (share(row.recall), str(row.recall_interval or "–"), share(row.precision))
        table.add_row(escape(row.name), str(row.videos), *shares, escape(row.confused_with or ""))
    if len(rows) > most:
        table.caption = f"{len(rows) - most} more are in report.html"
    return table
