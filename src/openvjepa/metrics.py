"""Metrics of classifiers and of features: accuracy, class by class, confusion, calibration, kNN, effective rank.

n samples (videos, clips or tokens), C classes, D channels; accuracies in percent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from openvjepa.data.lists.records import VideoIndex

Labels: TypeAlias = NDArray[np.int64]
Groups: TypeAlias = NDArray[Any]
"""Of each video what it has in common with others: numbers or names."""

CRITICAL = 1.959964  # quantile of the normal distribution for intervals of 95 %
DRAWS = 2000  # of the bootstrap

BINS = 15  # of confidence (Guo et al. 2017, "On Calibration of Modern Neural Networks")
TOP5_CLASSES = 10  # top-5 accuracy is reported from this number of classes on


@dataclass(frozen=True)
class Interval:
    """A confidence interval of 95 %, in percent."""

    low: float
    high: float

    def __str__(self) -> str:
        """For people: "71 - 84"."""
        return f"{self.low:.0f} - {self.high:.0f}"


@dataclass(frozen=True)
class Difference:
    """Accuracy of one classifier minus that of another on the same videos, in percentage points."""

    mean: float
    interval: Interval
    p_value: float
    """Of McNemar's exact test that both are right equally often; with groups of a t test. Two-sided."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval does not contain 0."""
        return self.interval.low > 0 or self.interval.high < 0

    def __str__(self) -> str:
        """For people: "+3.1 (-0.4 to +6.6)"."""
        return f"{self.mean:+.1f} ({self.interval.low:+.1f} to {self.interval.high:+.1f})"


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class, in percent."""

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
    recall_interval: Interval | None = None
    """Confidence interval of the recall; None without videos."""


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
    """Metrics of one classifier on labeled videos."""

    top1: float
    top5: float | None
    """None with fewer than 10 classes."""
    mean_class: float
    """Mean recall of the classes that have videos (balanced accuracy)."""
    log_loss: float
    ece: float
    """Expected calibration error: mean distance of confidence and accuracy over the videos, in percent."""
    per_class: tuple[ClassMetrics, ...]
    confusion: list[list[int]]
    """Counts [C][C], rows true, columns predicted."""
    bins: tuple[Bin, ...]
    top1_interval: Interval
    """Confidence interval of top1: Wilson's, or with groups one that takes them for the units that were drawn."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def groups_of(index: VideoIndex) -> Groups | None:
    """Group of each video [n]; None where a video has none."""
    return None if index.groups is None else np.array(index.groups)


def classification_metrics(
    probabilities: NDArray[np.float64], labels: Labels, classes: Sequence[str], groups: Groups | None = None
) -> Metrics:
    """Metrics of class probabilities.

    Args:
        probabilities: [n, C], n at least 1.
        labels: class numbers [n].
        classes: C names.
        groups: [n], the person, camera or source of each video, within which videos are alike; None: all are independent.
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
        ece=calibration_error(bins),
        per_class=per_class,
        confusion=confusion.tolist(),
        bins=bins,
        top1_interval=accuracy_interval(predicted == labels, groups),
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
            recall_interval=wilson(int(confusion[i, i]), int(support[i])) if support[i] else None,
        )
        for i, name in enumerate(classes)
    )


def wilson(right: float, count: float, critical: float = CRITICAL) -> Interval:
    """Wilson's (1927) interval of a share of `right` among `count`, which need not be whole numbers.

    Args:
        right: successes.
        count: trials, above 0.
        critical: quantile that the distance to the bounds is counted in, 1.96 for 95 %.
    """
    share, square = right / count, critical**2 / count
    center = (share + square / 2) / (1 + square)
    half = critical * math.sqrt(max(0.0, share * (1 - share)) / count + square / (4 * count)) / (1 + square)
    return Interval(100 * max(0.0, center - half), 100 * min(1.0, center + half))


def accuracy_interval(right: NDArray[np.bool_] | NDArray[np.float64], groups: Groups | None = None) -> Interval:
    """Interval of the accuracy on the population that the videos were drawn from.

    With groups, G of them, the groups are what was drawn: Wilson's interval for the effective number of videos, n over the
    design effect (variance of the accuracy between groups over that of independent videos), with the quantile of Student's
    t with G - 1 degrees of freedom (Korn & Graubard 1998).

    Args:
        right: [n], which videos are classified correctly; of several classifiers, the share of them that are right.
        groups: [n].
    """
    count, share = len(right), float(np.mean(right))
    if groups is None:
        return wilson(share * count, count)
    _, members = np.unique(groups, return_inverse=True)
    number = int(members.max()) + 1
    if number < 2:
        return Interval(0.0, 100.0)  # one person says nothing about others
    residuals = np.bincount(members, weights=right - share)
    variance = number / (number - 1) * float((residuals**2).sum()) / count**2
    critical = float(stats.t.ppf(0.975, number - 1))
    independent = share * (1 - share) / count
    # Where all are right, or all wrong, no variance can be seen: a group counts as one video.
    effect = max(1.0, variance / independent) if independent else count / number
    return wilson(share * count / effect, count / effect, critical)


def difference(ours: NDArray[np.bool_], theirs: NDArray[np.bool_], groups: Groups | None = None) -> Difference:
    """Difference of the accuracies of two classifiers on the same videos, with its interval.

    Independent videos are drawn with replacement, 2,000 times (paired bootstrap). Of groups there are few, for which a
    bootstrap is too narrow: their interval is that of Student's t with G - 1 degrees of freedom. Two made-up videos, one that
    only the one and one that only the other classifies correctly, keep the interval from collapsing where the two never
    differ (Agresti & Min 2005).

    Args:
        ours, theirs: [n], which videos each classifies correctly.
        groups: [n].
    """
    gains = ours.astype(np.float64) - theirs.astype(np.float64)
    mean = 100 * float(gains.mean())
    padded = np.concatenate([gains, [1.0, -1.0]])
    if groups is None:
        draws = np.random.default_rng(0).integers(len(padded), size=(DRAWS, len(padded)))
        low, high = np.quantile(100 * padded[draws].mean(1), [0.025, 0.975])
        wins, losses = int((gains > 0).sum()), int((gains < 0).sum())
        p_value = float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
        return Difference(mean, Interval(float(low), float(high)), p_value)
    members = np.unique(groups, return_inverse=True)[1]
    number = int(members.max()) + 1
    if number < 2:
        return Difference(mean, Interval(-100.0, 100.0), 1.0)  # one person says nothing about others
    members = np.concatenate([members, [number, number + 1]])
    residuals = np.bincount(members, weights=padded - padded.mean())
    error = 100 * math.sqrt(number / (number - 1) * float((residuals**2).sum())) / len(padded)
    half = float(stats.t.ppf(0.975, number - 1)) * error
    p_value = 2 * float(stats.t.sf(abs(mean) / error, number - 1))
    return Difference(mean, Interval(max(-100.0, mean - half), min(100.0, mean + half)), p_value)


def resampled_difference(ours: NDArray[np.float64], theirs: NDArray[np.float64], share: float) -> Difference:
    """Difference of the accuracies of two classifiers that were cross-validated on the same folds, with its interval.

    Folds share training videos, so that their differences vary less than those of independent data sets: Nadeau & Bengio (2003,
    "Inference for the generalization error", section 3) put the variance at (1 / n + q / (1 - q)) times that of the differences;
    the interval is that of Student's t with n - 1 degrees of freedom.

    Args:
        ours, theirs: accuracy in percent on each fold of each repetition, [n], n at least 2.
        share: of the videos that a fold holds, q.
    """
    gains = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    mean, count = float(gains.mean()), len(gains)
    error = math.sqrt((1 / count + share / (1 - share)) * float(gains.var(ddof=1)))
    half = float(stats.t.ppf(0.975, count - 1)) * error
    p_value = 2 * float(stats.t.sf(abs(mean) / error, count - 1)) if error else float(mean == 0)
    return Difference(mean, Interval(max(-100.0, mean - half), min(100.0, mean + half)), p_value)


def accuracy(probabilities: NDArray[np.float64], labels: Labels) -> float:
    """Top-1 accuracy in percent; probabilities [n, C], labels [n]."""
    return 100.0 * float((probabilities.argmax(1) == labels).mean())


def top_k(probabilities: NDArray[np.float64], labels: Labels, k: int) -> float:
    """Share of samples in percent whose label is among the k most probable classes; probabilities [n, C], labels [n]."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return 100.0 * float((best == labels[:, None]).any(1).mean())


def log_loss(probabilities: NDArray[np.float64], labels: Labels) -> float:
    """Mean negative log likelihood of the labels [n] under probabilities [n, C]."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())


def reliability(probabilities: NDArray[np.float64], labels: Labels, bins: int = BINS) -> tuple[Bin, ...]:
    """Confidence and accuracy in bins of equal width, by the probability of the most probable class."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    places = np.clip(np.ceil(confidence * bins - 1e-9).astype(int) - 1, 0, bins - 1)
    found: list[Bin] = []
    for i in range(bins):
        inside = places == i
        means = (float(confidence[inside].mean()), float(right[inside].mean())) if inside.any() else (None, None)
        found.append(Bin(i / bins, (i + 1) / bins, int(inside.sum()), *means))
    return tuple(found)


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error in percent: the mean distance of accuracy and confidence, over the videos of all bins."""
    return (
        100
        * sum(b.videos * abs((b.accuracy or 0.0) - (b.confidence or 0.0)) for b in bins)
        / sum(b.videos for b in bins)
    )


def feature_std(features: Tensor) -> float:
    """Standard deviation over samples, mean over channels; features [n, D]. Near 0: all samples look alike."""
    return features.float().std(0).mean().item()


def rankme(features: Tensor) -> float:
    """Effective rank: exp of the entropy of the singular values' shares (RankMe, Garrido et al. 2023, equation 2).

    The features are centered first, unlike in the paper: tokens share a large mean that would hide the rest.

    Args:
        features: [n, D].

    Returns:
        Between 1 (all on a line, or all the same) and min(n, D).
    """
    centered = features.double()
    centered = centered - centered.mean(0)
    gram = (
        centered.T @ centered if len(centered) > centered.shape[1] else centered @ centered.T
    )  # the smaller of the two
    values: Tensor = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    shares: Tensor = values / values.sum().clamp_min(1e-12)
    return torch.exp(-torch.xlogy(shares, shares).sum()).item()


def knn_accuracy(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, k: int = 10) -> float:
    """Accuracy in percent of a vote of the k nearest neighbors by cosine, weighted by distance.

    Args:
        train_x, test_x: features [n, D].
        train_y, test_y: labels [n].
    """
    model = KNeighborsClassifier(min(k, len(train_x)), metric="cosine", weights="distance")
    model.fit(train_x.float().cpu().numpy(), train_y.cpu().numpy())
    return 100.0 * float(model.score(test_x.float().cpu().numpy(), test_y.cpu().numpy()))
