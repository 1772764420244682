"""Logistic regression on grids of cells, cross-validated for all grids and penalties at once.

What costs time is done once for all folds and penalties: pooling, scalar products, and the change to few directions, none of
which looks at a label. n videos, V clips of each, N tokens, D channels, G cells, F = G D features, C classes, K folds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, prod

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from openvjepa.grid import TokenGrid
from openvjepa.metrics import Labels, log_loss
from openvjepa.model.pooler import GridClassifier, LinearClassifier
from openvjepa.probing.calibration import fit_temperature, mean_softmax
from openvjepa.probing.features import Features
from openvjepa.probing.grid import (
    MOST_NUMBERS,
    MOST_ROWS,
    RIDGE_PENALTIES,
    TRIED,
    Basis,
    Cells,
    Doubles,
    Floats,
    Logistic,
    basis_of,
    candidates,
    dual_ridge,
    grid_module,
    least,
    pooled,
    scalar_products,
    single,
    some_rows,
    squared_error,
)
from openvjepa.probing.linear import SMALL, linear_module
from openvjepa.probing.search.low_shot import choose

PENALTIES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)  # scikit-learn's C, the strongest penalty first
WORSE = 2  # looser penalties in a row that do worse, after which the others are not tried
LANDMARKS = 2048  # most videos that scalar products are taken of
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Regression:
    """The grid and penalty that predict held-out videos best."""

    cells: Cells
    penalty: float
    """scikit-learn's C."""
    logits: Doubles
    """Of held-out videos, not calibrated, [n, C]; NaN for videos of no fold."""

    @property
    def settings(self) -> dict[str, float]:
        """For people and results.json."""
        return dict(zip(("t", "h", "w"), map(float, self.cells), strict=True)) | {"C": self.penalty}


@dataclass(frozen=True)
class Problem:
    """Labeled videos as rows of few numbers, the same for all folds and penalties.

    Attributes:
        z: [n, V', r], the clips in a basis of their own over the root of the number of cells, so that one scale of penalties
            fits all grids; V' is at most V.
        basis: from cell means to z.
    """

    z: Floats
    y: Labels
    classes: int
    basis: Basis
    cells: Cells
    grid: TokenGrid

    @classmethod
    def of(cls, x: Features, y: Labels, classes: int, cells: Cells, grid: TokenGrid) -> Problem:
        """Pool features [n, V, N, D]. The directions are those of the plain clips of at most 2,048 videos."""
        rows = pooled(x, grid, cells, _views(x))
        basis = basis_of(rows[some_rows(y, LANDMARKS), 0])
        return cls(single(basis(rows) / prod(cells) ** 0.5), y, classes, basis, cells, grid)

    def fit(self, solve: Logistic, rows: Rows, penalty: float) -> tuple[Floats, Floats]:
        """Weight [C, r] and bias [C] of all clips of some videos."""
        z = self.z[rows]
        return solve(z.reshape(-1, z.shape[-1]), np.repeat(self.y[rows], z.shape[1]), penalty)

    def logits(self, weight: Floats, bias: Floats, rows: Rows) -> Doubles:
        """Of the plain clips of some videos, [m, C]."""
        return np.asarray(self.z[rows, 0] @ weight.T + bias, dtype=np.float64)

    def others(self, rows: Rows) -> Rows:
        """All videos but these."""
        return np.setdiff1d(np.arange(len(self.y)), rows)

    def module(self, penalty: float, *, linear: bool) -> GridClassifier | LinearClassifier:
        """The classifier of all videos, on their tokens."""
        weight, bias = self.fit(Logistic(), np.arange(len(self.y)), penalty)
        weight, bias = self.basis.on_rows(single(weight / prod(self.cells) ** 0.5), bias)
        return linear_module(weight, bias) if linear else grid_module(weight, bias, self.grid, self.cells)


def choose_regression(
    x: Features,
    y: Labels,
    folds: Sequence[Rows],
    *,
    classes: int,
    grid: TokenGrid,
    linear: bool = False,
    deadline: float = inf,
) -> Regression | None:
    """Cross-validate logistic regression on cell means for every promising grid and every penalty.

    Each fold is predicted by classifiers that were trained on all videos outside of it. Ridge regression, which takes one
    Cholesky factor for each penalty and fold, chooses three grids; logistic regression then takes the penalty with the
    largest likelihood of the held-out labels, each at its best temperature, so that a strong penalty is not passed over
    for its modest probabilities. From strong penalties to loose ones each solution starts the next search.

    Args:
        x: features [n, V, N, D]; view 0 of a video is its plain clip, the only one that is predicted.
        y: class numbers [n].
        folds: rows of each fold.
        classes: C.
        grid: of the N tokens.
        linear: whether to take the mean of all tokens, and no other grid.
        deadline: on the monotonic clock; what has been solved until then counts.

    Returns:
        The best; None when the deadline came before anything was solved.
    """
    best: tuple[float, Regression] | None = None
    with threadpool_limits(1 if len(x) * prod(x.shape[2:]) < SMALL else None):
        for cells in [(1, 1, 1)] if linear else _promising(x, y, folds, classes, grid, deadline):
            if time.monotonic() > deadline:
                break
            problem = Problem.of(x, y, classes, cells, grid)
            for loss, penalty, logits in _path(problem, folds, deadline):
                if best is None or loss < best[0]:
                    best = loss, Regression(cells, penalty, logits)
    return None if best is None else best[1]


def fit_regression(
    x: Features, y: Labels, found: Regression, *, classes: int, grid: TokenGrid, linear: bool
) -> GridClassifier | LinearClassifier:
    """The classifier of this grid and penalty, trained on all videos."""
    with threadpool_limits(1 if len(x) * prod(x.shape[2:]) < SMALL else None):
        return Problem.of(x, y, classes, found.cells, grid).module(found.penalty, linear=linear)


def shares_of_labels(
    x: Features,
    y: Labels,
    folds: Sequence[Rows],
    found: Regression,
    shares: Sequence[float],
    *,
    classes: int,
    grid: TokenGrid,
    seed: int,
) -> dict[float, float]:
    """Accuracy of held-out videos, in percent, by the share of the videos outside of their fold that was trained on."""
    with threadpool_limits(1 if len(x) * prod(x.shape[2:]) < SMALL else None):
        problem = Problem.of(x, y, classes, found.cells, grid)
        curve = {}
        for share in shares:
            right = 0
            for number, test in enumerate(folds):
                train = problem.others(test)
                train = train[choose(y[train], share, seed, number)]
                said = problem.logits(*problem.fit(Logistic(), train, found.penalty), test)
                right += int((said.argmax(1) == y[test]).sum())
            curve[share] = 100 * right / sum(map(len, folds))
        return curve


def _views(x: Features) -> int:
    return max(1, min(x.shape[1], MOST_ROWS // len(x)))


def _promising(
    x: Features, y: Labels, folds: Sequence[Rows], classes: int, grid: TokenGrid, deadline: float
) -> list[Cells]:
    """The grids on which ridge regression has the least squared error on held-out videos."""
    possible = candidates(grid, x.shape[-1])
    most = MOST_NUMBERS // (len(x) * _views(x) * x.shape[-1])
    fitting = [cells for cells in possible if prod(cells) <= most] or list(possible[:1])
    if len(fitting) <= TRIED:
        return fitting
    kept = some_rows(y, LANDMARKS)
    inside = [np.flatnonzero(np.isin(kept, test)) for test in folds]
    errors: dict[Cells, float] = {}
    for cells in sorted(fitting, key=prod):
        rows = np.concatenate([pooled(x[part], grid, cells, 1)[:, 0] for part in np.array_split(kept, 16)])
        kernel, _ = scalar_products(rows, rows[:0])
        said = [np.full((len(kept), classes), np.nan) for _ in RIDGE_PENALTIES]
        for test in inside:
            train = np.setdiff1d(np.arange(len(kept)), test)
            found = dual_ridge(kernel[np.ix_(train, train)], y[kept[train]], kernel[np.ix_(test, train)], classes)
            for whole, part in zip(said, found, strict=True):
                whole[test] = part
        held = np.concatenate(inside)
        errors[cells] = min(squared_error(whole[held], y[kept[held]]) for whole in said)
        if time.monotonic() > deadline:
            break
    return least(errors)


def _path(problem: Problem, folds: Sequence[Rows], deadline: float) -> Iterator[tuple[float, float, Doubles]]:
    """(calibrated log loss of held-out videos, penalty, their logits), from the strongest penalty on until it is too loose."""
    solvers, held = [Logistic() for _ in folds], np.concatenate(list(folds))
    lowest, worse = inf, 0
    for penalty in PENALTIES:
        logits = np.full((len(problem.y), problem.classes), np.nan)
        for solve, test in zip(solvers, folds, strict=True):
            logits[test] = problem.logits(*problem.fit(solve, problem.others(test), penalty), test)
            if time.monotonic() > deadline:
                return
        said, labels = logits[held][:, None], problem.y[held]
        loss = log_loss(mean_softmax(said, fit_temperature(said, labels)), labels)
        yield loss, penalty, logits
        worse = 0 if loss < lowest else worse + 1
        lowest = min(lowest, loss)
        if worse == WORSE or any(solve.bounded for solve in solvers):
            return
