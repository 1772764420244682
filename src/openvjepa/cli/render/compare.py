"""What `vjepa compare` shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from openvjepa.cli.console import say, show
from openvjepa.config import CompareConfig
from openvjepa.reports.runs.compare import RunSummary, tables


def compare(runs: Sequence[RunSummary], config: CompareConfig) -> None:
    """A table for each kind of run, or JSON."""
    if config.json:
        say(json.dumps([asdict(run) for run in runs], indent=1))
        return
    for table in tables(runs):
        show(table)
    say(f"wrote {config.out}")
