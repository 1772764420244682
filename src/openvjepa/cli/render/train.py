"""What `vjepa train` shows."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from openvjepa.cli.console import say, show
from openvjepa.config import ClassifierConfig
from openvjepa.reports.runs.train import TrainResult


def train(result: TrainResult, config: ClassifierConfig) -> None:
    """The candidates, the result in a sentence, and where everything is."""
    table = Table("encoder", "classifier", title="Cross-validated accuracy, %", title_justify="left")
    table.add_column("accuracy", justify="right")
    table.add_column("std", justify="right")
    for candidate in sorted(result.candidates, key=lambda c: c.result.rank, reverse=True):
        spread = f"{candidate.result.spread:.1f}" if len(candidate.result.folds) > 1 else ""
        table.add_row(escape(candidate.model), candidate.result.kind, f"{candidate.result.mean:.1f}", spread)
    show(table)
    say(result.headline())
    for name, reason in result.not_tried.items():
        say(f"skipped: {name}: {reason}")
    if result.suspicions:
        say(f"{len(result.suspicions)} labels are likely wrong: see the report")
    say(f"report: {result.out / 'report.html'}\nnext: vjepa predict new.mp4 --model {config.out}")
