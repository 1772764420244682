"""Calibration of classifiers by a temperature (Guo et al. 2017, "On Calibration of Modern Neural Networks").

n videos, V clips of each, N tokens, D channels, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from torch import Tensor, nn

from openvjepa.metrics import Labels, calibration_error, log_loss, reliability
from openvjepa.model.pooler import AttentiveClassifier, GridClassifier, LinearClassifier, attentive_logits
from openvjepa.probing.features import Features

ROWS = 256  # clips in one pass
PARTS = 5  # of held-out videos, to try a temperature
LARGEST = 100.0  # temperature, and 1 / the smallest

Classifier = AttentiveClassifier | LinearClassifier | GridClassifier


@torch.inference_mode()
def module_logits(module: nn.Module, x: Features, device: torch.device | None = None) -> NDArray[np.float64]:
    """Logits of a classifier on features: [n, V, N, D] -> [n, V, C]."""
    device = device or torch.device("cpu")
    clips = x.shape[1]
    videos = max(1, ROWS // clips)
    parts: list[Tensor] = []
    for start in range(0, len(x), videos):
        tokens = torch.from_numpy(np.array(x[start : start + videos], dtype=np.float32)).to(device).flatten(0, 1)
        logits = attentive_logits([module], tokens)[0] if isinstance(module, AttentiveClassifier) else module(tokens)
        parts.append(logits.double().cpu().unflatten(0, (-1, clips)))
    return torch.cat(parts).numpy()


def module_probabilities(module: nn.Module, x: Features) -> NDArray[np.float64]:
    """Class probabilities of a classifier, averaged over the clips of a video: [n, V, N, D] -> [n, C]."""
    return mean_softmax(module_logits(module, x))


def mean_softmax(logits: NDArray[np.float64], temperature: float = 1.0) -> NDArray[np.float64]:
    """Logits of clips [n, V, C] -> probabilities of videos [n, C]: the softmax of each clip, averaged."""
    return np.asarray(softmax(logits / temperature, axis=-1)).mean(1)


def fit_temperature(logits: NDArray[np.float64], labels: Labels) -> float:
    """Temperature by which logits are divided so that the labels of n validation videos are most likely.

    The most probable class stays the same for videos of one clip. Where all n answers are right, the likelihood grows without
    end as the temperature falls; as in Platt's scaling (1999), a label therefore counts as right with the probability
    (n + 1) / (n + C), the mean of its posterior under a uniform prior.

    Args:
        logits: [n, V, C].
        labels: class numbers [n].
    """
    count, _, classes = logits.shape
    targets = np.full((count, classes), 1 / (count + classes))
    targets[np.arange(count), labels] = (count + 1) / (count + classes)

    def loss(log_temperature: float) -> float:
        shares = mean_softmax(logits, float(np.exp(log_temperature)))
        return float(-(targets * np.log(np.maximum(shares, 1e-30))).sum(1).mean())

    bounds = (-np.log(LARGEST), np.log(LARGEST))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x)) if loss(float(found.x)) < loss(0.0) else 1.0


@dataclass(frozen=True)
class Calibration:
    """What a temperature does for the held-out predictions of a cross-validation."""

    temperature: float
    """1 where no temperature makes held-out labels more likely."""
    log_loss: float
    """Of the held-out videos, each at the temperature that the others have chosen."""
    ece: float
    """Expected calibration error of these, in percent."""
    ece_before: float
    """The same without a temperature."""


def calibrate(logits: NDArray[np.float64], labels: Labels, seed: int = 0) -> Calibration:
    """Temperature of held-out logits [n, C], where cross-validation says that it helps.

    The videos are divided into five parts; the temperature of four of them is tried on the fifth. Only where that makes the
    labels of all five more likely than no temperature does, the temperature of all videos is taken.
    """
    parts = np.random.default_rng((seed, 23)).permutation(len(labels)) % PARTS
    before, after = mean_softmax(logits[:, None]), np.empty_like(logits)
    for part in range(PARTS):
        rows, others = parts == part, parts != part
        temperature = fit_temperature(logits[others][:, None], labels[others]) if others.any() else 1.0
        after[rows] = mean_softmax(logits[rows][:, None], temperature)
    helps = log_loss(after, labels) < log_loss(before, labels)
    chosen = after if helps else before
    temperature = fit_temperature(logits[:, None], labels) if helps else 1.0
    return Calibration(temperature, log_loss(chosen, labels), ece(chosen, labels), ece(before, labels))


def ece(probabilities: NDArray[np.float64], labels: Labels) -> float:
    """Expected calibration error of probabilities [n, C], in percent."""
    return calibration_error(reliability(probabilities, labels))


def ece_by_chance(probabilities: NDArray[np.float64], draws: int = 200) -> float:
    """The error in percent that so few videos show on average when the probabilities [n, C] are exactly right."""
    rng = np.random.default_rng(0)
    bounds = probabilities.cumsum(1)
    labels = (rng.random((draws, len(bounds), 1)) > bounds / bounds[:, -1:]).sum(2)
    return float(np.mean([ece(probabilities, row) for row in labels]))


@torch.no_grad()
def divide_logits(module: Classifier, temperature: float) -> None:
    """Make a classifier's logits those of a temperature, in its last layer: files and programs need not know of it."""
    module.linear.weight.div_(temperature)
    module.linear.bias.div_(temperature)
