"""A cross-validation as rows of a table, in a sentence, and as a section of a report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from openvjepa.probing.folds.summary import Folded, HeldOut
from openvjepa.probing.probes import Outcome
from openvjepa.reports import pages as report

if TYPE_CHECKING:
    from openvjepa.probing.run import Probed


def title(folded: Folded) -> str:
    """Such as "Top-1 accuracy in %, 5 folds, 3 seeds"."""
    folds = f"{folded.count} folds{' of the list' if folded.given else ''}"
    return f"Top-1 accuracy in %, {folds}" + (f", {folded.seeds} seeds" if folded.seeds > 1 else "")


def headline(folded: Folded, accuracy: str, kept_apart: Outcome | None) -> str:
    """What the saved probe scores, and what it was trained on, in two sentences."""
    folds = f"{folded.count} folds" + (f" x {folded.seeds} seeds" if folded.seeds > 1 else "")
    train, val = folded.videos["train"], folded.videos["val"]
    text = (
        f"{folded.kind} probe (chosen by cross-validation): {accuracy} % of {len(folded.labels)} held-out videos, {folds}; the "
        f"saved one is trained on {train} of them, and {val} choose its settings"
    )
    if kept_apart is not None:
        interval, count = kept_apart.metrics.top1_interval, len(kept_apart.labels)
        text += f"; it scores {kept_apart.test_top1:.1f} ({interval}) % of {count} test videos that were kept apart"
    return text


def headings(folded: Folded) -> tuple[str, ...]:
    """Of the columns of `table_rows`."""
    seeds = ("std of seeds",) if folded.seeds > 1 else ()
    return ("probe", "val", "held-out (95 %)", "std of folds", *seeds, "saved probe is better by")


def table_rows(folded: Folded, probed: Probed) -> Iterator[tuple[str, ...]]:
    """Name, validation, held-out accuracy with interval, spreads, and lead of the saved kind."""
    differences = folded.differences
    savable = probed.outcomes[folded.kind].module is not None

    def row(name: str, held: HeldOut, gain: str) -> tuple[str, ...]:
        spread = [f"{held.spread:.1f}"] + ([] if held.seed_spread is None else [f"{held.seed_spread:.1f}"])
        accuracy = f"{held.top1(folded.labels):.1f} ({folded.interval(held)})"
        return name, f"{held.val_top1:.1f}", accuracy, *spread, gain

    for kind, held in folded.kinds.items():
        is_saved = kind == folded.kind
        yield row(f"{kind} (saved)" if is_saved and savable else kind, held, "" if is_saved else str(differences[kind]))
    for name, held in folded.baselines.items():
        yield row(f"{name} (grid)", held, str(differences[name]))
    blank = [""] if folded.seeds > 1 else []
    spread = f"{folded.majority.std(ddof=1):.1f}"
    accuracy = f"{folded.majority.mean():.1f}"
    yield "majority class", "", accuracy, spread, *blank, str(differences["majority class"])


def section(folded: Folded, probed: Probed, chance: float) -> report.Section:
    """The table with what it means."""
    note = report.paragraph(
        "Top-1 accuracy in percent on held-out videos: every video is tested by probes that were trained on other folds. "
        "Intervals of 95 %: of accuracies Wilson's (or that of groups), of differences the corrected resampled t test (Nadeau & "
        "Bengio 2003). The kind that is saved was chosen by the same folds, so that its own accuracy is slightly too high where "
        "kinds are close. Classes, confusion and calibration are those of the first seed. "
        f"Chance level: {chance:.1f} %."
    )
    sentence = report.paragraph(headline(folded, _accuracy(folded), probed.kept_apart) + ".")
    return report.Section(
        "Accuracy", note + report.plain_table(headings(folded), list(table_rows(folded, probed))) + sentence
    )


def _accuracy(folded: Folded) -> str:
    held = folded.kinds[folded.kind]
    return f"{held.top1(folded.labels):.1f} ({folded.interval(held)})"
