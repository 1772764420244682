"""What `vjepa track` shows: the files that it wrote, and scores."""

from __future__ import annotations

from openvjepa.cli.console import say
from openvjepa.commands.track import TrackResult
from openvjepa.config import TrackConfig


def track(result: TrackResult, config: TrackConfig) -> None:
    """A line for each file, then the mean of J and F."""
    for path in result.files:
        say(f"wrote {path}")
    if result.scores:
        j, f = result.j_mean, result.f_mean
        say(f"J&F {50 * (j + f):.1f}, J {100 * j:.1f}, F {100 * f:.1f}; objects: {len(result.scores)}")
    if result.skipped:
        say(f"videos that cannot be tracked: {len(result.skipped)}")
