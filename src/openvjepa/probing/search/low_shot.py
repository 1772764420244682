"""How few labels are enough: probes trained on shares of the training videos (V-JEPA paper, low-shot frozen evaluation).

Shapes: n videos, V clips of each, N tokens, D channels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from openvjepa.metrics import Labels
from openvjepa.probing.features import Features
from openvjepa.probing.probes import Outcome

log = logging.getLogger("openvjepa")

_DRAW = 11  # tag that keeps this stream of random numbers apart

Train = Callable[[Features, Labels], Mapping[str, Outcome]]
"""Trains probes of all kinds on features [n, V, N, D] and class numbers [n]."""


@dataclass(frozen=True)
class Share:
    """Test accuracies of probes trained on a share of the training videos."""

    fraction: float
    videos: int
    """Training videos that were used."""
    top1: dict[str, tuple[float, ...]]
    """Kind of probe -> top-1 in percent of each draw."""

    def mean(self, kind: str) -> float:
        """Mean over the draws."""
        return float(np.mean(self.top1[kind]))

    def spread(self, kind: str) -> float | None:
        """Standard deviation of the draws (of the sample); None of a single one."""
        return float(np.std(self.top1[kind], ddof=1)) if len(self.top1[kind]) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        probes = {
            kind: {"mean": self.mean(kind), "std": self.spread(kind), "draws": self.top1[kind]} for kind in self.top1
        }
        return {"fraction": self.fraction, "videos": self.videos, "probes": probes}


class Rows:
    """Some rows of features on disk, read when they are asked for: a copy could fill the memory."""

    def __init__(self, x: Features, rows: NDArray[np.int64]) -> None:
        self.x, self.rows = x, rows
        self.shape, self.ndim = (len(rows), *x.shape[1:]), x.ndim

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        first, *rest = key if isinstance(key, tuple) else (key,)
        return self.x[(self.rows[first], *rest)]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self.x[row] for row in self.rows)


def label_efficiency(
    train: Train,
    x: Features,
    y: Labels,
    whole: Mapping[str, Outcome],
    *,
    fractions: Sequence[float],
    draws: int,
    seed: int,
) -> tuple[Share, ...]:
    """Train on shares of the training videos.

    The videos of a draw are chosen class by class, at least one of each; a larger share holds the smaller ones of its draw.

    Args:
        train: trains and tests probes; validation and test videos stay the same.
        x, y: training features [n, V, N, D] and class numbers [n].
        whole: what training on all of them gave.
        fractions: shares, 0..1.
        draws: random choices of each share.
        seed: of the choices.

    Returns:
        By share, and last all videos.
    """
    shares: list[Share] = []
    for number, fraction in enumerate(sorted(fractions), start=1):
        found: dict[str, list[float]] = {kind: [] for kind in whole}
        chosen = [choose(y, fraction, seed, draw) for draw in range(draws)]
        for draw, rows in enumerate(chosen, start=1):
            log.info("label fraction %g (%d/%d), draw %d/%d", fraction, number, len(fractions), draw, draws)
            for kind, outcome in train(cast(Features, Rows(x, rows)), y[rows]).items():
                found[kind].append(outcome.test_top1)
        shares.append(Share(fraction, len(chosen[0]), {kind: tuple(top1) for kind, top1 in found.items()}))
    return (*shares, Share(1.0, len(y), {kind: (outcome.test_top1,) for kind, outcome in whole.items()}))


def choose(y: Labels, fraction: float, seed: int, draw: int) -> NDArray[np.int64]:
    """Places, in order, of a share of the videos of each class, rounded, but at least one."""
    rng = np.random.default_rng((seed, _DRAW, draw))
    chosen: list[NDArray[np.int64]] = []
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        chosen.append(members[: max(1, round(fraction * len(members)))])
    return np.sort(np.concatenate(chosen))
