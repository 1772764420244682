"""`vjepa show`: pictures of what an encoder makes of videos."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openvjepa.config import ShowConfig, TrainConfig
from openvjepa.data.clips import ClipSpec
from openvjepa.data.index import VideoIndex, VideoRecord, read_index
from openvjepa.errors import ConfigError
from openvjepa.features.sampling import clip_rate
from openvjepa.reports.show import write_pca, write_similarity
from openvjepa.seeing.pca import PcaFit, check_fit, fit_clips, load_fit, save_fit
from openvjepa.seeing.similarity import pack_tokens
from openvjepa.seeing.tokens import ClipChoice, Sight, load_any, see
from openvjepa.train.distributed import Runtime, make_runtime
from openvjepa.weights.hub import LoadedModel

LISTS = (".csv", ".txt", "")
"""Suffixes of lists of files; what has another is a video or image, or cannot be read."""

_log = logging.getLogger("openvjepa")


@dataclass(frozen=True)
class ShowResult:
    """What `vjepa show` wrote."""

    files: tuple[Path, ...]
    skipped: dict[str, str]
    """Files that cannot be read: path -> reason."""


def show(config: ShowConfig) -> ShowResult:
    """Write pictures of the features of videos: PCA maps, similarity, attention, a map of clips.

    Raises:
        ConfigError: no videos or models are given, settings do not fit together, or the output is there already.
        DataError: a list cannot be read, or none of the files.
        CheckpointError: a model or fit cannot be read, or a file cannot be written.
    """
    check(config)
    index = gather(config.videos, config.label)
    models = [load_any(source, seed=config.seed) for source in config.model]
    train = TrainConfig(device=config.device, precision=config.precision, threads=config.threads)
    with make_runtime(train) as runtime:
        for model in models:
            model.encoder.to(runtime.device)
        return _frames(config, models, index, runtime)


def check(config: ShowConfig) -> None:
    """Fail before the work."""
    if not config.videos or not config.model:
        raise ConfigError("give videos or images (files, folders, lists or CSV files), and --model")
    if config.fit and (len(config.model) > 1 or config.foreground):
        raise ConfigError(
            "a fit belongs to one model, and says itself whether the background is masked: leave the other out"
        )
    out = Path(config.out)
    if out.is_file():
        raise ConfigError(f"{out}: is a file: name a folder")
    old = sorted(path.name for kind in config.what for path in out.glob(f"{kind}*"))
    if old and not config.overwrite:
        raise ConfigError(f"{out}: holds {old[0]} already: choose another --out, or add --overwrite to replace it")


def gather(sources: Sequence[str], label: str | None) -> VideoIndex:
    """All files of several sources as one index; a file that is missing stays in it, to be skipped and counted.

    Raises:
        DataError: a list cannot be read.
        ConfigError: several sources with labels, whose classes differ.
    """
    parts = []
    for source in sources:
        named = Path(source).suffix.lower() not in LISTS and not Path(source).is_dir()
        parts.append(VideoIndex((VideoRecord(source),), None, source) if named else read_index(source, label=label))
    classes = {part.classes for part in parts if part.classes is not None}
    if len(classes) > 1:
        raise ConfigError("the sources have different classes: give one folder or list with all of them")
    records = tuple(record for part in parts for record in part.records)
    return VideoIndex(records, next(iter(classes), None), ", ".join(sources))


def _frames(config: ShowConfig, models: list[LoadedModel], index: VideoIndex, runtime: Runtime) -> ShowResult:
    """Pictures of the frames of some files."""
    out = Path(config.out)
    sight = see(models, chosen(index, config.limit), choice_of(config, models[0]), layer=config.layer, runtime=runtime)
    written: list[Path] = []
    if "pca" in config.what:
        fits = _fits(config, sight)
        for number, fit in enumerate(fits):
            written += (
                [] if config.fit else [save_fit(out / f"pca-fit{f'-{number + 1}' if number else ''}.safetensors", fit)]
            )
        written += write_pca(out, sight, fits, how="bilinear" if config.interpolate else "nearest")
    if "similarity" in config.what:
        written += write_similarity(out, sight, [pack_tokens([clip.tokens for clip in row]) for row in sight.clips])
    return ShowResult(tuple(written), sight.skipped)


def chosen(index: VideoIndex, limit: int) -> list[str]:
    """Paths of at most `limit` files, spread evenly over the index."""
    paths = [record.path for record in index.records]
    if len(paths) <= limit:
        return paths
    _log.info("%d of %d files are shown, evenly spread (--limit)", limit, len(paths))
    return [paths[int(i)] for i in np.linspace(0, len(paths) - 1, limit).round()]


def choice_of(config: ShowConfig, model: LoadedModel) -> ClipChoice:
    """Clips of the first model: those that it was pretrained with, unless told otherwise."""
    spec = ClipSpec(model.clip.num_frames, *clip_rate(model, config.frame_step, config.fps))
    return ClipChoice(spec, config.clips, config.start, config.whole, config.short_side)


def _fits(config: ShowConfig, sight: Sight) -> list[PcaFit]:
    if config.fit is None:
        pairs = zip(sight.clips, sight.models, strict=True)
        return [fit_clips(clips, model, foreground=config.foreground) for clips, model in pairs]
    fit = load_fit(config.fit)
    check_fit(fit, sight.models[0], config.layer)
    return [fit]
