"""Open a video, a folder of frames or a still image, and get exactly the frames asked for.

A frame's number is its place in a sequential decode. Reading builds a table of time stamps once per file, from the
packets alone where that is safe and by decoding otherwise, then seeks to the key frame before the first wanted frame,
and goes back further when a file's seek lands too late (transport streams, intra refresh, open groups of pictures).
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from openvjepa.data.files import why_not_readable
from openvjepa.data.images import IMAGE_EXTENSIONS, image_codec, is_image, is_image_name, read_images
from openvjepa.errors import VideoError

VIDEO_EXTENSIONS = frozenset((".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
                              ".mts", ".ogv", ".ts", ".webm", ".wmv"))  # fmt: skip
MEDIA_EXTENSIONS = VIDEO_EXTENSIONS | IMAGE_EXTENSIONS
FOLDER_FPS = 30.0  # frames per second that a folder of frames is taken to have

# One packet, one frame, with the packet's time stamp: the table can be read without decoding.
_PLAIN_CODECS = frozenset(["h264", "hevc", "vp9", "av1", "mpeg1video", "mpeg2video", "mpeg4", "mjpeg"])
# Packets may hide frames, so the table needs a decode, but seeking to a key frame is exact.
_SEEKABLE_CODECS = _PLAIN_CODECS | {"vp8"}
# Skipping frames that no other frame refers to changes nothing else in these; in AV1 it was seen to.
_SKIPPABLE_CODECS = frozenset(("h264", "hevc"))
_GUARD_SECONDS = 10.0
_MAX_LOST = 0.25  # share of the wanted frames that may be replaced by their predecessor
_FIT_ABOVE = 400  # px; frames with a longer short side are worth shrinking while their colours are converted
_NOT_CODED = 8  # bytes; an MPEG-4 packet that is no longer says "as before" and gives no frame


@dataclass(frozen=True)
class FrameBatch:
    """Frames and where they come from."""

    frames: NDArray[np.uint8]
    """[n, H, W, 3], RGB, upright."""
    indices: NDArray[np.int64]
    """Number of each frame in a sequential decode, [n]."""
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


@dataclass(frozen=True)
class _Table:
    """Time stamps of all frames in order of display, in seconds from the first; pts is None if they cannot be trusted."""

    times: NDArray[np.float64]
    pts: NDArray[np.int64] | None
    fps: float


class Video:
    """An open video; make one with `open_video`.

    Attributes:
        path: the file or folder.
        is_image: whether it is a still image.
        frame_count: frames that a sequential decode gives.
        fps: mean frames per second.
        duration: seconds from the first frame's start to the last one's end.
        times: start of each frame, s from the first, [frame_count].
    """

    def __init__(self, path: str | Path, *, threads: int = 1) -> None:
        self.path, self.is_image, self.threads = str(path), is_image(path), threads
        table = _table(self.path, _stamp(Path(path)))
        self._pts = table.pts
        self.times, self.fps, self.frame_count = table.times, table.fps, len(table.times)
        self.duration = float(self.times[-1]) + 1 / self.fps

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
        wanted = sorted(set(indices))
        if not wanted or wanted[0] < 0 or wanted[-1] >= self.frame_count:
            raise VideoError(self.path, f"asked for frames {list(indices)} of {self.frame_count}")
        if files := _pictures(self.path):
            found = dict(read_images([(i, files[i]) for i in wanted], short_side=short_side))
        elif self._pts is None:
            found = self._decode_in_order(wanted, _ToRGB(short_side))
        else:
            found = self._decode_by_pts(wanted, _ToRGB(short_side))
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
        return FrameBatch(frames, np.asarray(indices, np.int64), lost)

    def _decode_in_order(self, wanted: list[int], rgb: _ToRGB) -> dict[int, NDArray[np.uint8]]:
        remaining, found = set(wanted), {}
        with _open(self.path, self.threads) as (container, stream):
            for i, frame in enumerate(_decode(container, stream)):
                if i in remaining:
                    found[i] = rgb(frame)
                if i >= wanted[-1]:
                    break
        return found

    def _decode_by_pts(self, wanted: list[int], rgb: _ToRGB, *, skip: bool = True) -> dict[int, NDArray[np.uint8]]:
        assert self._pts is not None
        by_pts = {int(self._pts[i]): i for i in wanted}
        first, best = min(by_pts), {}
        with _open(self.path, self.threads) as (container, stream):
            guard = round(_GUARD_SECONDS / float(stream.time_base))
            if "444" in (stream.pix_fmt or ""):
                # x264 once encoded 4:4:4 by a rule of its own and says so in the first packet alone: show it to the decoder.
                next(_decode(container, stream), None)
            for start in (first, first - guard, None):
                if not _seek(container, stream, start):
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
    container: Any, stream: Any, by_pts: dict[int, int], rgb: _ToRGB, *, may_be_late: bool, skip: bool
) -> tuple[dict[int, NDArray[np.uint8]], bool]:
    """Wanted frames {pts: number} as {number: pixels}, none if the first here already is too late; is the file damaged?"""
    found: dict[int, NDArray[np.uint8]] = {}
    errors: list[str] = []
    first, last = min(by_pts), max(by_pts)
    landed, corrupt = may_be_late, False
    for frame in _decode(container, stream, keep=by_pts.keys() if skip else None, errors=errors):
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


def open_video(path: str | Path, *, threads: int = 1) -> Video:
    """Open a video file, a folder of frames (images in order of their names) or a still image (one frame).

    Args:
        path: what to open.
        threads: decoding threads; 1 in loader workers, more only where nothing else decodes.

    Raises:
        VideoError: missing, empty, not a video, without a picture, or unreadable.
    """
    return Video(path, threads=threads)


def probe(path: str | Path) -> VideoInfo:
    """Decode a whole file and say what is in it.

    Raises:
        VideoError: nothing in it can be decoded.
    """
    _stamp(Path(path))
    if files := _pictures(str(path)):
        sizes = [pixels.shape[:2] for _, pixels in read_images(list(enumerate(files)))]
        (height, width), lost = sizes[0], len(files) - len(sizes)
        if not Path(path).is_dir():
            return VideoInfo(str(path), 1, 0.0, 0.0, width, height, image_codec(path), lost)
        return VideoInfo(str(path), len(files), FOLDER_FPS, len(files) / FOLDER_FPS, width, height, "images", lost)
    video = open_video(path)
    errors: list[str] = []
    with _open(str(path), 1) as (container, stream):
        count, width, height = 0, 0, 0
        for frame in _decode(container, stream, errors=errors):
            if count == 0:
                width, height = (frame.height, frame.width) if frame.rotation % 180 else (frame.width, frame.height)
            count += 1
        codec = stream.codec.canonical_name
    if not count:
        raise VideoError(path, "no frame can be decoded")
    return VideoInfo(str(path), count, video.fps, count / video.fps, width, height, codec, len(errors))


class _ToRGB:
    """Turns decoded frames into upright RGB arrays.

    One reformatter with one thread for the whole read: a new one per frame starts a thread pool each time.
    """

    def __init__(self, short_side: int | None = None) -> None:
        self.reformatter = VideoReformatter()
        self.short_side = short_side

    def __call__(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        width, height, short = frame.width, frame.height, min(frame.width, frame.height)
        if self.short_side and short > max(self.short_side, _FIT_ABOVE):
            width, height = (round(side * self.short_side / short) for side in (width, height))
        rgb = self.reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        pixels = np.asarray(rgb.to_ndarray(), np.uint8)
        return np.rot90(pixels, frame.rotation // 90 % 4) if frame.rotation else pixels


@contextlib.contextmanager
def _open(path: str, threads: int) -> Iterator[tuple[Any, Any]]:
    """Context of (container, video stream) with the decoding threads set; FFmpeg's errors become VideoError."""
    try:
        # Of a bare name, FFmpeg would take what stands before a colon for a protocol.
        with av.open(os.path.abspath(path)) as container:
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                raise VideoError(path, "no video stream in it")
            if streams[0].codec_context is None:
                raise VideoError(path, "its codec is not known")
            streams[0].thread_type = "AUTO" if threads > 1 else "NONE"
            streams[0].codec_context.thread_count = threads
            yield container, streams[0]
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError(path, _reason(error, path)) from None


def _reason(error: Exception, path: str) -> str:
    if Path(path).is_file() and Path(path).stat().st_size == 0:
        return "the file is empty"
    if isinstance(error, (av.error.InvalidDataError, av.error.EOFError)):
        return "not a video that can be read, or damaged (invalid data)"
    return getattr(error, "strerror", None) or str(error)


def _seek(container: Any, stream: Any, start: int | None) -> bool:
    """Go to the key frame before a time stamp (None: to the start of the file); False where the file cannot."""
    try:
        offset = stream.start_time if start is None else start
        container.seek(0) if offset is None else container.seek(int(offset), stream=stream, backward=True)
    except av.error.FFmpegError:
        return False
    return True


def _decode(
    container: Any, stream: Any, *, keep: Any = None, errors: list[str] | None = None
) -> Iterator[av.VideoFrame]:
    """Frames from here on; packets that cannot be decoded are passed over (and noted in `errors`).

    keep: time stamps of the wanted frames; others may be skipped where no wanted frame needs them.
    """
    context, errors = stream.codec_context, [] if errors is None else errors
    skip = keep is not None and stream.codec.canonical_name in _SKIPPABLE_CODECS
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError as error:  # the container breaks off here: what came before is good
            errors.append(str(error))
            return
        if skip:
            context.skip_frame = "DEFAULT" if packet.pts is None or packet.pts in keep else "NONREF"
        try:
            yield from packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError as error:
            errors.append(str(error))


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of change: a file that changes gets a new table.

    Raises:
        VideoError: missing, or neither a regular file nor a folder (reading a pipe or a device may never end).
    """
    if reason := why_not_readable(path):
        raise VideoError(path, reason)
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@functools.lru_cache(maxsize=65_536)
def _table(path: str, stamp: tuple[int, int]) -> _Table:
    if files := _pictures(path):
        if not Path(path).is_dir():
            image_codec(path)  # refuses at once what is no picture
        return _Table(np.arange(len(files)) / FOLDER_FPS, None, FOLDER_FPS)
    with _open(path, 1) as (container, stream):
        base, rate = float(stream.time_base), float(stream.average_rate or stream.guessed_rate or FOLDER_FPS)
        pts, seekable = _packet_pts(container, stream)
    if pts is None:
        with _open(path, 1) as (container, stream):
            decoded = [frame.pts for frame in _decode(container, stream)]
        if not decoded:
            raise VideoError(path, "no frame can be decoded")
        pts = np.asarray([stamp for stamp in decoded if stamp is not None], np.int64)
        if len(pts) < len(decoded) or not np.all(np.diff(pts) > 0):
            return _Table(np.arange(len(decoded)) / rate, None, rate)
    times = (pts - pts[0]) * base
    fps = (len(times) - 1) / times[-1] if len(times) > 1 and times[-1] > 0 else rate
    return _Table(times, pts if seekable and len(times) > 1 else None, float(fps))  # FFmpeg cannot seek in an image


def _packet_pts(container: Any, stream: Any) -> tuple[NDArray[np.int64] | None, bool]:
    """Sorted stamps of all frames, from the packets (None unless each surely gives one frame); may frames be sought by them?"""
    codec, in_avi = stream.codec.canonical_name, container.format.name == "avi"
    pts: list[int] = []
    plain, starts_with_key = codec in _PLAIN_CODECS, None
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue  # the flush at the end
            if packet.pts is None:
                return None, False
            starts_with_key = packet.is_keyframe if starts_with_key is None else starts_with_key
            plain = plain and not packet.is_corrupt and not (codec == "mpeg4" and packet.size <= _NOT_CODED)
            if not packet.is_discard:
                pts.append(packet.pts)
    except av.error.FFmpegError:
        plain = False
    array = np.unique(np.asarray(pts, np.int64))
    # Where frames are reordered, stamps in the order of the packets are made up; AVI has no others.
    made_up = stream.codec_context.has_b_frames and (in_avi or np.array_equal(array, pts))
    trusted = plain and starts_with_key and len(array) == len(pts) and pts[:1] == array[:1].tolist() and not made_up
    return array if trusted and pts else None, codec in _SEEKABLE_CODECS and not (in_avi and made_up)


def _pictures(path: str) -> list[Path]:
    """Files of a folder of frames, or the one of a still image; none for a video."""
    still = [Path(path)] if is_image_name(path) else []
    return _frame_files(path) if Path(path).is_dir() else still


def _frame_files(folder: str) -> list[Path]:
    files = sorted(path for path in Path(folder).iterdir() if is_image_name(path) and not path.name.startswith("."))
    if not files:
        raise VideoError(folder, "a directory without images")
    return files
