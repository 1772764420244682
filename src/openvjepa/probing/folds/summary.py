"""What a cross-validation found: accuracies by fold and seed, their spread, and differences between classifiers.

n videos, C classes, S seeds, K folds; accuracies in percent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvjepa.metrics import Difference, Groups, Interval, Labels, accuracy_interval, log_loss, resampled_difference


@dataclass(frozen=True)
class HeldOut:
    """One classifier, every video predicted once for each seed by a classifier that has not seen it."""

    probabilities: NDArray[np.float64]
    """[S, n, C]."""
    folds: NDArray[np.float64]
    """Accuracy of each fold, [S, K]."""
    val_top1: float
    """Mean accuracy on the validation videos of the folds."""
    seconds: float

    def right(self, labels: Labels) -> NDArray[np.float64]:
        """Share of the seeds with which each video is classified correctly, [n]."""
        return (self.probabilities.argmax(2) == labels).mean(0)

    def top1(self, labels: Labels) -> float:
        """Accuracy over all videos, mean over the seeds."""
        return 100 * float(self.right(labels).mean())

    def rank(self, labels: Labels) -> tuple[float, float]:
        """The better classifier has the larger one: accuracy, then likelihood."""
        return round(self.top1(labels), 6), -float(np.mean([log_loss(found, labels) for found in self.probabilities]))

    @property
    def spread(self) -> float:
        """Standard deviation of all folds (of the sample)."""
        return float(self.folds.std(ddof=1))

    @property
    def seed_spread(self) -> float | None:
        """Standard deviation of the mean accuracy over the seeds (of the sample); None of a single one."""
        return float(self.folds.mean(1).std(ddof=1)) if len(self.folds) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """As results.json holds it."""
        return {"folds": self.folds.tolist(), "std_folds": self.spread, "std_seeds": self.seed_spread}


@dataclass(frozen=True)
class Folded:
    """A cross-validation of several classifiers on the same folds."""

    count: int
    """Folds, K."""
    seeds: int
    given: bool
    """Whether the list has the folds."""
    labels: Labels
    """[n]."""
    groups: Groups | None
    """[n]."""
    kinds: dict[str, HeldOut]
    """By kind of probe."""
    baselines: dict[str, HeldOut]
    majority: NDArray[np.float64]
    """Accuracy of the most frequent class of the training videos, on each fold, [S, K]."""
    kind: str
    """The one that is saved: the most accurate, of those that can be."""
    videos: dict[str, int]
    """Videos that the saved classifier is trained on (train) and chosen with (val)."""

    def interval(self, held: HeldOut) -> Interval:
        """Of the accuracy over all videos: Wilson's, or that of groups."""
        return accuracy_interval(held.right(self.labels), self.groups)

    def over(self, folds: NDArray[np.float64]) -> Difference:
        """How much more accurate the saved kind is than another with these folds [S, K]."""
        return resampled_difference(self.kinds[self.kind].folds.ravel(), folds.ravel(), 1 / self.count)

    @property
    def differences(self) -> dict[str, Difference]:
        """Of the saved kind over the others, the baselines and the majority class."""
        others: Mapping[str, HeldOut] = {**self.kinds, **self.baselines}
        found = {name: self.over(held.folds) for name, held in others.items() if name != self.kind}
        return found | {"majority class": self.over(self.majority)}

    def to_dict(self) -> dict[str, Any]:
        """As results.json holds it."""
        return {
            "folds": self.count,
            "folds_from_list": self.given,
            "seeds": self.seeds,
            "videos": len(self.labels),
            "saved": self.kind,
            "saved_trained_on": self.videos,
            "classifiers": {name: held.to_dict() for name, held in {**self.kinds, **self.baselines}.items()},
            "differences": {name: asdict(found) for name, found in self.differences.items()},
        }
