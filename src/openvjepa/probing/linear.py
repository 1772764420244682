"""The linear probe: logistic regression on mean tokens.

n videos, V clips of each, D channels, C classes.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from openvjepa.metrics import Labels
from openvjepa.model.pooler import LinearClassifier, average_softmax
from openvjepa.probing.features import Scaler, Trained, mean_tokens, score

INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)  # scikit-learn's C
SMALL = 10_000_000  # a matrix with fewer numbers is multiplied as fast by one thread as by several


def train_linear(
    train_x: NDArray[np.float64], train_y: Labels, val_x: NDArray[np.float64], val_y: Labels, *, classes: int
) -> Trained:
    """Multinomial logistic regression on standardized mean tokens, all views of the training videos.

    The problem is convex and solved to the end (L-BFGS, scikit-learn), so that no learning rate or number of epochs can
    favour one encoder over another; the penalty is chosen on validation.

    Args:
        train_x, val_x: mean tokens [n, V, D].
        train_y, val_y: class numbers [n], every class occurring in train_y.
        classes: C.
    """
    scaler = Scaler.of(train_x)
    rows, labels = scaler(train_x).reshape(-1, train_x.shape[-1]), np.repeat(train_y, train_x.shape[1])
    best: tuple[tuple[float, float], float, LinearClassifier] | None = None
    for penalty in INVERSE_PENALTIES:
        with warnings.catch_warnings(), threadpool_limits(1 if rows.size < SMALL else None):
            warnings.simplefilter("ignore", ConvergenceWarning)  # a loose penalty may need more steps than it is worth
            solved = LogisticRegression(C=penalty, max_iter=1000).fit(rows, labels)
        module = _linear_module(solved, scaler, classes)
        value = score(_linear_probabilities(module, val_x), val_y)
        if best is None or value > best[0]:
            best = value, penalty, module
    assert best is not None
    value, penalty, module = best
    return Trained(
        lambda x: _linear_probabilities(module, mean_tokens(x)), {"C": penalty, "val_top1": value[0]}, module
    )


def _linear_module(solved: LogisticRegression, scaler: Scaler, classes: int) -> LinearClassifier:
    """The solution as a layer on the mean tokens themselves, with the standardization folded into its weights."""
    weight, bias = np.asarray(solved.coef_), np.asarray(solved.intercept_)
    if classes == 2:  # scikit-learn keeps one row: the log odds of the second class
        weight, bias = np.stack([np.zeros_like(weight[0]), weight[0]]), np.array([0.0, bias[0]])
    weight = weight / scaler.std
    return linear_module(weight, bias - weight @ scaler.mean)


def linear_module(weight: NDArray[Any], bias: NDArray[Any]) -> LinearClassifier:
    """A linear layer, [C, D] and [C], on mean tokens as a classifier of tokens, in eval mode."""
    module = LinearClassifier(weight.shape[1], len(weight))
    with torch.no_grad():
        module.linear.weight.copy_(torch.from_numpy(weight))
        module.linear.bias.copy_(torch.from_numpy(bias))
    return module.eval().requires_grad_(False)


def _linear_probabilities(module: LinearClassifier, means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean tokens [n, V, D] -> probabilities [n, C]."""
    logits = module.linear(torch.from_numpy(means.reshape(-1, means.shape[-1])).float())
    return average_softmax(logits, means.shape[1]).double().numpy()
