"""`vjepa data check`: what is in a folder or list of videos, and which files are bad."""

from __future__ import annotations

import json
import sys

from rich.console import Console

from openvjepa.config import CheckConfig
from openvjepa.data.check import CheckReport, check_index


def check(config: CheckConfig) -> CheckReport:
    """Decode every file and print what is there.

    Raises:
        DataError: the list itself cannot be read.
    """
    report = check_index(config.source, label=config.label, workers=config.workers)
    if config.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:  # into a file or a pipe, rows stay on one line
        Console(width=None if sys.stdout.isatty() else 250).print(report.render())
    return report
