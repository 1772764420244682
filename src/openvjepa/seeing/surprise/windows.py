"""Windows of a video: clips of a model's length that start every few frames, each frame decoded and resized once.

Shapes: F sampled frames of a video, W windows of T frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvjepa.data.clips import ClipSpec
from openvjepa.data.media.video import Video
from openvjepa.data.transforms import eval_views
from openvjepa.errors import VideoError

_READ_BYTES = 1 << 27  # of decoded frames at a time


@dataclass(frozen=True, eq=False)
class WindowPlan:
    """Which frames of a video its windows show."""

    numbers: NDArray[np.int64]
    """Number of each sampled frame in the video, [F]."""
    times: NDArray[np.float64]
    """When each sampled frame is shown, s from the first of the file, [F]."""
    starts: NDArray[np.int64]
    """First sampled frame of each window, [W]."""
    length: int
    """T."""
    padded: int
    """Frames at the end of the only window that repeat the last one, since the video is shorter than a window."""

    def span(self, window: int) -> tuple[float, float]:
        """Start of the first and of the last frame of a window, s."""
        last = min(self.starts[window] + self.length, len(self.times)) - 1
        return float(self.times[self.starts[window]]), float(self.times[last])


def plan_windows(video: Video, spec: ClipSpec, stride: int) -> WindowPlan:
    """Windows of a video at a model's frame rate.

    The last window ends with the video. A video that is shorter than a window is one window, whose last frame stands still.

    Args:
        video: the open video.
        spec: frames of a window, and their rate.
        stride: sampled frames from the start of a window to that of the next.
    """
    if spec.frame_step is not None:
        numbers = np.arange(0, video.frame_count, spec.frame_step)
        times = video.times[numbers]
    else:
        step = spec.seconds_per_frame(video)
        count = int(float(video.times[-1]) / step + 1e-6) + 1
        numbers = replace(spec, num_frames=count).indices(video, 0.0)
        times = np.arange(count, dtype=np.float64) * step
    count = len(numbers)
    last = max(0, count - spec.num_frames)
    starts = list(range(0, last + 1, stride))
    starts += [last] if starts[-1] != last else []
    return WindowPlan(numbers, video.offset + times, np.array(starts), spec.num_frames, max(0, spec.num_frames - count))


def read_windows(
    video: Video,
    plan: WindowPlan,
    size: tuple[int, int],
    *,
    batch_size: int,
    antialias: bool = True,
    only: Sequence[int] | None = None,
) -> Iterator[tuple[list[int], Tensor, dict[int, str]]]:
    """Windows in batches, cropped and resized as in evaluation.

    Args:
        video: the open video.
        plan: of `plan_windows`.
        size: (height, width) of a window, px.
        batch_size: most windows in a batch.
        antialias: how frames are resized.
        only: numbers of the windows that are wanted, ascending; None: all.

    Yields:
        Numbers of the windows in the batch; the windows, uint8 [B, 3, T, H, W]; and, by number, why others of this stretch
        of the video cannot be read.
    """
    wanted = list(range(len(plan.starts))) if only is None else list(only)
    frames: dict[int, Tensor | str] = {}  # sampled frame -> [3, H, W], or why it cannot be read
    for first in range(0, len(wanted), batch_size):
        chosen = wanted[first : first + batch_size]
        shown = [np.minimum(plan.starts[i] + np.arange(plan.length), len(plan.numbers) - 1) for i in chosen]
        needed = sorted({int(k) for window in shown for k in window})
        frames = {k: frames[k] for k in needed if k in frames}
        frames |= _frames(video, plan, [k for k in needed if k not in frames], size, antialias)
        good, clips, bad = [], [], {}
        for number, window in zip(chosen, shown, strict=True):
            parts = [frames[int(k)] for k in window]
            lost = next((part for part in parts if isinstance(part, str)), None)
            if lost is None:
                good.append(number)
                clips.append(torch.stack([part for part in parts if isinstance(part, Tensor)], 1))
            else:
                bad[number] = lost
        yield good, torch.stack(clips) if clips else torch.zeros((0, 3, plan.length, *size), dtype=torch.uint8), bad


def read_frames(video: Video, plan: WindowPlan, size: tuple[int, int], *, antialias: bool = True) -> NDArray[np.uint8]:
    """All sampled frames as the windows show them, uint8 [F, H, W, 3]; those that cannot be read are black."""
    found = _frames(video, plan, list(range(len(plan.numbers))), size, antialias)
    black = torch.zeros((3, *size), dtype=torch.uint8)
    frames = [black if isinstance(frame, str) else frame for _, frame in sorted(found.items())]
    return torch.stack(frames).permute(0, 2, 3, 1).numpy()


def _frames(
    video: Video, plan: WindowPlan, places: Sequence[int], size: tuple[int, int], antialias: bool
) -> dict[int, Tensor | str]:
    """Sampled frames by place, resized.

    Several are decoded at a time. Where one is lost, they are decoded one by one, so that no stand-in is taken for what the
    video shows: a frame that stands still would count as a surprise.
    """
    found: dict[int, Tensor | str] = {}
    size_of_part = 1
    at = 0
    while at < len(places):
        part = places[at : at + size_of_part]
        try:
            batch = video.frames([int(plan.numbers[k]) for k in part])
            lost = "a frame cannot be decoded" if batch.lost else None
        except VideoError as error:
            batch, lost = None, error.reason
        if lost is not None and len(part) > 1:
            size_of_part = 1
            continue
        if batch is None or lost is not None:
            found[part[0]] = str(lost)
        else:
            views = eval_views(batch.frames, size, 1, antialias=antialias or video.is_image)[0]
            found |= dict(zip(part, views.unbind(1), strict=True))
            size_of_part = max(1, min(2 * size_of_part, 64, _READ_BYTES // batch.frames[0].nbytes))
        at += len(part)
    return found
