"""What `vjepa compare` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from openvjepa.cli.console import say, say_json, show
from openvjepa.config import CompareConfig
from openvjepa.reports.runs.compare import RunSummary, tables


def compare(runs: Sequence[RunSummary], config: CompareConfig) -> None:
    """A table for each kind of run, or JSON."""
    if config.json:
        say_json([asdict(run) for run in runs])
        return
    for table in tables(runs):
        show(table)
    say(f"wrote {config.out}")
