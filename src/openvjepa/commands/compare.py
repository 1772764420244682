"""`vjepa compare`: runs side by side."""

from __future__ import annotations

from pathlib import Path

from openvjepa.config import CompareConfig, command
from openvjepa.errors import ConfigError
from openvjepa.reports.runs.compare import RunSummary, read_run, write_comparison


@command(CompareConfig, "runs")
def compare(config: CompareConfig) -> list[RunSummary]:
    """Read run folders and write a page that compares them.

    Returns:
        A summary of each run, in the order given.

    Raises:
        ConfigError: no runs are given.
        DataError: a folder holds no run.
        CheckpointError: the page cannot be written.
    """
    if not config.runs:
        raise ConfigError("give run folders, such as runs/*")
    runs = [read_run(path) for path in config.runs]
    write_comparison(Path(config.out), runs)
    return runs
