"""`vjepa data check`: what is in a folder or list of videos, and which files are bad."""

from __future__ import annotations

from openvjepa.config import CheckConfig, command
from openvjepa.data.lists.check import CheckReport, check_index


@command(CheckConfig, "source")
def check(config: CheckConfig) -> CheckReport:
    """Decode every file completely.

    Raises:
        DataError: the list itself cannot be read.
    """
    return check_index(config.source, label=config.label, workers=config.workers)
