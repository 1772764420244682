"""`vjepa surprise` on what has no end: cameras, streams, pipes, and folders that grow."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from openvjepa.commands.anomalies import chosen_scores, detector_of, follow_settings, normal_videos
from openvjepa.config import SurpriseConfig
from openvjepa.data.media.growing import new_files
from openvjepa.errors import ConfigError, VideoError
from openvjepa.inference.temporal.live import LiveStream
from openvjepa.seeing.surprise.anomalies import AnomalyModel, Detector, anomaly_model, find_events, peak_of_runs
from openvjepa.seeing.surprise.error import load_with_predictor, predictive_model, window_errors
from openvjepa.seeing.surprise.following import follow
from openvjepa.seeing.surprise.live import LiveWindow, Scorer, StreamSettings, score_live, source_for
from openvjepa.train.distributed import Runtime, make_runtime

_log = logging.getLogger("openvjepa")


@dataclass(frozen=True)
class FileAnswer:
    """Scores of one file of a growing folder."""

    path: str
    values: dict[str, float]
    """Score -> maximum over its windows (with normal videos: over runs, of the minimum)."""
    alarms: tuple[str, ...]
    """Scores with an event."""
    error: str | None
    """Why it cannot be read."""

    def to_dict(self) -> dict[str, Any]:
        """For a line of JSON."""
        return {"path": self.path, **self.values, "alarms": list(self.alarms), "error": self.error}


def surprise_live(config: SurpriseConfig) -> LiveStream:
    """Scores as they come, of a live source or of the files of a growing folder.

    Raises:
        ConfigError: a setting is for files alone, the source is a file, or the model lacks a predictor.
    """
    if config.annotate:
        raise ConfigError("annotate needs whole videos: leave it out, or leave out stream")
    folder = Path(config.videos[0])
    if not config.is_live and not folder.is_dir():
        raise ConfigError(f"{folder}: a stream is a camera (0), a URL, - or a folder; leave out stream for a file")
    model = anomaly_model(load_with_predictor(config.model, seed=config.seed))
    if config.normal:
        chosen_scores(config, model)
    else:
        predictive_model(model.loaded)  # refuses a model without predictor
    if not config.is_live:
        return LiveStream(_folder(config, model, folder))
    loaded = model.loaded
    settings = StreamSettings(
        follow_settings(config, model, None).spec,
        loaded.config.image_hw,
        config.stride,
        loaded.antialias,
        config.min_run,
    )
    source = source_for(config.videos[0], settings, drop=config.drop)

    def windows() -> Iterator[LiveWindow]:
        with make_runtime(config) as runtime:
            score, thresholds = _scorer(config, model, runtime)
            with source:
                yield from score_live(source, score, settings, thresholds)
            _log.info("%s: %s", source.name, source.report)

    return LiveStream(windows(), source.report)


def _scorer(config: SurpriseConfig, model: AnomalyModel, runtime: Runtime) -> tuple[Scorer, dict[str, float]]:
    """Scores of windows, and the thresholds of those that make alarms."""
    if config.normal:
        detector = _fit(config, model, runtime)
        limits = {str(name): detector.thresholds[name] for name in chosen_scores(config, model)}
        return (lambda clips: {str(name): value for name, value in detector.score(clips).items()}), limits
    predictive = predictive_model(model.loaded).to(runtime.device)
    how = follow_settings(config, model, runtime)

    def score(clips: Tensor) -> dict[str, NDArray[np.float64]]:
        errors = window_errors(predictive, clips, how.contexts, None, runtime)
        surprise, repeat = (part.double().mean(1).numpy() for part in (errors.prediction, errors.repeat))
        ratio = np.divide(surprise, repeat, out=np.full(len(repeat), np.nan), where=repeat > 0)
        return {"ratio": ratio, "surprise": surprise, "repeat": repeat}

    return score, {}


def _fit(config: SurpriseConfig, model: AnomalyModel, runtime: Runtime) -> Detector:
    return detector_of(config, model, normal_videos(config), runtime)


def _folder(config: SurpriseConfig, model: AnomalyModel, folder: Path) -> Iterator[FileAnswer]:
    """File after file."""
    with make_runtime(config) as runtime:
        detector = _fit(config, model, runtime) if config.normal else None
        model.loaded.to(runtime.device)
        for path in new_files(folder, idle=config.idle):
            try:
                yield _file(config, model, detector, str(path), runtime)
            except VideoError as error:
                yield FileAnswer(str(path), {}, (), error.reason)


def _file(
    config: SurpriseConfig, model: AnomalyModel, detector: Detector | None, path: str, runtime: Runtime
) -> FileAnswer:
    if detector is None:
        found = follow(predictive_model(model.loaded), path, follow_settings(config, model, runtime), None)
        score = found.score(config.pooling)
        values = {name: getattr(score, name) for name in ("ratio", "surprise", "repeat")}
        return FileAnswer(path, _known(values), (), None)
    video = detector.follow_video(path)
    alarms = tuple(
        name
        for name in chosen_scores(config, model)
        if find_events(video, name, detector.thresholds[name], config.min_run)
    )
    return FileAnswer(path, _known({n: peak_of_runs(video, n, config.min_run) for n in video.values}), alarms, None)


def _known(values: dict[Any, float]) -> dict[str, float]:
    return {str(name): value for name, value in values.items() if np.isfinite(value)}
