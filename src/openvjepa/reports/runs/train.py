"""report.html and results.json of `vjepa train`: which classifier is the best, how good it is, and what it gets wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from openvjepa.atomic import json_text
from openvjepa.config import ClassifierConfig, to_mapping
from openvjepa.data.lists.index import VideoIndex
from openvjepa.data.loader import EvalClips
from openvjepa.features.novelty import Novelty
from openvjepa.features.sampling import ClipPlan
from openvjepa.metrics import Difference, Labels, difference, groups_of
from openvjepa.probing.calibration import ece_by_chance
from openvjepa.probing.probes import Outcome
from openvjepa.probing.search.candidates import Candidate
from openvjepa.probing.search.crossval import Suspicion
from openvjepa.reports import charts
from openvjepa.reports import pages as report
from openvjepa.version import versions
from openvjepa.weights.files import write_file

SHOWN = 12  # wrong predictions and likely wrong labels in the report


@dataclass(frozen=True)
class TrainResult:
    """Result of `vjepa train`; accuracies in percent."""

    out: Path
    classes: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    """Every classifier that was compared, by cross-validation."""
    chosen: Candidate
    outcome: Outcome
    """Of the chosen one, calibrated, on the test videos."""
    baselines: dict[str, Outcome]
    """Of the best classifier on pixels and on encoders with random weights, if it is not the chosen one."""
    splits: dict[str, VideoIndex]
    """The videos that could be read."""
    plan: ClipPlan = field(repr=False)
    not_tried: dict[str, str]
    """Models and classifiers that there was no time for: name -> reason."""
    skipped: dict[str, str]
    """Unreadable files: path -> reason."""
    curve: dict[float, float]
    """Share of the training videos -> cross-validated accuracy."""
    suspicions: tuple[Suspicion, ...]
    """Training and validation videos whose label is likely wrong; rows count through train, then val."""
    novelty: Novelty | None = field(repr=False)
    """What tells videos that are unlike the training videos."""
    distances: NDArray[np.float64] | None = field(repr=False)
    """Of the test videos to the training videos, [n]: above 1 unlike them."""
    seconds: float

    @property
    def majority(self) -> float:
        """Accuracy on the test videos of always predicting the most frequent class of the training videos."""
        commonest = int(np.bincount(self.splits["train"].labels).argmax())
        return 100 * self.splits["test"].labels.count(commonest) / len(self.splits["test"])

    @property
    def differences(self) -> dict[str, Difference]:
        """Of the chosen classifier over each baseline and over the majority class, on the test videos."""
        labels, known = self.outcome.labels, groups_of(self.splits["test"])
        commonest = int(np.bincount(self.splits["train"].labels).argmax())
        rights = {name: found.probabilities.argmax(1) == labels for name, found in self.baselines.items()}
        rights["majority class"] = labels == commonest
        ours = self.outcome.probabilities.argmax(1) == labels
        return {name: difference(ours, right, known) for name, right in rights.items()}

    @property
    def unlike(self) -> int | None:
        """Test videos that are unlike the training videos."""
        return None if self.distances is None else int((self.distances > 1).sum())

    @property
    def chance(self) -> float:
        """Chance level, 100 / C."""
        return 100 / len(self.classes)

    def to_dict(self) -> dict[str, Any]:
        """As results.json holds it."""
        pool = self.splits["train"].records + self.splits["val"].records
        return {
            "classes": self.classes,
            "videos": {name: len(index) for name, index in self.splits.items()},
            "chosen": {"model": self.chosen.model, "kind": self.chosen.result.kind},
            "model": self.chosen.model,
            "chance": self.chance,
            "majority": self.majority,
            "probes": {self.chosen.result.kind: self.outcome.to_dict()},
            "metrics": self.outcome.metrics.to_dict(),
            "baselines": {name: found.to_dict() for name, found in self.baselines.items()},
            "differences": {name: to_mapping(found) for name, found in self.differences.items()},
            "calibration": self.calibration(),
            "unlike_training": self.unlike,
            "candidates": [
                {
                    "model": c.model,
                    "kind": c.result.kind,
                    "accuracy": c.result.mean,
                    "folds": c.result.folds,
                    "log_loss": c.result.log_loss,
                    "ece": c.result.calibration.ece,
                    "seconds": c.result.seconds,
                }
                for c in self.candidates
            ],
            "not_tried": self.not_tried,
            "skipped": self.skipped,
            "learning_curve": {f"{share:g}": value for share, value in self.curve.items()},
            "likely_wrong_labels": [
                {
                    "path": pool[s.row].path,
                    "label": self.classes[s.given],
                    "predicted": self.classes[s.predicted],
                    "probability": s.probability,
                }
                for s in self.suspicions
            ],
            "seconds": {"total": self.seconds},
        }

    def calibration(self) -> dict[str, float]:
        """Expected calibration errors in percent: of held-out and test videos, before and after the temperature."""
        held, before = self.chosen.result.calibration, self.outcome.uncalibrated
        return {
            "temperature": held.temperature,
            "held_out": held.ece,
            "held_out_before": held.ece_before,
            "test": self.outcome.metrics.ece,
            "test_before": self.outcome.metrics.ece if before is None else before.ece,
            "test_by_chance": ece_by_chance(self.outcome.probabilities),
        }

    def headline(self) -> str:
        """The result in a sentence or three."""
        m, videos = self.outcome.metrics, len(self.splits["test"])
        leads = [f"{lead} points over {name}" for name, lead in self.differences.items()]
        held = self.chosen.result.calibration.ece
        return (
            f"{self.chosen.name}: {m.top1:.1f} % of {videos} test videos (95 %: {m.top1_interval}; majority class "
            f"{self.majority:.1f} %, chance level {self.chance:.1f} %), {', '.join(leads)}. Expected calibration error "
            f"{held:.1f} % on held-out training videos, {m.ece:.1f} % on test videos."
        )


def write_training(result: TrainResult, config: ClassifierConfig) -> None:
    """Write report.html, and results.json last.

    Raises:
        CheckpointError: they cannot be written.
    """
    values = {**result.to_dict(), "source": config.source, "label": config.label, "seed": config.seed}
    values["versions"] = versions()
    sections = [
        report.Section("Candidates", _candidates(result)),
        report.Section("Against the baselines", _baselines(result)),
        report.Section("Can its probabilities be trusted?", _trust(result)),
        *_curve(result),
        report.confusion_matrices({result.chosen.name: (result.outcome.confusion, result.classes)}),
        *_wrong(result),
        *_suspicious(result),
        report.run_facts({"settings": to_mapping(config), **_facts(result), "versions": values["versions"]}),
    ]
    report.write_report(result.out / "report.html", "Classifier", sections, lead=result.headline())
    write_file(result.out / "results.json", json_text(values).encode())


def _facts(result: TrainResult) -> dict[str, Any]:
    facts: dict[str, Any] = {"videos": {name: len(index) for name, index in result.splits.items()}}
    facts |= {"seconds": result.seconds, "not tried": result.not_tried, "cannot be read": result.skipped}
    return {name: value for name, value in facts.items() if value}


def _candidates(result: TrainResult) -> Markup:
    order = sorted(result.candidates, key=lambda c: c.result.rank, reverse=True)
    several = any(len(c.result.folds) > 1 for c in order)
    rows = [
        (
            c.name + (" (chosen)" if c is result.chosen else ""),
            f"{c.result.mean:.1f}",
            f"{c.result.spread:.1f}" if len(c.result.folds) > 1 else "",
            f"{c.result.log_loss:.3f}",
            f"{c.result.seconds:.1f}",
        )
        for c in order
    ]
    how = (
        f"Mean accuracy and standard deviation over {len(order[0].result.folds)} folds of the training and validation "
        "videos; the test videos choose nothing: the chosen classifier and the baselines are tested on them at the end."
        if several
        else "Accuracy on the validation videos: a class has too few videos for cross-validation."
    )
    head = ("encoder, classifier", "accuracy %", "std", "log loss", "s")
    return report.paragraph(how) + report.plain_table(head, rows)


def _baselines(result: TrainResult) -> str:
    rows = [
        (name, f"{found.test_top1:.1f}", str(found.metrics.top1_interval), str(result.differences[name]))
        for name, found in {result.chosen.name: result.outcome, **result.baselines}.items()
        if name in result.differences
    ]
    rows.append(("majority class", f"{result.majority:.1f}", "", str(result.differences["majority class"])))
    own = result.outcome.metrics
    rows.insert(0, (f"{result.chosen.name} (chosen)", f"{own.top1:.1f}", str(own.top1_interval), ""))
    head = ("", "test accuracy %", "95 %", "the chosen one is better by (points, 95 %)")
    return report.plain_table(head, rows)


def _trust(result: TrainResult) -> str:
    c = result.calibration()
    words = (
        f"Expected calibration error: {c['held_out']:.1f} % on held-out training videos ({c['held_out_before']:.1f} % without "
        f"the temperature {c['temperature']:.2f}), {c['test']:.1f} % on test videos ({c['test_before']:.1f} % without). So few "
        f"test videos show {c['test_by_chance']:.1f} % on average even when the probabilities are exactly right."
    )
    if result.distances is not None:
        words += (
            f" {result.unlike} of {len(result.distances)} test videos are unlike the training videos; 5 % would be so by "
            "chance. vjepa predict and evaluate mark such videos."
        )
    return report.paragraph(words)


def _curve(result: TrainResult) -> list[report.Section]:
    if not result.curve:
        return []
    shares, values = list(result.curve), list(result.curve.values())
    gain = values[-1] - values[-2]
    words = (
        f"The last doubling of the training videos changed the accuracy by {gain:+.1f} points; the next one is likely to "
        "bring less. "
    )
    words += "More labels would help." if gain > 2 else "Other models or longer clips may help more than labels."
    chart = charts.line_chart(
        "Cross-validated accuracy, %", [100 * s for s in shares], {"accuracy": values}, x_label="training videos, %"
    )
    body = report.paragraph(words) + report.chart_row([chart])
    return [report.Section("How many labels are enough?", body)]


def _wrong(result: TrainResult) -> list[report.Section]:
    """Frames of the wrong predictions on test videos with the highest probability."""
    index, probabilities = result.splits["test"], result.outcome.probabilities
    labels: Labels = np.array(index.labels, dtype=np.int64)
    best = probabilities.argmax(1)
    rows = np.flatnonzero(best != labels)
    rows = rows[np.argsort(-probabilities[rows, best[rows]], kind="stable")][:SHOWN]
    cards = [
        _card(
            result,
            index,
            int(row),
            [(result.classes[i], float(probabilities[row, i])) for i in _top(probabilities[row])],
        )
        for row in rows
    ]
    cards = [card for card in cards if card is not None]
    return [report.predictions(cards, title="Wrong predictions with the highest probability")] if cards else []


def _suspicious(result: TrainResult) -> list[report.Section]:
    if not result.suspicions:
        return []
    pool = result.splits["train"].records + result.splits["val"].records
    index = VideoIndex(pool, result.classes, result.splits["train"].source)
    probabilities = result.chosen.result.probabilities
    cards = [
        _card(
            result,
            index,
            s.row,
            [(result.classes[i], float(probabilities[s.row, i])) for i in _top(probabilities[s.row])],
        )
        for s in result.suspicions[:SHOWN]
    ]
    cards = [card for card in cards if card is not None]
    return [report.predictions(cards, title="Labels that are likely wrong")] if cards else []


def _top(probabilities: np.ndarray, most: int = 5) -> list[int]:
    return [int(i) for i in probabilities.argsort(kind="stable")[::-1][:most]]


def _card(
    result: TrainResult, index: VideoIndex, row: int, probabilities: list[tuple[str, float]]
) -> report.Prediction | None:
    clips = EvalClips(index, result.plan.spec, result.plan.size, antialias=result.plan.antialias)
    video, _, reason = clips[row]
    if reason:
        return None
    record = index.records[row]
    frames = video[0].permute(1, 2, 3, 0).numpy()
    return report.Prediction(Path(record.path).name, frames, probabilities, result.classes[record.label or 0])
