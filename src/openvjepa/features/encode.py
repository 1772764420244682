"""Frozen features: clips go through the encoder once, and stay on disk for every probe that reads them.

Shapes: B clips, n videos, V clips of each, N tokens, D channels.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from openvjepa.config import DataConfig, to_yaml
from openvjepa.data.clips import ClipSpec
from openvjepa.data.images import is_image
from openvjepa.data.index import VideoIndex
from openvjepa.data.loader import EvalClips, one_thread, worker_count
from openvjepa.data.transforms import eval_views, normalize
from openvjepa.errors import ConfigError, DataError
from openvjepa.features.sampling import ClipPlan
from openvjepa.grid import TokenGrid
from openvjepa.model.encoder import Encoder
from openvjepa.progress import Meter
from openvjepa.train.distributed import Runtime
from openvjepa.weights.files import weights_digest
from openvjepa.weights.hub import LoadedModel

log = logging.getLogger("openvjepa")

FORMAT = 1  # of the cache; a change makes every older one stale
STALE_SECONDS = 3600.0  # after so long without a write, an unfinished cache is one that was killed


@dataclass(frozen=True)
class EncodeSettings:
    """How clips are encoded, and how their features are kept."""

    runtime: Runtime
    batch_size: int = 32
    dtype: Literal["float32", "float16"] = "float32"
    workers: int | None = None
    max_bad: float = 0.1
    layer: int = -1
    """Block whose output is kept, from 0, or negative from the end."""


@dataclass(frozen=True)
class FeatureSet:
    """Features [n, V, N, D] of the videos that could be read, memory-mapped, and why the others could not."""

    x: NDArray[Any]
    kept: tuple[int, ...]
    """Place of each row's video in the index."""
    skipped: dict[str, str]
    """Path -> reason."""
    reused: bool
    """Whether they were on disk already."""


def encode(
    model: LoadedModel | Encoder,
    clips: Tensor,
    *,
    batch_size: int = 32,
    runtime: Runtime | None = None,
    layer: int = -1,
) -> Tensor:
    """Tokens of clips.

    Args:
        model: what `load_model` or `create_model` returns; computes on the device where it is.
        clips: uint8 [B, 3, T, H, W]; or float32 of that shape, normalised already; or frames as `read_clip` gives them,
            uint8 [T, H, W, 3] or [B, T, H, W, 3], which are resized and cropped to the model's own size.
        batch_size: clips in one pass.
        runtime: autocast to use; None: the model's own precision.
        layer: block whose output is wanted (after the encoder's norm), from 0, or negative from the end.

    Returns:
        float32 [B, N, D] on the CPU, in the order of `TokenGrid`.

    Raises:
        ConfigError: the clips have another shape, or do not divide into whole tubelets and patches; no such layer.
    """
    encoder, antialias = (model, True) if isinstance(model, Encoder) else (model.encoder, model.antialias)
    device = next(encoder.parameters()).device
    chunks = []
    with torch.no_grad():
        for part in _as_clips(clips, encoder, antialias).split(batch_size):
            video = part.to(device)
            video = normalize(video) if video.dtype == torch.uint8 else video
            with runtime.autocast() if runtime else contextlib.nullcontext():
                (tokens,) = encoder(video, out_layers=[layer])
            chunks.append(tokens.float().cpu())
    return torch.cat(chunks)


def _as_clips(clips: Tensor, encoder: Encoder, antialias: bool) -> Tensor:
    """Clips [B, 3, T, H, W] from any of the shapes that `encode` takes."""
    if clips.dtype == torch.uint8 and clips.ndim in (4, 5) and clips.shape[-1] == 3:
        size = encoder.config.image_hw
        videos = clips[None] if clips.ndim == 4 else clips
        return torch.stack([eval_views(frames.numpy(), size, 1, antialias=antialias)[0] for frames in videos])
    numbers = clips.dtype == torch.uint8 or clips.is_floating_point()
    if numbers and clips.ndim == 5 and clips.shape[1] == 3 and len(clips):
        return clips
    raise ConfigError(
        f"cannot encode a {clips.dtype} tensor of shape {list(clips.shape)}: give uint8 frames [T, H, W, 3] or "
        "[B, T, H, W, 3], or uint8 or normalised float clips [B, 3, T, H, W]"
    )


def encode_index(
    encoder: Encoder, index: VideoIndex, plan: ClipPlan, settings: EncodeSettings, cache_dir: Path, *, name: str
) -> FeatureSet:
    """Features of the planned clips of every video: from the cache, or encoded now and put there.

    The cache holds a folder for each set of features, named by a hash of all that they follow from: weights, files
    (path, size, time of change), clips, seed, precision. It appears under that name only when it is complete.

    Args:
        encoder: in eval mode.
        index: the videos; their labels do not matter.
        plan: which clips.
        settings: how.
        cache_dir: folder of caches.
        name: what to call the videos on the progress line.

    Raises:
        DataError: too many videos cannot be read, or the features do not fit on the disk.
        ConfigError: the clips do not divide into whole tubelets and patches.
    """
    key = cache_key(encoder, index, plan, settings)
    folder = cache_dir / key
    if folder.exists():
        stored = _open_cache(folder, plan.clips, reused=True)
        if stored is not None:
            log.info("features of %s: %d videos, read from %s", name, len(stored.x), folder)
            return stored
        log.warning("%s is damaged: encoding again", folder)
        shutil.rmtree(folder)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        _remove_stale(cache_dir, key)
        _check_room(encoder, index, plan, settings, cache_dir)
        part = cache_dir / f"{key}.{os.getpid()}.part"
        try:
            _write_cache(part, encoder, index, plan, settings, name)
            if not folder.exists():  # else another run was faster
                part.replace(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise DataError(f"{cache_dir}: cannot write encoded features: {reason}; {_SAVE_SPACE}") from None
    fresh = _open_cache(folder, plan.clips, reused=False)
    if fresh is None:
        raise DataError(f"{folder}: the encoded features cannot be read back: check the disk")
    return fresh


_SAVE_SPACE = "free some space, choose another --cache-dir, fewer --train-views, or --feature-dtype float16"


def cache_key(encoder: Encoder, index: VideoIndex, plan: ClipPlan, settings: EncodeSettings) -> str:
    """Name of a set of features: a hash of everything that changes them."""
    return digest(feature_facts(encoder, index, plan, settings))[:24]


def feature_facts(encoder: Encoder, index: VideoIndex, plan: ClipPlan, settings: EncodeSettings) -> dict[str, Any]:
    """Everything that changes the features of these videos."""
    return {
        "format": FORMAT,
        "weights": [to_yaml(encoder.config), weights_digest(encoder)],
        "videos": [_file_facts(Path(record.path)) for record in index.records],
        "plan": asdict(plan),
        "dtype": settings.dtype,
        "layer": settings.layer,
        "computed": [settings.runtime.device.type, str(settings.runtime.dtype)],
    }


def digest(facts: Any) -> str:
    """sha256 of plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _file_facts(path: Path) -> list[Any]:
    """Path, size and time of change; of every frame, for a folder of frames. A missing file has neither."""
    facts: list[Any] = [str(path.absolute())]
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        try:
            state = file.stat()
        except OSError:
            continue
        facts += [file.name, state.st_size, state.st_mtime_ns]
    return facts


class _Clips(Dataset[tuple[Tensor, str]]):
    """Item i: the planned clips of video i, uint8 [V, 3, T, H, W], and why it could not be read ("" if it could)."""

    def __init__(self, index: VideoIndex, plan: ClipPlan) -> None:
        self.index, self.plan = index, plan
        self.parts = self._parts(plan.spec)
        self.image_parts = self._parts(replace(plan.spec, num_frames=1)) if plan.image_path else self.parts

    def _parts(self, spec: ClipSpec) -> list[EvalClips]:
        plan = self.plan
        clips = partial(EvalClips, self.index, spec, plan.size, antialias=plan.antialias)
        parts = [clips(segments=plan.segments, views=plan.views)]
        if plan.random:
            parts.append(clips(augment=plan.random, crop_scale=plan.crop_scale, seed=plan.seed))
        return parts

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: int) -> tuple[Tensor, str]:
        parts = self.image_parts if is_image(self.index.records[item].path) else self.parts
        items = [part[item] for part in parts]
        return torch.cat([clips for clips, _, _ in items]), next((reason for _, _, reason in items if reason), "")

    def batches(self, batch_size: int) -> list[list[int]]:
        """Consecutive videos, so many that their clips fill a pass; images that have a path of their own apart from them."""
        size = max(1, batch_size // self.plan.clips)
        apart = [self.plan.image_path and is_image(record.path) for record in self.index.records]
        runs = (list(run) for _, run in groupby(range(len(self)), key=apart.__getitem__))
        return [run[i : i + size] for run in runs for i in range(0, len(run), size)]


Encoded = tuple[int, Tensor | str]
"""Place of a video in the index; its features [V, N, D], or why it could not be read."""


def encode_videos(
    encoder: Encoder, index: VideoIndex, plan: ClipPlan, settings: EncodeSettings, *, name: str
) -> Iterator[Encoded]:
    """Encode video after video, in the order of the index; shows progress with the time left, on stderr."""
    for batch in encode_batches(encoder, index, plan, settings, name=name):
        yield from batch


def encode_batches(
    encoder: Encoder, index: VideoIndex, plan: ClipPlan, settings: EncodeSettings, *, name: str, first: int = 0
) -> Iterator[list[Encoded]]:
    """As `encode_videos`, in batches; those before `first` are left out.

    A batch follows from index, plan and batch size alone, so that a run that goes on later gets the same numbers: the last
    bits depend on how many clips go through the encoder together.
    """
    dataset = _Clips(index, plan)
    batches = dataset.batches(settings.batch_size)
    done, batches = sum(map(len, batches[:first])), batches[first:]
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=min(worker_count(DataConfig(workers=settings.workers)), len(index) // 4),
        worker_init_fn=one_thread,
    )
    with Meter(f"encoding {name}", len(index), done) as meter:
        for places, (clips, reasons) in zip(batches, loader, strict=True):
            good = clips[torch.tensor([not reason for reason in reasons])]
            features = iter(_encode_planned(encoder, good, settings))
            yield [(place, reason or next(features)) for place, reason in zip(places, reasons, strict=True)]
            done += len(places)
            meter.show(done)


def _encode_planned(encoder: Encoder, clips: Tensor, settings: EncodeSettings) -> Tensor:
    """uint8 [n, V, 3, T, H, W] -> features [n, V, N, D]."""
    if not len(clips):
        return torch.empty(0)
    features = encode(
        encoder,
        clips.flatten(0, 1),
        batch_size=settings.batch_size,
        runtime=settings.runtime,
        layer=settings.layer,
    )
    return features.unflatten(0, clips.shape[:2])


def _rows_shape(encoder: Encoder, plan: ClipPlan, videos: int) -> tuple[int, int, int]:
    """Shape of the features of so many videos: [videos * V, N, D]."""
    config = encoder.config
    grid = TokenGrid.of_clip(
        plan.spec.num_frames, *plan.size, patch_size=config.patch_size, tubelet_size=config.tubelet_size
    )
    return videos * plan.clips, grid.tokens, encoder.embed_dim


def _check_room(encoder: Encoder, index: VideoIndex, plan: ClipPlan, settings: EncodeSettings, cache_dir: Path) -> None:
    """Stop before the work when its result cannot fit on the disk."""
    rows, tokens, channels = _rows_shape(encoder, plan, len(index))
    needed = rows * tokens * channels * np.dtype(settings.dtype).itemsize
    free = shutil.disk_usage(cache_dir).free
    if needed > free:
        raise DataError(
            f"{cache_dir}: the features of {len(index)} videos take {size_text(needed)}, and {size_text(free)} are free: "
            f"{_SAVE_SPACE}"
        )


def size_text(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _write_cache(
    part: Path, encoder: Encoder, index: VideoIndex, plan: ClipPlan, settings: EncodeSettings, name: str
) -> None:
    """Encode into features.npy and meta.json of a new folder; rows of unreadable videos are left out.

    Rows are appended with plain writes: a memory map would answer a full disk with a bus error.
    """
    part.mkdir()
    kept: list[int] = []
    skipped: dict[str, str] = {}
    with (part / "features.npy").open("wb") as file:
        _write_header(file, settings.dtype, _rows_shape(encoder, plan, len(index)))
        for item, features in encode_videos(encoder, index, plan, settings, name=name):
            if isinstance(features, str):
                skipped[index.records[item].path] = features
                check_bad(skipped, len(index), settings.max_bad)
            else:
                kept.append(item)
                file.write(features.numpy().astype(settings.dtype).tobytes())
        file.seek(0)  # the header has room for any number of rows
        _write_header(file, settings.dtype, _rows_shape(encoder, plan, len(kept)))
        file.flush()
        os.fsync(file.fileno())
    text = json.dumps({"name": name, "source": index.source, "kept": kept, "skipped": skipped})
    (part / "meta.json").write_text(text, encoding="utf-8")


def _write_header(file: BinaryIO, dtype: str, shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def check_bad(skipped: dict[str, str], total: int, max_bad: float) -> None:
    """Stop when too large a share of the videos is unreadable.

    Raises:
        DataError: names the first few.
    """
    if len(skipped) > max_bad * total:
        examples = "; ".join(f"{path}: {reason}" for path, reason in list(skipped.items())[:3])
        raise DataError(
            f"{len(skipped)} of {total} videos cannot be read, more than max_bad allows ({max_bad:.0%}): {examples}"
        )


def _open_cache(folder: Path, clips: int, *, reused: bool) -> FeatureSet | None:
    """A complete set of features, or None if it is damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if not meta["kept"]:
            raise DataError(f"none of the videos of {meta['source']} can be read")
        rows = np.load(folder / "features.npy", mmap_mode="r")
    except (OSError, ValueError, KeyError):
        return None
    shape = len(meta["kept"]), clips, *rows.shape[1:]
    return FeatureSet(rows.reshape(shape), tuple(meta["kept"]), meta["skipped"], reused)


def _remove_stale(cache_dir: Path, key: str) -> None:
    """Delete what a killed run left of this set of features."""
    for part in cache_dir.glob(f"{key}.*.part"):
        if time.time() - max(path.stat().st_mtime for path in (part, *part.iterdir())) > STALE_SECONDS:
            shutil.rmtree(part, ignore_errors=True)
