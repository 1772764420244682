"""What `vjepa surprise` shows."""

from __future__ import annotations

import json
from pathlib import Path

from rich.markup import escape
from rich.table import Column, Table

from openvjepa.cli.console import messages, say, say_json, show
from openvjepa.commands.anomalies import AnomalyResult
from openvjepa.commands.surprise import SurpriseResult
from openvjepa.commands.surprise_live import FileAnswer
from openvjepa.config import SurpriseConfig
from openvjepa.errors import printable
from openvjepa.inference.temporal.live import LiveStream
from openvjepa.reports.seeing.surprise import MEASURES
from openvjepa.seeing.surprise.live import LiveWindow


def surprise(result: SurpriseResult | AnomalyResult | LiveStream, config: SurpriseConfig) -> None:
    """A row for each video and each measure, or each event; or JSON. Windows of a stream are lines, as they come."""
    if isinstance(result, LiveStream):
        with messages():
            for answer in result:
                say(json.dumps(answer.to_dict(), allow_nan=False) if config.json else _line(answer))
        return
    if config.json:
        say_json(result.to_dict())
        return
    if isinstance(result, AnomalyResult):
        _anomalies(result)
    elif result.separations:
        found = Table("measure", "relative", "absolute", "AUROC")
        for name, values in result.separations.items():
            found.add_row(
                MEASURES[name], *(escape(str(part)) for part in (values.relative, values.absolute, values.auroc))
            )
        show(found)
    else:
        title = f"{config.pooling} over windows"
        table = Table(Column("video", overflow="fold"), *(Column(name, justify="right") for name in MEASURES.values()),
                      "notes", title=title, title_justify="left")  # fmt: skip
        for video in result.videos:
            score = video.score(config.pooling)
            values = (f"{getattr(score, name):.4f}" for name in MEASURES)
            table.add_row(escape(Path(video.path).name), *values, escape("; ".join(video.notes)))
        for path, reason in result.skipped.items():
            table.add_row(escape(path), *[""] * len(MEASURES), f"[red]cannot be read: {escape(reason)}[/red]")
        show(table)
    for path in result.files:
        say(f"wrote {path}")
    if result.skipped:
        say(f"unreadable files: {len(result.skipped)}")


def _anomalies(result: AnomalyResult) -> None:
    """A row for each event and, where there are labels, for each score."""
    table = Table(Column("video", overflow="fold"), "start, s", "end, s", "score", Column("peak", justify="right"),
                  Column("threshold", justify="right"))  # fmt: skip
    for e in result.events:
        values = (f"{e.start:.2f}", f"{e.end:.2f}", e.score, f"{e.peak:.4g}", f"{e.threshold:.4g}")
        table.add_row(escape(e.path), *values)
    show(table)
    videos = len({event.path for event in result.events})
    say(f"{len(result.events)} events in {videos} of {len(result.videos)} videos")
    if result.detection is not None:
        found = Table("score", "AUROC", "AUPRC", "recall", "false alarms")
        for name, q in result.detection.scores.items():
            rates = (f"{100 * share:.0f} %" for share in (q.recall, q.false_alarms))
            found.add_row(name, escape(str(q.auroc)), escape(str(q.auprc)), *rates)
        show(found)
        say(result.detection.verdict)
    for note in result.notes:
        say(f"note: {note}")


def _line(answer: LiveWindow | FileAnswer) -> str:
    """One window of a stream, or one file of a folder."""
    alarm = f"  ANOMALY ({', '.join(answer.alarms)})" if answer.alarms else ""
    if isinstance(answer, FileAnswer):
        values = answer.error or "  ".join(f"{name} {value:.4f}" for name, value in answer.values.items())
        return printable(f"{answer.path}: {values}{alarm}")
    values = "  ".join(f"{name} {value:.4f}" for name, value in answer.values.items())
    times = f"{answer.start:.2f} - {answer.end:.2f} s"
    return printable(f"{answer.time:%H:%M:%S}  {times}  {values}{alarm}  (latency {answer.latency:.2f} s)")
