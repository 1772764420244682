"""`vjepa show`: pictures of what an encoder makes of videos."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openvjepa.config import ShowConfig, command
from openvjepa.data.clips import ClipSpec
from openvjepa.data.lists.index import VideoIndex, VideoRecord, read_index
from openvjepa.errors import ConfigError, DataError
from openvjepa.features.sampling import clip_rate
from openvjepa.reports.seeing.attention import write_attention
from openvjepa.reports.seeing.clip_map import write_map
from openvjepa.reports.seeing.show import write_pca, write_similarity
from openvjepa.seeing.attention import attention_rows, check_probe
from openvjepa.seeing.clip_map import embed_clips, map_clips
from openvjepa.seeing.pca import PcaFit, check_fit, fit_clips, load_fit, save_fit
from openvjepa.seeing.similarity import pack_tokens
from openvjepa.seeing.tokens import ClipChoice, Sight, load_any, see
from openvjepa.train.distributed import Runtime, make_runtime
from openvjepa.train.run_folder import open_output
from openvjepa.weights.hub import LoadedModel

LISTS = (".csv", ".tsv", ".txt", ".json", "")
"""Suffixes of lists of files; what has another is a video or image, or cannot be read."""

_log = logging.getLogger("openvjepa")


@dataclass(frozen=True)
class ShowResult:
    """Result of `vjepa show`."""

    files: tuple[Path, ...]
    skipped: dict[str, str]
    """Files that cannot be read: path -> reason."""


@command(ShowConfig, "videos")
def show(config: ShowConfig) -> ShowResult:
    """Visualize features of videos: PCA colors, similarity, attention, a map of clips.

    Raises:
        ConfigError: no videos or models are given, settings do not fit together, or the output is there already.
        DataError: a list cannot be read, or none of the files.
        CheckpointError: a model or fit cannot be read, or a file cannot be written.
    """
    check(config)
    with open_output(config.out, [f"{kind}*" for kind in config.what], overwrite=config.overwrite):
        return _show(config)


def _show(config: ShowConfig) -> ShowResult:
    index = gather(config.videos, config.label)
    models = [load_any(source, seed=config.seed) for source in config.model]
    if "attention" in config.what:
        for model in models:
            check_probe(model)
    with make_runtime(config) as runtime:
        for model in models:
            model.encoder.to(runtime.device)
        found = ShowResult((), {})
        if set(config.what) - {"map"}:
            found = _frames(config, models, index, runtime)
        return _map(config, models[0], index, runtime, found) if "map" in config.what else found


def check(config: ShowConfig) -> None:
    """Fail before the work."""
    if not config.videos or not config.model:
        raise ConfigError("give videos or images (files, folders, lists or CSV files), and --model")
    if config.fit and (len(config.model) > 1 or config.foreground):
        raise ConfigError(
            "fit works with a single model and already defines the foreground mask: leave out the other models and foreground"
        )
    if "map" in config.what and len(config.model) > 1:
        raise ConfigError("a map supports a single model: pass one --model, or leave out --what map")
    if config.classes and (config.rows == "heads" or "attention" not in config.what):
        raise ConfigError("classes needs --what attention and --rows classes")
    if config.query and "map" not in config.what:
        raise ConfigError("query needs --what map")


def gather(sources: Sequence[str], label: str | None) -> VideoIndex:
    """All files of several sources as one index; a file that is missing stays in it, to be skipped and counted.

    Raises:
        DataError: a list cannot be read.
        ConfigError: several sources with labels, whose classes differ.
    """
    parts: list[VideoIndex] = []
    for source in sources:
        named = Path(source).suffix.lower() not in LISTS and not Path(source).is_dir()
        parts.append(VideoIndex((VideoRecord(source),), None, source) if named else read_index(source, label=label))
    classes = {part.classes for part in parts if part.classes is not None}
    if len(classes) > 1:
        raise ConfigError("the sources have different classes: pass a single folder or list")
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
    if "attention" in config.what:
        rows = [
            [attention_rows(clip, model, config.rows, config.classes) for clip in clips]
            for model, clips in zip(models, sight.clips, strict=True)
        ]
        written += write_attention(out, sight, rows)
    return ShowResult(tuple(written), sight.skipped)


def _map(config: ShowConfig, model: LoadedModel, index: VideoIndex, runtime: Runtime, before: ShowResult) -> ShowResult:
    """The map of all files, added to what was written before."""
    choice = choice_of(config, model)
    names = index.classes or ()
    files = [(record, None if record.label is None else names[record.label]) for record in index.records]
    asked = [(record, None) for record in gather(config.query, None).records] if config.query else []
    parts = [
        embed_clips(model, part, choice, layer=config.layer, runtime=runtime, batch_size=config.batch_size, query=query)
        for part, query in ((files, False), (asked, True))
        if part
    ]
    skipped = {path: reason for _, bad in parts for path, reason in bad.items()}
    if not parts[0][0]:
        example = next(f"{path}: {reason}" for path, reason in skipped.items())
        raise DataError(f"none of {len(files)} files can be read ({example})")
    clips = [clip for part, _ in parts for clip in part]
    found = map_clips(clips, neighbors=config.neighbors, layout=config.layout, seed=config.seed, skipped=skipped)
    written = write_map(Path(config.out), found, model.source, config.layer)
    return ShowResult((*before.files, *written), before.skipped | skipped)


def chosen(index: VideoIndex, limit: int) -> list[VideoRecord]:
    """At most `limit` files, spread evenly over the index."""
    records = list(index.records)
    if len(records) <= limit:
        return records
    _log.info("%d of %d files are shown, evenly spread (--limit)", limit, len(records))
    return [records[int(i)] for i in np.linspace(0, len(records) - 1, limit).round()]


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
