"""Frozen features: clips go through the encoder.

Shapes: B clips, n videos, V clips of each, N tokens, D channels.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from openvjepa.config import ClipProtocol, DataConfig
from openvjepa.data.clips import ClipSpec
from openvjepa.data.lists.index import VideoIndex
from openvjepa.data.loader import EvalClips, one_thread, worker_count
from openvjepa.data.media.images import is_image
from openvjepa.errors import DataError, VideoError
from openvjepa.features.sampling import ClipPlan
from openvjepa.model.encoder import Encoder
from openvjepa.progress import Meter
from openvjepa.train.distributed import Runtime
from openvjepa.weights.encoding import Clip, encode_clips
from openvjepa.weights.loaded import LoadedModel

log = logging.getLogger("openvjepa")


@dataclass(frozen=True)
class EncodeSettings:
    """How clips are encoded, and how their features are kept."""

    runtime: Runtime
    batch_size: int = 32
    dtype: Literal["float32", "float16"] = "float32"
    workers: int | None = None
    max_bad: float = 0.1
    layer: int = -1
    """Block whose output is kept, from 0, or negative from the end."""


def encode(
    model: LoadedModel | Encoder,
    clips: Clip | Sequence[Clip],
    *,
    batch_size: int = 32,
    runtime: Runtime | None = None,
    layer: int = -1,
) -> Tensor:
    """Encode clips to tokens. Like `LoadedModel.encode`, for an encoder and with a given precision.

    Args:
        model: what `load_model` or `create_model` returns; computes on the device where it is. An encoder alone is taken to
            be made for clips like those of the published models.
        clips: files, frames or clips; see `LoadedModel.encode`.
        batch_size: clips in one pass.
        runtime: autocast to use; None: the model's own precision.
        layer: block whose output is wanted (after the encoder's norm), from 0, or negative from the end.

    Returns:
        float32 [B, N, D] on the CPU, in the order of `TokenGrid`.

    Raises:
        DataError: the clips are of another type or shape.
        VideoError: a file cannot be read.
        ConfigError: the clips do not divide into whole tubelets and patches; no such layer.
    """
    encoder, clip = (
        (model, ClipProtocol.of(model.config)) if isinstance(model, Encoder) else (model.encoder, model.clip)
    )
    autocast = runtime.autocast if runtime else contextlib.nullcontext
    return encode_clips(encoder, clip, clips, batch_size=batch_size, layer=layer, autocast=autocast)


class PlannedClips(Dataset[tuple[Tensor, str]]):
    """Item i: the planned clips of video i, uint8 [V, 3, T, H, W], and why it could not be read ("" if it could)."""

    def __init__(self, index: VideoIndex, plan: ClipPlan) -> None:
        self.index, self.plan = index, plan
        self.parts = self._parts(plan.spec)
        self.image_parts = self._parts(replace(plan.spec, num_frames=1)) if plan.image_path else self.parts

    def _parts(self, spec: ClipSpec) -> list[EvalClips]:
        plan = replace(self.plan, spec=spec)
        return [plan.plain(self.index), *([plan.randomized(self.index)] if plan.random else [])]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: int) -> tuple[Tensor, str]:
        parts = self.image_parts if is_image(self.index.records[item].path) else self.parts
        items = [part[item] for part in parts]
        return torch.cat([clips for clips, _, _ in items]), next((reason for _, _, reason in items if reason), "")

    def batches(self, batch_size: int) -> list[list[int]]:
        """Consecutive videos, so many that their clips fill a pass; images that have a path of their own apart from them."""
        size = max(1, batch_size // self.plan.clips)
        apart = [self.plan.image_path and is_image(record.path) for record in self.index.records]
        runs = (list(run) for _, run in groupby(range(len(self)), key=apart.__getitem__))
        return [run[i : i + size] for run in runs for i in range(0, len(run), size)]


Encoded = tuple[int, Tensor | str]
"""Place of a video in the index; its features [V, N, D], or why it could not be read."""


def encode_videos(
    encoder: Encoder, index: VideoIndex, plan: ClipPlan, settings: EncodeSettings, *, name: str
) -> Iterator[Encoded]:
    """Encode video after video, in the order of the index; shows progress with the time left, on stderr."""
    for batch in encode_batches(encoder, index, plan, settings, name=name):
        yield from batch


def _log_plan(index: VideoIndex, plan: ClipPlan, name: str) -> None:
    """Log how clips are sampled, with the frame size of the first readable video; nothing for a run without a name."""
    if not name:
        return
    for record in index.records[:3]:
        try:
            height, width = record.open().frames([0]).frames.shape[1:3]
        except VideoError:
            continue
        log.info("%s: %s", name, plan.describe((height, width)))
        return


def encode_batches(
    encoder: Encoder, index: VideoIndex, plan: ClipPlan, settings: EncodeSettings, *, name: str, first: int = 0
) -> Iterator[list[Encoded]]:
    """As `encode_videos`, in batches; those before `first` are left out.

    A batch follows from index, plan and batch size alone, so that a run that goes on later gets the same numbers: the last
    bits depend on how many clips go through the encoder together.
    """
    for places, clips, reasons in planned_batches(index, plan, settings, name=name, first=first):
        features = iter(encode_planned(encoder, clips, settings))
        yield [(place, reason or next(features)) for place, reason in zip(places, reasons, strict=True)]


def planned_batches(
    index: VideoIndex, plan: ClipPlan, settings: EncodeSettings, *, name: str, first: int = 0
) -> Iterator[tuple[list[int], Tensor, list[str]]]:
    """Clips in batches: places in the index, the clips of those that can be read [n, V, 3, T, H, W], why others cannot ("")."""
    _log_plan(index, plan, name)
    dataset = PlannedClips(index, plan)
    batches = dataset.batches(settings.batch_size)
    done, batches = sum(map(len, batches[:first])), batches[first:]
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=min(worker_count(DataConfig(workers=settings.workers)), len(index) // 4),
        worker_init_fn=one_thread,
    )
    with Meter(f"encoding {name}" if name else "measuring the encoding speed", len(index), done) as meter:
        for places, (clips, reasons) in zip(batches, loader, strict=True):
            yield places, clips[torch.tensor([not reason for reason in reasons])], list(reasons)
            done += len(places)
            meter.show(done)


def encode_planned(encoder: Encoder, clips: Tensor, settings: EncodeSettings) -> Tensor:
    """uint8 [n, V, 3, T, H, W] -> features [n, V, N, D]."""
    if not len(clips):
        return torch.empty(0)
    features = encode(
        encoder,
        clips.flatten(0, 1),
        batch_size=settings.batch_size,
        runtime=settings.runtime,
        layer=settings.layer,
    )
    return torch.unflatten(features, 0, clips.shape[:2])


def check_bad(skipped: dict[str, str], total: int, max_bad: float) -> None:
    """Stop when too large a share of the videos is unreadable.

    Raises:
        DataError: names the first few.
    """
    if len(skipped) > max_bad * total:
        examples = "; ".join(f"{path}: {reason}" for path, reason in list(skipped.items())[:3])
        raise DataError(
            f"{len(skipped)} of {total} videos cannot be read, more than max_bad allows ({max_bad:.0%}): {examples}"
        )
