"""Logistic regression that is cross-validated for all grids and penalties at once."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from openvjepa.grid import TokenGrid
from openvjepa.probing.calibration import calibrate, ece_by_chance, module_logits
from openvjepa.probing.grid import RIDGE_PENALTIES, dual_ridge, least
from openvjepa.probing.search.crossval import make_folds
from openvjepa.probing.search.regression import choose_regression, fit_regression, shares_of_labels

GRID = TokenGrid(2, 4, 4)


def made(videos: int = 60, classes: int = 3, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features [n, 2, 32, 4] whose class is told by the upper left quarter of the frame alone."""
    rng = np.random.default_rng(seed)
    labels = np.arange(videos) % classes
    x = rng.normal(2, 1, (videos, 2, 2, 4, 4, 4)).astype(np.float32)
    x[:, :, :, :2, :2, :classes] += 0.9 * np.eye(classes, dtype=np.float32)[labels][:, None, None, None, None]
    x[:, :, :, 2:, 2:, :classes] -= 0.9 * np.eye(classes, dtype=np.float32)[labels][:, None, None, None, None]
    return x.reshape(videos, 2, 32, 4), labels


def test_a_grid_is_found_where_the_mean_of_all_tokens_says_nothing() -> None:
    x, y = made()
    folds = make_folds(y, 4, 0)
    grid = choose_regression(x, y, folds, classes=3, grid=GRID)
    mean = choose_regression(x, y, folds, classes=3, grid=GRID, linear=True)
    assert grid is not None
    assert mean is not None
    assert mean.cells == (1, 1, 1)
    assert grid.cells in {(1, 2, 2), (1, 4, 4), (2, 2, 2)}
    assert (grid.logits.argmax(1) == y).mean() > 0.9 > 0.6 > (mean.logits.argmax(1) == y).mean()


def test_held_out_and_final_answers_are_those_of_scikit_learn() -> None:
    x, y = made(90)
    x = x[:, :1]
    folds = make_folds(y, 3, 0)
    found = choose_regression(x, y, folds, classes=3, grid=GRID, linear=True)
    assert found is not None
    means = x[:, 0].mean(1)
    scaled = StandardScaler().fit_transform(means)  # of all videos: standardizing looks at no label
    for test in folds:
        train = np.setdiff1d(np.arange(90), test)
        theirs = LogisticRegression(C=found.penalty, max_iter=1000, tol=1e-8).fit(scaled[train], y[train])
        ours = np.exp(found.logits[test] - np.logaddexp.reduce(found.logits[test], axis=1, keepdims=True))
        assert np.abs(ours - theirs.predict_proba(scaled[test])).max() < 5e-3
    module = fit_regression(x, y, found, classes=3, grid=GRID, linear=True)
    whole = make_pipeline(StandardScaler(), LogisticRegression(C=found.penalty, max_iter=1000, tol=1e-8)).fit(means, y)
    logits = module_logits(module, x)[:, 0]
    ours = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    assert np.abs(ours - whole.predict_proba(means)).max() < 5e-3


def test_dual_ridge_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(40, 7)), np.arange(40) % 4
    others, targets = rng.normal(size=(9, 7)), np.eye(4)[labels]
    middle = targets.mean(0)
    found = list(dual_ridge(rows @ rows.T / 7, labels, others @ rows.T / 7, 4))
    for penalty, ours in zip(RIDGE_PENALTIES, found, strict=True):
        model = Ridge(alpha=penalty * 40 * 7, fit_intercept=False).fit(rows, targets - middle)
        assert np.allclose(ours, model.predict(others) + middle, atol=1e-6)


def test_of_equal_grids_the_smallest_is_tried() -> None:
    errors = {(1, 1, 1): 0.9, (1, 4, 4): 0.5, (2, 4, 4): 0.50001, (1, 6, 6): 0.4, (1, 2, 2): 0.8}
    assert least(errors) == [(1, 6, 6), (1, 4, 4), (1, 2, 2)]


def test_more_labels_help_and_a_deadline_ends_the_search() -> None:
    x, y = made(120, seed=1)
    folds = make_folds(y, 4, 0)
    found = choose_regression(x, y, folds, classes=3, grid=GRID)
    assert found is not None
    curve = shares_of_labels(x, y, folds, found, (0.1, 1.0), classes=3, grid=GRID, seed=0)
    assert curve[1.0] == pytest.approx(100 * (found.logits.argmax(1) == y).mean(), abs=1)
    assert curve[0.1] < curve[1.0]
    assert choose_regression(x, y, folds, classes=3, grid=GRID, deadline=time.monotonic() - 1) is None


def test_a_temperature_is_taken_only_where_it_helps() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (600, 4))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(4, p=row) for row in shares])
    true, sure = calibrate(logits, labels), calibrate(3 * logits, labels)
    assert true.temperature == pytest.approx(1, abs=0.15)
    assert sure.temperature == pytest.approx(3, rel=0.15)
    assert sure.ece < 6 < 15 < sure.ece_before
    few = calibrate(logits[:6], labels[:6])
    assert few.log_loss <= calibrate(logits[:6], labels[:6], seed=1).log_loss + 10  # six videos: no failure


def test_few_videos_show_an_error_by_chance() -> None:
    half = np.full((10_000, 2), 0.5)
    assert ece_by_chance(half, draws=20) < 2
    assert ece_by_chance(half[:16]) == pytest.approx(100 * 0.0982, abs=1)  # E|k/16 - 1/2| of a fair coin
