"""Cross-validation: folds, held-out predictions, likely wrong labels."""

from __future__ import annotations

import numpy as np
import pytest

from openvjepa.grid import TokenGrid
from openvjepa.metrics import accuracy
from openvjepa.probing.search.crossval import CrossValidated, cross_validate, judged, make_folds, suspicious_labels
from openvjepa.probing.search.regression import choose_regression

CLASSES = ("a", "b", "c")


def toy(count: int, *, signal: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features [count, 2, 8, 6] whose tokens hold the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    directions = np.random.default_rng(9).normal(size=(3, 6))
    return rng.normal(size=(count, 2, 8, 6)) + signal * directions[labels][:, None, None], labels


def test_folds_are_a_partition_of_all_classes() -> None:
    labels = np.array([0] * 20 + [1] * 8 + [2] * 4)
    folds = make_folds(labels, 5, seed=3)
    assert len(folds) == 4, "as many as the smallest class has videos"
    assert sorted(np.concatenate(folds).tolist()) == list(range(32))
    assert all(set(labels[rows].tolist()) == {0, 1, 2} for rows in folds)
    assert make_folds(np.array([0, 0, 0, 1, 1]), 5, seed=0) == [], "two videos of a class are too few"


def test_groups_are_not_divided() -> None:
    labels = np.arange(36) % 2
    groups = [f"person {i // 4}" for i in range(36)]
    folds = make_folds(labels, 5, seed=0, groups=groups)
    assert len(folds) == 5
    for rows in folds:
        inside = {groups[i] for i in rows}
        outside = {groups[i] for i in range(36) if i not in set(rows.tolist())}
        assert not inside & outside


def found_by(kind: str, x: np.ndarray, y: np.ndarray) -> CrossValidated:
    """Of nearest neighbors, or of logistic regression."""
    folds = make_folds(y, 5, 0)
    if kind == "knn":
        return cross_validate(x, y, folds, kind, classes=CLASSES, num_heads=2)
    settings = {"classes": 3, "grid": TokenGrid(2, 2, 2), "linear": kind == "linear"}
    regression = choose_regression(x, y, folds, **settings)
    assert regression is not None
    return judged(kind, regression.logits, y, folds, 0.0, regression)


@pytest.mark.parametrize("kind", ["grid", "linear", "knn"])
def test_predictions_are_of_videos_that_were_not_seen(kind: str) -> None:
    """On noise, predictions of seen videos would be right far more often than by chance."""
    x, y = toy(90, signal=0.0)
    assert found_by(kind, x, y).mean < 55
    x, y = toy(90, signal=2.0)
    found = found_by(kind, x, y)
    assert found.mean > 90
    assert found.mean == pytest.approx(accuracy(found.probabilities, y))
    assert len(found.folds) == 5


def test_fewer_labels_are_not_better() -> None:
    x, y = toy(90, signal=2.0)
    folds = make_folds(y, 5, 0)
    less, all_of_them = (
        cross_validate(x, y, folds, "knn", classes=CLASSES, num_heads=2, fraction=share) for share in (0.1, 1.0)
    )
    assert less.mean <= all_of_them.mean


def test_wrong_labels_are_found() -> None:
    x, y = toy(90, signal=2.0)
    given = y.copy()
    given[[5, 40]] = (given[[5, 40]] + 1) % 3
    suspicions = suspicious_labels(found_by("linear", x, given).probabilities, given)
    assert {s.row for s in suspicions} == {5, 40}
    assert all((s.given, s.predicted) == (given[s.row], y[s.row]) for s in suspicions)
