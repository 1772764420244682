"""Which videos must lie on the same side of a split: copies, near-duplicates, one file, one group.

n videos, P pixels of a thumbnail.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from openvjepa.data.cores import process_count, process_pool
from openvjepa.data.lists.records import VideoRecord
from openvjepa.data.lists.seen import content_key
from openvjepa.errors import DataError, VideoError
from openvjepa.progress import Meter

log = logging.getLogger("openvjepa")

SIDE = 16  # height and width of a thumbnail, px
PLACES = (0.25, 0.5, 0.75)  # of the frames that are compared, along a video
ALIKE = 0.97
"""Correlation of thumbnails, in all three frames, from which on two videos are near-duplicates. 300 of 300 strongly compressed
copies reach it (96 px, crf 30), and no two of 503 driving clips of one camera (docs/data.md)."""
FLAT = 2.0  # standard deviation of pixels, of 255, below which a frame shows nothing that could be compared
_ROWS = 1024  # videos compared with all others at once

Pair = tuple[int, int]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Units:
    """Sets of videos that are never divided."""

    numbers: NDArray[np.int64]
    """Unit of each video, [n]."""
    copies: tuple[Pair, ...]
    """Pairs of files with the same content."""
    alike: tuple[Pair, ...]
    """Pairs of near-duplicates that are no copies."""
    unreadable: dict[str, str]
    """Path -> reason; such a video is compared with no other."""

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.numbers.max()) + 1 if len(self.numbers) else 0


def find_units(
    records: Sequence[VideoRecord], *, whole_files: bool = True, near: bool = True, workers: int | None = None
) -> Units:
    """Group videos that must not be divided.

    Together are: videos of one group, parts of one file (of files that are divided, parts that overlap), files with the same
    content, and near-duplicates, each of them transitively.

    Args:
        records: the videos.
        whole_files: parts of one file stay together.
        near: look for near-duplicates, which decodes three frames of each video.
        workers: processes that decode; None: one per core, at most 8.

    Raises:
        DataError: a decoding process was ended from outside.
    """
    edges = list(_chains(record.group for record in records))
    files = [os.path.abspath(record.path) for record in records]
    edges += _chains(files) if whole_files else _overlapping(records)
    first: dict[str, int] = {}
    for i, file in enumerate(files):
        first.setdefault(file, i)
    places = list(first.values())
    keys = [content_key(files[i]) or None for i in places]
    copies = [(places[a], places[b]) for a, b in _chains(keys)]
    alike: list[Pair] = []
    unreadable: dict[str, str] = {}
    if near:
        shown = places if whole_files else list(range(len(records)))
        pictures, unreadable = thumbnails([records[i] for i in shown], workers)
        same = {(files[a], files[b]) for a, b in copies}
        found = [(shown[a], shown[b]) for a, b in similar_pairs(pictures)]
        alike = [(a, b) for a, b in found if files[a] != files[b] and (files[a], files[b]) not in same]
    return Units(_components(len(records), [*edges, *copies, *alike]), tuple(copies), tuple(alike), unreadable)


def _chains(keys: Iterable[Hashable | None]) -> Iterator[Pair]:
    """Neighboring places of equal keys; None is equal to nothing."""
    places: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        if key is not None:
            places.setdefault(key, []).append(i)
    for members in places.values():
        yield from pairwise(members)


def _overlapping(records: Sequence[VideoRecord]) -> Iterator[Pair]:
    by_file: dict[str, list[int]] = {}
    for i, record in enumerate(records):
        by_file.setdefault(os.path.abspath(record.path), []).append(i)
    for members in by_file.values():
        for number, a in enumerate(members):
            yield from ((a, b) for b in members[number + 1 :] if records[a].overlaps(records[b]))


def _components(count: int, pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """Number of the connected component of each of so many places, [count]."""
    a, b = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(a), dtype=bool), (a, b)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def thumbnails(records: Sequence[VideoRecord], workers: int | None = None) -> tuple[Floats, dict[str, str]]:
    """Three frames of each video as small pictures, float [n, 3, P], and why others cannot be read (these are 0)."""
    pictures = np.zeros((len(records), len(PLACES), 3 * SIDE**2), np.float32)
    unreadable: dict[str, str] = {}
    try:
        with (
            process_pool(process_count(workers, len(records))) as pool,
            Meter("comparing", len(records), unit="videos") as meter,
        ):
            for i, job in enumerate([pool.submit(_thumbnail, record) for record in records]):
                found = job.result()
                if isinstance(found, str):
                    unreadable[records[i].name] = found
                else:
                    pictures[i] = found
                meter.show(i + 1)
    except BrokenProcessPool:
        raise DataError("a decoding process died, perhaps for lack of memory: use fewer workers") from None
    return pictures, unreadable


def _thumbnail(record: VideoRecord) -> Floats | str:
    try:
        video = record.open()
        frames = video.frames([int(place * (video.frame_count - 1)) for place in PLACES], short_side=4 * SIDE).frames
    except VideoError as error:
        return error.reason
    small = [Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BOX) for frame in frames]
    return np.stack([np.asarray(picture, np.float32).reshape(-1) for picture in small])


def similar_pairs(pictures: Floats) -> list[Pair]:
    """Pairs of videos whose thumbnails [n, 3, P] correlate in all frames; frames without contrast match nothing."""
    centered = pictures - pictures.mean(2, keepdims=True)
    flat = (centered.std(2) < FLAT).any(1)
    unit = centered / np.maximum(np.linalg.norm(centered, axis=2, keepdims=True), 1e-9)
    unit[flat] = 0
    pairs: list[Pair] = []
    for start in range(0, len(unit), _ROWS):
        block = unit[start : start + _ROWS]
        least = np.minimum.reduce([block[:, k] @ unit[:, k].T for k in range(unit.shape[1])])
        rows, columns = np.nonzero(least > ALIKE)
        pairs += [(start + int(a), int(b)) for a, b in zip(rows, columns, strict=True) if start + a < b]
    return pairs
