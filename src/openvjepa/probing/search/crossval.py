"""Choosing a classifier by cross-validation, and what the held-out predictions tell about the labels.

n videos, V clips of each, N tokens, D channels, C classes, K folds; accuracies in percent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from openvjepa.metrics import Labels, accuracy
from openvjepa.probing.attentive import Recipe
from openvjepa.probing.calibration import Calibration, calibrate, mean_softmax, module_logits
from openvjepa.probing.features import Features, OnEpoch
from openvjepa.probing.probes import Outcome, probe_features
from openvjepa.probing.search.low_shot import Rows as Selected
from openvjepa.probing.search.low_shot import choose
from openvjepa.probing.search.regression import Regression, Rows

LEAST_FOLDS = 3  # one to train on, one to choose hyperparameters with, one to test on
_SUSPICIOUS = 0.1  # most probability of the given label of a likely wrong label
_SURE = 0.7  # least probability of another class


@dataclass(frozen=True)
class CrossValidated:
    """One kind of classifier on one model's features, every video predicted by classifiers that have not seen it."""

    kind: str
    logits: NDArray[np.float64]
    """Not calibrated, [n, C]; NaN for videos that no fold holds."""
    folds: tuple[float, ...]
    """Accuracy of each fold."""
    calibration: Calibration
    seconds: float
    chosen: Regression | None = None
    """Grid and penalty, of a logistic regression."""

    @property
    def mean(self) -> float:
        """Mean accuracy over the folds."""
        return float(np.mean(self.folds))

    @property
    def spread(self) -> float:
        """Standard deviation of the folds (of the sample)."""
        return float(np.std(self.folds, ddof=1))

    @property
    def log_loss(self) -> float:
        """Of held-out videos, calibrated."""
        return self.calibration.log_loss

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Calibrated, [n, C]; NaN for videos that no fold holds."""
        return mean_softmax(self.logits[:, None], self.calibration.temperature)

    @property
    def rank(self) -> tuple[float, float]:
        """The better classifier has the larger one: accuracy over all videos first, then likelihood."""
        return round(self.mean, 6), -self.log_loss


def judged(
    kind: str,
    logits: NDArray[np.float64],
    y: Labels,
    folds: Sequence[Rows],
    seconds: float,
    chosen: Regression | None = None,
) -> CrossValidated:
    """Score held-out logits [n, C]."""
    held = np.concatenate(list(folds))
    scores = tuple(accuracy(logits[rows], y[rows]) for rows in folds)
    return CrossValidated(kind, logits, scores, calibrate(logits[held], y[held]), seconds, chosen)


def make_folds(labels: Labels, folds: int, seed: int, groups: Sequence[Any] | None = None) -> list[NDArray[np.int64]]:
    """Rows of each fold, stratified by class; a group is never divided.

    Args:
        labels: class numbers [n].
        folds: most folds; fewer where a class has fewer videos (or groups).
        seed: of the order.
        groups: group of each video, such as a person or a camera.

    Returns:
        At least three folds, or none where a class has fewer than three videos or groups.
    """
    units: list[int] = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        units.append(len({groups[int(i)] for i in rows}) if groups else len(rows))
    count = min(folds, *units) if units else 0
    if count < LEAST_FOLDS:
        return []
    if groups is None:
        splitter: Any = StratifiedKFold(count, shuffle=True, random_state=seed)
    else:
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    found = [test for _, test in splitter.split(np.zeros(len(labels)), labels, groups)]
    complete = all(len(set(labels[rows].tolist())) == len(set(labels.tolist())) for rows in found) if groups else True
    return [np.asarray(rows, dtype=np.int64) for rows in found] if complete else []


def cross_validate(
    x: Features,
    y: Labels,
    folds: Sequence[Rows],
    kind: str,
    *,
    classes: Sequence[str],
    num_heads: int,
    recipe: Recipe | None = None,
    fraction: float = 1.0,
    seed: int = 0,
    on_epoch: OnEpoch | None = None,
    on_fold: Callable[[int], None] | None = None,
) -> CrossValidated:
    """Predict every fold with classifiers trained on the others; the next fold chooses the hyperparameters.

    Args:
        x: features [n, V, N, D]; view 0 of a video is its plain clip, the only one that is predicted.
        y: class numbers [n].
        folds: of `make_folds`.
        kind: attentive or knn.
        classes: C names.
        num_heads: attention heads of an attentive probe.
        recipe: of an attentive probe.
        fraction: share of the training videos of each class that is used; for learning curves.
        seed: of their choice.
        on_epoch: called after each epoch of an attentive probe; it may end the work by an exception.
        on_fold: called with the number of finished folds.
    """
    started, logits = time.monotonic(), np.full((len(y), len(classes)), np.nan)
    for number, test in enumerate(folds):
        val = folds[(number + 1) % len(folds)]
        train = np.setdiff1d(np.arange(len(y)), np.concatenate([test, val]))
        if fraction < 1:
            train = train[choose(y[train], fraction, seed, number)]
        outcome = probe_features(
            cast(Features, Selected(x, train)),
            y[train],
            x[val][:, :1],
            y[val],
            x[test][:, :1],
            y[test],
            classes=classes,
            num_heads=num_heads,
            kinds=(kind,),
            recipe=recipe,
            on_epoch=on_epoch,
        )[kind]
        logits[test] = raw_logits(outcome, x[test][:, :1])
        if on_fold:
            on_fold(number + 1)
    return judged(kind, logits, y, folds, time.monotonic() - started)


def raw_logits(outcome: Outcome, x: Features) -> NDArray[np.float64]:
    """Logits of a probe without its temperature, on features of one clip [n, 1, N, D]; of kNN the logarithm of its votes."""
    if outcome.module is None:
        return np.log(np.maximum(outcome.probabilities, 1e-3))
    return module_logits(outcome.module, x)[:, 0] * (outcome.temperature or 1.0)


@dataclass(frozen=True)
class Suspicion:
    """A video whose label is likely wrong."""

    row: int
    given: int
    """Class number of its label."""
    predicted: int
    probability: float
    """Of the predicted class, by classifiers that have not seen the video."""


def suspicious_labels(probabilities: NDArray[np.float64], labels: Labels) -> list[Suspicion]:
    """Videos that classifiers trained on all others are sure to belong to another class, the surest first.

    Args:
        probabilities: of held-out predictions, [n, C].
        labels: class numbers [n].
    """
    best = probabilities.argmax(1)
    own, top = probabilities[np.arange(len(labels)), labels], probabilities.max(1)
    rows = np.flatnonzero((best != labels) & (own < _SUSPICIOUS) & (top > _SURE))
    return [
        Suspicion(int(i), int(labels[i]), int(best[i]), float(top[i]))
        for i in rows[np.argsort(-top[rows], kind="stable")]
    ]
