"""Probes on plain arrays of features: trained, chosen on validation, tested."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvjepa.errors import ConfigError, DataError
from openvjepa.grid import TokenGrid
from openvjepa.metrics import Groups, Labels, Metrics, accuracy_interval, classification_metrics
from openvjepa.probing.attentive import Recipe, train_attentive
from openvjepa.probing.calibration import Classifier, divide_logits, fit_temperature, mean_softmax, module_logits
from openvjepa.probing.features import Features, OnEpoch, Trained, mean_tokens, score
from openvjepa.probing.grid import train_grid
from openvjepa.probing.knn import train_knn
from openvjepa.probing.linear import train_linear

KINDS = ("grid", "linear", "attentive", "knn")
PLAIN_KINDS = KINDS[1:]  # those that do not need to know how the tokens lie


@dataclass(frozen=True)
class Outcome:
    """A trained probe and its metrics. Accuracies in percent."""

    metrics: Metrics
    """On the test videos."""
    val_top1: float
    chosen: dict[str, float]
    """Hyperparameters chosen on validation."""
    seconds: float
    probabilities: NDArray[np.float64]
    """Of the test videos, [n, C]."""
    labels: Labels
    """Of the test videos, [n]."""
    module: Classifier | None
    """Tokens [B, N, D] -> logits [B, C], calibrated; None for kNN."""
    val_probabilities: NDArray[np.float64]
    """Of the validation videos, [n, C]."""
    temperature: float | None = None
    """By which the logits were divided so that the validation labels are most likely; None for kNN."""
    uncalibrated: Metrics | None = None
    """On the test videos, before that."""

    def with_groups(self, groups: Groups | None) -> Outcome:
        """The same with an interval that takes groups [n] of the test videos for what was drawn."""
        if groups is None:
            return self
        right = self.probabilities.argmax(1) == self.labels
        return replace(self, metrics=replace(self.metrics, top1_interval=accuracy_interval(right, groups)))

    @property
    def test_top1(self) -> float:
        """Top-1 accuracy on the test videos."""
        return self.metrics.top1

    @property
    def test_top5(self) -> float | None:
        """Top-5 accuracy on the test videos; None with fewer than 10 classes."""
        return self.metrics.top5

    @property
    def confusion(self) -> list[list[int]]:
        """Counts [C][C], rows true, columns predicted."""
        return self.metrics.confusion

    def to_dict(self) -> dict[str, Any]:
        """As results.json holds it."""
        per_class = {row.name: row.recall for row in self.metrics.per_class}
        names = ("test_top1", "test_top5", "val_top1", "chosen", "seconds", "confusion", "temperature")
        values = {name: getattr(self, name) for name in names} | {"per_class": per_class, "ece": self.metrics.ece}
        values["test_top1_interval"] = [self.metrics.top1_interval.low, self.metrics.top1_interval.high]
        return values | {"ece_uncalibrated": None if self.uncalibrated is None else self.uncalibrated.ece}


def probe_features(
    train_x: Features,
    train_y: Labels,
    val_x: Features,
    val_y: Labels,
    test_x: Features,
    test_y: Labels,
    *,
    classes: Sequence[str],
    num_heads: int,
    grid: TokenGrid | None = None,
    kinds: Sequence[str] | None = None,
    recipe: Recipe | None = None,
    on_epoch: OnEpoch | None = None,
) -> dict[str, Outcome]:
    """Train probes on any features, choose them on validation, and test them.

    Args:
        train_x, val_x, test_x: features [n, V, N, D], V clips of each video, the first training one its plain one.
        train_y, val_y, test_y: class numbers [n].
        classes: C names; each must occur in train_y.
        num_heads: attention heads of the attentive probe; divides D.
        grid: of the N tokens; None: there is no grid probe.
        kinds: any of grid, linear, attentive, knn; None: all, the first only with a grid.
        recipe: of the attentive probe.
        on_epoch: called after each epoch of the attentive probe with its number and metrics.

    Returns:
        Outcome by kind, in the order of `kinds`.

    Raises:
        ConfigError: a kind is unknown, or D does not divide into the heads.
        DataError: the arrays do not belong together, or a class has nothing to train on.
    """
    _check_arrays({"train": (train_x, train_y), "val": (val_x, val_y), "test": (test_x, test_y)}, len(classes))
    kinds = (KINDS if grid else PLAIN_KINDS) if kinds is None else kinds
    if set(kinds) - set(KINDS):
        raise ConfigError(f"kinds {', '.join(kinds)}: choose from {', '.join(KINDS)}")
    means = (mean_tokens(train_x), mean_tokens(val_x)) if {"linear", "knn"} & set(kinds) else None
    outcomes: dict[str, Outcome] = {}
    for kind in kinds:
        started, count = time.monotonic(), len(classes)
        if kind == "grid":
            if grid is None:
                raise ConfigError("a grid probe needs the grid of the tokens")
            trained = train_grid(train_x, train_y, val_x, val_y, classes=count, grid=grid)
        elif kind == "attentive" or means is None:
            options: dict[str, Any] = {"num_heads": num_heads, "recipe": recipe or Recipe(), "on_epoch": on_epoch}
            trained = train_attentive(train_x, train_y, val_x, val_y, classes=count, **options)
        else:
            train = train_linear if kind == "linear" else train_knn
            trained = train(means[0], train_y, means[1], val_y, classes=count)
        outcomes[kind] = _outcome(trained, val_x, val_y, test_x, test_y, classes, started)
    return outcomes


def _outcome(
    trained: Trained,
    val_x: Features,
    val_y: Labels,
    test_x: Features,
    test_y: Labels,
    classes: Sequence[str],
    started: float,
) -> Outcome:
    """Calibrate a probe on validation, where it has logits, and test it."""
    module, temperature, uncalibrated = trained.module, None, None
    if isinstance(module, Classifier):
        val_logits, logits = module_logits(module, val_x), module_logits(module, test_x)
        temperature = fit_temperature(val_logits, val_y)
        uncalibrated = classification_metrics(mean_softmax(logits), test_y, classes)
        val, probabilities = mean_softmax(val_logits, temperature), mean_softmax(logits, temperature)
        divide_logits(module, temperature)
    else:
        val, probabilities = trained.predict(val_x), trained.predict(test_x)
    return Outcome(
        metrics=classification_metrics(probabilities, test_y, classes),
        val_top1=trained.chosen["val_top1"],
        chosen={key: value for key, value in trained.chosen.items() if key != "val_top1"},
        seconds=time.monotonic() - started,
        probabilities=probabilities,
        labels=test_y,
        module=module if isinstance(module, Classifier) else None,
        val_probabilities=val,
        temperature=temperature,
        uncalibrated=uncalibrated,
    )


def best_kind(outcomes: Mapping[str, Outcome], val_y: Labels) -> str:
    """The kind that is best on validation, by accuracy, then likelihood; kNN, which cannot be saved, only if it is alone."""
    saved = [kind for kind, outcome in outcomes.items() if outcome.module is not None] or list(outcomes)
    return max(saved, key=lambda kind: score(outcomes[kind].val_probabilities, val_y))


def _check_arrays(splits: dict[str, tuple[Features, Labels]], classes: int) -> None:
    for name, (x, y) in splits.items():
        if x.ndim != 4 or len(x) != len(y) or not len(x):
            raise DataError(
                f"{name}: {len(y)} labels for features {list(x.shape)}, not [videos, clips, tokens, channels]"
            )
        if y.min() < 0 or y.max() >= classes:
            raise DataError(f"{name}: labels from {y.min()} to {y.max()}, but {classes} classes")
    labels = splits["train"][1]
    if classes < 2 or set(labels.tolist()) != set(range(classes)):
        raise DataError(
            f"{len(set(labels.tolist()))} of {classes} classes to train on: a probe needs all, and at least two"
        )
