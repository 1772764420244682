"""Open a video, a folder of frames or a still image, and get exactly the frames asked for.

A frame's number is its place in a sequential decode. Reading builds a table of time stamps once per file, from the
packets alone where that is safe and by decoding otherwise, then seeks to the key frame before the first wanted frame,
and goes back further when a file's seek lands too late (transport streams, intra refresh, open groups of pictures).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from openvjepa.data.media.container import decode, open_stream, seek
from openvjepa.data.media.images import IMAGE_EXTENSIONS, image_codec, is_image, read_images
from openvjepa.data.media.timestamps import FOLDER_FPS, Table, pictures, stamp_of, table_of
from openvjepa.errors import VideoError

VIDEO_EXTENSIONS = frozenset((".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
                              ".mts", ".ogv", ".ts", ".webm", ".wmv"))  # fmt: skip
MEDIA_EXTENSIONS = VIDEO_EXTENSIONS | IMAGE_EXTENSIONS

_GUARD_SECONDS = 10.0
LATE = 1.0  # s; parts may end so much after their video
_ROUNDING = 0.01  # of a frame: times of parts are rounded
_MAX_LOST = 0.25  # share of the wanted frames that may be replaced by their predecessor
_FIT_ABOVE = 400  # px; frames with a longer short side are worth shrinking while their colors are converted


@dataclass(frozen=True)
class FrameBatch:
    """Frames and where they come from."""

    frames: NDArray[np.uint8]
    """[n, H, W, 3], RGB, upright."""
    indices: NDArray[np.int64]
    """Number of each frame in a sequential decode, of a part counted from its first frame, [n]."""
    lost: int
    """Frames that could not be decoded; the one before stands in."""


@dataclass(frozen=True)
class VideoInfo:
    """What a full decode found in a file."""

    path: str
    frames: int
    fps: float
    """Frames per second; 0 for a still image."""
    duration: float
    """Seconds; 0 for a still image."""
    width: int
    height: int
    codec: str
    errors: int
    """Packets, or images of a folder, that could not be decoded."""


class Video:
    """An open video; make one with `open_video`.

    Attributes:
        path: the file or folder.
        is_image: whether it is a still image.
        frame_count: frames that a sequential decode gives.
        fps: mean frames per second.
        duration: seconds from the first frame's start to the last one's end.
        times: start of each frame, s from the first, [frame_count].
        offset: start of the first frame of a part, s from the first of the file; else 0.
        clock: time stamp of the first frame, s of the file's own clock, which its sound shares.


    Of a video opened in part, frames and times count from the first frame of the part.
    """

    def __init__(
        self, path: str | Path, *, threads: int = 1, start: float | None = None, end: float | None = None
    ) -> None:
        self.path, self.is_image, self.threads = str(path), is_image(path), threads
        table = table_of(self.path, stamp_of(Path(path)))
        self.pts = table.pts
        self._first, last = 0, len(table.times)
        if start is not None or end is not None:
            self._first, last = self._part(table, 0.0 if start is None else start, math.inf if end is None else end)
        self.offset = float(table.times[self._first])
        self.clock = table.start + self.offset
        self.times, self.fps = table.times[self._first : last] - table.times[self._first], table.fps
        self.frame_count = len(self.times)
        self.duration = float(self.times[-1]) + 1 / self.fps

    def _part(self, table: Table, start: float, end: float) -> tuple[int, int]:
        """Numbers of the first frame of a part, and of the one after its last: those on screen from start to end, s."""
        duration, tolerance = float(table.times[-1]) + 1 / table.fps, _ROUNDING / table.fps
        if not 0 <= start < end:
            raise VideoError(self.path, f"has no part from {start:g} to {end:g} s")
        if start >= duration or duration + LATE < end < math.inf:
            raise VideoError(self.path, f"has no part from {start:g} to {end:g} s: it lasts {duration:.2f} s")
        first = max(0, int(np.searchsorted(table.times, start + tolerance, side="right")) - 1)
        last = int(np.searchsorted(table.times, end - tolerance, side="left"))
        return first, max(last, first + 1)

    def frames_at(self, times: Sequence[float], *, short_side: int | None = None) -> FrameBatch:
        """The frames on screen at the given times.

        Args:
            times: seconds from the first frame; later than the end means the last frame.
            short_side: as for `frames`.

        Raises:
            VideoError: a time is negative or not finite, or too much of the file cannot be decoded.
        """
        if wrong := [time for time in times if not 0 <= time < math.inf]:
            raise VideoError(self.path, f"asked for the frame at {wrong[0]:.3f} s")
        indices = np.searchsorted(self.times, np.asarray(times) + 1e-6, side="right") - 1
        return self.frames([int(i) for i in indices], short_side=short_side)

    def frames(self, indices: Sequence[int], *, short_side: int | None = None) -> FrameBatch:
        """The frames of the given numbers, in that order; a number may come twice.

        A packet that cannot be decoded keeps its number, so that the frames after it stay at their times.

        Args:
            indices: numbers of the frames.
            short_side: shrink large frames (short side above 400 px) to this short side, px, which saves memory.

        Raises:
            VideoError: a number is out of range, or too much of the file cannot be decoded.
        """
        if not len(indices) or min(indices) < 0 or max(indices) >= self.frame_count:
            raise VideoError(self.path, f"asked for frames {list(indices)} of {self.frame_count}")
        indices = [self._first + i for i in indices]
        wanted = sorted(set(indices))
        if files := pictures(self.path):
            found = dict(read_images([(i, files[i]) for i in wanted], short_side=short_side))
        elif self.pts is None:
            found = self._decode_in_order(wanted, ToRGB(short_side))
        else:
            found = self._decode_by_pts(wanted, ToRGB(short_side))
        return self._batch(indices, wanted, found)

    def all_frames(self) -> FrameBatch:
        """Every frame."""
        return self.frames(range(self.frame_count))

    def _batch(self, indices: Sequence[int], wanted: list[int], found: dict[int, NDArray[np.uint8]]) -> FrameBatch:
        lost = len(wanted) - len(found)
        if not found or lost > _MAX_LOST * len(wanted):
            raise VideoError(self.path, f"{lost} of {len(wanted)} frames cannot be decoded")
        stand_in = found[min(found)]
        for i in wanted:
            stand_in = found.setdefault(i, stand_in)
        try:
            frames = np.stack([found[i] for i in indices])
        except ValueError:
            raise VideoError(self.path, "the size of the frames changes") from None
        return FrameBatch(frames, np.asarray(indices, np.int64) - self._first, lost)

    def _decode_in_order(self, wanted: list[int], rgb: ToRGB) -> dict[int, NDArray[np.uint8]]:
        remaining, found = set(wanted), {}
        with open_stream(self.path, self.threads) as (container, stream):
            for i, frame in enumerate(decode(container, stream)):
                if i in remaining:
                    found[i] = rgb(frame)
                if i >= wanted[-1]:
                    break
        return found

    def _decode_by_pts(self, wanted: list[int], rgb: ToRGB, *, skip: bool = True) -> dict[int, NDArray[np.uint8]]:
        assert self.pts is not None
        by_pts = {int(self.pts[i]): i for i in wanted}
        first, best = min(by_pts), {}
        with open_stream(self.path, self.threads) as (container, stream):
            guard = round(_GUARD_SECONDS / float(stream.time_base))
            if "444" in (stream.pix_fmt or ""):
                # x264 once encoded 4:4:4 by a rule of its own and says so in the first packet alone: show it to the decoder.
                next(decode(container, stream), None)
            for start in (first, first - guard, None):
                if not seek(container, stream, start):
                    continue
                found, damaged = _read_from_here(container, stream, by_pts, rgb, may_be_late=start is None, skip=skip)
                if damaged and skip:  # a sequential decode patches damage with frames that were skipped here
                    return self._decode_by_pts(wanted, rgb, skip=False)
                if len(found) == len(by_pts):
                    return found
                if found and len(found) <= len(best):
                    break  # going back further did not help: these frames are lost
                best = found if len(found) > len(best) else best
        return best


def _read_from_here(
    container: Any, stream: Any, by_pts: dict[int, int], rgb: ToRGB, *, may_be_late: bool, skip: bool
) -> tuple[dict[int, NDArray[np.uint8]], bool]:
    """Wanted frames {pts: number} as {number: pixels}, none if the first here already is too late; is the file damaged?"""
    found: dict[int, NDArray[np.uint8]] = {}
    errors: list[str] = []
    first, last = min(by_pts), max(by_pts)
    landed, corrupt = may_be_late, False
    for frame in decode(container, stream, keep=by_pts.keys() if skip else None, errors=errors):
        if frame.pts is None:
            continue
        landed = landed or frame.pts <= first
        if not landed:
            break
        corrupt = corrupt or frame.is_corrupt
        if frame.pts in by_pts:
            found[by_pts[frame.pts]] = rgb(frame)
        if frame.pts >= last:
            break
    return found, corrupt or bool(errors)


def open_video(path: str | Path, *, threads: int = 1, start: float | None = None, end: float | None = None) -> Video:
    """Open a video file, a folder of frames (images in order of their names) or a still image (one frame).

    Args:
        path: what to open.
        threads: decoding threads; 1 in loader workers, more only where nothing else decodes.
        start: s; the part of the video that begins with the frame on screen then. None: from its first frame.
        end: s; the part ends before the frames that start then. Up to a second after the end of the video (annotations are
            rounded) it means that end. None: to its last frame.

    Raises:
        VideoError: missing, empty, not a video, without a picture, or unreadable; or it has no such part.
    """
    return Video(path, threads=threads, start=start, end=end)


def probe(path: str | Path) -> VideoInfo:
    """Decode a whole file and say what is in it.

    Raises:
        VideoError: nothing in it can be decoded.
    """
    stamp_of(Path(path))
    if files := pictures(str(path)):
        sizes = [pixels.shape[:2] for _, pixels in read_images(list(enumerate(files)))]
        (height, width), lost = sizes[0], len(files) - len(sizes)
        if not Path(path).is_dir():
            return VideoInfo(str(path), 1, 0.0, 0.0, width, height, image_codec(path), lost)
        return VideoInfo(str(path), len(files), FOLDER_FPS, len(files) / FOLDER_FPS, width, height, "images", lost)
    video = open_video(path)
    errors: list[str] = []
    with open_stream(str(path), 1) as (container, stream):
        count, width, height = 0, 0, 0
        for frame in decode(container, stream, errors=errors):
            if count == 0:
                width, height = (frame.height, frame.width) if frame.rotation % 180 else (frame.width, frame.height)
            count += 1
        codec = stream.codec.canonical_name
    if not count:
        raise VideoError(path, "no frame can be decoded")
    return VideoInfo(str(path), count, video.fps, count / video.fps, width, height, codec, len(errors))


class ToRGB:
    """Turns decoded frames into upright RGB arrays.

    One reformatter with one thread for the whole read: a new one per frame starts a thread pool each time.
    """

    def __init__(self, short_side: int | None = None) -> None:
        self.reformatter = VideoReformatter()
        self.short_side = short_side

    def __call__(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """uint8 [height, width, 3]."""
        width, height, short = frame.width, frame.height, min(frame.width, frame.height)
        if self.short_side and short > max(self.short_side, _FIT_ABOVE):
            width, height = (round(side * self.short_side / short) for side in (width, height))
        rgb = self.reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        pixels = np.asarray(rgb.to_ndarray(), np.uint8)
        return np.rot90(pixels, frame.rotation // 90 % 4) if frame.rotation else pixels
