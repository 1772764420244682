"""The result of `vjepa probe` as tables for a terminal and as report.html."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from openvjepa.probing.probes import Outcome
from openvjepa.probing.run import Probed
from openvjepa.reports import folds
from openvjepa.reports import pages as report
from openvjepa.reports.runs import low_shot

_NOTE = (
    "Top-1 accuracy on the test videos, in percent, with intervals of 95 %. The saved probe is the one that is best on "
    "validation. Baselines are read by the grid probe; a difference whose interval holds 0 may be chance."
)


def headline(probed: Probed, videos: int) -> str:
    """What the saved probe scores, in one sentence; of a cross-validation also what it was trained on."""
    saved = probed.outcomes[probed.kind]
    if probed.folds is not None:
        return folds.headline(probed.folds, with_interval(saved), probed.kept_apart)
    return f"{probed.kind} probe (chosen on validation): {with_interval(saved)} % of {videos} test videos"


def with_interval(outcome: Outcome) -> str:
    """Test accuracy with its interval, "82.1 (74 - 88)"."""
    return f"{outcome.test_top1:.1f} ({outcome.metrics.top1_interval})"


def table_rows(probed: Probed) -> Iterator[tuple[str, Outcome, str, str]]:
    """Of probes and baselines: name, outcome, lead of the saved probe, settings."""
    for kind, outcome in probed.outcomes.items():
        saved = kind == probed.kind and outcome.module is not None
        yield f"{kind} (saved)" if saved else kind, outcome, "", _chosen(outcome)
    for name, outcome in probed.baselines.items():
        yield f"{name} (grid)", outcome, str(probed.differences[name]), _chosen(outcome)


def _chosen(outcome: Outcome) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in outcome.chosen.items())


def section(probed: Probed, chance: float, majority: float, warnings: Sequence[str]) -> report.Section:
    """Accuracies, intervals, baselines and what may be wrong, as a section of a report."""
    head = (
        "",
        "validation %",
        "test % (95 %)",
        "class mean %",
        "ECE % before / after",
        "saved probe is better by",
        "chosen",
    )
    rows = [
        (
            name,
            f"{outcome.val_top1:.1f}",
            with_interval(outcome),
            f"{outcome.metrics.mean_class:.1f}",
            "–" if outcome.uncalibrated is None else f"{outcome.uncalibrated.ece:.1f} / {outcome.metrics.ece:.1f}",
            gain,
            chosen,
        )
        for name, outcome, gain, chosen in table_rows(probed)
    ]
    rows.append(("majority class", "", f"{majority:.1f}", "", "", str(probed.differences["majority class"]), ""))
    rows.append(("chance level", "", f"{chance:.1f}", "", "", "", ""))
    notes = Markup("").join(report.paragraph(f"Warning: {text}.") for text in warnings)
    return report.Section("Accuracy", report.paragraph(_NOTE) + notes + report.plain_table(head, rows))


def write_report(
    folder: Path,
    probed: Probed,
    results: Mapping[str, Any],
    *,
    warnings: Sequence[str],
    more: Sequence[report.Section] = (),
) -> None:
    """Write report.html.

    Args:
        folder: where to.
        probed: what was found.
        results: as results.json holds it.
        warnings: what may be wrong with the result.
        more: sections after the accuracies.

    Raises:
        CheckpointError: it cannot be written.
    """
    folded = probed.folds
    if folded is None:
        first = [section(probed, results["chance"], results["majority"], warnings)]
    else:
        first = [folds.section(folded, probed, results["chance"])]
    matrices = {kind: (outcome.confusion, results["classes"]) for kind, outcome in probed.outcomes.items()}
    names = ("model", "source", "label", "videos", "seed", "seconds", "clips", "skipped", "versions")
    sections = [
        *first,
        *more,
        *([low_shot.section(probed.shares)] if probed.shares else []),
        report.confusion_matrices(matrices),
        report.run_facts({name: results[name] for name in names}),
    ]
    lead = f"Frozen features of {results['model']}, {headline(probed, results['videos'].get('test', 0))}."
    report.write_report(folder / "report.html", "Probe", sections, lead=lead)
