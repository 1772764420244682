"""How good probabilities are: accuracy, class by class, confusion and calibration.

n videos, C classes; accuracies in per cent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openvjepa.probing.heads import Labels, accuracy, log_loss
from openvjepa.probing.outcomes import TOP5_CLASSES
from openvjepa.train.metrics import top_k

BINS = 15  # of confidence (Guo et al. 2017, "On Calibration of Modern Neural Networks")


@dataclass(frozen=True)
class ClassScore:
    """How one class did."""

    name: str
    videos: int
    recall: float | None
    """Share of its videos that were recognised; None where there are none."""
    precision: float | None
    """Share of the videos named so that are of it; None where none was named so."""
    f1: float | None
    """Harmonic mean of both, 0 where one is 0; None without videos."""
    taken_for: str | None
    """The class that its videos were most often mistaken for."""


@dataclass(frozen=True)
class Bin:
    """Videos whose likeliest class has a probability in (low, high]."""

    low: float
    high: float
    videos: int
    confidence: float | None
    """Mean probability of the likeliest class, 0..1; None where there are no videos."""
    accuracy: float | None
    """Share of right answers, 0..1."""


@dataclass(frozen=True)
class Scores:
    """Figures of one classifier."""

    top1: float
    top5: float | None
    """None with fewer than 10 classes."""
    mean_class: float
    """Mean recall of the classes that have videos."""
    log_loss: float
    ece: float
    """Expected calibration error in per cent: how far confidence and accuracy are apart, mean over the videos."""
    per_class: tuple[ClassScore, ...]
    confusion: list[list[int]]
    """Counts [C][C], rows true, columns predicted."""
    bins: tuple[Bin, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def score(probabilities: NDArray[np.float64], labels: Labels, classes: Sequence[str]) -> Scores:
    """Figures of probabilities [n, C] of videos with class numbers [n]; n is at least 1."""
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (labels, probabilities.argmax(1)), 1)
    per_class = tuple(_class_score(confusion, i, classes) for i in range(len(classes)))
    bins, large = reliability(probabilities, labels), len(classes) >= TOP5_CLASSES
    return Scores(
        top1=accuracy(probabilities, labels),
        top5=top_k(torch.from_numpy(probabilities), torch.from_numpy(labels), 5) if large else None,
        mean_class=float(np.mean([row.recall for row in per_class if row.recall is not None])),
        log_loss=log_loss(probabilities, labels),
        ece=100 * sum(b.videos * abs((b.accuracy or 0.0) - (b.confidence or 0.0)) for b in bins) / len(labels),
        per_class=per_class,
        confusion=confusion.tolist(),
        bins=bins,
    )


def reliability(probabilities: NDArray[np.float64], labels: Labels, bins: int = BINS) -> tuple[Bin, ...]:
    """Confidence and accuracy of videos in bins of equal width, by the probability of their likeliest class."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    places = np.clip(np.ceil(confidence * bins - 1e-9).astype(int) - 1, 0, bins - 1)
    found = []
    for i in range(bins):
        inside = places == i
        means = (float(confidence[inside].mean()), float(right[inside].mean())) if inside.any() else (None, None)
        found.append(Bin(i / bins, (i + 1) / bins, int(inside.sum()), *means))
    return tuple(found)


def _class_score(confusion: NDArray[np.int64], number: int, classes: Sequence[str]) -> ClassScore:
    right, videos, named = (
        int(n) for n in (confusion[number, number], confusion[number].sum(), confusion[:, number].sum())
    )
    wrong = confusion[number].copy()
    wrong[number] = 0
    return ClassScore(
        name=classes[number],
        videos=videos,
        recall=100 * right / videos if videos else None,
        precision=100 * right / named if named else None,
        f1=200 * right / (videos + named) if videos else None,
        taken_for=classes[int(wrong.argmax())] if wrong.any() else None,
    )
