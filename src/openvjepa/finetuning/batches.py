"""Labeled clips and features in batches, for training that shows every video again and again.

What sample number i shows follows from (seed, i), so that a resumed run sees what an uninterrupted one does, and passes of
four times 4 clips show those of one of 16.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from openvjepa.config import DataConfig
from openvjepa.data.augment import Augmentation
from openvjepa.data.lists.index import VideoIndex
from openvjepa.data.loader import Batch, one_thread, seeded, worker_count
from openvjepa.errors import DataError, OpenVJEPAError, VideoError
from openvjepa.features.encode import check_bad
from openvjepa.features.sampling import ClipPlan
from openvjepa.progress import Meter

log = logging.getLogger("openvjepa")

_ORDER, _VIEW, _AUGMENT, _MIXUP = range(20, 24)  # tags that keep the streams of random numbers apart
_EXAMPLES = 4  # videos that a loader process must have for it to be worth its start


class Order:
    """Which training video, and which of its clips, each sample shows: epochs of a new random order each.

    Clip 0 of a video is its plain one, the others are random ones. With `views`, one of so many is drawn; with None it is
    another one in every epoch.
    """

    def __init__(self, videos: int, views: int | None, seed: int) -> None:
        self.videos, self.views, self.seed = videos, views, seed
        self._epoch: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def __call__(self, number: int) -> tuple[int, int]:
        """(place of the video, number of the clip) of a sample."""
        epoch, position = divmod(number, self.videos)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, np.random.default_rng((self.seed, _ORDER, epoch)).permutation(self.videos))
        video = int(self._epoch[1][position])
        if self.views is None:
            return video, 1 + epoch
        return video, int(np.random.default_rng((self.seed, _VIEW, number)).integers(self.views))


def feature_batches(
    x: NDArray[Any], labels: NDArray[np.int64], order: Order, *, size: int, first: int, end: int
) -> Iterator[Batch]:
    """Passes `first` to `end` - 1 over cached features [n, V, N, D]: tokens [size, N, D] and labels [size]."""
    for item in range(first, end):
        places, views = zip(*(order(item * size + i) for i in range(size)), strict=True)
        tokens = np.array(x[list(places), list(views)], dtype=np.float32)
        yield {"tokens": torch.from_numpy(tokens), "labels": torch.from_numpy(labels[list(places)])}


@dataclass(frozen=True)
class ClipBatches(Dataset[Batch]):
    """Item i is pass number i: clips uint8 [size, 3, T, H, W] and labels int64 [size]; with mixup also how to mix them."""

    index: VideoIndex
    plan: ClipPlan
    order: Order
    size: int
    """Clips in a pass."""
    augmentation: Augmentation
    hflip: float = 0.0
    mixup: float = 0.0
    """Both parameters of the Beta distribution that shares are drawn from; 0: none."""

    def __getitem__(self, item: int) -> Batch:
        try:
            return self._batch(item)
        except OpenVJEPAError as error:  # across a worker's border, torch would add its traceback to the message
            return {"error": error}

    def _batch(self, item: int) -> Batch:
        numbers = [item * self.size + i for i in range(self.size)]
        places = [self.order(number) for number in numbers]
        clips = [self._clip(*place, number) for place, number in zip(places, numbers, strict=True)]
        labels = torch.tensor([self.index.labels[video] for video, _ in places])
        batch: Batch = {"clips": torch.stack(clips), "labels": labels}
        if self.mixup:
            rng = np.random.default_rng((self.order.seed, _MIXUP, item))
            batch["partner"] = torch.from_numpy(rng.permutation(self.size))
            batch["share"] = torch.tensor(rng.beta(self.mixup, self.mixup))
        return batch

    def _clip(self, video: int, clip: int, number: int) -> Tensor:
        """uint8 [3, T, H, W]; where a random clip cannot be read, the plain one, which could be when the run started."""
        plan, record = self.plan, self.index.records[video]
        clips = plan.plain(self.index, segments=1, views=1)
        frames = None
        if clip > 0:
            try:
                frames = clips.random_clip(record.open(), video, clip - 1, hflip=self.hflip)
            except VideoError as error:
                log.warning("%s: %s: using the center clip instead", record.name, error.reason)
        if frames is None:
            plain, _, reason = clips[video]
            if reason:
                raise DataError(f"{record.name}: {reason}: it could be read when the run started")
            frames = plain[0]
        frames = frames.expand(-1, plan.spec.num_frames, -1, -1)
        return self.augmentation(frames, seeded(self.order.seed, _AUGMENT, number))

    def batches(self, first: int, end: int, *, workers: int | None, pin_memory: bool) -> Iterator[Batch]:
        """Passes `first` to `end` - 1, loaded ahead by other processes."""
        count = worker_count(DataConfig(workers=workers))
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=range(first, end),
            num_workers=count,
            pin_memory=pin_memory,
            worker_init_fn=one_thread if count else None,
            generator=torch.Generator(),  # its own: else a new loader draws from the run's, and a resume is not exact
        )
        for batch in loader:
            if "error" in batch:
                raise batch["error"]
            yield batch


def planned_clips(
    index: VideoIndex, plan: ClipPlan, *, batch_size: int, workers: int | None
) -> Iterator[tuple[Tensor, list[int], list[str]]]:
    """The evaluation's clips, video by video: uint8 [n, V, 3, T, H, W], places in the index, why they cannot be read."""
    dataset = plan.plain(index)
    loader = DataLoader(
        dataset,
        batch_size=max(1, batch_size // plan.plain_clips),
        num_workers=min(worker_count(DataConfig(workers=workers)), len(index) // _EXAMPLES),
        worker_init_fn=one_thread,
        generator=torch.Generator(),
    )
    for clips, places, reasons in loader:
        yield clips, places.tolist(), list(reasons)


def readable(
    index: VideoIndex, plan: ClipPlan, *, workers: int | None, max_bad: float, name: str
) -> tuple[VideoIndex, dict[str, str]]:
    """The videos whose planned clips (but for the random ones) can be read, and of the others path -> reason.

    Raises:
        DataError: too many cannot be read.
    """
    kept: list[int] = []
    skipped: dict[str, str] = {}
    with Meter(f"checking {name}", len(index)) as meter:
        for _, places, reasons in planned_clips(index, plan, batch_size=8, workers=workers):
            bad = {index.records[p].name: reason for p, reason in zip(places, reasons, strict=True) if reason}
            skipped |= bad
            check_bad(skipped, len(index), max_bad)
            kept += [p for p, reason in zip(places, reasons, strict=True) if not reason]
            meter.show(places[-1] + 1)
    return replace(index, records=tuple(index.records[p] for p in kept)), skipped
