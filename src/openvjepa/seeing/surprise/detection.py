"""How well anomaly scores tell labeled anomalous videos from normal ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from openvjepa.seeing.surprise.anomalies import AnomalyEvent, ScoreName, VideoScores, peak_of_runs
from openvjepa.seeing.surprise.benchmarks import RESAMPLES, Accuracy


@dataclass(frozen=True)
class ScoreQuality:
    """One score on labeled videos, with 95 % intervals by resampling the videos of both kinds."""

    auroc: Accuracy
    """Chance level 0.5."""
    auprc: Accuracy
    """Average precision; chance level: the share of anomalous videos."""
    recall: float
    """Share of the anomalous videos with an event."""
    false_alarms: float
    """Share of the normal videos with an event."""


@dataclass(frozen=True)
class Detection:
    """All scores on labeled videos."""

    scores: dict[ScoreName, ScoreQuality]
    anomalous: int
    """Videos."""
    normal: int
    verdict: str
    """Which score is better on these videos, in words."""


def evaluate_detection(
    videos: Sequence[VideoScores],
    anomalous: NDArray[np.bool_],
    events: Sequence[AnomalyEvent],
    min_run: int,
    *,
    seed: int = 0,
) -> Detection:
    """Evaluate every score of labeled videos.

    A video counts with the highest threshold that makes an event of it (`peak_of_runs`).

    Args:
        videos: their scores.
        anomalous: whether each is, [V]; both kinds occur.
        events: of all scores.
        min_run: windows of the shortest event.
        seed: of the bootstrap.
    """
    names = list(videos[0].values)
    values = {name: _finite(np.array([peak_of_runs(video, name, min_run) for video in videos])) for name in names}
    rng = np.random.default_rng(seed)
    odd, usual = np.flatnonzero(anomalous), np.flatnonzero(~anomalous)
    draws = [np.concatenate([rng.choice(odd, len(odd)), rng.choice(usual, len(usual))]) for _ in range(RESAMPLES)]
    areas: dict[ScoreName, NDArray[np.float64]] = {
        name: np.array([float(roc_auc_score(anomalous[d], values[name][d])) for d in draws]) for name in names
    }
    found: dict[ScoreName, ScoreQuality] = {}
    for name in names:
        precisions = np.array([float(average_precision_score(anomalous[d], values[name][d])) for d in draws])
        alarmed = {event.path for event in events if event.score == name}
        with_event = np.array([video.path in alarmed for video in videos])
        found[name] = ScoreQuality(
            _interval(float(roc_auc_score(anomalous, values[name])), areas[name]),
            _interval(float(average_precision_score(anomalous, values[name])), precisions),
            float(with_event[anomalous].mean()),
            float(with_event[~anomalous].mean()),
        )
    return Detection(found, len(odd), len(usual), _verdict(found, areas))


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Undefined scores come last."""
    known = values[np.isfinite(values)]
    return np.where(np.isfinite(values), values, (known.min() if len(known) else 0.0) - 1.0)


def _interval(value: float, samples: NDArray[np.float64]) -> Accuracy:
    low, high = np.quantile(samples, (0.025, 0.975))
    return Accuracy(value, float(low), float(high))


def _verdict(found: dict[ScoreName, ScoreQuality], areas: dict[ScoreName, NDArray[np.float64]]) -> str:
    best, second = sorted(found, key=lambda name: -found[name].auroc.value)[:2]
    low, high = np.quantile(areas[best] - areas[second], (0.025, 0.975))
    difference = 100 * (found[best].auroc.value - found[second].auroc.value)
    numbers = f"AUROC {difference:+.1f} points over {second}, 95 % interval {100 * low:.1f} to {100 * high:.1f}"
    if found[best].auroc.low <= 0.5:
        return f"no score is above chance level with confidence; the highest is {best} ({numbers})"
    if low > 0:
        return f"{best} is the better score on these videos ({numbers})"
    return f"{best} has the highest AUROC on these videos, not distinguishable from {second} ({numbers})"
