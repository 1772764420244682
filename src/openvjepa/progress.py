"""How far a pass over many videos has come."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from openvjepa.errors import printable


class Meter:
    """One line of progress on stderr; without a terminal, a line of text every ten seconds.

    Args:
        what: what is done, such as "encoding videos".
        total: how many videos there are.
        done: how many of them were done by an earlier run.
        unit: what is counted.
    """

    def __init__(self, what: str, total: int, done: int = 0, *, unit: str = "videos") -> None:
        self.what, self.total, self.before, self.unit = printable(what), total, done, unit
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{unit}, left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self.progress.disable = not self.progress.console.is_terminal
        self.bar = self.progress.add_task(self.what, total=total, completed=done)

    def __enter__(self) -> Meter:
        self.started = self.last_line = time.monotonic()
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def show(self, done: int) -> None:
        """Show how many videos are done."""
        self.progress.update(self.bar, completed=done)
        now = time.monotonic()
        if self.progress.disable and now - self.last_line > 10:
            self.last_line = now
            left = int((now - self.started) / (done - self.before) * (self.total - done))
            text = f"{self.what}: {done}/{self.total} {self.unit}, left {left // 60}:{left % 60:02d}"
            print(text, file=sys.stderr, flush=True)
