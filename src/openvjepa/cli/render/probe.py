"""What `vjepa probe` shows."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from openvjepa.cli.console import say, say_skipped, show
from openvjepa.commands.probe import ProbeResult
from openvjepa.config import ProbeConfig
from openvjepa.probing.search.low_shot import Share
from openvjepa.reports.runs.low_shot import share_text
from openvjepa.reports.runs.probe import headline, render


def probe(result: ProbeResult, config: ProbeConfig) -> None:
    """The accuracies as a table, with few labels too if they were asked for, and what could not be read."""
    show(render(result.probed, len(result.classes), result.chance, result.majority))
    if result.shares:
        show(_low_shot(result.shares))
    say_skipped(result.skipped)
    counts = ", ".join(f"{count} {name}" for name, count in result.videos.items())
    say(f"{headline(result.probed, result.videos['test'])}; videos: {counts}; results in {result.out}")


def _low_shot(shares: Sequence[Share]) -> Table:
    """The accuracies by share of the training videos."""
    kinds = list(shares[-1].top1)
    table = Table(
        "labels", "videos", title="Top-1 test accuracy in %, by share of the training videos", title_justify="left"
    )
    for kind in kinds:
        table.add_column(kind, justify="right")
    for share in shares:
        table.add_row(f"{share.fraction:.4g}", str(share.videos), *(share_text(share, kind) for kind in kinds))
    return table
