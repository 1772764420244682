"""Probes on plain arrays of features: trained, chosen on validation, tested."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from openvjepa.errors import ConfigError, DataError
from openvjepa.metrics import Labels, Metrics, classification_metrics
from openvjepa.probing.attentive import Recipe, train_attentive
from openvjepa.probing.features import Features, OnEpoch, mean_tokens
from openvjepa.probing.knn import train_knn
from openvjepa.probing.linear import train_linear

KINDS = ("attentive", "linear", "knn")


@dataclass(frozen=True)
class Outcome:
    """A trained probe and its metrics. Accuracies in per cent."""

    metrics: Metrics
    """On the test videos."""
    val_top1: float
    chosen: dict[str, float]
    """Hyperparameters chosen on validation."""
    seconds: float
    probabilities: NDArray[np.float64]
    """Of the test videos, [n, C]."""
    module: nn.Module | None
    """Tokens [B, N, D] -> logits [B, C]; None for kNN."""

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
        names = ("test_top1", "test_top5", "val_top1", "chosen", "seconds", "confusion")
        return {name: getattr(self, name) for name in names} | {"per_class": per_class}


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
    kinds: Sequence[str] = KINDS,
    recipe: Recipe | None = None,
    device: torch.device | None = None,
    on_epoch: OnEpoch | None = None,
) -> dict[str, Outcome]:
    """Train probes on any features, choose them on validation, and test them.

    Args:
        train_x, val_x, test_x: features [n, V, N, D], V clips of each video, the first training one its plain one.
        train_y, val_y, test_y: class numbers [n].
        classes: C names; each must occur in train_y.
        num_heads: attention heads of the attentive probe; divides D.
        kinds: any of attentive, linear, knn.
        recipe: of the attentive probe.
        device: where the attentive probe is trained; None: the CPU.
        on_epoch: called after each epoch of the attentive probe with its number and metrics.

    Returns:
        Outcome by kind, in the order of `kinds`.

    Raises:
        ConfigError: a kind is unknown, or D does not divide into the heads.
        DataError: the arrays do not belong together, or a class has nothing to train on.
    """
    _check_arrays({"train": (train_x, train_y), "val": (val_x, val_y), "test": (test_x, test_y)}, len(classes))
    if set(kinds) - set(KINDS):
        raise ConfigError(f"kinds {', '.join(kinds)}: choose from {', '.join(KINDS)}")
    means = None if set(kinds) <= {"attentive"} else (mean_tokens(train_x), mean_tokens(val_x))
    outcomes = {}
    for kind in kinds:
        started = time.monotonic()
        if kind == "attentive" or means is None:
            trained = train_attentive(
                train_x,
                train_y,
                val_x,
                val_y,
                classes=len(classes),
                num_heads=num_heads,
                recipe=recipe or Recipe(),
                device=device,
                on_epoch=on_epoch,
            )
        else:
            train = train_linear if kind == "linear" else train_knn
            trained = train(means[0], train_y, means[1], val_y, classes=len(classes))
        probabilities = trained.predict(test_x)
        outcomes[kind] = Outcome(
            metrics=classification_metrics(probabilities, test_y, classes),
            val_top1=trained.chosen["val_top1"],
            chosen={key: value for key, value in trained.chosen.items() if key != "val_top1"},
            seconds=time.monotonic() - started,
            probabilities=probabilities,
            module=trained.module,
        )
    return outcomes


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
