"""Features on disk: encoded once, checked byte by byte when they are read again.

Shapes: n videos, V clips of each, N tokens, D channels.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from openvjepa.config import to_yaml
from openvjepa.data.lists.index import VideoIndex, VideoRecord
from openvjepa.errors import DataError
from openvjepa.features.encode import EncodeSettings, check_bad, encode_planned, planned_batches
from openvjepa.features.sampling import ClipPlan
from openvjepa.grid import TokenGrid
from openvjepa.machine import size_text
from openvjepa.model.encoder import Encoder
from openvjepa.weights.files import weights_digest

log = logging.getLogger("openvjepa")

FORMAT = 2  # of the cache; caches of another format are encoded again
ROWS, META = "features.npy", "meta.json"
STALE_SECONDS = 3600.0  # an unfinished cache that was not written to for so long belongs to a killed run


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
    key: str = ""
    """Name of their folder in the cache, a hash of all that they follow from."""


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
    return encode_together((encoder,), index, plan, settings, cache_dir, name=name)[0]


def encode_together(
    encoders: Sequence[Encoder],
    index: VideoIndex,
    plan: ClipPlan,
    settings: EncodeSettings,
    cache_dir: Path,
    *,
    name: str,
) -> list[FeatureSet]:
    """As `encode_index`, for several encoders: the videos are read once for all whose features are not there yet."""
    folders = [cache_dir / cache_key(encoder, index, plan, settings) for encoder in encoders]
    found = {folder: _stored(folder, plan, name) for folder in folders}
    for stored in found.values():
        if stored is not None:  # written by a run that may have allowed more
            check_bad(stored.skipped, len(index), settings.max_bad)
    missing = {folder: encoder for folder, encoder in zip(folders, encoders, strict=True) if found[folder] is None}
    if missing:
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            for folder in missing:
                _remove_stale(cache_dir, folder.name)
            _check_room(list(missing.values()), index, plan, settings, cache_dir)
            parts = {folder.with_name(f"{folder.name}.{os.getpid()}.part"): folder for folder in missing}
            try:
                _write_caches(dict(zip(parts, missing.values(), strict=True)), index, plan, settings, name)
                for part, folder in parts.items():
                    if not folder.exists():  # else another run was faster
                        part.replace(folder)
            finally:
                for part in parts:
                    shutil.rmtree(part, ignore_errors=True)
        except OSError as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
            raise DataError(f"{cache_dir}: cannot write encoded features: {reason}; {_SAVE_SPACE}") from None
        for folder in missing:
            found[folder] = _open_cache(folder, plan.clips, reused=False)
    sets: list[FeatureSet] = []
    for folder in folders:
        features = found[folder]
        if features is None:
            raise DataError(f"{folder}: cached features cannot be read back: check the disk")
        sets.append(features)
    _check_same_videos(sets, cache_dir)
    return sets


def _check_same_videos(sets: Sequence[FeatureSet], cache_dir: Path) -> None:
    """A file may have become unreadable after the features of the first encoder were stored."""
    if any(features.kept != sets[0].kept for features in sets):
        raise DataError(
            f"{cache_dir}: the cached features of several encoders hold different videos: delete the folder to encode "
            "them again"
        )


def _stored(folder: Path, plan: ClipPlan, name: str) -> FeatureSet | None:
    """What the cache has; a damaged folder is deleted."""
    if not folder.exists():
        return None
    stored = _open_cache(folder, plan.clips, reused=True)
    if stored is None:
        log.warning("%s is damaged: recomputing the features", folder)
        shutil.rmtree(folder)
    else:
        log.info("features of %s: %d videos, read from %s", name, len(stored.x), folder)
    return stored


_SAVE_SPACE = "free some space, choose another --cache-dir, fewer --train-views, or --feature-dtype float16"


def cache_key(encoder: Encoder, index: VideoIndex, plan: ClipPlan, settings: EncodeSettings) -> str:
    """Name of a set of features: a hash of everything that changes them."""
    return digest(feature_facts(encoder, index, plan, settings))[:24]


def feature_facts(encoder: Encoder, index: VideoIndex, plan: ClipPlan, settings: EncodeSettings) -> dict[str, Any]:
    """Everything that changes the features of these videos."""
    return {
        "format": FORMAT,
        "weights": [to_yaml(encoder.config), weights_digest(encoder)],
        "videos": [_video_facts(record) for record in index.records],
        "plan": asdict(plan),
        "dtype": settings.dtype,
        "layer": settings.layer,
        "computed": [settings.runtime.device.type, str(settings.runtime.dtype)],
    }


def digest(facts: Any) -> str:
    """sha256 of plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _video_facts(record: VideoRecord) -> list[Any]:
    """The facts of its file, and which part of it is meant."""
    return _file_facts(Path(record.path)) + ([["part", record.start, record.end]] if record.is_part else [])


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


def _rows_shape(encoder: Encoder, plan: ClipPlan, videos: int) -> tuple[int, int, int]:
    """Shape of the features of so many videos: [videos * V, N, D]."""
    config = encoder.config
    grid = TokenGrid.of_clip(
        plan.spec.num_frames, *plan.size, patch_size=config.patch_size, tubelet_size=config.tubelet_size
    )
    return videos * plan.clips, grid.tokens, encoder.embed_dim


def _check_room(
    encoders: Sequence[Encoder], index: VideoIndex, plan: ClipPlan, settings: EncodeSettings, cache_dir: Path
) -> None:
    """Stop before the work when its result cannot fit on the disk."""
    shapes = [_rows_shape(encoder, plan, len(index)) for encoder in encoders]
    needed = sum(math.prod(shape) for shape in shapes) * np.dtype(settings.dtype).itemsize
    free = shutil.disk_usage(cache_dir).free
    if needed > free:
        raise DataError(
            f"{cache_dir}: the features of {len(index)} videos take {size_text(needed)}, and {size_text(free)} are free: "
            f"{_SAVE_SPACE}"
        )


def _write_caches(
    parts: Mapping[Path, Encoder], index: VideoIndex, plan: ClipPlan, settings: EncodeSettings, name: str
) -> None:
    """Encode into features.npy and meta.json, with their check sums, of new folders; rows of unreadable videos are left out.

    Rows are appended with plain writes: a memory map would answer a full disk with a bus error.
    """
    kept: list[int] = []
    skipped: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        files: dict[Path, BinaryIO] = {}
        for part, encoder in parts.items():
            part.mkdir()
            files[part] = stack.enter_context((part / ROWS).open("wb"))
            _write_header(files[part], settings.dtype, _rows_shape(encoder, plan, len(index)))
        for places, clips, reasons in planned_batches(index, plan, settings, name=name):
            good = [place for place, reason in zip(places, reasons, strict=True) if not reason]
            skipped |= {index.records[p].name: reason for p, reason in zip(places, reasons, strict=True) if reason}
            check_bad(skipped, len(index), settings.max_bad)
            kept += good
            for part, encoder in parts.items():
                for place, features in zip(good, encode_planned(encoder, clips, settings), strict=True):
                    files[part].write(_finite(features, settings.dtype, index.records[place].name).tobytes())
        for part, encoder in parts.items():
            files[part].seek(0)  # the header has room for any number of rows
            _write_header(files[part], settings.dtype, _rows_shape(encoder, plan, len(kept)))
            files[part].flush()
            os.fsync(files[part].fileno())
    for part in parts:
        meta: dict[str, Any] = {"name": name, "source": index.source, "kept": kept, "skipped": skipped}
        meta["sha256"] = {"features": _file_digest(part / ROWS), "meta": digest(meta)}
        (part / META).write_text(json.dumps(meta), encoding="utf-8")


def _finite(features: Tensor, dtype: str, path: str) -> NDArray[Any]:
    """Features as they are stored.

    Raises:
        DataError: a number is not finite, or too large for the type.
    """
    stored = features.numpy().astype(dtype)
    if not np.isfinite(stored).all():
        raise DataError(
            f"{path}: its features are not finite in {dtype}: the model's weights are damaged or diverged, or the numbers are "
            "too large: try --precision fp32 and --feature-dtype float32"
        )
    return stored


def _write_header(file: BinaryIO, dtype: str, shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _open_cache(folder: Path, clips: int, *, reused: bool) -> FeatureSet | None:
    """A complete set of features whose every byte is as it was written, or None if it is damaged."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        stored = meta.pop("sha256")
        if stored != {"features": _file_digest(folder / ROWS), "meta": digest(meta)}:
            return None
        rows = np.load(folder / ROWS, mmap_mode="r")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not meta["kept"]:
        raise DataError(f"none of the videos of {meta['source']} can be read")
    shape = len(meta["kept"]), clips, *rows.shape[1:]
    return FeatureSet(rows.reshape(shape), tuple(meta["kept"]), meta["skipped"], reused, folder.name)


def _file_digest(path: Path) -> str:
    """sha256 of a file (about 1.5 GB a second)."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _remove_stale(cache_dir: Path, key: str) -> None:
    """Delete what a killed run left of this set of features."""
    for part in cache_dir.glob(f"{key}.*.part"):
        if time.time() - max(path.stat().st_mtime for path in (part, *part.iterdir())) > STALE_SECONDS:
            shutil.rmtree(part, ignore_errors=True)
