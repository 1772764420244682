"""Write frames into an MP4 file of H.264, at any times, with the sound of another file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import av.error
from av.video.frame import PictureType
from numpy.typing import NDArray

from openvjepa.data.copies.audio import AudioTracks
from openvjepa.errors import VideoError


def write_mp4(
    target: Path,
    images: Iterator[av.VideoFrame],
    times: Iterable[float] | NDArray[Any],
    *,
    fps: float,
    base: Fraction,
    options: Mapping[str, str],
    threads: int = 0,
    comment: str = "",
    source: str | None = None,
    audio: AudioTracks | None = None,
    container_format: str = "mp4",
    index_first: bool = True,
) -> None:
    """Encode images, one for each time; colors are marked as those of the first image.

    Args:
        target: the file; its folder must exist.
        images: all of one size, both sides even; of any format.
        times: of each image, s, ascending.
        fps: mean frames per second, which the file states.
        base: unit of time of the file, s.
        options: of x264.
        threads: of the encoder; 0: its choice.
        comment: metadata of the file.
        source: what errors name; None: the target.
        audio: sound, open; None: none.
        container_format: FFmpeg's name of another container.
        index_first: whether an MP4 file begins with its index, so that it plays while it is loaded.

    Raises:
        VideoError: the size changes, or the encoder refuses the images.
        OSError: the file cannot be written.
    """
    first = next(images)
    flags = {"movflags": "faststart"} if index_first else {}
    try:
        # Of a bare name, FFmpeg would take what stands before a colon for a protocol.
        with av.open(os.path.abspath(target), "w", format=container_format, options=flags) as container:
            if comment:
                container.metadata["comment"] = comment
            stream = _add_stream(container, first, fps, base, options, threads)
            if audio is not None:
                audio.add_to(container)
            for image, time in zip(chain([first], images), times, strict=True):
                if (image.width, image.height) != (stream.width, stream.height):
                    raise VideoError(source or target, "the size of the frames changes")
                # The type of picture is the original's, and the encoder would follow it.
                image.pts, image.time_base, image.pict_type = round(float(time) / base), base, PictureType.NONE
                container.mux(stream.encode(image))
                if audio is not None:
                    audio.mux_until(container, float(time))
            container.mux(stream.encode())
            if audio is not None:
                audio.mux_until(container, math.inf)
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise VideoError(source or target, f"cannot be encoded: {error.strerror}") from None


def _add_stream(
    container: Any, image: av.VideoFrame, fps: float, base: Fraction, options: Mapping[str, str], threads: int
) -> Any:
    """An encoder for images like this one, whose colors a decoder will read as those of the image."""
    rate = max(Fraction(fps).limit_denominator(1001), Fraction(1, 1001))
    stream = container.add_stream("libx264", rate=rate, options=dict(options))
    stream.width, stream.height, stream.pix_fmt = image.width, image.height, "yuv420p"
    context = stream.codec_context
    context.thread_count, context.time_base = threads, base
    if not image.format.is_rgb:  # else the encoder's own conversion decides
        context.colorspace, context.color_range = image.colorspace, image.color_range
    return stream
