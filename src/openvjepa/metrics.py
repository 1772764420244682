"""Metrics of classifiers and of features: accuracy, class by class, confusion, calibration, kNN, effective rank.

n samples (videos, clips or tokens), C classes, D channels; accuracies in per cent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

Labels: TypeAlias = NDArray[np.int64]

BINS = 15  # of confidence (Guo et al. 2017, "On Calibration of Modern Neural Networks")
TOP5_CLASSES = 10  # top-5 accuracy is reported from this number of classes on


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class, in per cent."""

    name: str
    videos: int
    recall: float | None
    """Share of the videos of this class that are predicted as this class; None without videos."""
    precision: float | None
    """Share of the videos predicted as this class that belong to it; None if there are none."""
    f1: float | None
    """Harmonic mean of precision and recall, 0 if one of them is 0; None without videos."""
    confused_with: str | None
    """The class that the wrongly classified videos of this class are most often predicted as."""


@dataclass(frozen=True)
class Bin:
    """Videos whose most probable class has a probability in (low, high]."""

    low: float
    high: float
    videos: int
    confidence: float | None
    """Mean probability of the most probable class, 0..1; None without videos."""
    accuracy: float | None
    """Share of correct predictions, 0..1; None without videos."""


@dataclass(frozen=True)
class Metrics:
    """Metrics of one classifier on labelled videos."""

    top1: float
    top5: float | None
    """None with fewer than 10 classes."""
    mean_class: float
    """Mean recall of the classes that have videos (balanced accuracy)."""
    log_loss: float
    ece: float
    """Expected calibration error: mean distance of confidence and accuracy over the videos, in per cent."""
    per_class: tuple[ClassMetrics, ...]
    confusion: list[list[int]]
    """Counts [C][C], rows true, columns predicted."""
    bins: tuple[Bin, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def classification_metrics(probabilities: NDArray[np.float64], labels: Labels, classes: Sequence[str]) -> Metrics:
    """Metrics of class probabilities.

    Args:
        probabilities: [n, C], n at least 1.
        labels: class numbers [n].
        classes: C names.
    """
    predicted, numbers = probabilities.argmax(1), list(range(len(classes)))
    confusion = confusion_matrix(labels, predicted, labels=numbers)
    per_class = _per_class(labels, predicted, confusion, classes)
    bins = reliability(probabilities, labels)
    return Metrics(
        top1=accuracy(probabilities, labels),
        top5=top_k(probabilities, labels, 5) if len(classes) >= TOP5_CLASSES else None,
        mean_class=float(np.mean([row.recall for row in per_class if row.recall is not None])),
        log_loss=log_loss(probabilities, labels),
        ece=100 * sum(b.videos * abs((b.accuracy or 0.0) - (b.confidence or 0.0)) for b in bins) / len(labels),
        per_class=per_class,
        confusion=confusion.tolist(),
        bins=bins,
    )


def _per_class(
    labels: Labels, predicted: Labels, confusion: NDArray[np.int64], classes: Sequence[str]
) -> tuple[ClassMetrics, ...]:
    numbers = list(range(len(classes)))
    precision, recall, f1, support = (
        np.asarray(part)
        for part in precision_recall_fscore_support(labels, predicted, labels=numbers, zero_division=0.0)  # pyright: ignore[reportArgumentType] (the stub knows only words)
    )
    wrong = confusion * (1 - np.eye(len(classes), dtype=np.int64))
    return tuple(
        ClassMetrics(
            name=name,
            videos=int(support[i]),
            recall=100 * float(recall[i]) if support[i] else None,
            precision=100 * float(precision[i]) if confusion[:, i].any() else None,
            f1=100 * float(f1[i]) if support[i] else None,
            confused_with=classes[int(wrong[i].argmax())] if wrong[i].any() else None,
        )
        for i, name in enumerate(classes)
    )


def accuracy(probabilities: NDArray[np.float64], labels: Labels) -> float:
    """Top-1 accuracy in per cent; probabilities [n, C], labels [n]."""
    return 100.0 * float((probabilities.argmax(1) == labels).mean())


def top_k(probabilities: NDArray[np.float64], labels: Labels, k: int) -> float:
    """Share of samples in per cent whose label is among the k most probable classes; probabilities [n, C], labels [n]."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return 100.0 * float((best == labels[:, None]).any(1).mean())


def log_loss(probabilities: NDArray[np.float64], labels: Labels) -> float:
    """Mean negative log likelihood of the labels [n] under probabilities [n, C]."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())


def reliability(probabilities: NDArray[np.float64], labels: Labels, bins: int = BINS) -> tuple[Bin, ...]:
    """Confidence and accuracy in bins of equal width, by the probability of the most probable class."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    places = np.clip(np.ceil(confidence * bins - 1e-9).astype(int) - 1, 0, bins - 1)
    found = []
    for i in range(bins):
        inside = places == i
        means = (float(confidence[inside].mean()), float(right[inside].mean())) if inside.any() else (None, None)
        found.append(Bin(i / bins, (i + 1) / bins, int(inside.sum()), *means))
    return tuple(found)


def feature_std(features: Tensor) -> float:
    """Standard deviation over samples, mean over channels; features [n, D]. Near 0: all samples look alike."""
    return features.float().std(0).mean().item()


def rankme(features: Tensor) -> float:
    """Effective rank: exp of the entropy of the singular values' shares (RankMe, Garrido et al. 2023, equation 2).

    The features are centred first, unlike in the paper: tokens share a large mean that would hide the rest.

    Args:
        features: [n, D].

    Returns:
        Between 1 (all on a line, or all the same) and min(n, D).
    """
    centred = features.double()
    centred = centred - centred.mean(0)
    gram = centred.T @ centred if len(centred) > centred.shape[1] else centred @ centred.T  # the smaller of the two
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    shares = values / values.sum().clamp_min(1e-12)
    return torch.exp(-torch.xlogy(shares, shares).sum()).item()


def knn_accuracy(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, k: int = 10) -> float:
    """Accuracy in per cent of a vote of the k nearest neighbors by cosine, weighted by distance.

    Args:
        train_x, test_x: features [n, D].
        train_y, test_y: labels [n].
    """
    model = KNeighborsClassifier(min(k, len(train_x)), metric="cosine", weights="distance")
    model.fit(train_x.float().cpu().numpy(), train_y.cpu().numpy())
    return 100.0 * float(model.score(test_x.float().cpu().numpy(), test_y.cpu().numpy()))
