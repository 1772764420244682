"""Pictures of a timeline: probabilities over time, and a copy of the video with the answers drawn on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from openvjepa.data.copies.audio import AudioTracks
from openvjepa.data.copies.mp4 import write_mp4
from openvjepa.data.cores import usable_cores
from openvjepa.data.media.video import Video, open_video
from openvjepa.errors import VideoError
from openvjepa.inference.timeline import Timeline
from openvjepa.inference.windows import READ_BYTES
from openvjepa.weights.files import whole_file

# Of classes with a line of their own, and of the others.
COLORS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#06b6d4")
OTHER = "#9ca3af"
_BASE = Fraction(1, 90_000)  # unit of time of the copy, s
_OPTIONS = {"preset": "veryfast", "crf": "20"}


def main_colors(timeline: Timeline) -> dict[int, str]:
    """Colors of the classes (by number) that have one of their own: those that are the likeliest longest come first."""
    seconds = np.zeros(len(timeline.classes))
    for scene in timeline.scenes():
        if scene.label is not None:
            seconds[scene.label] += scene.end - scene.start
    order = np.lexsort((-timeline.mean, -seconds))
    return {int(i): color for i, color in zip(order, COLORS, strict=False)}  # the others share OTHER


def draw_timeline(path: Path, timeline: Timeline) -> None:
    """Write a PNG: the probability of the main classes over time, and under it which is the likeliest.

    Raises:
        CheckpointError: it cannot be written.
    """
    colors = main_colors(timeline)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    lines, band = figure.subplots(2, 1, sharex=True, height_ratios=(6, 1))
    middles = [(start + end) / 2 for start, end in timeline.spans]
    shares = timeline.probabilities.copy()
    shares[list(timeline.skipped)] = np.nan  # a gap
    for label, color in colors.items():
        name = timeline.classes[label].replace("$", r"\$")
        lines.plot(middles, shares[:, label], color=color, label=name, marker="o" if len(middles) < 60 else None, ms=3)
    lines.set(ylim=(0, 1.02), ylabel="probability")
    lines.set_title(Path(timeline.path).name.replace("$", r"\$"), loc="left")
    lines.grid(alpha=0.2)
    lines.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    for scene in timeline.scenes():
        color = "white" if scene.label is None else colors.get(scene.label, OTHER)
        band.axvspan(scene.start, scene.end, color=color)
    band.set(yticks=[], xlim=(0, timeline.duration), xlabel="seconds", ylabel="likeliest")
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def annotate_video(path: Path, timeline: Timeline) -> None:
    """Write a copy of the video, MP4 with its sound, with the likeliest class and its probability on every frame.

    Frames keep their times; an odd height or width loses its last row or column, since H.264 counts in pairs.

    Raises:
        VideoError: the video cannot be read or encoded.
        CheckpointError: the copy cannot be written.
    """
    video = open_video(timeline.path, threads=usable_cores(), start=timeline.start, end=timeline.end)
    colors = main_colors(timeline)
    end = None if timeline.end is None and timeline.start is None else video.clock + video.duration
    with AudioTracks(video.path, video.clock, end) as audio:
        write_video(path, _drawn(video, timeline, colors), video.times, fps=video.fps, audio=audio)


def write_video(
    path: Path,
    frames: Iterator[NDArray[np.uint8]],
    times: Iterable[float] | NDArray[np.float64],
    *,
    fps: float | None = None,
    comment: str = "",
    audio: AudioTracks | None = None,
) -> Path:
    """Write frames as MP4 (H.264), atomically.

    Args:
        path: the file.
        frames: uint8 [H, W, 3], all of one size, both sides even.
        times: of each frame, s, ascending.
        fps: mean frames per second; None: from the times.
        comment: metadata of the file.
        audio: sound, open; None: none.

    Raises:
        VideoError: they cannot be encoded.
        CheckpointError: the file cannot be written.
    """
    if fps is None:
        times = [float(time) for time in times]
        fps = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 1.0
    images = (av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24") for frame in frames)
    with whole_file(path) as temporary:
        write_mp4(
            temporary,
            images,
            times,
            fps=fps,
            base=_BASE,
            options=_OPTIONS,
            comment=comment,
            source=str(path),
            audio=audio,
        )
    return path


def _drawn(video: Video, timeline: Timeline, colors: dict[int, str]) -> Iterator[NDArray[np.uint8]]:
    """Every frame with its caption, [H, W, 3], both sides even."""
    labels = timeline.labels
    for frame, time in zip(_frames(video), video.times, strict=True):
        window = timeline.at(float(time))
        label, even = labels[window], frame[: len(frame) // 2 * 2, : frame.shape[1] // 2 * 2]
        if label is None:
            yield even
        else:
            text = f"{timeline.classes[label]}  {timeline.probabilities[window, label]:.0%}"
            yield caption(even, text, colors.get(label, OTHER))


def _frames(video: Video) -> Iterator[NDArray[np.uint8]]:
    """Every frame, some of them decoded at a time; where too many are lost, the last good one stands still."""
    last = video.frames([0]).frames[0]
    size = max(1, READ_BYTES // last.nbytes)
    for first in range(0, video.frame_count, size):
        numbers = range(first, min(first + size, video.frame_count))
        try:
            frames = video.frames(numbers).frames
        except VideoError:
            frames = np.broadcast_to(last, (len(numbers), *last.shape))
        yield from frames
        last = frames[-1]


def caption(frame: NDArray[np.uint8], text: str, color: str) -> NDArray[np.uint8]:
    """A copy of a frame [H, W, 3] with a line of text in its lower left corner, on a dark ground, beside a bar of a color."""
    height, width = frame.shape[:2]
    size = max(8, height // 14)
    font = ImageFont.load_default(size)
    while font.getlength(text) + 2 * size > width and size > 8:
        size -= 1
        font = ImageFont.load_default(size)
    while font.getlength(text) + 2 * size > width and len(text) > 1:
        text = text[:-2] + "…"
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image)
    top = height - round(1.8 * size)
    draw.rectangle((0, top, font.getlength(text) + 1.6 * size, height), fill=(16, 20, 24))
    draw.rectangle((0, top, size / 3, height), fill=color)
    draw.text((0.9 * size, top + 0.9 * size), text, font=font, fill="white", anchor="lm")
    return np.asarray(image)
