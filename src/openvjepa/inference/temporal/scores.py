"""How well predicted segments agree with labeled ones, as action segmentation measures it.

Accuracy over time; F1 at an overlap and edit score of Lea et al. 2017, "Temporal Convolutional Networks for Action
Segmentation and Detection", section 4.2. Time without a label is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from openvjepa.metrics import Interval, wilson

Piece = tuple[float, float, int]
"""Start and end, s, and class of a segment."""

OVERLAPS = (0.1, 0.25, 0.5)
_TOUCH = 1e-3  # s; segments that are closer belong together
_SLIVER = 0.04  # s, a frame at 25 per second; a shorter rest of a predicted segment beside unlabeled time is none


@dataclass(frozen=True)
class Agreement:
    """Counts of one video."""

    right: float
    """Labeled time under the right class, s."""
    labeled: float
    """Labeled time, s."""
    by_class: dict[int, tuple[float, float]]
    """Class -> (right, labeled) time, s."""
    hits: tuple[int, ...]
    """Predicted segments that match a labeled one, at each of OVERLAPS."""
    predicted: int
    """Predicted segments."""
    segments: int
    """Labeled segments."""
    edit: float
    """Edit score, percent."""


@dataclass(frozen=True)
class TemporalMetrics:
    """Agreement over all videos, in percent."""

    accuracy: float
    """Share of the labeled time under the right class."""
    accuracy_interval: Interval
    """Where the accuracy on other videos is to be expected (95 %), with videos, or groups of them, as what was drawn."""
    mean_class: float
    """Mean over the classes of that share."""
    f1: dict[str, float]
    """Overlap ("0.1") -> F1 of the segments."""
    edit: float
    """Edit score: 100 where the order of the segments' classes is right; the mean over the videos."""
    recall: dict[str, float]
    """Class -> share of its time under the right class."""
    segments: int
    """Labeled segments."""
    predicted: int
    """Predicted segments."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Segments in order of time; those of one class that touch are one."""
    found: list[Piece] = []
    for start, end, label in sorted(pieces):
        if found and found[-1][2] == label and start - found[-1][1] <= _TOUCH:
            found[-1] = (found[-1][0], max(end, found[-1][1]), label)
        else:
            found.append((start, end, label))
    return found


def agreement(predicted: Sequence[Piece], truth: Sequence[Piece]) -> Agreement:
    """Compare the segments of one video; neither list overlaps itself.

    A predicted segment matches the labeled one of its class that it overlaps most (intersection over union), if that is at
    least the threshold and no earlier one has matched it. Predicted segments are cut to the labeled time.
    """
    true = joined(truth)
    found = _cut(joined(predicted), true)
    time: dict[int, tuple[float, float]] = {}
    for start, end, label in true:
        shared = sum(_shared(piece, (start, end, label)) for piece in found if piece[2] == label)
        right, labeled = time.get(label, (0.0, 0.0))
        time[label] = right + shared, labeled + end - start
    whole = [piece for piece in found if piece[1] - piece[0] >= _SLIVER or piece in true]
    whole = joined(whole)
    return Agreement(
        right=sum(right for right, _ in time.values()),
        labeled=sum(labeled for _, labeled in time.values()),
        by_class=time,
        hits=tuple(_hits(whole, true, overlap) for overlap in OVERLAPS),
        predicted=len(whole),
        segments=len(true),
        edit=edit_score([label for *_, label in whole], [label for *_, label in true]),
    )


def _cut(pieces: Sequence[Piece], truth: Sequence[Piece]) -> list[Piece]:
    """The parts of segments that lie in labeled time."""
    stretches: list[list[float]] = []
    for start, end, _ in truth:
        if stretches and start - stretches[-1][1] <= _TOUCH:
            stretches[-1][1] = end
        else:
            stretches.append([start, end])
    cut = [(max(a, start), min(b, end), label) for a, b, label in pieces for start, end in stretches]
    return sorted(piece for piece in cut if piece[1] > piece[0])


def _shared(one: Piece, other: Piece) -> float:
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))


def _hits(predicted: Sequence[Piece], truth: Sequence[Piece], overlap: float) -> int:
    taken = [False] * len(truth)
    for piece in predicted:
        shares = [
            _shared(piece, true) / (max(piece[1], true[1]) - min(piece[0], true[0])) if piece[2] == true[2] else 0.0
            for true in truth
        ]
        best = int(np.argmax(shares)) if shares else 0
        if shares and shares[best] >= overlap and not taken[best]:
            taken[best] = True
    return sum(taken)


def edit_score(predicted: Sequence[int], truth: Sequence[int]) -> float:
    """100 less the edit distance of two sequences of classes, in percent of the longer one (Levenshtein)."""
    row = list(range(len(truth) + 1))
    for i, one in enumerate(predicted, 1):
        above, row[0] = row[0], i
        for j, other in enumerate(truth, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (one != other))
    return 100 * (1 - row[-1] / max(len(predicted), len(truth), 1))


def temporal_metrics(
    found: Sequence[Agreement], classes: Sequence[str], groups: Sequence[str] | None = None
) -> TemporalMetrics:
    """Metrics over videos.

    Args:
        found: of each video, at least one.
        classes: names.
        groups: person, camera or source of each video; None: each is its own.
    """
    right, labeled = (np.array([getattr(one, name) for one in found]) for name in ("right", "labeled"))
    time = {
        label: [sum(one.by_class.get(label, (0.0, 0.0))[i] for one in found) for i in (0, 1)]
        for label in sorted({label for one in found for label in one.by_class})
    }
    recall = {classes[label]: 100 * ours / whole for label, (ours, whole) in time.items()}
    predicted, segments = sum(one.predicted for one in found), sum(one.segments for one in found)
    hits = np.array([one.hits for one in found]).sum(0)
    return TemporalMetrics(
        accuracy=100 * float(right.sum() / labeled.sum()),
        accuracy_interval=_interval(right, labeled, groups),
        mean_class=float(np.mean(list(recall.values()))),
        f1={
            f"{overlap:g}": 200 * float(hit) / (predicted + segments)
            for overlap, hit in zip(OVERLAPS, hits, strict=True)
        },
        edit=float(np.mean([one.edit for one in found])),
        recall=recall,
        segments=segments,
        predicted=predicted,
    )


def _interval(right: NDArray[np.float64], labeled: NDArray[np.float64], groups: Sequence[str] | None) -> Interval:
    """Interval of a share of time: Wilson's for the effective number of videos (or groups), as in `accuracy_interval`.

    The variance between videos is that of a ratio estimator, the quantile Student's with one degree of freedom fewer than
    videos.
    """
    members = np.arange(len(right)) if groups is None else np.unique(np.array(groups), return_inverse=True)[1]
    number = int(members.max()) + 1
    if number < 2:
        return Interval(0.0, 100.0)  # one video says nothing about others
    share = float(right.sum() / labeled.sum())
    residuals = np.bincount(members, weights=right - share * labeled)
    variance = number / (number - 1) * float((residuals**2).sum()) / float(labeled.sum()) ** 2
    # Where all videos are alike, no variance can be seen: each counts once.
    effective = min(share * (1 - share) / variance, 1e9) if variance > 0 and 0 < share < 1 else float(number)
    return wilson(share * effective, effective, float(stats.t.ppf(0.975, number - 1)))
