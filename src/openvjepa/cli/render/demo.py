"""What `vjepa demo` shows."""

from __future__ import annotations

from rich.table import Table

from openvjepa.cli.console import say, show
from openvjepa.commands.demo import DemoResult
from openvjepa.config import DemoConfig
from openvjepa.reports.runs.demo import lead


def demo(result: DemoResult, config: DemoConfig) -> None:
    """The accuracies, in a table and in words."""
    kinds = list(next(iter(result.accuracies.values()))["pretrained"])
    table = Table("label", "features", *kinds, title="Test top-1, %", title_justify="left")
    for label, features in result.accuracies.items():
        for name, row in features.items():
            table.add_row(label, name, *(f"{row[kind]:.1f}" for kind in kinds))
        table.add_row(label, "chance level", *[f"{result.chance[label]:.1f}"] * len(kinds), end_section=True)
    show(table)
    say(lead(result.accuracies))
    say(f"{result.seconds:.0f} s in total. Report: {result.out / 'report.html'}")
