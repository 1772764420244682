"""What a run writes while it trains: metrics.jsonl (the record), TensorBoard, one line of progress."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from torch.utils.tensorboard import SummaryWriter

from openvjepa.errors import CheckpointError
from openvjepa.progress import Meter

TIMINGS = ("clips_per_s", "seconds_per_step", "data_wait")  # the keys of the record that differ from run to run

SLOW_DATA = 0.3
"""Fraction of the time spent waiting for data from which a run suggests faster data loading."""


class Pace:
    """Speed since the last line of the record."""

    def __init__(self) -> None:
        self.clips, self.steps, self.seconds, self.waited = 0, 0, 0.0, 0.0

    def add(self, clips: int, seconds: float, waited: float) -> None:
        """Counts a step of so many clips; `waited` of its `seconds` went to waiting for data."""
        self.clips, self.steps = self.clips + clips, self.steps + 1
        self.seconds, self.waited = self.seconds + seconds, self.waited + waited

    def figures(self) -> dict[str, float]:
        """The values of TIMINGS: clips/s, seconds a step, share of the time spent waiting for data (0..1)."""
        if not self.steps:
            return {}
        seconds = max(self.seconds, 1e-9)  # a coarse clock may say 0
        values = (self.clips / seconds, seconds / self.steps, self.waited / seconds)
        return dict(zip(TIMINGS, values, strict=True))


class RunLog:
    """Metrics of a run, appended step by step; after a resume the lines past the checkpoint are dropped first.

    Raises:
        CheckpointError: the run folder cannot be written to, for example because the disk is full.
    """

    def __init__(self, run_dir: Path, *, start_step: int, steps: int, enabled: bool = True) -> None:
        self.run_dir, self.steps, self.enabled, self.pace = run_dir, steps, enabled, Pace()
        self.loss, self.entries, self.advised = math.nan, 0, False
        if not enabled:
            return
        self.thread_hook, threading.excepthook = threading.excepthook, self._unless_tensorboard
        try:
            self._open(start_step)
        except CheckpointError:
            threading.excepthook = self.thread_hook
            raise
        self.stack = contextlib.ExitStack()
        self.meter = self.stack.enter_context(Meter("training", steps, start_step, unit="steps"))

    def _open(self, start_step: int) -> None:
        path = self.run_dir / "metrics.jsonl"
        kept = [line for line in read_metrics(path) if line["step"] <= start_step] if start_step else []
        with _writing(self.run_dir):
            temporary = path.with_suffix(".part")
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            temporary.replace(path)
            self.file: TextIO = path.open("a", encoding="utf-8")
            self.tensorboard = SummaryWriter(
                str(self.run_dir / "tensorboard"), purge_step=start_step and start_step + 1
            )

    def advance(self, step: int, loss: float | None) -> None:
        """Show a finished step.

        Args:
            step: its number.
            loss: its loss; None: not known yet, the one before is shown.
        """
        if not self.enabled:
            return
        self.loss = self.loss if loss is None else loss
        pace = self.pace.figures()
        speed = f"{pace['clips_per_s']:.1f} clips/s  data wait {pace['data_wait']:.0%}"
        self.meter.show(step, figures=f"loss {self.loss:.4f}  {speed}")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append values and the pace as one line of the record, and the same to TensorBoard."""
        if not self.enabled:
            return
        values = {name: v for name, v in (values | self.pace.figures()).items() if math.isfinite(v)}  # JSON has no nan
        self._advise(values.get("data_wait", 0.0))
        self.pace = Pace()
        with _writing(self.run_dir):
            self.file.write(json.dumps({"step": step, **values}) + "\n")
            self.file.flush()
            for name, value in values.items():
                self.tensorboard.add_scalar(name, value, step)

    def _advise(self, data_wait: float) -> None:
        """Once, when data loading dominates: say what makes it faster. The first entry includes the start of the loaders."""
        self.entries += 1
        if self.entries > 1 and data_wait > SLOW_DATA and not self.advised:
            self.advised = True
            logging.getLogger("openvjepa").info(
                "data loading takes %.0f %% of the time: use --cache for small datasets, decode small copies written by "
                "`vjepa data prepare`, or increase --workers",
                100 * data_wait,
            )

    def close(self) -> None:
        """Stop the progress line and close the files."""
        if self.enabled:
            self.stack.close()
            for file in (self.file, self.tensorboard):
                with contextlib.suppress(OSError):  # what could not be written has been reported by write
                    file.close()
            threading.excepthook = self.thread_hook

    def _unless_tensorboard(self, args: threading.ExceptHookArgs) -> None:
        """TensorBoard's thread hands a full disk on to the next write, which reports it: no traceback besides."""
        if not (issubclass(args.exc_type, OSError) and type(args.thread).__module__.startswith("tensorboard.")):
            self.thread_hook(args)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Lines of a metrics.jsonl; a last line that was cut off by a kill is left out."""
    if not path.exists():
        return []
    lines: list[dict[str, float]] = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


@contextmanager
def _writing(run_dir: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{run_dir}: cannot be written to ({error.strerror or error}): free some space and continue with --resume"
        ) from None
