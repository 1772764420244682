"""The grid probe against scikit-learn, torch's pooling and closed forms; calibration against a plain search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from openvjepa.errors import CheckpointError, ConfigError
from openvjepa.grid import TokenGrid
from openvjepa.model.encoder import Encoder
from openvjepa.model.pooler import GridClassifier, cell_means
from openvjepa.probing import grid as subject
from openvjepa.probing.calibration import fit_temperature, mean_softmax
from openvjepa.probing.grid import candidates, pooled, solutions
from openvjepa.probing.probes import best_kind, probe_features
from openvjepa.weights.hub import load_model, save_model
from openvjepa.weights.probes import fill_probe

GRID = TokenGrid(2, 4, 4)


def corners(videos: int, *, seed: int, views: int = 2, noise: float = 1.0) -> tuple[Any, Any]:
    """Features [n, V, 32, 6]: the class is the quarter of the picture in which one direction is strong."""
    rng = np.random.default_rng(seed)
    labels = np.arange(videos) % 4
    x = noise * rng.normal(size=(videos, views, 2, 4, 4, 6))
    for i, label in enumerate(labels):
        top, left = 2 * (label // 2), 2 * (label % 2)
        x[i, :, :, top : top + 2, left : left + 2] += np.eye(6)[0]
    return x.reshape(videos, views, 32, 6).astype(np.float32), labels


@pytest.mark.parametrize("cells", [(1, 1, 1), (2, 4, 4), (1, 3, 3), (2, 2, 3)])
def test_cells_are_torchs_adaptive_pooling(cells: tuple[int, int, int]) -> None:
    x = torch.randn(3, 32, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    truth = F.adaptive_avg_pool3d(x.transpose(1, 2).unflatten(2, GRID.shape), cells).flatten(2).transpose(1, 2)
    matrix = cell_means(GRID.shape, cells).double()
    torch.testing.assert_close(matrix @ x, truth, rtol=1e-6, atol=1e-6)
    head = GridClassifier(6, 4, tokens=GRID.shape, cells=cells).double()
    torch.testing.assert_close(head(x), head.linear(truth.flatten(1)), rtol=1e-6, atol=1e-6)
    with pytest.raises(ConfigError, match="cannot read 31"):
        head(x[:, :31])


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("count", "features"), [(200, 12), (40, 90)])
def test_solutions_are_scikit_learns_with_fewer_and_more_rows_than_features(
    classes: int, count: int, features: int
) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(3, rng.uniform(0.5, 2, size=features), size=(count, features)).astype(np.float32)
    labels = np.arange(count) % classes
    rows[:, :classes] += np.eye(classes)[labels].astype(np.float32)
    for penalty, weight, bias in solutions(rows, labels, cells=1):
        if penalty > 0.2:
            continue  # L-BFGS stops early there, in both
        truth = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=5000, tol=1e-6)).fit(
            rows, labels
        )
        logits = torch.from_numpy(rows @ weight.T + bias)
        np.testing.assert_allclose(logits.softmax(-1), truth.predict_proba(rows), atol=5e-3)


def test_the_largest_directions_are_kept_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "COMPONENTS", 20)
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(300, 10)) @ rng.normal(size=(10, 80))).astype(np.float32)  # of rank 10
    for count in (300, 60):  # more rows than features, and fewer
        basis = subject.basis_of(rows[:count])
        assert basis.directions is not None
        assert 10 <= basis.directions.shape[1] <= 20
        standard = (rows - rows[:count].mean(0)) / rows[:count].std(0)
        np.testing.assert_allclose(basis(rows) @ basis.directions.T, standard, atol=5e-3)


def test_place_is_known_to_the_grid_alone() -> None:
    data = (*corners(120, seed=1), *corners(40, seed=2), *corners(80, seed=3))
    found = probe_features(*data, classes=list("abcd"), num_heads=3, grid=GRID, kinds=("linear", "grid"))
    assert found["linear"].test_top1 < 45
    assert found["grid"].test_top1 > 90
    assert found["grid"].chosen["h"] >= 2
    assert best_kind(found, data[3]) == "grid"
    module = found["grid"].module
    assert module is not None
    tokens = torch.from_numpy(data[4]).flatten(0, 1)
    by_module = module(tokens).softmax(-1).unflatten(0, (80, 2)).mean(1)
    np.testing.assert_allclose(found["grid"].probabilities, by_module.numpy(), atol=1e-5)


def test_candidates_fit_the_tokens() -> None:
    assert candidates(TokenGrid(1, 3, 3), 192) == ((1, 1, 1), (1, 2, 2), (1, 3, 3))
    assert (2, 16, 16) in candidates(TokenGrid(8, 16, 16), 3)
    assert (2, 16, 16) not in candidates(TokenGrid(8, 16, 16), 192)
    x, _ = corners(3, seed=0)
    assert pooled(x, GRID, (1, 2, 2), 1).shape == (3, 1, 24)


def test_a_grid_probe_is_saved_whole(encoder: Encoder, tmp_path: Path) -> None:
    small = GridClassifier(24, 4, tokens=(2, 2, 2), cells=(1, 2, 2))
    save_model(tmp_path / "small", encoder, probe=small, labels="abcd")
    loaded = load_model(tmp_path / "small").probe
    assert isinstance(loaded, GridClassifier)
    tokens = torch.randn(5, 8, 24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded(tokens), small(tokens), rtol=0, atol=0)
    state = small.state_dict()
    for tokens_, cells in (([2, 2, 2], [2, 2, 2]), ([1024, 1024, 1024], [1, 2, 2]), ([1, 2, 2], [2, 2, 1])):
        with pytest.raises(CheckpointError, match="its probe cannot be read"):
            fill_probe({"kind": "grid", "tokens": tokens_, "cells": cells}, 24, 4, state, "file")


def test_temperature_is_the_most_likely_one() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 1, 3))
    shares = mean_softmax(logits)
    labels = np.array([rng.choice(3, p=row) for row in shares])
    assert fit_temperature(logits, labels) == pytest.approx(1, abs=0.15)
    assert fit_temperature(5 * logits, labels) == pytest.approx(5, rel=0.15)
    several = np.repeat(5 * logits, 3, axis=1) + rng.normal(size=(4000, 3, 3))
    found = fit_temperature(several, labels)
    losses = {t: -np.log(mean_softmax(several, t)[np.arange(4000), labels]).mean() for t in np.linspace(2, 10, 81)}
    assert found == pytest.approx(min(losses, key=lambda t: losses[t]), abs=0.15)


def test_a_perfect_validation_does_not_make_a_classifier_certain() -> None:
    logits, labels = 3 * np.eye(2)[[0, 1] * 5][:, None], np.array([0, 1] * 5)
    sure = mean_softmax(logits, fit_temperature(logits, labels)).max(1)
    np.testing.assert_allclose(sure, 11 / 12, atol=1e-3)  # (n + 1) / (n + C)
