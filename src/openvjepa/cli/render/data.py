"""What `vjepa data` shows."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from openvjepa.cli.console import say, say_json, show
from openvjepa.config import CheckConfig, DivideConfig, PrepareConfig
from openvjepa.data.copies.prepare import PrepareReport
from openvjepa.data.lists.check import CheckReport, counts
from openvjepa.data.lists.index import VideoIndex
from openvjepa.data.splitting.listed import SplitReport
from openvjepa.errors import printable


def check(report: CheckReport, config: CheckConfig) -> None:
    """A summary and the unreadable files, or JSON."""
    if config.json:
        say_json(report.to_dict())
    else:
        show(check_tables(report))
        if report.gain is not None:
            say(report.gain)


def prepare(report: PrepareReport, config: PrepareConfig) -> None:
    """Counts, sizes and the first bad files."""
    say(report.summary())


def split(report: SplitReport, config: DivideConfig) -> None:
    """Videos of each class in each part, what was kept together, and where the list is."""
    parts = report.parts
    table = Table("class")
    for name in parts:
        table.add_column(name, justify="right")
    for name, row in report.counts.items():
        table.add_row(_text(name), *(str(row[part]) for part in parts))
    table.add_section()
    table.add_row("all", *(str(sum(row[part] for row in report.counts.values())) for part in parts))
    show(table)
    say(f"{report.total} videos in {report.units} sets that are never divided")
    for note in report.notes:
        say(note)
    say(f"wrote {report.out}")


def made(path: Path, config: object) -> None:
    """The list of the rendered videos."""
    say(f"wrote {path}")


def check_tables(report: CheckReport) -> RenderableType:
    """Tables for people; names from outside are shown as they are, with control characters escaped."""
    images, moving = report.images, [info for info in report.good if info.fps]
    kinds = f"{len(report.files) - images} videos" + (f", {images} images" if images else "")
    if len(report.index) != len(report.files):
        kinds += f" in {len(report.index)} rows"
    table = Table(title=_text(f"{report.index.source}: {kinds}"), show_header=False, title_justify="left")
    durations = [info.duration for info in moving] or [0.0]
    splits = counts(record.split for record in report.index.records if record.split)
    rows = {
        "readable": f"{len(report.good)}"
        + (f" ({len(report.damaged)} of them with damaged packets)" if report.damaged else ""),
        "duration": f"{min(durations):.2f} - {max(durations):.2f} s, median {median(durations):.2f} s",
        "frames": f"{sum(info.frames for info in report.good)} in total",
        "fps": _short(counts(f"{info.fps:.4g}" for info in moving)),
        "sizes": _short(counts(f"{info.width}x{info.height}" for info in report.good)),
        "codecs": _short(counts(info.codec for info in report.good)),
        "splits": _short(splits) if splits else "none",
        "classes": _short(dict(report.class_counts())) if report.index.classes else _no_labels(report.index),
    }
    if report.index.labels_from:
        rows["labels from"] = report.index.labels_from
    for name, value in rows.items():
        table.add_row(name, _text(value))
    parts: list[RenderableType] = [table]
    notes = {**{p: f"{n} packets cannot be decoded" for p, n in report.damaged.items()}, **report.bad}
    if notes:
        title = f"{len(report.bad)} unreadable, {len(report.damaged)} damaged"
        problems = Table("file", "reason", title=title, title_justify="left")
        for path, reason in notes.items():
            problems.add_row(_text(path), _text(reason))
        parts.append(problems)
    return Group(*parts)


def _no_labels(index: VideoIndex) -> str:
    return f"no labels (choose a column: {', '.join(index.columns)})" if index.columns else "no labels"


def _short(counts: dict[str, int], most: int = 12) -> str:
    shown = ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:most])
    return shown + (f" and {len(counts) - most} more" if len(counts) > most else "") or "-"


def _text(text: str) -> Text:
    """Without Rich's markup, which names such as "[/b]" would be taken for."""
    return Text(printable(text))
