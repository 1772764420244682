"""What `vjepa probe` shows."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from openvjepa.cli.console import say, say_skipped, show
from openvjepa.commands.probe import ProbeResult
from openvjepa.config import ProbeConfig
from openvjepa.probing.low_shot import Share
from openvjepa.reports.low_shot import share_text


def probe(result: ProbeResult, config: ProbeConfig) -> None:
    """The accuracies as a table, with few labels too if they were asked for, and what could not be read."""
    table = Table("probe", title=f"Top-1 accuracy in %, {len(result.classes)} classes", title_justify="left")
    top5 = any(outcome.test_top5 is not None for outcome in result.outcomes.values())
    for heading in ("val", "test", *(["test top-5"] if top5 else [])):
        table.add_column(heading, justify="right")
    table.add_column("chosen on val")
    for kind, outcome in result.outcomes.items():
        figures = [outcome.val_top1, outcome.test_top1, *([outcome.test_top5] if top5 else [])]
        chosen = ", ".join(f"{name} {value:g}" for name, value in outcome.chosen.items())
        table.add_row(kind, *(f"{value:.1f}" for value in figures), chosen)
    table.add_row(
        "chance level", "", f"{result.chance:.1f}", *([""] if top5 else []), f"majority class: {result.majority:.1f}"
    )
    show(table)
    if result.shares:
        show(_low_shot(result.shares))
    say_skipped(result.skipped)
    counts = ", ".join(f"{count} {name}" for name, count in result.videos.items())
    say(f"videos: {counts}; results in {result.out}")


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
