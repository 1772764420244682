"""Anomalies: windows unlike those of normal videos, by their features or by the prediction error.

A detector is fitted on normal videos alone. Some of these videos (whole files) are held out; the threshold of each score is a
quantile of their windows. An event is a run of consecutive windows above a threshold.

Shapes: B windows of T frames, N tokens of a window, D channels, W windows of a video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from openvjepa.data.media.video import open_video
from openvjepa.errors import ConfigError, DataError, VideoError
from openvjepa.features.encode import encode
from openvjepa.seeing.surprise.error import PredictiveModel, predictive_model, window_errors
from openvjepa.seeing.surprise.following import FollowSettings
from openvjepa.seeing.surprise.windows import plan_windows, read_windows
from openvjepa.weights.loaded import LoadedModel

ScoreName = Literal["distance", "tokens", "ratio", "surprise"]
BY_FEATURES: tuple[ScoreName, ...] = ("distance", "tokens")
BY_PREDICTION: tuple[ScoreName, ...] = ("ratio", "surprise")
_NEIGHBORS = 5
_TOP_SHARE = 0.01  # of a window's tokens
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AnomalySettings:
    """How a detector is fitted."""

    quantile: float = 0.99
    """Of the scores of held-out normal windows: the threshold."""
    held_out: float = 0.3
    """Share of the normal videos that set the threshold."""
    bank: int = 4096
    """Most windows, and most tokens, that are kept of the others."""
    seed: int = 0
    """Of the choice of held-out videos and of what is kept."""


@dataclass(frozen=True, eq=False)
class AnomalyModel:
    """A model, and the parts of it that measure prediction error."""

    loaded: LoadedModel
    predictive: PredictiveModel | None
    """None: the model has no usable predictor."""
    reason: str | None = None
    """Why not."""

    @property
    def scores(self) -> tuple[ScoreName, ...]:
        """The scores that this model has."""
        return BY_FEATURES if self.predictive is None else BY_FEATURES + BY_PREDICTION


def anomaly_model(loaded: LoadedModel) -> AnomalyModel:
    """Use a loaded model for anomalies; without a predictor of masked tokens, the scores by features remain."""
    try:
        return AnomalyModel(loaded, predictive_model(loaded))
    except ConfigError as error:
        return AnomalyModel(loaded, None, str(error))


@dataclass(frozen=True, eq=False)
class VideoScores:
    """Scores of the windows of one video."""

    path: str
    numbers: NDArray[np.int64]
    """Of the windows that could be read, [W]: consecutive ones differ by 1."""
    spans: tuple[tuple[float, float], ...]
    """Start of the first and of the last frame of each, s."""
    values: dict[ScoreName, Floats]
    """Score -> [W]; nan where it is undefined (the ratio of a window in which nothing changes)."""
    skipped: dict[int, str]
    """Number of a window that could not be read -> reason."""


@dataclass(frozen=True)
class AnomalyEvent:
    """A run of consecutive windows above the threshold of a score."""

    path: str
    start: float
    """Start of its first window, s."""
    end: float
    """Start of the last frame of its last window, s."""
    score: ScoreName
    peak: float
    """Highest score in it."""
    threshold: float
    windows: int


class Bank:
    """Distance to the nearest of normal vectors.

    Channels are scaled to the mean and deviation of the bank, distances divided by the root of their number.

    Args:
        vectors: [n, D].
        neighbors: nearest ones whose distances are averaged; at most n.
    """

    def __init__(self, vectors: NDArray[np.float32], neighbors: int) -> None:
        self._scaler = StandardScaler().fit(vectors)
        self._search = NearestNeighbors(n_neighbors=min(neighbors, len(vectors)), algorithm="brute")
        self._search.fit(self._scaler.transform(vectors))

    def distances(self, vectors: NDArray[np.float32]) -> Floats:
        """[m, D] -> [m]."""
        found = np.asarray(self._search.kneighbors(self._scaler.transform(vectors))[0], np.float64)
        return found.mean(1) / np.sqrt(vectors.shape[1])


class Sample:
    """A uniform sample of rows that come in parts (those with the smallest random keys), in bounded memory.

    Args:
        size: rows to keep.
        rng: source of the keys.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self._size, self._rng = size, rng
        self._keys = np.empty(0)
        self._rows: NDArray[np.float32] | None = None

    def add(self, rows: NDArray[np.float32]) -> None:
        """Offer rows [n, D]."""
        keys = np.concatenate([self._keys, self._rng.random(len(rows))])
        every = rows if self._rows is None else np.concatenate([self._rows, rows])
        kept = np.sort(np.argsort(keys, kind="stable")[: self._size])
        self._keys, self._rows = keys[kept], every[kept]

    def rows(self) -> NDArray[np.float32]:
        """Those that were kept, [at most size, D].

        Raises:
            DataError: none was offered.
        """
        if self._rows is None or not len(self._rows):
            raise DataError("none of the normal videos to fit on can be read")
        return self._rows


@dataclass(frozen=True, eq=False)
class Detector:
    """Scores windows by how unlike those of normal videos they are."""

    model: AnomalyModel
    follow: FollowSettings
    windows: Bank
    tokens: Bank
    thresholds: dict[ScoreName, float]
    fitted: tuple[str, ...]
    """Normal videos in the banks."""
    held_out: tuple[VideoScores, ...]
    """Normal videos that set the thresholds."""
    skipped: dict[str, str]
    """Normal videos that could not be read -> reason."""

    def score(self, clips: Tensor) -> dict[ScoreName, Floats]:
        """Scores of windows uint8 [B, 3, T, H, W], [B] each."""
        tokens = _tokens(self.model, clips, self.follow)
        top = max(1, round(_TOP_SHARE * tokens.shape[1]))
        local = self.tokens.distances(tokens.reshape(-1, tokens.shape[2])).reshape(tokens.shape[:2])
        values: dict[ScoreName, Floats] = {
            "distance": self.windows.distances(tokens.mean(1)),
            "tokens": np.sort(local, 1)[:, -top:].mean(1),
        }
        if self.model.predictive is not None:
            how = self.follow
            errors = window_errors(self.model.predictive, clips, how.contexts, None, how.runtime)
            surprise, repeat = (part.double().mean(1).numpy() for part in (errors.prediction, errors.repeat))
            ratio = np.divide(surprise, repeat, out=np.full(len(repeat), np.nan), where=repeat > 0)
            values |= {"ratio": ratio, "surprise": surprise}
        return values

    def follow_video(self, path: str) -> VideoScores:
        """Scores of all windows of a video.

        Raises:
            VideoError: it cannot be read, or none of its windows can.
        """
        video = open_video(path)
        plan = plan_windows(video, self.follow.spec, self.follow.stride)
        numbers, parts, skipped = list[int](), list[dict[ScoreName, Floats]](), dict[int, str]()
        size, how = self.model.loaded.config.image_hw, self.follow
        for good, clips, bad in read_windows(
            video, plan, size, batch_size=how.batch_size, antialias=self.model.loaded.antialias
        ):
            skipped |= bad
            if good:
                numbers += good
                parts.append(self.score(clips))
        if not parts:
            raise VideoError(path, next(iter(skipped.values())))
        values: dict[ScoreName, Floats] = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        spans = tuple(plan.span(number) for number in numbers)
        return VideoScores(path, np.array(numbers), spans, values, skipped)


def _tokens(model: AnomalyModel, clips: Tensor, how: FollowSettings) -> NDArray[np.float32]:
    """[B, N, D]."""
    return encode(model.loaded, clips, batch_size=how.batch_size, runtime=how.runtime).numpy()


def fit_detector(
    model: AnomalyModel, normal: Sequence[str], follow: FollowSettings, settings: AnomalySettings
) -> Detector:
    """Fit on normal videos.

    Args:
        model: of `anomaly_model`, on the device.
        normal: videos that show nothing but what is normal.
        follow: windows and contexts.
        settings: of the fit.

    Raises:
        DataError: fewer than two of the videos can be read, or a score is undefined on all that are held out.
    """
    paths = list(dict.fromkeys(normal))
    if len(paths) < 2:
        raise DataError("give at least two normal videos: whole files are held out to set the threshold")
    rng = np.random.default_rng(settings.seed)
    order = [paths[i] for i in rng.permutation(len(paths))]
    count = min(len(paths) - 1, max(1, round(settings.held_out * len(paths))))
    windows, tokens = Sample(settings.bank, rng), Sample(settings.bank, rng)
    skipped, fitted = dict[str, str](), list[str]()
    for path in order[count:]:
        try:
            _offer(model, path, follow, windows, tokens)
            fitted.append(path)
        except VideoError as error:
            skipped[path] = error.reason
    banks = Bank(windows.rows(), _NEIGHBORS), Bank(tokens.rows(), 1)
    detector = Detector(model, follow, *banks, {}, tuple(fitted), (), skipped)
    held = list[VideoScores]()
    for path in order[:count]:
        try:
            held.append(detector.follow_video(path))
        except VideoError as error:
            skipped[path] = error.reason
    if not held:
        raise DataError(f"none of {count} held-out normal videos can be read, for example {order[0]}")
    thresholds: dict[ScoreName, float] = {
        name: _threshold(name, np.concatenate([video.values[name] for video in held]), settings.quantile)
        for name in model.scores
    }
    return replace(detector, thresholds=thresholds, held_out=tuple(held))


def _offer(model: AnomalyModel, path: str, how: FollowSettings, windows: Sample, tokens: Sample) -> None:
    video = open_video(path)
    plan = plan_windows(video, how.spec, how.stride)
    size, read, reason = model.loaded.config.image_hw, 0, ""
    for _, clips, bad in read_windows(video, plan, size, batch_size=how.batch_size, antialias=model.loaded.antialias):
        reason = next(iter(bad.values()), reason)
        if len(clips):
            found, read = _tokens(model, clips, how), read + len(clips)
            windows.add(found.mean(1))
            tokens.add(found.reshape(-1, found.shape[2]))
    if not read:
        raise VideoError(path, reason)


def _threshold(name: ScoreName, values: Floats, quantile: float) -> float:
    """The smallest held-out score that at least the share `quantile` of them does not exceed."""
    known = values[np.isfinite(values)]
    if not len(known):
        raise DataError(f"the score {name} is undefined on all held-out normal windows: nothing changes in them")
    return float(np.quantile(known, quantile, method="inverted_cdf"))


def find_events(video: VideoScores, name: ScoreName, threshold: float, min_run: int) -> tuple[AnomalyEvent, ...]:
    """Runs of at least `min_run` consecutive windows above the threshold; of all windows, where the video has fewer."""
    events = list[AnomalyEvent]()
    values, least = video.values[name], min(min_run, len(video.numbers))
    for run in _consecutive(video.numbers, values > threshold):
        if len(run) >= least:
            first, last = int(run[0]), int(run[-1])
            start, end = video.spans[first][0], video.spans[last][1]
            peak = float(values[first : last + 1].max())
            events.append(AnomalyEvent(video.path, start, end, name, peak, threshold, len(run)))
    return tuple(events)


def _consecutive(numbers: NDArray[np.int64], above: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Places of windows above, in runs of consecutive numbers."""
    places = np.flatnonzero(above)
    return np.split(places, np.flatnonzero(np.diff(numbers[places]) != 1) + 1) if len(places) else []


def peak_of_runs(video: VideoScores, name: ScoreName, min_run: int) -> float:
    """The highest threshold that still makes an event of the video: over all runs, the maximum of the minimum.

    nan where the score is undefined in every run.
    """
    least = min(min_run, len(video.numbers))
    values = np.where(np.isfinite(video.values[name]), video.values[name], -np.inf)
    best = -np.inf
    for run in _consecutive(video.numbers, np.ones(len(values), np.bool_)):
        if len(run) >= least:
            best = max(best, np.lib.stride_tricks.sliding_window_view(values[run], least).min(1).max())
    return float(best) if np.isfinite(best) else float("nan")
