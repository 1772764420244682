"""Open the video stream of a file and decode it from any place; FFmpeg's errors become VideoError."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import av
import av.error
from av.stream import Disposition

from openvjepa.errors import VideoError

# Skipping frames that no other frame refers to changes nothing else in these; in AV1 it was seen to.
_SKIPPABLE_CODECS = frozenset(("h264", "hevc"))


@contextlib.contextmanager
def open_stream(path: str, threads: int) -> Generator[tuple[Any, Any]]:
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


def seek(container: Any, stream: Any, start: int | None) -> bool:
    """Go to the key frame before a time stamp (None: to the start of the file); False where the file cannot."""
    try:
        offset = stream.start_time if start is None else start
        container.seek(0) if offset is None else container.seek(int(offset), stream=stream, backward=True)
    except av.error.FFmpegError:
        return False
    return True


def decode(
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
