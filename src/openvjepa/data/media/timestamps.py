"""When each frame of a file starts: from its packets alone where that is safe, by decoding otherwise; kept for each file."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av.error
import numpy as np
from numpy.typing import NDArray

from openvjepa.data.media.container import decode, open_stream
from openvjepa.data.media.files import why_not_readable
from openvjepa.data.media.images import image_codec, is_image_name
from openvjepa.errors import VideoError

FOLDER_FPS = 30.0  # frames per second that a folder of frames is taken to have
# One packet, one frame, with the packet's time stamp: the table can be read without decoding.
_PLAIN_CODECS = frozenset(["h264", "hevc", "vp9", "av1", "mpeg1video", "mpeg2video", "mpeg4", "mjpeg"])
# Packets may hide frames, so the table needs a decode, but seeking to a key frame is exact.
_SEEKABLE_CODECS = _PLAIN_CODECS | {"vp8"}
_NOT_CODED = 8  # bytes; an MPEG-4 packet that is no longer says "as before" and gives no frame


@dataclass(frozen=True)
class Table:
    """Time stamps of all frames in order of display, in seconds from the first; pts is None if they cannot be trusted."""

    times: NDArray[np.float64]
    pts: NDArray[np.int64] | None
    fps: float
    start: float = 0.0
    """Time stamp of the first frame, s of the file's own clock."""


def stamp_of(path: Path) -> tuple[int, int]:
    """Size and time of change: a file that changes gets a new table.

    Raises:
        VideoError: missing, or neither a regular file nor a folder (reading a pipe or a device may never end).
    """
    if reason := why_not_readable(path):
        raise VideoError(path, reason)
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@functools.lru_cache(maxsize=65_536)
def table_of(path: str, stamp: tuple[int, int]) -> Table:
    """The time stamps of a video, a folder of frames or a still image; kept as long as its stamp is the same.

    Raises:
        VideoError: it cannot be read.
    """
    if files := pictures(path):
        if not Path(path).is_dir():
            image_codec(path)  # refuses at once what is no picture
        return Table(np.arange(len(files)) / FOLDER_FPS, None, FOLDER_FPS)
    with open_stream(path, 1) as (container, stream):
        base, rate = float(stream.time_base), float(stream.average_rate or stream.guessed_rate or FOLDER_FPS)
        pts, seekable = _packet_pts(container, stream)
    if pts is None:
        with open_stream(path, 1) as (container, stream):
            decoded = [frame.pts for frame in decode(container, stream)]
        if not decoded:
            raise VideoError(path, "no frame can be decoded")
        pts = np.asarray([stamp for stamp in decoded if stamp is not None], np.int64)
        if len(pts) < len(decoded) or not np.all(np.diff(pts) > 0):
            return Table(np.arange(len(decoded)) / rate, None, rate, float((pts[0] if len(pts) else 0) * base))
    times = (pts - pts[0]) * base
    fps = (len(times) - 1) / times[-1] if len(times) > 1 and times[-1] > 0 else rate
    shown = pts if seekable and len(times) > 1 else None  # FFmpeg cannot seek in an image
    return Table(times, shown, float(fps), float(pts[0] * base))


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


def pictures(path: str) -> list[Path]:
    """Files of a folder of frames, or the one of a still image; none for a video."""
    still = [Path(path)] if is_image_name(path) else []
    return _frame_files(path) if Path(path).is_dir() else still


def _frame_files(folder: str) -> list[Path]:
    files = sorted(path for path in Path(folder).iterdir() if is_image_name(path) and not path.name.startswith("."))
    if not files:
        raise VideoError(folder, "a directory without images")
    return files
