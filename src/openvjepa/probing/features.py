"""What every probe shares: features as arrays, their mean tokens, and what training returns.

Features are arrays [n, V, N, D]: n videos, V clips (views) of each, N tokens, D channels; memory-mapped ones are read
batch by batch. K probes, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn

from openvjepa.metrics import Labels, accuracy, log_loss

Features: TypeAlias = NDArray[Any]
OnEpoch: TypeAlias = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Trained:
    """The probe that did best on the validation split.

    `predict` maps features [n, V, N, D] to class probabilities [n, C], averaged over the clips of a video; `module`
    maps tokens [B, N, D] to logits [B, C] where the probe can be saved. `losses` are the mean training losses
    [epochs, K].
    """

    predict: Callable[[Features], NDArray[np.float64]]
    chosen: dict[str, float]
    module: nn.Module | None = None
    losses: NDArray[np.float64] | None = None


def score(probabilities: NDArray[np.float64], labels: Labels) -> tuple[float, float]:
    """What the best probe has most of: accuracy in percent, then likelihood."""
    return accuracy(probabilities, labels), -log_loss(probabilities, labels)


def mean_tokens(x: Features) -> NDArray[np.float64]:
    """Mean of the tokens of each clip: [n, V, N, D] -> [n, V, D]."""
    return np.stack([np.asarray(video, dtype=np.float64).mean(1) for video in x])


@dataclass(frozen=True)
class Scaler:
    """Takes the mean tokens of the training clips to mean 0 and standard deviation 1, channel by channel."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @classmethod
    def of(cls, train: NDArray[np.float64]) -> Scaler:
        """Statistics of training features [n, V, D], and of nothing else. A constant channel is only centered."""
        std = train.std((0, 1))
        return cls(train.mean((0, 1)), np.where(std > 1e-8, std, 1.0))

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """[n, V, D] -> [n, V, D]."""
        return (x - self.mean) / self.std
