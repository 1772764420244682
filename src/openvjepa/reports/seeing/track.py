"""What `vjepa track` draws: masks in color over the video, points as rings; a strip and an MP4."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from openvjepa.data.media.video import Video
from openvjepa.reports.seeing.pictures import Panel, Row, strip, text_bar, write_png
from openvjepa.reports.video import write_video
from openvjepa.seeing.tracking.track import PointTracks
from openvjepa.weights.files import whole_file

STRIP = 8  # frames of the strip
_OPACITY = 0.55
_READ = 32  # frames decoded at a time


def palette(count: int = 256) -> NDArray[np.uint8]:
    """Colors of object numbers, uint8 [count, 3]: black, then the colors of PASCAL VOC, which DAVIS uses."""
    numbers = np.arange(count)
    colors = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= (((numbers >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colors


def write_mask(path: Path, mask: NDArray[np.uint8]) -> Path:
    """Write a mask [H, W] as PNG with a palette, whose numbers are those of the mask.

    Raises:
        CheckpointError: it cannot be written.
    """
    image = Image.frombytes("P", (mask.shape[1], mask.shape[0]), mask.tobytes())
    image.putpalette(palette().ravel().tolist())
    with whole_file(path) as temporary:
        image.save(temporary, "PNG")
    return path


def paint_mask(frame: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame [H, W, 3] with the objects of a mask [H, W] in their colors."""
    colors = palette()[mask]
    mixed = np.rint((1 - _OPACITY) * frame + _OPACITY * colors).astype(np.uint8)
    return np.where(mask[..., None] > 0, mixed, frame)


def paint_points(
    frame: NDArray[np.uint8], places: NDArray[np.float64], confidence: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """A frame [H, W, 3] with a ring for each point, (x, y) [K, 2]; a lost point is a thin gray ring."""
    image = Image.fromarray(frame)
    draw, radius = ImageDraw.Draw(image), max(3, min(frame.shape[:2]) // 40)
    for number, ((x, y), sure) in enumerate(zip(places, confidence, strict=True)):
        red, green, blue = (int(part) for part in palette()[number % 254 + 1])
        color = (red, green, blue) if sure > 0 else (160, 160, 160)
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, outline=(255, 255, 255), width=4 if sure > 0 else 2)
        draw.ellipse(box, outline=color, width=2 if sure > 0 else 1)
    return np.asarray(image)


def read_masks(paths: list[Path]) -> Iterator[NDArray[np.uint8]]:
    """Masks that `write_mask` wrote."""
    for path in paths:
        with Image.open(path) as image:
            yield np.asarray(image)


def write_tracked(out: Path, video: Video, tracked: list[Path] | PointTracks, facts: Mapping[str, str]) -> list[Path]:
    """Write track.mp4, and track.png with a few frames.

    Args:
        out: folder.
        video: what was tracked.
        tracked: the mask files of every frame, or the points.
        facts: model, layer, frames, propagation: what every picture must carry.

    Raises:
        VideoError: the video cannot be read or encoded.
        CheckpointError: a file cannot be written.
    """
    caption = [f"{name}: {value}" for name, value in facts.items()]
    chosen = np.unique(np.linspace(0, video.frame_count - 1, STRIP).round().astype(int)).tolist()
    kept: list[NDArray[np.uint8]] = []

    def pictures() -> Iterator[NDArray[np.uint8]]:
        for number, picture in enumerate(_painted(video, tracked)):
            if number in chosen:
                kept.append(picture)
            yield _captioned(picture, [f"{Path(video.path).name}, {video.times[number]:.2f} s", *caption])

    movie = write_video(out / "track.mp4", pictures(), video.times, fps=video.fps, comment=" ".join(caption))
    times = ", ".join(f"{video.times[number]:.2f}" for number in chosen)
    panel = Panel(f"{Path(video.path).name}, at {times} s", (Row("what was tracked", _small(np.stack(kept))),))
    return [movie, write_png(out / "track.png", strip([panel], caption), facts)]


def _painted(video: Video, tracked: list[Path] | PointTracks) -> Iterator[NDArray[np.uint8]]:
    masks = iter(()) if isinstance(tracked, PointTracks) else read_masks(tracked)
    for first in range(0, video.frame_count, _READ):
        numbers = range(first, min(first + _READ, video.frame_count))
        for number, frame in zip(numbers, video.frames(numbers).frames, strict=True):
            if isinstance(tracked, PointTracks):
                yield paint_points(frame, tracked.places[number], tracked.confidence[number])
            else:
                yield paint_mask(frame, next(masks))


def _captioned(picture: NDArray[np.uint8], lines: list[str]) -> NDArray[np.uint8]:
    """The picture above its caption, both sides even."""
    bar = text_bar(picture.shape[1], lines)
    frame = np.concatenate([picture, bar])
    return np.pad(frame, ((0, len(frame) % 2), (0, frame.shape[1] % 2), (0, 0)), constant_values=255)


def _small(pictures: NDArray[np.uint8], least: int = 192) -> NDArray[np.uint8]:
    """Every n-th pixel, so that the shorter side has at least `least` px."""
    step = max(1, min(pictures.shape[1:3]) // least)
    return np.ascontiguousarray(pictures[:, ::step, ::step])
