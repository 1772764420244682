"""What `vjepa distill` shows."""

from __future__ import annotations

from rich.table import Table

from openvjepa.cli.console import say, show
from openvjepa.config import DistillConfig
from openvjepa.reports.distill import DistillResult


def distill(result: DistillResult, config: DistillConfig) -> None:
    """Accuracies, where there are labels, the result in a sentence, and where everything is."""
    if result.accuracy:
        table = Table("features", title="Test accuracy, %", title_justify="left")
        for kind in next(iter(result.accuracy.values())):
            table.add_column(kind, justify="right")
        for name, row in result.accuracy.items():
            table.add_row(name, *(f"{value:.1f}" for value in row.values()))
        show(table)
    say(result.sentence)
    say(f"report: {result.out / 'report.html'}; use it: vjepa probe videos/ --model {config.out}")
