"""What may be wrong with a measured accuracy: other people in the test videos, the same videos on both sides."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

SIGNIFICANT = 0.01
"""Probability by chance under which validation and test count as different."""
NEAR = 0.05
"""Over the typical distance of neighbors, a distance under which two videos are near-duplicates."""


def differ(val: NDArray[np.bool_], test: NDArray[np.bool_]) -> str | None:
    """A warning when validation [n] and test [m] accuracy differ by more than chance allows (Fisher's exact test).

    Args:
        val, test: which videos are classified correctly.
    """
    table = np.array([[int(part.sum()), int((~part).sum())] for part in (val, test)])
    p_value = float(stats.fisher_exact(table).pvalue)
    if p_value >= SIGNIFICANT:
        return None
    return (
        f"accuracy is {100 * val.mean():.0f} % on validation and {100 * test.mean():.0f} % on test, which differ by more than "
        f"chance (p = {p_value:.1g}): do the test videos show other people, places or cameras? --group keeps these apart, so "
        "that validation chooses for them"
    )


def near_duplicates(train: NDArray[np.float64], test: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each test video the training video that it nearly repeats, or -1.

    Distances are cosine distances of centered features. Two videos are near-duplicates when their distance is less than a
    twentieth of the typical one from a training video to its nearest neighbor: absolute values mean nothing across encoders.

    Args:
        train, test: features [n, D], [m, D].
    """
    center, scale = train.mean(0), train.std(0)
    scale = np.where(scale > 1e-8, scale, 1.0)
    a, b = (_unit((x - center) / scale) for x in (train, test))
    among: NDArray[np.float64] = a @ a.T
    np.fill_diagonal(among, -1)
    typical = float(np.median(1 - among.max(1)))
    similarity: NDArray[np.float64] = b @ a.T
    nearest = similarity.argmax(1)
    return np.where(1 - similarity.max(1) < NEAR * typical, nearest, -1)


def _unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
