"""`vjepa surprise --normal`: events in videos that are unlike normal ones."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from openvjepa.commands.show import gather
from openvjepa.config import SurpriseConfig
from openvjepa.data.clips import ClipSpec
from openvjepa.data.lists.index import VideoIndex
from openvjepa.errors import ConfigError, DataError, VideoError
from openvjepa.progress import Meter
from openvjepa.reports.seeing.anomalies import write_page
from openvjepa.seeing.surprise.anomalies import (
    BY_PREDICTION,
    AnomalyEvent,
    AnomalyModel,
    AnomalySettings,
    Detector,
    ScoreName,
    VideoScores,
    anomaly_model,
    find_events,
    fit_detector,
)
from openvjepa.seeing.surprise.detection import Detection, evaluate_detection
from openvjepa.seeing.surprise.error import check_contexts, default_contexts, load_with_predictor
from openvjepa.seeing.surprise.following import FollowSettings
from openvjepa.train.distributed import Runtime, make_runtime
from openvjepa.train.run_folder import open_output
from openvjepa.weights.files import whole_file

EVENTS, SCORES, PAGE = "events.csv", "scores.csv", "anomalies.html"
DEFAULT_SCORES: tuple[ScoreName, ...] = ("distance", "surprise")
_log = logging.getLogger("openvjepa")


@dataclass(frozen=True)
class AnomalyResult:
    """Result of `vjepa surprise --normal`."""

    events: tuple[AnomalyEvent, ...]
    """Of the chosen scores, in the order of the videos and of time."""
    videos: tuple[VideoScores, ...]
    skipped: dict[str, str]
    """Files that cannot be read, normal ones included: path -> reason."""
    thresholds: dict[ScoreName, float]
    detection: Detection | None
    """With labels of both kinds."""
    notes: tuple[str, ...]
    files: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "events": [asdict(event) for event in self.events],
            "thresholds": dict(self.thresholds),
            "detection": None if self.detection is None else asdict(self.detection),
            "videos": [{"path": video.path, "windows": len(video.numbers)} for video in self.videos],
            "errors": [{"path": path, "error": reason} for path, reason in self.skipped.items()],
            "notes": list(self.notes),
        }


def find_anomalies(config: SurpriseConfig) -> AnomalyResult:
    """Fit on the normal videos and look for events in the others.

    Raises:
        ConfigError: a score needs a predictor that the model lacks, or the output already exists.
        DataError: a list cannot be read, too few normal videos, or none of the others.
        CheckpointError: the model cannot be read, or a file cannot be written.
    """
    if config.annotate:
        raise ConfigError("annotate shows prediction error: leave it out, or leave out normal")
    with open_output(config.out, (EVENTS, SCORES, PAGE), overwrite=config.overwrite) as out:
        normal = normal_videos(config)
        index, own = _others(gather(config.videos, config.label), normal)
        model = anomaly_model(load_with_predictor(config.model, seed=config.seed))
        chosen = chosen_scores(config, model)
        with make_runtime(config) as runtime:
            detector = detector_of(config, model, normal, runtime)
            found = _follow(detector, [record.path for record in index.records])
        videos = tuple(video for video in found if isinstance(video, VideoScores))
        bad = {video.path: video.reason for video in found if isinstance(video, VideoError)}
        if not videos:
            raise DataError(f"none of {len(index)} videos can be read, for example {next(iter(bad.items()))}")
        every = {name: _events(videos, name, detector.thresholds[name], config.min_run) for name in model.scores}
        detection, notes = _detection(config, index, videos, [e for part in every.values() for e in part])
        notes = (*_notes(config, model, detector, own), *notes)
        events = tuple(event for name in chosen for event in every[name])
        skipped = detector.skipped | bad
        result = AnomalyResult(events, videos, skipped, detector.thresholds, detection, notes, ())
        return replace(result, files=tuple(_write(config, out, detector, result, chosen)))


def chosen_scores(config: SurpriseConfig, model: AnomalyModel) -> tuple[ScoreName, ...]:
    """The scores that make events.

    Raises:
        ConfigError: the model does not have one of those asked for.
    """
    for name in config.scores:
        if name not in model.scores:
            raise ConfigError(f"the score {name} needs a predictor: {model.reason}")
    return config.scores or tuple(name for name in DEFAULT_SCORES if name in model.scores)


def detector_of(config: SurpriseConfig, model: AnomalyModel, normal: Sequence[str], runtime: Runtime) -> Detector:
    """Fit a detector on normal videos, on the device."""
    model.loaded.to(runtime.device)
    _log.info("fitting on %d normal videos", len(normal))
    settings = AnomalySettings(config.quantile, config.held_out, seed=config.seed)
    return fit_detector(model, normal, follow_settings(config, model, runtime), settings)


def follow_settings(config: SurpriseConfig, model: AnomalyModel, runtime: Runtime | None) -> FollowSettings:
    """Windows and contexts: of the model's own frame rate, unless another is given."""
    loaded = model.loaded
    contexts: tuple[int, ...] = ()
    if model.predictive is not None:
        known = loaded.config
        contexts = check_contexts(config.contexts, known) if config.contexts else default_contexts(known)
    given = config.frame_step is not None or config.fps is not None
    rate = (config.frame_step, config.fps) if given else (loaded.clip.frame_step, loaded.clip.fps)
    return FollowSettings(
        ClipSpec(loaded.config.num_frames, *rate), contexts, config.stride, config.batch_size, runtime
    )


def normal_videos(config: SurpriseConfig) -> list[str]:
    """Paths of the normal videos.

    Raises:
        ConfigError: some are parts of videos.
    """
    index = gather(config.normal, None)
    _check_whole(index)
    return [record.path for record in index.records]


def _check_whole(index: VideoIndex) -> None:
    if any(record.is_part for record in index.records):
        raise ConfigError(f"{index.source}: names parts of videos (start, end): give whole videos")


def _others(index: VideoIndex, normal: Sequence[str]) -> tuple[VideoIndex, int]:
    """The videos that are not among the normal ones, and how many are: these would look more normal than they are."""
    _check_whole(index)
    known = {Path(path).resolve() for path in normal}
    kept = tuple(record for record in index.records if Path(record.path).resolve() not in known)
    if not kept:
        raise ConfigError("all videos are among the normal ones: give others")
    return replace(index, records=kept), len(index) - len(kept)


def _follow(detector: Detector, paths: Sequence[str]) -> list[VideoScores | VideoError]:
    found = list[VideoScores | VideoError]()
    with Meter("scoring", len(paths)) as meter:
        for path in paths:
            try:
                found.append(detector.follow_video(path))
            except VideoError as error:
                _log.warning("skipped %s: %s", path, error.reason)
                found.append(error)
            meter.show(len(found))
    return found


def _events(videos: Sequence[VideoScores], name: ScoreName, threshold: float, min_run: int) -> list[AnomalyEvent]:
    return [event for video in videos for event in find_events(video, name, threshold, min_run)]


def _detection(
    config: SurpriseConfig, index: VideoIndex, videos: Sequence[VideoScores], events: Sequence[AnomalyEvent]
) -> tuple[Detection | None, tuple[str, ...]]:
    """Evaluation where there are labels of both kinds, else why there is none."""
    classes = index.classes
    if classes is None:
        return None, ()
    labels = {r.path: None if r.label is None else classes[r.label] for r in index.records}
    labeled = [video for video in videos if labels[video.path] is not None]
    odd = np.array([labels[video.path] != config.normal_label for video in labeled], np.bool_)
    if not len(labeled) or odd.all() or not odd.any():
        kinds = "none" if not len(labeled) else "all anomalous" if odd.all() else "all normal"
        names = ", ".join(sorted({str(labels[video.path]) for video in labeled})[:5])
        return None, (
            f"not evaluated: with --normal-label {config.normal_label}, the labeled videos are {kinds} (labels: {names})",
        )
    return evaluate_detection(labeled, odd, events, config.min_run, seed=config.seed), ()


def _notes(config: SurpriseConfig, model: AnomalyModel, detector: Detector, own: int) -> tuple[str, ...]:
    notes = list[str]()
    if model.reason is not None:
        notes.append(f"scores by features only, no {' or '.join(BY_PREDICTION)}: {model.reason}")
    if own:
        notes.append(f"{own} videos are among the normal ones and are left out")
    windows = sum(len(video.numbers) for video in detector.held_out)
    if windows * (1 - config.quantile) < 1:
        notes.append(
            f"the thresholds are the maxima of {windows} held-out windows: too few for the quantile {config.quantile:g}, "
            "give more normal videos"
        )
    return tuple(notes)


def _write(
    config: SurpriseConfig, out: Path, detector: Detector, result: AnomalyResult, chosen: Sequence[ScoreName]
) -> list[Path]:
    names = ["path", "start", "end", "score", "peak", "threshold", "windows"]
    with whole_file(out / EVENTS) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(names)
        rows.writerows([getattr(event, name) for name in names] for event in result.events)
    with whole_file(out / SCORES) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "start", "end", *result.thresholds])
        for video in result.videos:
            for row, span in enumerate(video.spans):
                values = (video.values[name][row] for name in result.thresholds)
                rows.writerow([video.path, *span, *("" if np.isnan(value) else value for value in values)])
    windows = sum(len(video.numbers) for video in detector.held_out)
    facts = {
        "model": detector.model.loaded.source,
        "normal videos": f"{len(detector.fitted)} to fit on; {len(detector.held_out)} held out, {windows} windows",
        "threshold": f"quantile {config.quantile:g} of the held-out windows",
        "event": f"at least {config.min_run} consecutive windows above the threshold",
        "windows": f"{detector.follow.spec.num_frames} frames, one every {detector.follow.stride} sampled frames",
        "computed on": str(detector.follow.runtime),
    }
    page = write_page(
        out / PAGE,
        facts,
        result.videos,
        result.events,
        result.thresholds,
        chosen,
        result.detection,
        result.notes,
        result.skipped,
        pictures=config.pictures,
    )
    return [out / EVENTS, out / SCORES, page]
