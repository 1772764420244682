"""What `vjepa show` shows: the names of the files that it wrote."""

from __future__ import annotations

from openvjepa.cli.console import say
from openvjepa.commands.show import ShowResult
from openvjepa.config import ShowConfig


def show(result: ShowResult, config: ShowConfig) -> None:
    """The files, and how many could not be read."""
    for path in result.files:
        say(f"wrote {path}")
    if result.skipped:
        say(f"files that cannot be read: {len(result.skipped)}")
