"""Videos unlike those that a classifier was trained on: the distance to the nearest training videos.

n videos, V clips of each, N tokens, D channels.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from openvjepa.errors import CheckpointError
from openvjepa.weights.files import write_file

FILE = "novelty.npz"
"""Beside the classifier in its folder."""
NEIGHBORS = 5
SHARE = 0.95  # of the training videos that count as like the others
MOST = 4000  # training videos that are kept
LEAST = 10  # training videos, below which nothing can be said


@dataclass(frozen=True)
class Novelty:
    """Mean distance to the 5 nearest training videos, in standardized mean tokens (Sun et al. 2022, with Euclidean distances).

    Attributes:
        mean, std: of the training videos' mean tokens, [D].
        bank: standardized mean tokens of training videos, [m, D].
        threshold: distance that 95 % of the training videos have at most to the others, those of their own group left out.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    bank: NDArray[np.float32]
    threshold: float

    @classmethod
    def of(cls, means: NDArray[Any], groups: Sequence[str] | None = None) -> Novelty | None:
        """From mean tokens of training videos [n, D]; None of fewer than 10 videos, or where they do not differ.

        Args:
            means: one row for each video.
            groups: person, camera or source of each video, whose own videos are too near to count.
        """
        if len(means) < LEAST:
            return None
        kept = np.linspace(0, len(means) - 1, min(MOST, len(means))).round().astype(int)
        rows = np.asarray(means, dtype=np.float32)[kept]
        mean, std = rows.mean(0), rows.std(0)
        std = np.where(std > 1e-6 * max(float(std.max()), 1e-12), std, np.float32(1))
        bank = (rows - mean) / std
        near = _held_out(bank, None if groups is None else np.array(groups)[kept])
        threshold = float(np.quantile(near, SHARE)) if len(near) else 0.0
        return cls(mean, std, bank, threshold) if threshold > 0 else None

    def __call__(self, means: NDArray[Any]) -> NDArray[np.float64]:
        """Mean tokens [n, D] -> distance of each video over the threshold: above 1 it is unlike the training videos."""
        rows = (np.asarray(means, dtype=np.float32) - self.mean) / self.std
        near = NearestNeighbors(n_neighbors=min(NEIGHBORS, len(self.bank))).fit(self.bank)
        return np.asarray(near.kneighbors(rows)[0]).mean(1) / self.threshold

    def save(self, folder: Path) -> None:
        """Write it beside a classifier.

        Raises:
            CheckpointError: it cannot be written.
        """
        found = io.BytesIO()
        np.savez(found, mean=self.mean, std=self.std, bank=self.bank, threshold=np.float64(self.threshold))
        write_file(folder / FILE, found.getvalue())


def load_novelty(folder: Path, channels: int) -> Novelty | None:
    """What a folder holds; None if it has none.

    Raises:
        CheckpointError: it cannot be read, or is not of an encoder with so many channels.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            mean, std, bank = (np.asarray(stored[name], dtype=np.float32) for name in ("mean", "std", "bank"))
            threshold = float(stored["threshold"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}): delete it to predict without it") from None
    fits = mean.shape == std.shape == (channels,) and bank.ndim == 2 and bank.shape[1] == channels and len(bank)
    if not fits or not np.isfinite(bank).all() or not threshold > 0:
        raise CheckpointError(f"{path}: does not belong to this classifier: delete it to predict without it")
    return Novelty(mean, std, bank, threshold)


def _held_out(bank: NDArray[np.float32], groups: NDArray[Any] | None) -> NDArray[np.float64]:
    """Mean distance of each training video to its nearest neighbors among the others."""
    search = NearestNeighbors(n_neighbors=min(NEIGHBORS, len(bank) - 1)).fit(bank)
    if groups is None:
        return np.asarray(search.kneighbors()[0]).mean(1)
    found: list[NDArray[np.float64]] = []
    for group in np.unique(groups):
        others = bank[groups != group]
        if len(others):
            near = NearestNeighbors(n_neighbors=min(NEIGHBORS, len(others))).fit(others)
            found.append(np.asarray(near.kneighbors(bank[groups == group])[0]).mean(1))
    return np.concatenate(found) if found else np.zeros(0)
