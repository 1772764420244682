"""Surprise over the length of a video: every window, every context, and where in the picture.

Shapes: W windows that could be read, A context lengths, F sampled frames, h x w tokens of a frame.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvjepa.data.clips import ClipSpec
from openvjepa.data.lists.cells import csv_text
from openvjepa.data.lists.records import VideoRecord, as_record
from openvjepa.data.media.video import Video
from openvjepa.errors import DataError, VideoError
from openvjepa.seeing.surprise.error import PredictiveModel, WindowErrors, mean_tokens, window_errors
from openvjepa.seeing.surprise.windows import WindowPlan, plan_windows, read_windows
from openvjepa.train.distributed import Runtime
from openvjepa.weights.files import write_file

Pooling = Literal["mean", "max"]
"""Over the windows of a video: the mean for matched pairs, the maximum for single videos."""

MEAN_WINDOWS = 64  # over which the mean token of each place is taken, at most
_COLUMNS = ("path", "start", "end", "surprise", "repeat", "mean", "ratio", "excess", "error")
_log = logging.getLogger("openvjepa")


@dataclass(frozen=True)
class FollowSettings:
    """How videos are cut into windows and measured."""

    spec: ClipSpec
    """Frames of a window, and their rate."""
    contexts: tuple[int, ...]
    """Lengths of the context, frames."""
    stride: int = 2
    """Sampled frames from the start of a window to that of the next."""
    batch_size: int = 8
    """Windows in one pass."""
    runtime: Runtime | None = None


@dataclass(frozen=True)
class Score:
    """One number of a video for each measure."""

    surprise: float
    """Mean absolute error of the predictor."""
    repeat: float
    """Of "the last visible tokens stay"."""
    mean: float
    """Of "the mean token of this place"."""
    ratio: float
    """surprise / repeat: below 1, the predictor knows more than that nothing moves. nan where repeat is 0."""
    excess: float
    """Prediction error less that of "the last visible tokens stay", over the 5 % of the tokens where it is largest."""


@dataclass(frozen=True, eq=False)
class VideoSurprise:
    """Surprise of one video."""

    record: VideoRecord
    plan: WindowPlan
    contexts: tuple[int, ...]
    windows: tuple[int, ...]
    """Numbers of the windows that could be read, in the plan; the rows of `errors`."""
    errors: WindowErrors
    skipped: dict[int, str]
    """Number of a window that could not be read -> reason."""
    still: bool
    """It is a still image: nothing moves, and its surprise says little."""
    tubelet_size: int

    @property
    def path(self) -> str:
        """Its file."""
        return self.record.path

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known about it."""
        notes = []
        if self.still:
            notes.append("a still image, shown as a video that stands still")
        elif self.plan.padded:
            notes.append(
                f"{self.plan.padded} frames shorter than a window of {self.plan.length}: its last frame is repeated"
            )
        if self.skipped:
            total = len(self.plan.starts)
            notes.append(f"{len(self.skipped)} of {total} windows cannot be read: {next(iter(self.skipped.values()))}")
        return tuple(notes)

    def curve(self, measure: Literal["prediction", "repeat", "mean", "excess"] = "prediction") -> NDArray[np.float64]:
        """Error of each window, mean over the contexts, [W]."""
        return getattr(self.errors, measure).double().mean(1).numpy()

    def ratios(self) -> NDArray[np.float64]:
        """Surprise over that of "the last visible tokens stay" of each window, [W]; nan where that is 0."""
        repeat = self.curve("repeat")
        return np.divide(self.curve(), repeat, out=np.full(len(repeat), np.nan), where=repeat > 0)

    def middles(self) -> NDArray[np.float64]:
        """Middle of what each window predicts after its shortest context, s, [W]."""
        first = self.plan.starts[list(self.windows)] + min(self.contexts)
        last = self.plan.starts[list(self.windows)] + self.plan.length - 1
        top = len(self.plan.times) - 1
        return (self.plan.times[np.minimum(first, top)] + self.plan.times[np.minimum(last, top)]) / 2

    def score(self, pooling: Pooling) -> Score:
        """One number for each measure. The ratio of a mean is one of two means; of a maximum, the largest ratio."""
        pool = np.mean if pooling == "mean" else np.max
        surprise, repeat, usual = (float(pool(self.curve(name))) for name in ("prediction", "repeat", "mean"))
        if pooling == "mean":
            ratio = surprise / repeat if repeat > 0 else float("nan")
        else:
            ratios = self.ratios()
            ratio = float(np.nanmax(ratios)) if np.isfinite(ratios).any() else float("nan")
        return Score(surprise, repeat, usual, ratio, float(pool(self.curve("excess"))))

    def heat(self) -> NDArray[np.float64]:
        """Surprise of each token of each sampled frame, [F, h, w]: mean over the windows that predict it, nan elsewhere.

        A tubelet's error is that of each of its frames; nothing is interpolated.
        """
        maps = self.errors.tokens.double().numpy()
        total = np.zeros((len(self.plan.numbers), *maps.shape[2:]))
        count = np.zeros_like(total)
        for row, number in enumerate(self.windows):
            start = int(self.plan.starts[number])
            for frame in range(start, min(start + self.plan.length, len(total))):
                values = maps[row, (frame - start) // self.tubelet_size]
                known = np.isfinite(values)
                total[frame][known] += values[known]
                count[frame][known] += 1
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        spans = [self.plan.span(number) for number in self.windows]
        ratios = [None if np.isnan(ratio) else float(ratio) for ratio in self.ratios()]
        rows = zip(
            spans, self.curve(), self.curve("repeat"), self.curve("mean"), ratios, self.curve("excess"), strict=True
        )
        pooled = {name: vars(self.score(name)) for name in ("mean", "max")}
        clean = {name: {k: None if np.isnan(v) else v for k, v in values.items()} for name, values in pooled.items()}
        return {
            "path": self.path,
            **clean,
            "windows": [
                {
                    "start": span[0],
                    "end": span[1],
                    "surprise": s,
                    "repeat": r,
                    "mean": m,
                    "ratio": ratio,
                    "excess": excess,
                }
                for span, s, r, m, ratio, excess in rows
            ],
            "notes": list(self.notes),
            "error": None,
        }


def follow(
    model: PredictiveModel, file: str | VideoRecord, settings: FollowSettings, mean: Tensor | None
) -> VideoSurprise:
    """Surprise of one video.

    Args:
        model: of `predictive_model`.
        file: video, frame folder or still image, or the part of a video that a record means.
        settings: windows and contexts.
        mean: of `reference_mean` or `mean_tokens`; None: that baseline is nan.

    Raises:
        VideoError: it cannot be read, or none of its windows can.
    """
    record = as_record(file)
    video = record.open()
    plan = plan_windows(video, settings.spec, settings.stride)
    numbers, parts, skipped = [], [], {}
    for good, clips, bad in _batches(model, video, plan, settings):
        skipped |= bad
        if good:
            numbers += good
            parts.append(window_errors(model, clips, settings.contexts, mean, settings.runtime))
    if not parts:
        raise VideoError(record.path, next(iter(skipped.values())))
    fields = ("prediction", "repeat", "mean", "excess", "tokens")
    errors = WindowErrors(*(torch.cat([getattr(part, name) for part in parts]) for name in fields))
    size = model.config.tubelet_size
    return VideoSurprise(record, plan, settings.contexts, tuple(numbers), errors, skipped, video.is_image, size)


def _batches(
    model: PredictiveModel, video: Video, plan: WindowPlan, settings: FollowSettings
) -> Iterator[tuple[list[int], Tensor, dict[int, str]]]:
    return read_windows(
        video, plan, model.config.image_hw, batch_size=settings.batch_size, antialias=model.clip.antialias
    )


def follow_all(
    model: PredictiveModel, files: Sequence[str | VideoRecord], settings: FollowSettings, mean: Tensor
) -> Iterator[VideoSurprise | VideoError]:
    """`follow` for each video in turn; an error stands in the place of a video that cannot be read."""
    for record in map(as_record, files):
        try:
            yield follow(model, record, settings, mean)
        except VideoError as error:
            _log.warning("skipped %s: %s", record.name, error.reason)
            yield VideoError(record.name, error.reason)


def reference_mean(model: PredictiveModel, files: Sequence[str | VideoRecord], settings: FollowSettings) -> Tensor:
    """The mean target token of each place, [N, C], over up to 64 windows spread evenly over the videos.

    Raises:
        DataError: none of the videos can be read.
    """
    spread = np.unique(np.linspace(0, len(files) - 1, MEAN_WINDOWS).round())
    chosen = [as_record(files[int(i)]) for i in spread]
    each = -(-MEAN_WINDOWS // len(chosen))
    readable: list[Tensor] = []
    for record in chosen:
        try:
            video = record.open()
            plan = plan_windows(video, settings.spec, settings.stride)
        except VideoError:
            continue
        # Evenly spread, a single one in the middle.
        places = (np.arange(each) + 0.5) / each * len(plan.starts)
        only = np.unique(places.astype(int)).tolist()
        size, batch = model.config.image_hw, settings.batch_size
        for _, clips, _ in read_windows(video, plan, size, batch_size=batch, antialias=model.clip.antialias, only=only):
            readable += [clips] if len(clips) else []
    if not readable:
        raise DataError(f"none of {len(files)} videos can be read, for example {chosen[0].name}")
    return mean_tokens(model, readable, settings.runtime)


def write_csv(path: Path, videos: Sequence[VideoSurprise | VideoError]) -> None:
    """One line for each window: path, start, end, surprise, repeat, mean, ratio, error.

    Raises:
        CheckpointError: it cannot be written.
    """
    write_file(path, csv_text(_COLUMNS, _window_rows(videos)).encode())


def _window_rows(videos: Sequence[VideoSurprise | VideoError]) -> Iterator[dict[str, object]]:
    for video in videos:
        if isinstance(video, VideoError):
            yield {"path": video.path, "error": video.reason}
            continue
        for row in video.to_dict()["windows"]:
            values = {name: "" if row[name] is None else f"{row[name]:.6f}" for name in _COLUMNS[3:8]}
            yield {"path": video.path, "start": f"{row['start']:.3f}", "end": f"{row['end']:.3f}", **values}
        for number, reason in video.skipped.items():
            start, end = video.plan.span(number)
            yield {"path": video.path, "start": f"{start:.3f}", "end": f"{end:.3f}", "error": reason}
