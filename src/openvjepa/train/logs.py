"""What a run writes while it trains: metrics.jsonl (the record), TensorBoard, one line of progress."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TextIO

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter


class RunLog:
    """Metrics of a run, appended step by step; after a resume the lines past the checkpoint are dropped first."""

    def __init__(self, run_dir: Path, *, start_step: int, steps: int, enabled: bool = True) -> None:
        self.steps, self.enabled = steps, enabled
        if not enabled:
            return
        path = run_dir / "metrics.jsonl"
        kept = [line for line in read_metrics(path) if line["step"] <= start_step] if start_step else []
        temporary = path.with_suffix(".part")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        temporary.replace(path)
        self.file: TextIO = path.open("a", encoding="utf-8")
        self.tensorboard = SummaryWriter(str(run_dir / "tensorboard"), purge_step=start_step + 1)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            disable=not sys.stdout.isatty(),
        )
        self.bar = self.progress.add_task("train", total=steps, completed=start_step, figures="")
        self.progress.start()
        self.last_line = time.monotonic()

    def advance(self, step: int, values: dict[str, float]) -> None:
        """Show a finished step; without a terminal, as a line of text every 10 seconds."""
        if not self.enabled:
            return
        wait = f" data wait {values['data_wait']:.0%}" if "data_wait" in values else ""
        figures = f"loss {values['loss']:.4f} {values['clips_per_s']:.1f} clips/s{wait}"
        self.progress.update(self.bar, completed=step, figures=figures)
        if self.progress.disable and (time.monotonic() - self.last_line > 10 or step == self.steps):
            self.last_line = time.monotonic()
            left = (self.steps - step) * values["seconds_per_step"]
            print(f"step {step}/{self.steps} {figures} ETA {int(left // 60)}:{int(left % 60):02d}", flush=True)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append one line to the record and the same values to TensorBoard."""
        if not self.enabled:
            return
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        for name, value in values.items():
            self.tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        """Stop the progress line and close the files."""
        if self.enabled:
            self.progress.stop()
            self.file.close()
            self.tensorboard.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Lines of a metrics.jsonl; a last line that was cut off by a kill is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
