"""What `vjepa probe` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.table import Table

from openvjepa.cli.console import say, say_skipped, show
from openvjepa.commands.probe import ProbeResult
from openvjepa.config import ProbeConfig
from openvjepa.probing.folds.summary import Folded
from openvjepa.probing.run import Probed
from openvjepa.probing.search.low_shot import Share
from openvjepa.reports import folds
from openvjepa.reports.runs.low_shot import share_text
from openvjepa.reports.runs.probe import headline, table_rows, with_interval


def probe(result: ProbeResult, config: ProbeConfig) -> None:
    """The accuracies as a table, with few labels too if they were asked for, and what could not be read."""
    for label, found in result.by_label.items():
        say(f"label {label}")
        probe(replace(found, by_label={}), config)
    if result.by_label:
        return
    show(_accuracies(result) if result.probed.folds is None else _folds(result.probed.folds, result.probed))
    if result.shares:
        show(_low_shot(result.shares))
    say_skipped(result.skipped)
    counts = ", ".join(f"{count} {name}" for name, count in result.videos.items())
    say(f"{headline(result.probed, result.videos.get('test', 0))}\nvideos: {counts}; results in {result.out}")


def _accuracies(result: ProbeResult) -> Table:
    """Probes, baselines, and by how much the saved probe is better."""
    probed = result.probed
    table = Table("probe", title=f"Top-1 accuracy in %, {len(result.classes)} classes", title_justify="left")
    top5 = any(outcome.test_top5 is not None for outcome in probed.outcomes.values())
    for heading in ("val", "test (95 %)", *(["test top-5"] if top5 else []), "saved probe is better by"):
        table.add_column(heading, justify="right")
    table.add_column("chosen on val")
    for name, outcome, gain, chosen in table_rows(probed):
        values = [f"{outcome.val_top1:.1f}", with_interval(outcome)]
        values += [f"{outcome.test_top5:.1f}" if outcome.test_top5 is not None else ""] if top5 else []
        table.add_row(name, *values, gain, chosen)
    blank, gain = [""] if top5 else [], str(probed.differences["majority class"])
    table.add_row("majority class", "", f"{result.majority:.1f}", *blank, gain, "")
    table.add_row("chance level", "", f"{result.chance:.1f}", *blank, "", "")
    return table


def _folds(folded: Folded, probed: Probed) -> Table:
    """Accuracies on held-out videos, their spread, and by how much the saved kind is better."""
    table = Table("probe", title=folds.title(folded), title_justify="left")
    for heading in folds.headings(folded)[1:]:
        table.add_column(heading, justify="right")
    for row in folds.table_rows(folded, probed):
        table.add_row(*row)
    return table


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
