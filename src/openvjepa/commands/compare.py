"""`vjepa compare`: runs side by side."""

from __future__ import annotations

import logging
from pathlib import Path

from openvjepa.atomic import check_file
from openvjepa.config import CompareConfig, command
from openvjepa.errors import ConfigError, DataError
from openvjepa.reports.runs.compare import RunSummary, read_run, write_comparison

log = logging.getLogger("openvjepa")


@command(CompareConfig, "runs")
def compare(config: CompareConfig) -> list[RunSummary]:
    """Read run folders and write a page that compares them. Folders without a run (`runs/*`) are skipped with a warning.

    Returns:
        A summary of each run, in the order given.

    Raises:
        ConfigError: no runs are given.
        DataError: none of the folders holds a run.
        CheckpointError: the page cannot be written.
    """
    if not config.runs:
        raise ConfigError("no runs given: pass run folders, such as runs/*")
    check_file(config.out)
    runs, errors = [], []
    for path in config.runs:
        try:
            runs.append(read_run(path))
        except DataError as error:
            errors.append(error)
    if not runs:
        raise errors[0]
    for error in errors:
        log.warning("skipped: %s", error)
    write_comparison(Path(config.out), runs)
    return runs
