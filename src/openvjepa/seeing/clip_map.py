"""Many clips at a glance: one vector for each, its nearest neighbors, a place on a plane, and how pure neighborhoods are.

Shapes: n clips, D channels, k neighbors.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from openvjepa.data.cores import usable_cores
from openvjepa.data.lists.records import VideoRecord, as_record
from openvjepa.errors import ConfigError, DataError, VideoError
from openvjepa.features.encode import encode
from openvjepa.seeing.pca import Moments
from openvjepa.seeing.tokens import ClipChoice, prepare, read_clips
from openvjepa.train.distributed import Runtime
from openvjepa.weights.hub import LoadedModel

Layout = Literal["pca", "umap"]

LEAST_FOR_UMAP = 10
_ROWS = 256  # of the similarity matrix at a time
_log = logging.getLogger("openvjepa")


@dataclass(frozen=True, eq=False)
class MappedClip:
    """A clip: its source, mean token and thumbnail."""

    path: str
    start: float
    """s"""
    end: float
    """s; that of its last frame, as it is shown."""
    label: str | None
    features: NDArray[np.float32]
    """Mean over the tokens, [D]."""
    thumbnail: NDArray[np.uint8]
    """[h, w, 3]"""
    query: bool = False
    """Whether it is only looked up: it is no neighbor of others, and nothing is fitted on it."""


@dataclass(frozen=True, eq=False)
class Neighborhoods:
    """Nearest neighbors of clips."""

    numbers: NDArray[np.int64]
    """[n, k], most similar first; -1 where there are fewer."""
    similarity: NDArray[np.float64]
    """Cosine similarity, [n, k]; nan where there are fewer."""
    purity: float | None
    """Mean share of a labeled clip's labeled neighbors that have its label; None without labels."""
    chance: float | None
    """The same for neighbors drawn at random."""
    own_file: bool
    """Whether clips of the same file count as neighbors: only where all clips are of one file."""


@dataclass(frozen=True, eq=False)
class ClipMap:
    """Clips, their neighbors, and their places on a plane."""

    clips: tuple[MappedClip, ...]
    neighbors: Neighborhoods
    places: NDArray[np.float64]
    """[n, 2]"""
    layout: Layout
    notes: tuple[str, ...]
    """How the places were found, in words."""
    skipped: dict[str, str]
    """Files that cannot be read: path -> reason."""


def map_clips(
    clips: Sequence[MappedClip],
    *,
    neighbors: int = 10,
    layout: Layout = "pca",
    seed: int = 0,
    skipped: dict[str, str] | None = None,
) -> ClipMap:
    """Nearest neighbors and 2-D positions of clips.

    Args:
        clips: of `embed_clips`; queries are looked up and placed, and change nothing for the others.
        neighbors: k.
        layout: how places are found.
        seed: of UMAP.
        skipped: files that could not be read, to be reported.

    Raises:
        DataError: there are only queries.
        ConfigError: UMAP is not installed, or the clips are too few for it.
    """
    features = np.stack([clip.features for clip in clips]) if clips else np.zeros((0, 1), np.float32)
    queries = np.array([clip.query for clip in clips], bool)
    if queries.all():
        raise DataError("no clips to search in: pass more videos than the query")
    files = [clip.path for clip in clips]
    found = nearest(features, files, [clip.label for clip in clips], queries, neighbors)
    places, note = _pca_places(features, queries) if layout == "pca" else _umap_places(features, queries, seed)
    return ClipMap(tuple(clips), found, places, layout, (note,), skipped or {})


def nearest(
    features: ArrayLike, files: Sequence[str], labels: Sequence[str | None], queries: ArrayLike, neighbors: int
) -> Neighborhoods:
    """Nearest neighbors by cosine similarity, and their purity.

    Clips of the same file are no neighbors: they show the same scene, and would make every map look pure.

    Args:
        features: [n, D].
        files: of each clip.
        labels: of each clip.
        queries: bool [n], clips that are not candidates.
        neighbors: k.
    """
    x = np.asarray(features, np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    excluded = np.asarray(queries, bool)
    file = np.unique(np.asarray(files, object).astype(str), return_inverse=True)[1]
    own_file = len(np.unique(file[~excluded])) == 1
    names = sorted({label for label in labels if label is not None})
    label = np.array([-1 if name is None else names.index(name) for name in labels])
    count, k = len(x), max(1, min(neighbors, int((~excluded).sum())))
    numbers, similarity = np.full((count, k), -1, np.int64), np.full((count, k), np.nan)
    pure, chance = [], []
    for first in range(0, count, _ROWS):
        rows = np.arange(first, min(first + _ROWS, count))
        scores = x[rows] @ x.T
        barred = excluded[None] | (rows[:, None] == np.arange(count)[None])
        if not own_file:
            barred = barred | (file[rows][:, None] == file[None])
        order = np.argsort(np.where(barred, np.inf, -scores), axis=1, kind="stable")[:, :k]
        chosen = np.take_along_axis(scores, order, 1)
        missing = np.take_along_axis(barred, order, 1)
        numbers[rows], similarity[rows] = np.where(missing, -1, order), np.where(missing, np.nan, chosen)
        for row, near, gone, bar in zip(rows, order, missing, barred, strict=True):
            others, pool = label[near[~gone & (label[near] >= 0)]], label[~bar & (label >= 0)]
            if label[row] >= 0 and not excluded[row] and len(others):
                pure.append((others == label[row]).mean())
                chance.append((pool == label[row]).mean())
    mean = (float(np.mean(pure)), float(np.mean(chance))) if pure else (None, None)
    return Neighborhoods(numbers, similarity, *mean, own_file)


def _pca_places(features: NDArray[np.float32], queries: NDArray[np.bool_]) -> tuple[NDArray[np.float64], str]:
    moments = Moments(features.shape[1])
    moments.add(features[~queries])
    directions, variance = moments.principal(2)
    places = np.zeros((len(features), 2))
    places[:, : len(directions)] = (features - moments.mean) @ directions.T
    share = 100 * variance.sum() / moments.variance if moments.variance > 0 else 0.0
    return places, f"PCA of the mean tokens, first two components ({share:.0f} % of the variance)"


def _umap_places(
    features: NDArray[np.float32], queries: NDArray[np.bool_], seed: int
) -> tuple[NDArray[np.float64], str]:
    try:
        umap: Any = import_module("umap")
    except ImportError:
        raise ConfigError('layout umap needs umap-learn: pip install "openvjepa[map]", or choose layout pca') from None
    count = int((~queries).sum())
    if count < LEAST_FOR_UMAP:
        raise ConfigError(f"layout umap needs at least {LEAST_FOR_UMAP} clips, there are {count}: choose layout pca")
    near = min(15, count - 1)
    reducer = umap.UMAP(n_components=2, n_neighbors=near, metric="cosine", random_state=seed, n_jobs=1)
    places = np.zeros((len(features), 2))
    places[~queries] = reducer.fit_transform(features[~queries])
    if queries.any():
        places[queries] = reducer.transform(features[queries])
    return (
        places,
        f"UMAP of the mean tokens by cosine, {near} neighbors, seed {seed}: distances between groups mean little",
    )


def embed_clips(
    model: LoadedModel,
    files: Sequence[tuple[str | VideoRecord, str | None]],
    choice: ClipChoice,
    *,
    layer: int = -1,
    runtime: Runtime | None = None,
    batch_size: int = 16,
    thumbnail: int = 96,
    query: bool = False,
) -> tuple[list[MappedClip], dict[str, str]]:
    """Mean token and thumbnail of every sampled clip. Unreadable files are skipped and reported.

    Args:
        model: on the device where it computes.
        files: (path or record, label) of each.
        choice: which clips.
        layer: block whose output is averaged (after the encoder's norm), from 0, or negative from the end.
        runtime: autocast to use; None: float32.
        batch_size: clips in one pass of the encoder.
        thumbnail: longer side of a thumbnail, px.
        query: marks the clips as queries.

    Returns:
        clips, and path -> reason of what cannot be read.
    """
    skipped: dict[str, str] = {}
    waiting: list[tuple[MappedClip, Tensor]] = []
    done: list[MappedClip] = []

    def flush() -> None:
        if waiting:
            tokens = encode(model, torch.stack([video for _, video in waiting]), layer=layer, runtime=runtime)
            done.extend(_with_features(clip, mean) for (clip, _), mean in zip(waiting, tokens.mean(1), strict=True))
            waiting.clear()

    records = [as_record(file) for file, _ in files]
    found = _read_ahead(model, records, choice, thumbnail)
    for record, (_, label), result in zip(records, files, found, strict=True):
        if isinstance(result, str):
            skipped[record.name] = result
            _log.warning("%s: cannot be read: %s", record.name, result)
            continue
        for (start, end), picture, video in result:
            if waiting and waiting[0][1].shape != video.shape:
                flush()
            waiting.append((MappedClip(record.path, start, end, label, np.zeros(0, np.float32), picture, query), video))
            if len(waiting) == batch_size:
                flush()
    flush()
    return done, skipped


def _with_features(clip: MappedClip, features: Tensor) -> MappedClip:
    return MappedClip(clip.path, clip.start, clip.end, clip.label, features.numpy(), clip.thumbnail, clip.query)


_Read = list[tuple[tuple[float, float], NDArray[np.uint8], Tensor]]
"""Of each clip: (start, end), thumbnail, what the encoder sees [3, T, H, W]."""


def _read_ahead(
    model: LoadedModel, records: Sequence[VideoRecord], choice: ClipChoice, thumbnail: int
) -> Iterator[_Read | str]:
    """Clips of one file after the other, or why it cannot be read; a few files are read at a time, ahead."""
    threads = max(1, usable_cores() - 1)
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[_Read | str]] = deque()
        for record in records:
            pending.append(pool.submit(_read, model, record, choice, thumbnail))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _read(model: LoadedModel, record: VideoRecord, choice: ClipChoice, thumbnail: int) -> _Read | str:
    try:
        video = record.open()
        clips: _Read = []
        for frames, times in read_clips(video, choice):
            picture = _shrunk(frames[len(frames) // 2], thumbnail)
            step = 0.0 if video.is_image else choice.spec.seconds_per_frame(video)
            if len(frames) == 1 and not model.config.modality_embed:
                frames = frames.repeat(choice.spec.num_frames, 0)
            seen = prepare(frames, model, whole=choice.whole, short_side=choice.short_side)
            clips.append(
                ((float(times[0]), min(float(times[-1]) + step, video.offset + video.duration)), picture, seen)
            )
    except VideoError as error:
        return error.reason
    return clips


def _shrunk(frame: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A frame [H, W, 3] made smaller until its longer side has `side` px."""
    height, width = frame.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
    return F.interpolate(pixels, size=size, mode="bilinear", antialias=True)[0].permute(1, 2, 0).contiguous().numpy()
