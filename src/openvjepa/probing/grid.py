"""The grid probe: logistic regression on tokens averaged within the cells of a coarse grid.

n videos, V clips of each, N tokens, D channels, G cells, C classes; F = G D features of a clip, m = n V rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from openvjepa.grid import TokenGrid
from openvjepa.metrics import Labels
from openvjepa.model.pooler import GridClassifier, cell_means
from openvjepa.probing.calibration import module_probabilities
from openvjepa.probing.features import Features, Trained, score
from openvjepa.probing.linear import INVERSE_PENALTIES, SMALL

Cells = tuple[int, int, int]
Floats = NDArray[np.float32]

CELLS: tuple[Cells, ...] = ((1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 6, 6), (2, 2, 2), (2, 4, 4), (4, 4, 4))
"""Grids (time, height, width) that validation chooses from, as far as there are so many tokens."""
FINE: tuple[Cells, ...] = ((1, 8, 8), (2, 8, 8), (4, 8, 8), (1, 16, 16), (2, 16, 16))
"""Finer ones, for features of few channels, such as pixels."""
FEW_CHANNELS = 16
COMPONENTS = 1024  # directions of largest variance that are kept where there are more rows and features
MOST_ROWS = 8192  # with more clips than this, fewer views of each video are used
MOST_NUMBERS = 2**28  # in the features of the training clips: 1 GiB


def candidates(grid: TokenGrid, channels: int) -> tuple[Cells, ...]:
    """Coarse grids that fit a token grid, each once."""
    wanted = CELLS + (FINE if channels <= FEW_CHANNELS else ())
    return tuple(dict.fromkeys((min(t, grid.t), min(h, grid.h), min(w, grid.w)) for t, h, w in wanted))


def train_grid(
    train_x: Features, train_y: Labels, val_x: Features, val_y: Labels, *, classes: int, grid: TokenGrid
) -> Trained:
    """Multinomial logistic regression on standardized cell means; penalty and grid are chosen on validation.

    The penalty of a grid of G cells is G times that of the linear probe's, so that one scale of penalties fits all grids.
    Grids whose features would take more than 1 GiB are left out.

    Args:
        train_x, val_x: features [n, V, N, D].
        train_y, val_y: class numbers [n], every class occurring in train_y.
        classes: C.
        grid: of the N tokens.
    """
    views = max(1, min(train_x.shape[1], MOST_ROWS // len(train_x)))
    rows = len(train_x) * views
    best: tuple[tuple[float, float], dict[str, float], GridClassifier] | None = None
    for cells in candidates(grid, train_x.shape[-1]):
        if best is not None and rows * prod(cells) * train_x.shape[-1] > MOST_NUMBERS:
            continue
        train, val = pooled(train_x, grid, cells, views), pooled(val_x, grid, cells)
        labels = np.repeat(train_y, views)
        for penalty, weight, bias in solutions(train.reshape(rows, -1), labels, classes, prod(cells)):
            probabilities = _softmax(val.reshape(-1, weight.shape[1]) @ weight.T + bias)
            value = score(probabilities.reshape(len(val), -1, classes).mean(1), val_y)
            if best is None or value > best[0]:
                chosen = dict(zip(("t", "h", "w"), map(float, cells), strict=True)) | {"C": penalty}
                best = value, chosen, _module(weight, bias, grid, cells)
    assert best is not None
    (top1, _), chosen, module = best
    return Trained(lambda x: module_probabilities(module, x), chosen | {"val_top1": top1}, module)


def pooled(x: Features, grid: TokenGrid, cells: Cells, views: int | None = None) -> Floats:
    """Cell means of the first `views` clips of each video: [n, V, N, D] -> float32 [n, views, G D]."""
    matrix = cell_means(grid.shape, cells).numpy()
    return np.stack(
        [(matrix @ np.asarray(video[:views], dtype=np.float32)).reshape(len(video[:views]), -1) for video in x]
    )


@dataclass(frozen=True)
class _Basis:
    """Rows of standardized features in fewer numbers: rows = (x - mean) / std, z = rows @ directions."""

    mean: Floats
    std: Floats
    directions: Floats | None
    """[F, r]; None: the features themselves."""
    z: Floats


def _reduced(rows: Floats) -> _Basis:
    """Standardized rows [m, F] in a basis of their own where that is smaller.

    A penalty on the squared weights does not depend on the basis, and the solution lies in the span of the rows: with at most
    1,024 rows or features nothing is lost. Otherwise the 1,024 directions of largest variance are kept.
    """
    mean, std = rows.mean(0), rows.std(0)
    std = np.where(std > 1e-6 * max(float(std.max()), 1e-12), std, np.float32(1))
    standard = (rows - mean) / std
    count, features = standard.shape
    if features <= min(count, COMPONENTS):
        return _Basis(mean, std, None, standard)
    if count <= COMPONENTS:
        values, vectors = np.linalg.eigh(standard.astype(np.float64) @ standard.T.astype(np.float64))
        kept = values > 1e-7 * values[-1]
        scale = np.sqrt(values[kept])
        directions = standard.T @ (vectors[:, kept] / scale).astype(np.float32)
        return _Basis(mean, std, directions, (vectors[:, kept] * scale).astype(np.float32))
    found = randomized_svd(standard, COMPONENTS, n_iter=2, n_oversamples=32, random_state=0)  # pyright: ignore[reportArgumentType] (the stub: n_iter is a word)
    right = found[2]
    directions = np.ascontiguousarray(right.T, dtype=np.float32)
    return _Basis(mean, std, directions, standard @ directions)


def solutions(rows: Floats, labels: Labels, classes: int, cells: int) -> Iterator[tuple[float, Floats, Floats]]:
    """Logistic regression for every penalty, from the strongest on: (C, weight [C, F], bias [C]) on the rows themselves."""
    with threadpool_limits(1 if rows.size < SMALL else None):
        basis = _reduced(rows)
        scale = np.float32(cells**0.5)
        model = LogisticRegression(max_iter=300, warm_start=True)
        for penalty in INVERSE_PENALTIES:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", ConvergenceWarning
                )  # a loose penalty may need more steps than it is worth
                model.set_params(C=penalty).fit(basis.z / scale, labels)
            weight, bias = np.asarray(model.coef_) / scale, np.asarray(model.intercept_)
            if classes == 2:  # scikit-learn keeps one row: the log odds of the second class
                weight, bias = np.stack([np.zeros_like(weight[0]), weight[0]]), np.array([0.0, bias[0]])
            weight = weight if basis.directions is None else weight @ basis.directions.T
            weight = (weight / basis.std).astype(np.float32)
            yield penalty, weight, (bias - weight @ basis.mean).astype(np.float32)


def _softmax(logits: Floats) -> NDArray[np.float64]:
    shares = np.exp((logits - logits.max(1, keepdims=True)).astype(np.float64))
    return shares / shares.sum(1, keepdims=True)


def _module(weight: Floats, bias: Floats, grid: TokenGrid, cells: Cells) -> GridClassifier:
    module = GridClassifier(weight.shape[1] // prod(cells), len(weight), tokens=grid.shape, cells=cells)
    with torch.no_grad():
        module.linear.weight.copy_(torch.from_numpy(weight))
        module.linear.bias.copy_(torch.from_numpy(bias))
    return module.eval().requires_grad_(False)
