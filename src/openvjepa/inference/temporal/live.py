"""Classifiers on frames that come one after the other: windows of a camera, a stream or a pipe.

Memory is bounded: frames of the last window, and those that wait in the source's queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvjepa.config import Combine
from openvjepa.data.clips import ClipSpec, spread
from openvjepa.data.frame_cache import kept_short_side
from openvjepa.data.media.stream import SETTLED, FrameSource, LiveAnswer, LiveFrame, SourceReport
from openvjepa.data.transforms import eval_views
from openvjepa.features.encode import encode
from openvjepa.features.sampling import ClipPlan
from openvjepa.inference.ensemble import Member, answers_of, passes
from openvjepa.inference.predictions import Answer, top_dict
from openvjepa.inference.timeline import Span
from openvjepa.train.distributed import Runtime

_SPARE = 32  # frames of the queue beside those of a window
_HALF = 0.5  # of a frame: a time between two frames belongs to the earlier one's neighbor


@dataclass(frozen=True, kw_only=True)
class WindowPrediction(LiveAnswer):
    """What classifiers say about one window of a source."""

    answers: tuple[Answer, ...]
    """One for each set of classes."""

    def to_dict(self) -> dict[str, Any]:
        """For a line of JSON."""
        values: dict[str, Any] = {"top": top_dict(self.answers[0].top)}
        if len(self.answers) > 1:
            values["answers"] = [{"runs": answer.runs, "top": top_dict(answer.top)} for answer in self.answers]
        return self.line(values)


def clip_seconds(spec: ClipSpec, fps: float) -> float:
    """Time that a clip of a video with so many frames per second covers, s."""
    return (spec.num_frames - 1) * spec.spacing(fps) + 1 / fps


def source_for(
    name: str,
    members: Sequence[Member],
    window: float | None,
    *,
    drop: bool | None = None,
    short_side: int = 0,
    **more: Any,
) -> FrameSource:
    """A source whose queue holds the frames of a window, at the rate and size that the classifiers need.

    Args:
        name: camera, URL or pipe.
        members: of `load_members`.
        window: s; None: as long as a clip.
        drop: as for `FrameSource`.
        short_side: px that frames keep at least, for a copy that people look at.
        more: of `FrameSource`.
    """
    plans = [member.classifier.plan for member in members]
    # A frame step counts frames of a source whose rate is not known yet: at 60 per second they are the nearest.
    spacing = min(plan.spec.spacing(60.0) for plan in plans)
    seconds = max(window or 0.0, *(clip_seconds(plan.spec, 15.0) for plan in plans))
    room = int(min(seconds / (spacing / 4), seconds * 60)) + _SPARE
    size = max([short_side, *(kept_short_side(plan.size, (1.0, 1.0)) for plan in plans)])
    return FrameSource(name, short_side=size, interval=spacing / 4, queue=room, drop=drop, **more)


def follow_live(
    members: Sequence[Member],
    source: FrameSource,
    *,
    window: float | None,
    stride: float | None,
    runtime: Runtime,
    how: Combine = "mean",
    top: int = 5,
    on_frame: Callable[[LiveFrame], None] | None = None,
) -> Iterator[WindowPrediction]:
    """The answers about window after window of a source that is open, each as soon as its last frame is there.

    Windows are those of `window_spans`: the last one ends with the source. When a live source is ahead of the classifiers, the
    windows between are left out and counted, and the newest one is next.

    Args:
        members: on the device.
        source: of `source_for`, open.
        window: s; None: as long as a clip.
        stride: from the start of a window to that of the next, s; None: half a window.
        runtime: how to compute.
        how: how answers are combined.
        top: classes of each answer.
        on_frame: called with every frame, in order.

    Raises:
        VideoError: the source has no frames.
    """
    frames: deque[LiveFrame] = deque()
    for span, skipped in _windows(members, source, frames, window, stride, on_frame):
        yield _answer(members, source, frames, span, skipped, runtime, how, top)


def _windows(
    members: Sequence[Member],
    source: FrameSource,
    frames: deque[LiveFrame],
    window: float | None,
    stride: float | None,
    on_frame: Callable[[LiveFrame], None] | None,
) -> Iterator[tuple[Span, int]]:
    """Windows that are due, and how many were left out so far; `frames` are those that they, or their clips, show."""
    start, skipped, last_end, length = 0.0, 0, 0.0, 0.0
    while (frame := source.get()) is not None:
        frames.append(frame)
        if on_frame is not None:
            on_frame(frame)
        if len(frames) < SETTLED and not length:  # the rate is not known yet
            continue
        clip = max(clip_seconds(member.classifier.plan.spec, source.fps) for member in members)
        length = length or window or clip
        keep, stride = max(length, clip), stride or length / 2
        while len(frames) > 1 and frames[0].time < start + length - keep - 2 / source.fps:
            frames.popleft()
        while frame.time >= start + length - 1.25 / source.fps:
            # Windows that are complete, but older than the newest one that is.
            behind = int((max(source.newest() or 0.0, frame.time) - start - length) / stride) if source.live else 0
            if behind > 0:
                start, skipped = start + behind * stride, skipped + behind
                continue
            last_end = start + length
            yield (start, last_end), skipped
            start += stride
    if frames:
        length = length or window or max(clip_seconds(m.classifier.plan.spec, source.fps) for m in members)
        end = frames[-1].time + 1 / source.fps
        if end - last_end > 1e-3:
            yield (max(0.0, end - length), end), skipped


def _answer(
    members: Sequence[Member],
    source: FrameSource,
    frames: Sequence[LiveFrame],
    span: Span,
    skipped: int,
    runtime: Runtime,
    how: Combine,
    top: int,
) -> WindowPrediction:
    shares: list[NDArray[np.float64]] = [np.empty(0)] * len(members)
    for group in passes(members):
        first = members[group[0]].classifier
        clips = _clips(first.plan, frames, span, source.fps)
        tokens = encode(first.encoder, clips, runtime=runtime)
        for number in group:
            shares[number] = members[number].classifier.probabilities(tokens)[None]
    (answers,) = answers_of(members, shares, how, top)
    return WindowPrediction(answers=answers, **source.answered(*span, frames[-1].arrived, skipped))


def _clips(plan: ClipPlan, frames: Sequence[LiveFrame], span: Span, fps: float) -> Tensor:
    """Clips of a window, uint8 [V, 3, T, H, W]: as `clip_starts` places them, none after the last frame."""
    spacing = plan.spec.spacing(fps)
    reach = (plan.spec.num_frames - 1) * spacing
    room = span[1] - span[0] - reach - 1 / fps
    offsets = [room / 2] * plan.segments if room <= 0 else spread(room, plan.segments, plan.placement)
    times = np.array([frame.time for frame in frames])
    views: list[Tensor] = []
    for offset in offsets:
        start = max(0.0, min(span[0] + offset, float(times[-1]) - reach))
        wanted = start + spacing * np.arange(plan.spec.num_frames) + _HALF / fps
        places = np.clip(np.searchsorted(times, wanted + 1e-6, side="right") - 1, 0, None)
        chosen = np.stack([frames[int(place)].pixels for place in places])
        views += eval_views(chosen, plan.size, plan.views, antialias=plan.antialias, fit=plan.fit)
    return torch.stack(views)


@dataclass
class LiveStream:
    """Answers as they come; iterate over it once. What it is made from is closed at the end.

    Attributes:
        predictions: the answers.
        report: what has happened to the source so far; None for a folder.
        answers: how many there were so far.
    """

    predictions: Iterator[Any]
    report: SourceReport | None = None
    answers: int = 0

    def __iter__(self) -> Iterator[Any]:
        for prediction in self.predictions:
            self.answers += getattr(prediction, "error", None) is None
            yield prediction
