"""The grid probe: logistic regression on tokens averaged within the cells of a coarse grid.

n videos, V clips of each, N tokens, D channels, G cells, C classes; F = G D features of a clip, m = n V rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve
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
Doubles = NDArray[np.float64]

CELLS: tuple[Cells, ...] = ((1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 6, 6), (2, 2, 2), (2, 4, 4), (4, 4, 4))
"""Grids (time, height, width) that validation chooses from, as far as there are so many tokens."""
FINE: tuple[Cells, ...] = ((1, 8, 8), (2, 8, 8), (4, 8, 8), (1, 16, 16), (2, 16, 16))
"""Finer ones, for features of few channels, such as pixels."""
FEW_CHANNELS = 16
COMPONENTS = 512  # directions of largest variance that are kept where there are more rows and features
STEPS = 300  # of one search
TRIED = 3  # grids that logistic regression is tried on
SCREENED = 2048  # most videos of the ridge regression that chooses them
RIDGE_PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)  # relative to the number of videos
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
    Grids whose features would take more than 1 GiB are left out. Ridge regression, whose solutions for all penalties follow
    from one matrix of scalar products, chooses the grids that logistic regression is tried on.

    Args:
        train_x, val_x: features [n, V, N, D].
        train_y, val_y: class numbers [n], every class occurring in train_y.
        classes: C.
        grid: of the N tokens.
    """
    views = max(1, min(train_x.shape[1], MOST_ROWS // len(train_x)))
    rows = len(train_x) * views
    possible = candidates(grid, train_x.shape[-1])
    fitting = [cells for cells in possible if rows * prod(cells) * train_x.shape[-1] <= MOST_NUMBERS]
    with threadpool_limits(1 if rows * train_x.shape[-1] < SMALL else None):
        tried = _promising(fitting or possible[:1], train_x, train_y, val_x, val_y, classes=classes, grid=grid)
    best: tuple[tuple[float, float], dict[str, float], GridClassifier] | None = None
    for cells in tried:
        train, val = pooled(train_x, grid, cells, views), pooled(val_x, grid, cells)
        labels = np.repeat(train_y, views)
        for penalty, weight, bias in solutions(train.reshape(rows, -1), labels, prod(cells)):
            probabilities = _softmax(val.reshape(-1, weight.shape[1]) @ weight.T + bias)
            value = score(probabilities.reshape(len(val), -1, classes).mean(1), val_y)
            if best is None or value > best[0]:
                chosen = dict(zip(("t", "h", "w"), map(float, cells), strict=True)) | {"C": penalty}
                best = value, chosen, grid_module(weight, bias, grid, cells)
    assert best is not None
    (top1, _), chosen, module = best
    return Trained(lambda x: module_probabilities(module, x), chosen | {"val_top1": top1}, module)


def _promising(
    possible: Sequence[Cells],
    train_x: Features,
    train_y: Labels,
    val_x: Features,
    val_y: Labels,
    *,
    classes: int,
    grid: TokenGrid,
) -> list[Cells]:
    """The grids on which ridge regression has the least squared error on validation, the best first."""
    if len(possible) <= TRIED:
        return list(possible)
    rows = some_rows(train_y, SCREENED)
    errors: dict[Cells, float] = {}
    for cells in possible:
        train, val = pooled((train_x[i] for i in rows), grid, cells, 1)[:, 0], pooled(val_x, grid, cells)
        kernel, other = scalar_products(train, val.reshape(-1, val.shape[-1]))
        said = (
            part.reshape(len(val), -1, classes).mean(1) for part in dual_ridge(kernel, train_y[rows], other, classes)
        )
        errors[cells] = min(squared_error(part, val_y) for part in said)
    return least(errors)


def least(errors: Mapping[Cells, float]) -> list[Cells]:
    """The three grids of the least errors, the best first; of grids with the same one the smallest.

    On still images grids that divide time are all alike.
    """
    kept: dict[Cells, float] = {}
    for cells in sorted(errors, key=prod):
        if not any(np.isclose(errors[cells], error, rtol=1e-4) for error in kept.values()):
            kept[cells] = errors[cells]
    return sorted(kept, key=lambda cells: kept[cells])[:TRIED]


def squared_error(said: Doubles, labels: Labels) -> float:
    """Mean squared distance of predictions [n, C] to the classes [n]."""
    return float(((said - np.eye(said.shape[1])[labels]) ** 2).sum(1).mean())


def some_rows(labels: Labels, most: int) -> NDArray[np.int64]:
    """Rows of at most so many videos, the same share of each class, in order."""
    if len(labels) <= most:
        return np.arange(len(labels))
    order = np.argsort(labels, kind="stable")
    return np.sort(order[np.linspace(0, len(labels) - 1, most).round().astype(int)])


def dual_ridge(kernel: Doubles, labels: Labels, other: Doubles, classes: int) -> Iterator[Doubles]:
    """Ridge regression of the classes for each penalty, from scalar products alone: predictions [m, C].

    Its dual form, (K + penalty n) a = targets (Saunders et al. 1998).

    Args:
        kernel: scalar products of the training rows, relative to the number of features, [n, n].
        labels: class numbers [n].
        other: scalar products of other rows with them, [m, n].
        classes: C.
    """
    targets = np.eye(classes)[labels]
    middle = targets.mean(0)
    for penalty in RIDGE_PENALTIES:
        matrix = kernel.copy()
        matrix.flat[:: len(matrix) + 1] += penalty * len(matrix)
        dual = cho_solve(cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False), targets - middle)
        yield other @ dual + middle


def scalar_products(rows: Floats, others: Floats) -> tuple[Doubles, Doubles]:
    """Of standardized rows [n, F] with each other [n, n] and of others [m, F] with them [m, n], relative to F."""
    mean, std = _moments(rows)
    a, b = (rows - mean) / std, (others - mean) / std
    return (a @ a.T).astype(np.float64) / a.shape[1], (b @ a.T).astype(np.float64) / a.shape[1]


def pooled(x: Features | Iterable[Features], grid: TokenGrid, cells: Cells, views: int | None = None) -> Floats:
    """Cell means of the first `views` clips of each video: [n, V, N, D] -> float32 [n, views, G D]; one video at a time."""
    matrix = cell_means(grid.shape, cells).numpy()
    return np.stack(
        [(matrix @ np.asarray(video[:views], dtype=np.float32)).reshape(len(video[:views]), -1) for video in x]
    )


@dataclass(frozen=True)
class Basis:
    """Standardized features in fewer numbers: z = (rows - mean) / std @ directions."""

    mean: Floats
    std: Floats
    directions: Floats | None
    """[F, r]; None: the features themselves."""

    def __call__(self, rows: Floats) -> Floats:
        """[..., F] -> [..., r]."""
        standard = single((rows - self.mean) / self.std)
        return standard if self.directions is None else standard @ self.directions

    def on_rows(self, weight: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """A linear layer on z, [C, r] and [C], as one on the rows themselves, [C, F] and [C]."""
        weight = weight if self.directions is None else weight @ self.directions.T
        weight = (weight / self.std).astype(np.float32)
        return weight, (bias - weight @ self.mean).astype(np.float32)


def single(x: ArrayLike) -> Floats:
    """As float32."""
    return np.asarray(x, dtype=np.float32)


def _moments(rows: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of rows [m, F]; 1 for a feature that is the same in all."""
    mean, std = rows.mean(0), rows.std(0)
    return mean, np.where(std > 1e-6 * max(float(std.max()), 1e-12), std, np.float32(1))


def basis_of(rows: Floats) -> Basis:
    """Directions in which a linear classifier of rows [m, F] can be found.

    A penalty on the squared weights does not depend on the basis, and the solution lies in the span of the rows: with at most
    512 rows or features nothing is lost. Otherwise the 512 directions of largest variance are kept, which follow from the
    smaller one of the two matrices of scalar products.
    """
    mean, std = _moments(rows)
    count, features = rows.shape
    if features <= COMPONENTS:
        return Basis(mean, std, None)
    standard = (rows - mean) / std
    gram = standard @ standard.T if count <= features else standard.T @ standard
    if len(gram) <= COMPONENTS:
        values, vectors = np.linalg.eigh(gram.astype(np.float64))
    else:
        vectors, values, _ = randomized_svd(gram, COMPONENTS, n_iter=1, n_oversamples=32, random_state=0)  # pyright: ignore[reportArgumentType] (the stub: n_iter is a word)
    kept = values > 1e-6 * values.max()  # of scalar products in float32
    values, vectors = values[kept], vectors[:, kept]
    if count <= features:
        vectors = standard.T @ (vectors / np.sqrt(values)).astype(np.float32)
    return Basis(mean, std, np.ascontiguousarray(vectors, dtype=np.float32))


class Logistic:
    """Multinomial logistic regression for one penalty after another: each solution starts the next search (L-BFGS).

    Attributes:
        bounded: whether the last search ended for its number of steps, before it had converged.
    """

    def __init__(self) -> None:
        self.model = LogisticRegression(max_iter=STEPS, warm_start=True)
        self.bounded = False

    def __call__(self, z: Floats, labels: Labels, penalty: float) -> tuple[Floats, Floats]:
        """Weight [C, r] and bias [C]; rows [m, r], class numbers [m], scikit-learn's C."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a loose penalty may need more steps than it is worth
            self.model.set_params(C=penalty).fit(z, labels)
        self.bounded = int(np.max(self.model.n_iter_)) >= STEPS
        weight, bias = single(self.model.coef_), single(self.model.intercept_)
        if len(weight) == 1:  # scikit-learn keeps one row of two classes: the log odds of the second
            weight, bias = np.stack([np.zeros_like(weight[0]), weight[0]]), single([0.0, bias[0]])
        return weight, bias


def solutions(rows: Floats, labels: Labels, cells: int) -> Iterator[tuple[float, Floats, Floats]]:
    """Logistic regression for every penalty, from the strongest on: (C, weight [C, F], bias [C]) on the rows themselves."""
    with threadpool_limits(1 if rows.size < SMALL else None):
        basis, solve = basis_of(rows), Logistic()
        scale = cells**0.5
        z = single(basis(rows) / scale)
        for penalty in INVERSE_PENALTIES:
            weight, bias = solve(z, labels, penalty)
            yield penalty, *basis.on_rows(single(weight / scale), bias)
            if solve.bounded:  # looser ones would need more steps still
                return


def _softmax(logits: Floats) -> NDArray[np.float64]:
    shares = np.exp((logits - logits.max(1, keepdims=True)).astype(np.float64))
    return shares / shares.sum(1, keepdims=True)


def grid_module(weight: Floats, bias: Floats, grid: TokenGrid, cells: Cells) -> GridClassifier:
    """A linear layer on the means of the cells as a classifier of tokens, in eval mode."""
    module = GridClassifier(weight.shape[1] // prod(cells), len(weight), tokens=grid.shape, cells=cells)
    with torch.no_grad():
        module.linear.weight.copy_(torch.from_numpy(weight))
        module.linear.bias.copy_(torch.from_numpy(bias))
    return module.eval().requires_grad_(False)
