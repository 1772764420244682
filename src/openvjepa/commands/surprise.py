"""`vjepa surprise`: does a video continue as the model expects?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from openvjepa.commands.anomalies import AnomalyResult, find_anomalies
from openvjepa.commands.show import chosen, gather
from openvjepa.commands.surprise_live import surprise_live
from openvjepa.config import RateConfig, SurpriseConfig, command
from openvjepa.data.clips import ClipSpec
from openvjepa.data.lists.index import VideoRecord
from openvjepa.errors import ConfigError, DataError, VideoError
from openvjepa.inference.temporal.live import LiveStream
from openvjepa.progress import Meter
from openvjepa.reports.seeing.show import free_name
from openvjepa.reports.seeing.surprise import PageFacts, accuracies, heat_limit, write_annotated, write_page
from openvjepa.seeing.surprise.benchmarks import Separation, Trial, read_benchmark, separation
from openvjepa.seeing.surprise.error import PredictiveModel, check_contexts, default_contexts, load_predictive
from openvjepa.seeing.surprise.following import FollowSettings, VideoSurprise, follow_all, reference_mean, write_csv
from openvjepa.seeing.surprise.windows import read_frames
from openvjepa.train.distributed import make_runtime
from openvjepa.train.run_folder import open_output

CSV, PAGE = "surprise.csv", "surprise.html"
_NAMES = ("ratio", "surprise", "repeat", "mean", "excess")


@dataclass(frozen=True)
class SurpriseResult:
    """Result of `vjepa surprise`."""

    videos: tuple[VideoSurprise, ...]
    skipped: dict[str, str]
    """Files that cannot be read: path -> reason."""
    separations: dict[str, Separation]
    """With benchmark: measure -> accuracies."""
    files: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        bad = [{"path": path, "error": reason} for path, reason in self.skipped.items()]
        values: dict[str, Any] = {"videos": [*(video.to_dict() for video in self.videos), *bad]}
        if self.separations:
            values["benchmark"] = {
                name: {
                    **{key: vars(getattr(found, key)) for key in ("relative", "absolute", "auroc")},
                    "groups": found.groups,
                    "scenes": found.scenes,
                }
                for name, found in self.separations.items()
            }
        return values


@command(SurpriseConfig, "videos")
def surprise(config: SurpriseConfig) -> SurpriseResult | AnomalyResult | LiveStream:
    """Measure the prediction error (surprise) of a model on videos, with two baselines.

    Returns:
        The measurements; with `normal`, events that are unlike normal videos; of a stream, the windows as they come.

    Raises:
        ConfigError: no videos or model are given, the model has no predictor, or the output already exists.
        DataError: a list or benchmark cannot be read, or none of the videos.
        CheckpointError: the model cannot be read, or a file cannot be written.
    """
    if not config.videos or not config.model:
        raise ConfigError("give videos (files, folders, lists or CSV files), and --model")
    if config.is_stream:
        return surprise_live(config)
    if config.normal:
        return find_anomalies(config)
    with open_output(config.out, (CSV, PAGE), overwrite=config.overwrite) as out:
        return _surprise(config, out)


def _surprise(config: SurpriseConfig, out: Path) -> SurpriseResult:
    trials: Sequence[Trial] = ()
    if config.benchmark is not None:
        trials = read_benchmark(config.videos[0], config.benchmark, split=config.split)
        files: Sequence[str | VideoRecord] = [str(trial.path) for trial in trials]
    else:
        index = gather(config.videos, config.label)
        files = chosen(index, config.limit or len(index))
    model = load_predictive(config.model, seed=config.seed)
    contexts = check_contexts(config.contexts, model.config) if config.contexts else default_contexts(model.config)
    spec = clip_spec(model, config)
    with make_runtime(config) as runtime:
        model.to(runtime.device)
        settings = FollowSettings(spec, contexts, config.stride, config.batch_size, runtime)
        found = _follow(model, files, settings)
    videos = tuple(video for video in found if isinstance(video, VideoSurprise))
    skipped = {video.path: video.reason for video in found if isinstance(video, VideoError)}
    if not videos:
        raise DataError(f"none of {len(files)} videos can be read, for example {next(iter(skipped.items()))}")
    separations = _separations(trials, found, config.seed) if trials else {}
    result = SurpriseResult(videos, skipped, separations, ())
    written = _write(config, out, model, settings, result, found)
    return replace(result, files=tuple(written))


def clip_spec(model: PredictiveModel, rate: RateConfig) -> ClipSpec:
    """Frames of a window: of the model's own rate, unless another is asked for."""
    if rate.frame_step is not None or rate.fps is not None:
        return ClipSpec(model.config.num_frames, rate.frame_step, rate.fps)
    return ClipSpec(model.config.num_frames, model.clip.frame_step, model.clip.fps)


def _follow(
    model: PredictiveModel, files: Sequence[str | VideoRecord], settings: FollowSettings
) -> list[VideoSurprise | VideoError]:
    mean = reference_mean(model, files, settings)
    found: list[VideoSurprise | VideoError] = []
    with Meter("measuring surprise", len(files)) as meter:
        for video in follow_all(model, files, settings, mean):
            found.append(video)
            meter.show(len(found))
    return found


def _separations(
    trials: Sequence[Trial], found: Sequence[VideoSurprise | VideoError], seed: int
) -> dict[str, Separation]:
    """Accuracies of each measure; scenes with a video that cannot be read are left out."""
    lost = {trial.scene for trial, video in zip(trials, found, strict=True) if isinstance(video, VideoError)}
    kept = [(t, v) for t, v in zip(trials, found, strict=True) if t.scene not in lost and isinstance(v, VideoSurprise)]
    if not kept:
        raise DataError("no scene of the benchmark is complete: each has an unreadable video")
    means, tops = ([v.score(how) for _, v in kept] for how in ("mean", "max"))
    return {
        name: separation(
            [trial for trial, _ in kept],
            np.array([getattr(score, name) for score in means]),
            np.array([getattr(score, name) for score in tops]),
            seed=seed,
        )
        for name in _NAMES
    }


def _write(
    config: SurpriseConfig,
    out: Path,
    model: PredictiveModel,
    settings: FollowSettings,
    result: SurpriseResult,
    found: Sequence[VideoSurprise | VideoError],
) -> list[Path]:
    """CSV, page and annotated copies."""
    facts = PageFacts(model.name, _facts(settings, len(result.videos)))
    extra = [accuracies(result.separations)] if result.separations else []
    write_csv(out / CSV, found)
    files = [out / CSV]
    files.append(
        write_page(
            out / PAGE,
            facts,
            result.videos,
            result.skipped,
            model,
            pooling=config.pooling,
            pictures=config.pictures,
            extra=extra,
        )
    )
    if config.annotate:
        high = heat_limit(result.videos)
        caption = [f"Model: {model.name}", *(f"{name}: {value}" for name, value in facts.rows.items())]
        for video in result.videos:
            target = free_name(out / f"surprise-{Path(video.path).stem}.mp4", files)
            frames = read_frames(video.record.open(), video.plan, model.config.image_hw, antialias=model.clip.antialias)
            files.append(write_annotated(target, video, frames, high, caption))
    return files


def _facts(settings: FollowSettings, videos: int) -> dict[str, str]:
    spec = settings.spec
    rate = f"{spec.fps:g} frames per second" if spec.fps is not None else f"one of {spec.frame_step} of the video"
    return {
        "windows": f"{spec.num_frames} frames ({rate}), a new window every {settings.stride} of them",
        "contexts": f"{', '.join(map(str, settings.contexts))} frames, averaged",
        "layers": "target encoder's last block (all predicted levels), layer-normed",
        "mean token of each place": f"over at most 64 windows of these {videos} videos",
        "computed on": str(settings.runtime),
    }
