"""Windows of frames that come one after the other, scored as soon as they are complete.

Memory is bounded: the resized frames of one window, and the frames that wait in the source's queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvjepa.data.clips import ClipSpec
from openvjepa.data.frame_cache import kept_short_side
from openvjepa.data.media.stream import SETTLED, FrameSource, LiveAnswer, LiveFrame
from openvjepa.data.transforms import eval_views

_SPARE = 32  # frames of the queue beside those of a window
_GAP = 2.5  # sampled frames; a longer pause ends a window: a frame that stands in for lost ones would be a surprise

Scorer = Callable[[Tensor], dict[str, NDArray[np.float64]]]
"""Windows uint8 [B, 3, T, H, W] -> name -> values [B]."""


@dataclass(frozen=True, kw_only=True)
class LiveWindow(LiveAnswer):
    """Scores of one window of a source."""

    values: dict[str, float]
    """Score -> value; undefined ones are left out."""
    alarms: tuple[str, ...]
    """Scores that have been above their thresholds for the minimum number of windows."""

    def to_dict(self) -> dict[str, Any]:
        """For a line of JSON."""
        values = {name: round(value, 6) for name, value in self.values.items()}
        return self.line({**values, "alarms": list(self.alarms)})


@dataclass(frozen=True)
class StreamSettings:
    """How windows are cut from a stream."""

    spec: ClipSpec
    size: tuple[int, int]
    """Height and width of a window, px."""
    stride: int
    """Sampled frames from the start of a window to that of the next."""
    antialias: bool = True
    min_run: int = 2
    """Consecutive windows above a threshold that make an alarm."""


def source_for(name: str, settings: StreamSettings, *, drop: bool | None = None, **more: Any) -> FrameSource:
    """A source whose queue holds the frames of a window, at the rate and size that the model needs.

    Args:
        name: camera, URL or pipe.
        settings: windows.
        drop: as for `FrameSource`.
        more: of `FrameSource`.
    """
    spacing = settings.spec.spacing(60.0)  # a frame step counts frames of a source whose rate is not known yet
    room = 4 * settings.spec.num_frames * (settings.spec.frame_step or 1) + _SPARE
    size = kept_short_side(settings.size, (1.0, 1.0))
    return FrameSource(name, short_side=size, interval=spacing / 4, queue=room, drop=drop, **more)


def score_live(
    source: FrameSource, score: Scorer, settings: StreamSettings, thresholds: dict[str, float] | None = None
) -> Iterator[LiveWindow]:
    """Scores of window after window of a source that is open.

    Frames are sampled by time: sampled frame k is the one shown at k / rate. Windows with a gap (lost frames, a new connection)
    are left out. When a live source is ahead of the model, so are windows that are not the newest.

    Args:
        source: of `source_for`, open.
        score: of windows.
        settings: windows.
        thresholds: score -> threshold of an alarm.

    Raises:
        VideoError: the source has no frames.
    """
    runs = dict.fromkeys(thresholds or {}, 0)
    window = deque[tuple[float, Tensor]](maxlen=settings.spec.num_frames)
    skipped, since = 0, 0
    for frame, whole in _sampled(source, settings):
        if not whole:
            window.clear()
            runs, since = dict.fromkeys(runs, 0), 0
        view = eval_views(frame.pixels[None], settings.size, 1, antialias=settings.antialias)[0]
        window.append((frame.time, view))
        since += 1
        if len(window) < settings.spec.num_frames or (since - settings.spec.num_frames) % settings.stride:
            continue
        ahead = (source.newest() or frame.time) - frame.time
        if source.live and ahead >= settings.stride * settings.spec.spacing(source.fps):
            skipped += 1
            runs = dict.fromkeys(runs, 0)
            continue
        found = {name: float(value[0]) for name, value in score(torch.cat([v for _, v in window], 1)[None]).items()}
        runs = {name: runs[name] + 1 if found[name] > limit else 0 for name, limit in (thresholds or {}).items()}
        yield LiveWindow(
            values={name: value for name, value in found.items() if np.isfinite(value)},
            alarms=tuple(name for name, run in runs.items() if run >= settings.min_run),
            **source.answered(window[0][0], frame.time, frame.arrived, skipped),
        )


def _sampled(source: FrameSource, settings: StreamSettings) -> Iterator[tuple[LiveFrame, bool]]:
    """Sampled frames, and whether each follows the one before without a gap.

    The first frames are held until the rate is known.
    """
    held, last, due = list[LiveFrame](), None, 0.0
    settled = False
    while (frame := source.get()) is not None:
        held.append(frame)
        if not settled and len(held) < SETTLED:
            continue
        settled = True
        for one in held:
            spacing, half = settings.spec.spacing(source.fps), 0.5 / source.fps
            if one.time + half < due:
                continue
            whole = last is None or one.time - last <= _GAP * spacing
            yield one, whole
            due = one.time + spacing if not whole or one.time - due > spacing else due + spacing
            last = one.time
        held.clear()
