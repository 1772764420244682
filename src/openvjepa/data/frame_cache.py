"""Frames of clips, read from the files or kept after the first time: in memory, or on disk where they do not fit."""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openvjepa.data.clips import ClipSpec
from openvjepa.data.lists.index import VideoRecord
from openvjepa.data.media.video import Video
from openvjepa.data.transforms import channels_first, resize
from openvjepa.errors import DataError, VideoError
from openvjepa.machine import available_memory, size_text

MARGIN = 1.3  # short side of kept frames over that of a clip; a random crop of less than the frame needs more
_SMALLER = 1.5  # frames are only made smaller where that saves at least this factor for each side
_SHARE = 0.6  # of the available memory that may be used
_LOOKED_AT = 48  # videos whose headers give the estimate
_CHUNK = 1 << 27  # bytes of decoded frames at a time

_log = logging.getLogger("openvjepa")


def kept_short_side(size: tuple[int, int], crop_scale: tuple[float, float]) -> int:
    """Short side of kept frames, px: a crop of the least area still has the pixels of a clip.

    Args:
        size: height and width of a clip.
        crop_scale: range of the area of a random crop, as a fraction of the frame.
    """
    return math.ceil(max(size) * max(MARGIN, crop_scale[0] ** -0.5))


class FrameReader:
    """Reads the frames of clips; a cache keeps every decoded video.

    A damaged video is not kept: what stands in for a lost frame depends on which frames are asked for, and clips must be
    the same with and without a cache. Videos whose short side is more than 1.5 times `short_side` are kept at that size.

    Args:
        short_side: of kept frames, px; None: nothing is kept.
        records: the videos that will be read, for the estimate of the space that they take.

    Raises:
        DataError: they fit neither the memory nor the disk.
    """

    def __init__(self, short_side: int | None = None, records: Sequence[VideoRecord] = ()) -> None:
        self.short_side = short_side
        self.videos: dict[str, Video] = {}
        self.kept: dict[str, NDArray[np.uint8] | None] = {}
        self.folder: tempfile.TemporaryDirectory[str] | None = None
        if short_side is not None:
            self._make_room(records, short_side)

    def _make_room(self, records: Sequence[VideoRecord], short_side: int) -> None:
        needed, memory = estimate(records, short_side), available_memory()
        if memory is None or needed < _SHARE * memory:
            _log.info("keeping decoded frames in memory: about %s for %d videos", size_text(needed), len(records))
            return
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if needed > 0.9 * free:
            raise DataError(
                f"decoded frames of {len(records)} videos take about {size_text(needed)}; {size_text(memory)} of memory and "
                f"{size_text(free)} of {tempfile.gettempdir()} are free: leave out --cache, or write small copies with "
                "`vjepa data prepare`"
            )
        self.folder = tempfile.TemporaryDirectory(prefix="openvjepa-frames-")
        _log.info("keeping decoded frames on disk, in %s: about %s", self.folder.name, size_text(needed))

    def video(self, record: VideoRecord) -> Video:
        """The open video, or the part of it that the record means."""
        return self.videos[record.name] if record.name in self.videos else record.open()

    def frames(self, record: VideoRecord, spec: ClipSpec, start: float, video: Video) -> NDArray[np.uint8]:
        """Frames of the clip that starts at `start` s, uint8 [T, H, W, 3]."""
        indices, name = spec.indices(video, start), record.name
        if self.short_side is not None and name not in self.kept:
            try:
                self.videos[name], self.kept[name] = video, self._keep(video, self.short_side)
            except MemoryError:
                raise DataError(
                    f"out of memory: data.cache keeps every decoded video, and there was room for {len(self.kept)}: leave "
                    "--cache out, or make small copies with `vjepa data prepare`"
                ) from None
        whole = self.kept.get(name)
        return video.frames([int(i) for i in indices]).frames if whole is None else np.asarray(whole[indices])

    def _keep(self, video: Video, short_side: int) -> NDArray[np.uint8] | None:
        """All frames, uint8 [frames, h, w, 3]; None when some cannot be decoded."""
        first = video.frames([0]).frames
        count, step = video.frame_count, max(1, _CHUNK // first.nbytes)
        height, width = kept_size(first.shape[1], first.shape[2], short_side)
        found = self._array((count, height, width, 3))
        try:
            for begin in range(0, count, step):
                batch = video.frames(range(begin, min(begin + step, count)))
                if batch.lost:
                    return None
                small = resize(channels_first(batch.frames), (height, width))
                found[begin : begin + step] = small.permute(0, 2, 3, 1).numpy()
        except (VideoError, RuntimeError):  # the second: frames of several sizes
            return None
        return found

    def _array(self, shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        if self.folder is None:
            return np.empty(shape, np.uint8)
        path = Path(self.folder.name) / f"{os.getpid()}-{len(self.kept)}.npy"  # forked workers share the folder
        return np.lib.format.open_memmap(path, "w+", np.uint8, shape)


def kept_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width of kept frames, px."""
    short = min(height, width)
    if short <= _SMALLER * short_side:
        return height, width
    return round(height * short_side / short), round(width * short_side / short)


def estimate(records: Sequence[VideoRecord], short_side: int) -> int:
    """Bytes of the kept frames of all videos, from those of some of them, spread over the list."""
    places = np.unique(np.linspace(0, len(records) - 1, _LOOKED_AT).astype(int)) if records else []
    sizes = []
    for place in places:
        try:
            video = records[place].open()
            _, height, width, _ = video.frames([0]).frames.shape
            height, width = kept_size(height, width, short_side)
        except VideoError:
            continue
        sizes.append(video.frame_count * height * width * 3)
    return round(float(np.mean(sizes)) * len(records)) if sizes else 0
