"""Long videos: a window slides over the video, and every place of it gets an answer of its own.

Shapes: W windows, V clips of each, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvjepa.config import Combine
from openvjepa.data.clips import spread
from openvjepa.data.cores import usable_cores
from openvjepa.data.lists.index import VideoRecord
from openvjepa.data.media.video import Video
from openvjepa.data.transforms import eval_views
from openvjepa.errors import VideoError
from openvjepa.features.encode import encode
from openvjepa.features.sampling import ClipPlan
from openvjepa.inference.ensemble import Member, combined, passes
from openvjepa.inference.timeline import Span, Timeline
from openvjepa.progress import Meter
from openvjepa.train.distributed import Runtime

READ_BYTES = 1 << 27  # of decoded frames at a time
BATCH = 32  # most clips in a pass of the encoder


def follow(
    members: Sequence[Member], record: VideoRecord, window: float, stride: float, runtime: Runtime, how: Combine
) -> Timeline:
    """Ask classifiers with the same classes about every window of a video, and combine their answers.

    Args:
        members, record, window, stride, runtime: as for `follow_each`.
        how: how answers are combined.

    Raises:
        VideoError: the video, or every window of it, cannot be read.
    """
    *_, together = follow_each(members, record, window, stride, runtime, how)
    return together


def follow_each(
    members: Sequence[Member],
    record: VideoRecord,
    window: float,
    stride: float,
    runtime: Runtime,
    how: Combine = "mean",
) -> list[Timeline]:
    """Ask classifiers about every window of a video.

    A window is shown at the rate that a classifier was trained with: its clips are spread over the window; a clip that is
    longer than the window has it in its middle.

    Args:
        members: of `load_members`, on the device; their plans' `segments` and `views` are clips of a window.
        record: the video, or the part of it.
        window: length of a window, s.
        stride: from the start of a window to that of the next, s.
        runtime: how to compute.
        how: how answers are combined.

    Returns:
        What each member answers, and last, if all have the same classes, the combined answers.

    Raises:
        VideoError: the video, or every window of it, cannot be read.
    """
    video = record.open(threads=usable_cores())
    spans = window_spans(video.duration, window, stride)
    probabilities = [np.zeros((len(spans), len(member.classifier.classes))) for member in members]
    skipped: dict[int, str] = {}
    groups = passes(members)
    with Meter(f"following {Path(record.path).name}", len(groups) * len(spans), unit="windows") as meter:
        for turn, group in enumerate(groups):
            first, done = members[group[0]].classifier, 0
            for clips in window_clips(video, first.plan, spans):
                good = [(done + i, c) for i, c in enumerate(clips) if isinstance(c, Tensor)]
                skipped |= {done + i: c for i, c in enumerate(clips) if isinstance(c, str)}
                if good:
                    shown = torch.stack([c for _, c in good])
                    features = encode(first.encoder, shown.flatten(0, 1), batch_size=BATCH, runtime=runtime)
                    for (place, _), tokens in zip(good, torch.unflatten(features, 0, shown.shape[:2]), strict=True):
                        for number in group:
                            probabilities[number][place] = members[number].classifier.probabilities(tokens)
                done += len(clips)
                meter.show(turn * len(spans) + done)
    if len(skipped) == len(spans):
        raise VideoError(record.path, next(iter(skipped.values())))
    answers = [(member.classifier.classes, shares) for member, shares in zip(members, probabilities, strict=True)]
    sets = list(combined(members, probabilities, how))
    answers += [(classes, together) for _, classes, together in sets] if len(sets) == 1 else []
    part = (record.start, record.end, video.offset)
    return [Timeline(record.path, video.duration, names, tuple(spans), p, skipped, *part) for names, p in answers]


def window_spans(duration: float, window: float, stride: float) -> list[Span]:
    """Windows over a video of `duration` s, each `window` s long and `stride` s after the one before.

    The last one ends with the video, and so starts less than `stride` after the one before; a video that is shorter than
    a window is one.
    """
    if duration <= window:
        return [(0.0, duration)]
    count = int((duration - window) / stride + 1e-6) + 1
    spans = [(i * stride, i * stride + window) for i in range(count)]
    if duration - spans[-1][1] > 1e-3:
        spans.append((duration - window, duration))
    return spans


def clip_starts(video: Video, plan: ClipPlan, span: Span) -> list[float]:
    """When the clips of a window start, s: as the plan places them, or, if a clip is longer, around its middle."""
    length = (plan.spec.num_frames - 1) * plan.spec.seconds_per_frame(video) + 1 / video.fps
    room = span[1] - span[0] - length
    offsets = [room / 2] * plan.segments if room <= 0 else spread(room, plan.segments, plan.placement)
    starts = [span[0] + offset for offset in offsets]
    return [min(max(0.0, start), plan.spec.room(video)) for start in starts]


def window_clips(video: Video, plan: ClipPlan, spans: Sequence[Span]) -> Iterator[list[Tensor | str]]:
    """Of each window its clips, uint8 [V, 3, T, H, W], or why they cannot be read; several windows at a time.

    Windows overlap: what several of them show is decoded once.
    """
    frame_bytes = video.frames([0]).frames.nbytes
    clip_bytes = plan.segments * plan.spec.num_frames * frame_bytes
    size = int(max(1, min(BATCH // plan.clips, READ_BYTES // clip_bytes)))
    for first in range(0, len(spans), size):
        wanted = [
            [plan.spec.indices(video, start) for start in clip_starts(video, plan, span)]
            for span in spans[first : first + size]
        ]
        try:
            yield _read(video, plan, wanted)
        except VideoError:  # somewhere in these windows: find out in which
            yield [_read_one(video, plan, window) for window in wanted]


def _read(video: Video, plan: ClipPlan, windows: Sequence[Sequence[NDArray[np.int64]]]) -> list[Tensor | str]:
    """Clips of windows, each given as the frame numbers of its clips; every frame is decoded once."""
    numbers = np.unique(np.concatenate([clip for window in windows for clip in window]))
    frames = video.frames([int(i) for i in numbers]).frames

    def views(clip: NDArray[np.int64]) -> list[Tensor]:
        chosen = frames[np.searchsorted(numbers, clip)]
        return eval_views(chosen, plan.size, plan.views, antialias=plan.antialias or video.is_image, fit=plan.fit)

    return [torch.stack([view for clip in window for view in views(clip)]) for window in windows]


def _read_one(video: Video, plan: ClipPlan, window: Sequence[NDArray[np.int64]]) -> Tensor | str:
    try:
        return _read(video, plan, [window])[0]
    except VideoError as error:
        return error.reason
