"""Progress on stderr: a line that is redrawn on a terminal, and otherwise a line of text from time to time."""

from __future__ import annotations

import sys
import time

from openvjepa.errors import printable
from openvjepa.progress import Bar, Work

EVERY = 10.0
"""Seconds between two lines of text."""


def report(work: Work) -> Bar:
    """How the command line shows a piece of work."""
    return TerminalBar(work) if sys.stderr.isatty() else TextLines(work)


class TextLines:
    """A line of text every ten seconds, and a last one for work that has shown some."""

    def __init__(self, work: Work) -> None:
        self.work, self.started, self.last, self.shown = work, time.monotonic(), time.monotonic(), False

    def update(self, done: int, total: int | None, figures: str) -> None:
        """Write a line if it is time to."""
        now, last_one = time.monotonic(), done == total and (self.shown or bool(figures))
        if now - self.last < EVERY and not last_one:
            return
        self.last, self.shown = now, True
        words = [f"{printable(self.work.what)}: {_counted(done, total, self.work.unit)}", figures]
        if total is not None and done > self.work.done:
            words.append(f"left {_clock((now - self.started) / (done - self.work.done) * (total - done))}")
        print(", ".join(filter(None, words)), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is left behind."""


class TerminalBar:
    """A line with a bar and the time left; it goes away at the end, unless it showed figures."""

    def __init__(self, work: Work) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        counts = [DownloadColumn(), TransferSpeedColumn()] if work.unit == "bytes" else [MofNCompleteColumn()]
        unit = TextColumn("" if work.unit == "bytes" else work.unit)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), *counts, unit)
        figures = TextColumn("{task.fields[figures]}", markup=False)
        console = Console(stderr=True, soft_wrap=True)
        self.progress = Progress(*columns, figures, TimeRemainingColumn(), console=console, transient=True)
        self.task = self.progress.add_task(printable(work.what), total=work.total, completed=work.done, figures="")
        self.progress.start()

    def update(self, done: int, total: int | None, figures: str) -> None:
        """Redraw the line."""
        self.progress.update(self.task, completed=done, total=total, figures=figures)

    def close(self) -> None:
        """Take the line away."""
        self.progress.stop()


def _counted(done: int, total: int | None, unit: str) -> str:
    if unit == "bytes":
        return f"{done / 1e6:.0f} MB" if total is None else f"{done / 1e6:.0f} of {total / 1e6:.0f} MB"
    return f"{done} {unit}" if total is None else f"{done}/{total} {unit}"


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    left = int(seconds)
    return f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
