"""What `vjepa predict` shows."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Column, Table

from openvjepa.cli.console import messages, say, say_json, show
from openvjepa.config import PredictConfig
from openvjepa.errors import printable
from openvjepa.inference.predictions import Prediction
from openvjepa.inference.temporal.live import LiveStream, WindowPrediction
from openvjepa.inference.timeline import Timeline


def predict(predictions: Sequence[Prediction] | LiveStream, config: PredictConfig) -> None:
    """A row for each class of each answer, and a table for each video that was followed over time; or one JSON list.

    Answers about a live source are lines, each when it is there: of JSON, or of text.
    """
    if isinstance(predictions, LiveStream):
        with messages():
            for answer in predictions:
                say(json.dumps(answer.to_dict()) if config.json else _line(answer))
        return
    if config.json:
        say_json([prediction.to_dict() for prediction in predictions])
        return
    show(_classes(predictions))
    if unlike := sum(prediction.is_unlike for prediction in predictions):
        say(f"{unlike} of {len(predictions)} are unlike the training videos: their answers are guesses")
    for prediction in predictions:
        if prediction.timeline is not None:
            show(_scenes(prediction.timeline))
    for path in (config.csv, config.windows_csv, config.timeline, config.annotate):
        if path is not None:
            say(f"wrote {path}")


def _classes(predictions: Sequence[Prediction]) -> Table:
    """The most probable classes of every video."""
    several = any(len(prediction.answers) > 1 for prediction in predictions)
    table = Table(Column("video", overflow="fold"), *([Column("by", overflow="fold")] if several else []))
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right")
    for prediction in predictions:
        if prediction.error:
            problem = f"[red]cannot be read: {escape(prediction.error)}[/red]"
            table.add_row(escape(prediction.path), *([""] if several else []), problem, "")
        for number, answer in enumerate(prediction.answers):
            for rank, (name, probability) in enumerate(answer.top):
                by = [escape(", ".join(answer.runs)) if rank == 0 else ""] if several else []
                path = escape(prediction.path) if number == rank == 0 else ""
                if path and prediction.is_unlike:
                    path += f"\n[yellow]unlike the training videos ({prediction.distance:.1f}x)[/yellow]"
                table.add_row(path, *by, escape(name), f"{100 * probability:.1f} %")
    return table


def _line(answer: WindowPrediction | Prediction) -> str:
    """One answer about a live source."""
    if isinstance(answer, Prediction):
        shown = answer.error or ", ".join(f"{name} {100 * share:.1f} %" for name, share in answer.top)
        return printable(f"{answer.path}: {shown}")
    classes = ", ".join(f"{name} {100 * share:.1f} %" for name, share in answer.answers[0].top)
    times = f"{_clock(answer.start)} - {_clock(answer.end)}"
    return printable(f"{answer.time:%H:%M:%S}  {times}  {classes}  (latency {answer.latency:.2f} s)")


def _scenes(timeline: Timeline) -> Table:
    """What happens when, as a table."""
    title = f"{escape(timeline.path)}: {len(timeline.spans)} windows"
    table = Table("from", "to", Column("class", overflow="fold"), title=title, title_justify="left")
    table.add_column("probability", justify="right")
    table.add_column("windows", justify="right")
    for scene in timeline.scenes():
        name = "[red]cannot be read[/red]" if scene.label is None else escape(timeline.classes[scene.label])
        share = "" if scene.label is None else f"{100 * scene.probability:.1f} %"
        start, end = (_clock(timeline.offset + time) for time in (scene.start, scene.end))
        table.add_row(start, end, name, share, str(scene.windows))
    return table


def _clock(seconds: float) -> str:
    """Minutes and seconds."""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)}:{rest:04.1f}"
