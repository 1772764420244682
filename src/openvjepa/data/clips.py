"""Which frames form a clip."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvjepa.config.clips import Placement
from openvjepa.data.media.video import Video, open_video
from openvjepa.errors import ConfigError, VideoError

_ROUNDING = 1e-9  # s; of sums of times
MOST_FRAMES = 2**20  # of a clip
_STEADY = 0.1  # of a frame: how far the frames of a constant rate may lie from their places


@dataclass(frozen=True)
class ClipSpec:
    """A clip of `num_frames`, every `frame_step`-th of the video or `fps` of them a second (exactly one is given).

    Raises:
        ConfigError: not exactly one of frame_step and fps, or a number that is not finite and above 0.
    """

    num_frames: int = 16
    frame_step: int | None = 4
    fps: float | None = None

    def __post_init__(self) -> None:
        if (self.frame_step is None) == (self.fps is None):
            raise ConfigError("give exactly one of frame_step and fps")
        for name in ("num_frames", "frame_step", "fps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:  # also catches nan
                raise ConfigError(f"{name} of a clip is {value}: it must be a number above 0")
            if value is not None and name != "fps" and value != int(value):
                raise ConfigError(f"{name} of a clip is {value}: it must be a whole number")
        if self.num_frames > MOST_FRAMES:
            raise ConfigError(f"num_frames of a clip is {self.num_frames}: it must be at most {MOST_FRAMES}")

    def seconds_per_frame(self, video: Video) -> float:
        """Time between two frames of the clip."""
        return self.spacing(video.fps)

    def spacing(self, fps: float) -> float:
        """Time between two frames of a clip of a source with so many frames per second, s."""
        return 1 / self.fps if self.fps is not None else (self.frame_step or 1) / fps

    def room(self, video: Video) -> float:
        """Latest start of a clip that ends with the video, s; 0 where the video is shorter than a clip."""
        last = (self.num_frames - 1) * self.seconds_per_frame(video)
        return max(0.0, float(video.times[-1]) - last)

    def indices(self, video: Video, start: float) -> NDArray[np.int64]:
        """Frames of a clip that starts at `start` s.

        With `frame_step`, the first frame is the one whose own start is nearest, and numbers grow by exactly `frame_step`.
        With `fps`, frames are those on screen half a frame later than each time.

        Past the end of the video its last frame is repeated: a short video is shown whole and then stands still.

        Raises:
            ConfigError: the start is negative or not finite.
        """
        if not 0 <= start < math.inf:
            raise ConfigError(f"start {start} s: must be 0 or more")
        steps = np.arange(self.num_frames, dtype=np.int64)
        if self.frame_step is not None:
            numbers = _nearest(video, start) + steps * self.frame_step
        else:
            numbers = _on_screen(
                video, np.asarray(start + steps * self.seconds_per_frame(video) + 0.5 / video.fps, np.float64)
            )
        return np.clip(numbers, 0, video.frame_count - 1)

    def random_start(self, video: Video, generator: torch.Generator) -> float:
        """A start drawn uniformly from where the clip fits."""
        return torch.rand((), generator=generator).item() * self.room(video)

    def segment_starts(self, video: Video, segments: int, placement: Placement = "centers") -> list[float]:
        """Starts of the clips of a video, s; a single one lies in the middle."""
        return spread(self.room(video), segments, placement)


def spread(room: float, segments: int, placement: Placement) -> list[float]:
    """Starts of clips that may start from 0 to `room` s.

    Args:
        room: latest start, s.
        segments: how many.
        placement: "centers": in the middle of equal parts, at room (i + 0.5) / n, as TSN and mmaction2 place test clips; so
            two clips lie at a quarter and three quarters. "ends": from 0 to room, as Meta's evaluation does.
    """
    if placement == "centers" or segments == 1:
        return [room * (i + 0.5) / segments for i in range(segments)]
    return [room * i / (segments - 1) for i in range(segments)]


def _nearest(video: Video, time: float) -> int:
    """Number of the frame that starts nearest to a time, s; halfway between two it is the later one."""
    before = max(0, int(np.searchsorted(video.times, time, side="right")) - 1)
    around = video.times[before : before + 2]
    later = len(around) > 1 and around[1] - time <= time - around[0] + _ROUNDING
    return before + int(later)


def _on_screen(video: Video, times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Numbers of the frames on screen at times, s; a time that meets the border between two frames belongs to the later.

    Sums of times are rounded, and so are time stamps in some files (to milliseconds in Matroska): at a constant rate, the
    number follows from the rate, not from the stamps.
    """
    drift = np.abs(video.times * video.fps - np.arange(video.frame_count)).max()
    if drift < _STEADY:
        return np.floor(times * video.fps + _ROUNDING * video.fps).astype(np.int64)
    return np.searchsorted(video.times, times + _ROUNDING, side="right") - 1


def read_clip(
    path: str | Path,
    *,
    num_frames: int = 16,
    frame_step: int | None = 4,
    fps: float | None = None,
    start: float | None = None,
    part: tuple[float, float] | None = None,
) -> Tensor:
    """Read one clip of a video, a folder of frames or an image.

    Args:
        path: what to read.
        num_frames: frames of the clip.
        frame_step: every n-th frame of the video; ignored when fps is given.
        fps: frames per second of the clip.
        start: s from the first frame; None: the clip lies in the middle of the video.
        part: start and end, s, of the part of the video that the clip is cut from; `start` counts from there.

    Returns:
        uint8 [num_frames, H, W, 3], RGB, upright. A video that is shorter than the clip ends on its last frame, repeated.

    Raises:
        ConfigError: num_frames, frame_step or fps is not above 0, or start is negative or not finite.
        VideoError: the file cannot be read, has no such part, or ends before the start.
    """
    spec = ClipSpec(num_frames, frame_step if fps is None else None, fps)
    first, last = part or (None, None)
    video = open_video(path, start=first, end=last)
    begin = spec.segment_starts(video, 1)[0] if start is None else start
    if start is not None and video.duration <= start < math.inf:
        raise VideoError(path, f"asked for a clip at {start:g} s, and it lasts {video.duration:.2f} s")
    return torch.from_numpy(video.frames([int(i) for i in spec.indices(video, begin)]).frames)


def meta_frame_indices(
    frame_count: int,
    *,
    frames_per_clip: int,
    frame_step: int,
    num_clips: int = 1,
    random_sampling: bool = True,
    allow_overlap: bool = False,
) -> list[NDArray[np.int64]]:
    """Frame numbers of the clips exactly as Meta's V-JEPA code draws them, from numpy's global generator.

    Kept for comparison with published figures: clips span frame_step * frames_per_clip frames, with a spacing that is a
    little wider than frame_step.
    """
    clip_len = frames_per_clip * frame_step
    partition = frame_count // num_clips
    clips: list[NDArray[np.int64]] = []
    for i in range(num_clips):
        if partition > clip_len:
            end = np.random.randint(clip_len, partition) if random_sampling else clip_len
            indices = np.linspace(end - clip_len, end, frames_per_clip)
            indices = np.clip(indices, end - clip_len, end - 1).astype(np.int64) + i * partition
        elif not allow_overlap:
            indices = np.linspace(0, partition, partition // frame_step)
            padding = np.full(frames_per_clip - len(indices), partition)
            indices = np.clip(np.concatenate([indices, padding]), 0, partition - 1).astype(np.int64) + i * partition
        else:
            sample_len = min(clip_len, frame_count) - 1
            indices = np.linspace(0, sample_len, sample_len // frame_step)
            padding = np.full(frames_per_clip - len(indices), sample_len)
            shift = (frame_count - clip_len) // (num_clips - 1) if frame_count > clip_len else 0
            indices = np.clip(np.concatenate([indices, padding]), 0, sample_len - 1).astype(np.int64) + i * shift
        clips.append(indices)
    return clips
