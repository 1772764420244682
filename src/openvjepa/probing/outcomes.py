"""Probes on plain arrays of features: trained, chosen on validation, tested."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from openvjepa.errors import ConfigError, DataError
from openvjepa.probing.heads import (
    Features,
    Labels,
    OnEpoch,
    Recipe,
    Trained,
    accuracy,
    mean_tokens,
    train_attentive,
    train_knn,
    train_linear,
)
from openvjepa.train.metrics import top_k
from openvjepa.weights.files import whole_file

KINDS = ("attentive", "linear", "knn")
TOP5_CLASSES = 10  # from so many classes on, top-5 accuracy is reported too


@dataclass(frozen=True)
class Outcome:
    """How one kind of probe did. Accuracies in per cent; C classes."""

    test_top1: float
    test_top5: float | None
    """None with fewer than 10 classes."""
    val_top1: float
    per_class: dict[str, float | None]
    """Share of the test videos of each class that were recognised; None where there are none."""
    confusion: list[list[int]]
    """Counts [C][C], rows true, columns predicted."""
    chosen: dict[str, float]
    """Settings that did best on validation."""
    seconds: float
    probabilities: NDArray[np.float64]
    """Of the test videos, [n, C]."""
    module: nn.Module | None
    """Tokens [B, N, D] -> logits [B, C]; None for kNN."""

    def to_dict(self) -> dict[str, Any]:
        """The figures, for results.json."""
        names = ("test_top1", "test_top5", "val_top1", "chosen", "seconds", "per_class", "confusion")
        return {name: getattr(self, name) for name in names}


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
        on_epoch: called after each epoch of the attentive probe with its number and figures.

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
        outcomes[kind] = _outcome(trained, test_x, test_y, classes, started)
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


def _outcome(trained: Trained, x: Features, y: Labels, classes: Sequence[str], started: float) -> Outcome:
    return outcome_of(
        trained.predict(x),
        y,
        classes,
        val_top1=trained.chosen["val_top1"],
        chosen={key: value for key, value in trained.chosen.items() if key != "val_top1"},
        seconds=time.monotonic() - started,
        module=trained.module,
    )


def outcome_of(
    probabilities: NDArray[np.float64],
    y: Labels,
    classes: Sequence[str],
    *,
    val_top1: float,
    chosen: dict[str, float],
    seconds: float,
    module: nn.Module | None,
) -> Outcome:
    """The figures of test videos: probabilities [n, C], class numbers [n]; the rest is kept as it is."""
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (y, probabilities.argmax(1)), 1)
    totals = confusion.sum(1)
    scores, labels = torch.from_numpy(probabilities), torch.from_numpy(np.asarray(y))
    return Outcome(
        test_top1=accuracy(probabilities, y),
        test_top5=top_k(scores, labels, 5) if len(classes) >= TOP5_CLASSES else None,
        val_top1=val_top1,
        per_class={
            name: 100 * int(confusion[i, i]) / int(totals[i]) if totals[i] else None for i, name in enumerate(classes)
        },
        confusion=confusion.tolist(),
        chosen=chosen,
        seconds=seconds,
        probabilities=probabilities,
        module=module,
    )


def draw_confusion(path: Path, title: str, counts: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Confusion matrix as a picture: counts [C, C], rows true, columns predicted, coloured by share of the row."""
    figure = confusion_figure(title, counts, classes)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def confusion_figure(title: str, counts: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """What `draw_confusion` draws."""
    side = max(4.0, min(14.0, 2 + 0.4 * len(classes)))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= 25:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                dark = count > 0.5 * counts[row].sum()
                axes.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black")
    ticks = range(len(classes)) if len(classes) <= 60 else []
    axes.set_xticks(ticks, [classes[i] for i in ticks], rotation=90)
    axes.set_yticks(ticks, [classes[i] for i in ticks])
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title)
    return figure
