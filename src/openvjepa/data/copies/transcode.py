"""One video or picture to one training-friendly copy: small, upright, with a key frame every few frames.

A clip from anywhere in a copy costs a fraction of what it costs in the original: there are fewer pixels, fewer frames
between a key frame and the first wanted one, and no CABAC or deblocking filter, the two slow tools of H.264. A copy
shows the frames of its original at the same times.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from openvjepa.atomic import replacing
from openvjepa.data.copies.audio import AudioTracks
from openvjepa.data.copies.mp4 import write_mp4
from openvjepa.data.media.container import decode, open_stream
from openvjepa.data.media.images import read_image
from openvjepa.data.media.timestamps import FOLDER_FPS, pictures
from openvjepa.data.media.video import Video, open_video
from openvjepa.errors import VideoError

_MAX_LOST = 0.25  # share of a video's frames that may be replaced by their predecessor
_MICROSECOND = Fraction(1, 1_000_000)
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Facts:
    """What an original and its copy have in common, and what was lost."""

    frames: int
    fps: float
    """Mean frames per second; 0 for a still image."""
    duration: float
    """Seconds; 0 for a still image."""
    errors: int
    """Packets of the original that could not be decoded."""


def copy_picture(source: str, target: Path, *, short_side: int) -> Facts:
    """Copy a still image in its own format: shrunk and upright where it is large, otherwise byte by byte.

    Args:
        source: what to copy.
        target: the copy, with the same suffix; its folder must exist.
        short_side: height or width of the copy, whichever is less, px.

    Raises:
        VideoError: the source cannot be read.
        OSError: the target cannot be written.
    """
    pixels = read_image(source)  # also shows that the file is good
    height, width = pixels.shape[:2]
    with replacing(target) as part:
        if min(height, width) <= short_side:
            shutil.copyfile(source, part)
        else:
            size = [max(1, round(side * short_side / min(height, width))) for side in (width, height)]
            small = Image.fromarray(pixels).resize((size[0], size[1]), Image.Resampling.BICUBIC)
            kind = Image.registered_extensions()[target.suffix.lower()]
            small.save(part, format=kind, **({"quality": _JPEG_QUALITY} if kind in ("JPEG", "WEBP") else {}))
    return Facts(1, 0.0, 0.0, 0)


def copy_video(source: str, target: Path, *, short_side: int, gop: int, crf: int, audio: bool = False) -> Facts:
    """Copy a video or a folder of frames into an MP4 file of H.264.

    Args:
        source: what to copy.
        target: the copy; its folder must exist.
        short_side: height or width of the copy, whichever is less, px; smaller videos keep their size.
        gop: frames from one key frame to the next, at most.
        crf: x264's constant rate factor.
        audio: keep the sound, packets as they are.

    Raises:
        VideoError: the source cannot be read, or not be copied as it is.
        OSError: the target cannot be written.
    """
    video, errors = open_video(source), list[Any]()
    with replacing(target) as part, contextlib.ExitStack() as stack:
        sound = stack.enter_context(AudioTracks(source, video.clock)) if audio else None
        images = _images(video, short_side, errors)
        first = next(images)
        write_mp4(
            part,
            chain([first], images),
            video.times,
            fps=video.fps,
            base=_time_base(video.times, first.time_base),
            options=copy_options(gop, crf),
            threads=1,
            source=video.path,
            audio=sound,
        )
        copy = open_video(part)
        if copy.frame_count != video.frame_count or not np.allclose(copy.times, video.times, rtol=0, atol=1e-6):
            raise VideoError(source, "a copy cannot keep its time stamps")
    return Facts(video.frame_count, video.fps, video.duration, len(errors))


def copy_options(gop: int, crf: int) -> dict[str, str]:
    """Options of x264 for copies.

    Its AVX-512 code for macroblock trees differs from run to run; without them, equal originals give equal copies.
    """
    return {"preset": "veryfast", "tune": "fastdecode", "mbtree": "0", "crf": str(crf), "g": str(gop)}


def _time_base(times: NDArray[np.float64], base: Any) -> Fraction:
    """The original's unit of time where all times, s, are multiples of it and MP4 can count in it, else a microsecond."""
    base = Fraction(base.numerator, base.denominator)
    steps = times / float(base)
    exact = np.abs(steps - np.rint(steps)).max() * float(base) < 1e-7
    return base if exact and base.denominator <= _MICROSECOND.denominator else _MICROSECOND


def _images(video: Video, short_side: int, errors: list[str]) -> Iterator[av.VideoFrame]:
    """Every frame of a video, small and upright; where one cannot be decoded, the one before stands in.

    Raises:
        VideoError: too many cannot be decoded.
    """
    reformatter, before, shown, lost = VideoReformatter(), None, 0, 0
    for number, frame in _decoded(video, errors):
        image = _image(frame, short_side, reformatter)
        yield from repeat(before or image, number - shown)
        yield image
        lost, before, shown = lost + number - shown, image, number + 1
    lost += video.frame_count - shown
    if before is None or lost > _MAX_LOST * video.frame_count:
        raise VideoError(video.path, f"{lost} of {video.frame_count} frames cannot be decoded")
    yield from repeat(before, video.frame_count - shown)


def _decoded(video: Video, errors: list[str]) -> Iterator[tuple[int, av.VideoFrame]]:
    """Number, as `Video.frames` counts, and frame of all that can be decoded, in order; notes what cannot in `errors`."""
    if files := pictures(video.path):
        yield from _shown(files, errors)
        return
    numbers = None if video.pts is None else {int(pts): number for number, pts in enumerate(video.pts)}
    least = 0
    with open_stream(video.path, 1) as (container, stream):
        for count, frame in enumerate(decode(container, stream, errors=errors)):
            number = count if numbers is None else -1 if frame.pts is None else numbers.get(frame.pts, -1)
            if least <= number < video.frame_count:
                yield number, frame
                least = number + 1


def _shown(files: list[Path], errors: list[str]) -> Iterator[tuple[int, av.VideoFrame]]:
    """Number and picture of those of the files that can be decoded."""
    for number, file in enumerate(files):
        try:
            frame = av.VideoFrame.from_ndarray(read_image(file), format="rgb24")
        except VideoError as error:
            errors.append(str(error))
            continue
        frame.time_base = Fraction(1, round(FOLDER_FPS))
        yield number, frame


def copy_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height of a copy, px: even, the short side as close to `short_side` as that allows, never larger than before."""
    scale = min(1.0, short_side / min(width, height))
    small = [max(2, 2 * min(round(side * scale / 2), side // 2)) for side in (width, height)]
    return small[0], small[1]


def _image(frame: av.VideoFrame, short_side: int, reformatter: VideoReformatter) -> av.VideoFrame:
    """The frame as yuv420p, even-sized, upright, and with a short side of at most `short_side` px."""
    width, height = copy_size(frame.width, frame.height, short_side)
    matrix = Colorspace.ITU709 if frame.format.is_rgb else None
    small = reformatter.reformat(frame, width, height, "yuv420p", dst_colorspace=matrix, threads=1)
    return _turned(small, frame.rotation // 90 % 4) if frame.rotation else small


def _turned(image: av.VideoFrame, quarters: int) -> av.VideoFrame:
    """A yuv420p image turned counterclockwise, plane by plane."""
    height, width = image.height, image.width
    sizes = ((height, width), (height // 2, width // 2), (height // 2, width // 2))
    planes = np.split(np.asarray(image.to_ndarray(), np.uint8).ravel(), (height * width, height * width * 5 // 4))
    turned = [np.rot90(plane.reshape(size), quarters) for plane, size in zip(planes, sizes, strict=True)]
    pixels = np.concatenate([plane.ravel() for plane in turned]).reshape(-1, height if quarters % 2 else width)
    upright = av.VideoFrame.from_ndarray(pixels, format="yuv420p")
    upright.time_base, upright.colorspace, upright.color_range = image.time_base, image.colorspace, image.color_range
    return upright
