"""Units of videos divided into splits or folds, with the classes alike in all.

n videos, U units, C strata (classes, or combinations of labels).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from openvjepa.errors import DataError

Numbers = NDArray[np.int64]
TRIES = 20  # ways to divide groups of which the one with the most equal classes is taken
MANY = 1000  # with more units than this, each counts as one video of its most frequent class: that is even enough, and fast


def divide(strata: Sequence[int], units: Numbers, shares: dict[str, float], seed: int) -> list[str]:
    """Split of each video: "train", or a key of `shares`.

    A class keeps at least one unit for train; where it has no other, none of its videos is held out.

    Args:
        strata: class of each video, [n].
        units: unit of each video, [n].
        shares: split -> share of the videos, 0..1, of splits that are held out; together less than 1.
        seed: of the choice; it depends on the order of the videos, too.

    Raises:
        DataError: no video can be held out.
    """
    classes, splits = np.asarray(strata), np.full(len(units), "train", dtype=object)
    rest, left = np.arange(len(units)), 1.0
    for name, share in shares.items():
        if not share:
            continue
        free = rest[~_last_of_class(classes[rest], units[rest])]
        held = _held_out(classes[free], units[free], share / left * len(rest), seed) if len(free) else free
        if not len(held):
            raise DataError(
                f"no videos can be held out for {name} that leave every class some to train on: every class has videos of a "
                "single group, or all videos look alike: add videos, or group them otherwise"
            )
        splits[free[held]] = name
        rest, left = np.setdiff1d(rest, free[held]), left - share
    return [str(name) for name in splits]


def _last_of_class(classes: Numbers, units: Numbers) -> NDArray[np.bool_]:
    """Which videos are of a unit without which a class would have no videos, [n]."""
    kept = {int(units[classes == c][0]) for c in np.unique(classes) if len(np.unique(units[classes == c])) == 1}
    return np.isin(units, list(kept))


def _held_out(classes: Numbers, units: Numbers, wanted: float, seed: int) -> Numbers:
    """Places of about so many videos, of which every class has its share and leaves at least a unit."""
    if len(np.unique(units)) == len(units):
        return _by_class(classes, wanted / len(classes), seed)
    best, least = np.zeros(0, np.int64), np.inf
    for fold in _candidates(classes, units, max(2, round(len(classes) / wanted)), seed):
        gone = np.isin(units, units[fold])
        if set(classes[~gone]) != set(classes):
            continue
        if (cost := _cost(classes, fold, wanted)) < least:
            best, least = fold, cost
    return best


def _by_class(classes: Numbers, share: float, seed: int) -> Numbers:
    """A share of each class, rounded, at least one and not all of it."""
    rng, held = np.random.default_rng((seed, 7)), []
    for c in np.unique(classes):
        members = rng.permutation(np.flatnonzero(classes == c))
        held.append(members[: min(max(1, round(share * len(members))), len(members) - 1)])
    return np.sort(np.concatenate(held))


def _cost(classes: Numbers, fold: Numbers, wanted: float) -> float:
    """How far a part is from its share of each class: the mean over classes, and over all videos."""
    counts, found = np.bincount(classes), np.bincount(classes[fold], minlength=int(classes.max()) + 1)
    share, there = wanted / len(classes), counts > 0
    return float(np.abs(found[there] / counts[there] - share).mean() + abs(len(fold) - wanted) / len(classes))


def _candidates(classes: Numbers, units: Numbers, parts: int, seed: int) -> Iterator[Numbers]:
    for attempt in range(TRIES if len(np.unique(units)) <= MANY else 3):
        yield from _folds(classes, units, min(parts, len(np.unique(units))), seed * TRIES + attempt)


def _folds(classes: Numbers, units: Numbers, parts: int, seed: int) -> list[Numbers]:
    _, first, members = np.unique(units, return_index=True, return_inverse=True)
    single = len(first) == len(units)
    if not single and len(first) > MANY:
        tally = np.zeros((len(first), int(classes.max()) + 1), np.int64)
        np.add.at(tally, (members, classes), 1)
        parted = _folds(tally.argmax(1), np.arange(len(first)), parts, seed)
        return [np.flatnonzero(np.isin(members, fold)) for fold in parted]
    if not single:
        return _grouped_folds(classes, members, parts, seed)
    divider = StratifiedKFold(parts, shuffle=True, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer videos than parts is in some of them only
        try:
            return [np.asarray(test) for _, test in divider.split(classes, classes)]
        except ValueError:  # every class has fewer videos than parts: there is nothing to stratify
            return [np.asarray(test) for _, test in divider.split(classes, np.zeros(len(classes)))]


def _grouped_folds(classes: Numbers, members: Numbers, parts: int, seed: int) -> list[Numbers]:
    """Whole units in parts with the classes alike: large units first, each into the part that it makes the most even.

    scikit-learn's StratifiedGroupKFold divides in the same way, but its seeds hardly change the result, as they order groups of
    equal classes alone. Here the order is that of the sizes times log-normal noise.
    """
    rng = np.random.default_rng((seed, 13))
    shares = np.zeros((int(members.max()) + 1, int(classes.max()) + 1))
    np.add.at(shares, (members, classes), 1)
    sizes = shares.sum(1)
    shares = shares[:, shares.any(0)] / shares.sum(0)[shares.any(0)]
    order = np.argsort(-sizes * rng.lognormal(sigma=0.3, size=len(sizes)), kind="stable")
    filled, count, fold_of = np.zeros((parts, shares.shape[1])), np.zeros(parts), np.zeros(len(sizes), np.int64)
    for unit in order:
        added = (filled + shares[unit]) ** 2 + (filled**2).sum(0) - filled**2
        spread = np.sqrt(np.maximum(added / parts - ((filled.sum(0) + shares[unit]) / parts) ** 2, 0)).mean(1)
        best = np.lexsort((count, np.round(spread, 9)))[0]
        fold_of[unit], filled[best], count[best] = best, filled[best] + shares[unit], count[best] + sizes[unit]
    return [np.flatnonzero(fold_of[members] == part) for part in range(parts)]


def folds_for(strata: Sequence[int], units: Numbers, parts: int, seed: int) -> Numbers:
    """Fold of each video, from 1, [n]: as many videos of each class in each fold as units allow.

    Args:
        strata: class of each video, [n].
        units: unit of each video, [n].
        parts: folds, at least 2.
        seed: of the choice; it depends on the order of the videos, too.

    Raises:
        DataError: there are fewer units than folds.
    """
    classes, found = np.asarray(strata), len(np.unique(units))
    if found < parts:
        raise DataError(
            f"{parts} folds for {found} sets of videos that must not be divided (groups, near-duplicates): use fewer folds"
        )
    tries = 1 if found == len(units) else TRIES if found <= MANY else 3
    best, least = np.zeros(0, np.int64), np.inf
    for attempt in range(tries):
        folds = _folds(classes, units, parts, seed * TRIES + attempt)
        cost = sum(_cost(classes, fold, len(classes) / parts) for fold in folds)
        if cost < least and all(len(fold) for fold in folds):
            numbers = np.zeros(len(classes), np.int64)
            for number, fold in enumerate(folds, 1):
                numbers[fold] = number
            best, least = numbers, cost
    if not len(best):
        raise DataError(f"{found} sets of videos that must not be divided make no {parts} folds: use fewer folds")
    return best
