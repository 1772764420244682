"""Batches whose content depends on (seed, step, position) alone: the same for any number of workers, and after a resume."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from openvjepa.config import DataConfig, Fit, MaskingConfig, ModelConfig, Placement, ViewsConfig
from openvjepa.data.clips import ClipSpec
from openvjepa.data.cores import process_count, usable_cores
from openvjepa.data.frame_cache import FrameReader, kept_short_side
from openvjepa.data.lists.index import VideoIndex, read_index
from openvjepa.data.masks import sample_masks
from openvjepa.data.media.video import Video
from openvjepa.data.transforms import chosen_fit, eval_views, train_transform, view_count
from openvjepa.data.views import View, ViewMaker
from openvjepa.errors import ConfigError, DataError, OpenVJEPAError, VideoError, printable
from openvjepa.interrupts import leave_signals_to_parent

_log = logging.getLogger("openvjepa")
Batch = dict[str, Any]
_ORDER, _CLIP, _MASK, _RETRY, _MIX, _VIEW, _VIEWS = range(7)  # tags that keep the streams of random numbers apart
_MAX_RETRIES = 20


def seeded(*key: int) -> torch.Generator:
    """A generator that depends on the whole key: another stream for any other key of the same length.

    Raises:
        ConfigError: the seed, which comes first, is negative.
    """
    if key[0] < 0:
        raise ConfigError(f"seed {key[0]} is negative: must be 0 or more")
    state = np.random.SeedSequence(key).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


class PretrainBatches(Dataset[Batch]):
    """Item i is micro batch i of this process, complete with its masks; of videos that are not marked as val or test.

    With `views`, a batch also holds views of its clips: for each view the clips, uint8 [B, 3, T, h, w], and where tokens are
    dropped the ids of those to keep, int64 [B, K].
    """

    def __init__(
        self,
        sources: tuple[str, ...],
        data: DataConfig,
        model: ModelConfig,
        masking: MaskingConfig,
        *,
        seed: int,
        micro_batch: int,
        views: ViewsConfig | None = None,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.data, self.model, self.masking = data, model, masking
        self.seed, self.micro_batch, self.accumulate = seed, micro_batch, accumulate
        self.rank, self.world_size = rank, world_size
        self.indices = [read_index(source, label=data.label) for source in sources]
        if not sources:
            raise ConfigError("no videos given: pass a folder, list or CSV file")
        if data.mix is not None and (len(data.mix) != len(sources) or min(data.mix) <= 0):
            raise ConfigError(f"mix {data.mix} must give one positive weight for each of the {len(sources)} sources")
        self.shown = [index.without("val", "test") for index in self.indices]
        for index in self.shown:
            if not len(index):
                raise DataError(f"{index.source}: all videos are marked as val or test: there are no training videos")
        self.records = [record for index in self.shown for record in index.records]
        self.ends = np.cumsum([len(index) for index in self.shown])  # of each source in records
        self.spec = ClipSpec(model.num_frames, data.frame_step, data.fps)
        # Impossible masks and seeds fail here, before a run folder is made.
        sample_masks(masking.masks, model.grid, 1, generator=seeded(seed, _MASK))
        short_side = kept_short_side(model.image_hw, data.crop_scale) if data.cache else None
        self.reader = FrameReader(short_side, self.records)
        self.view_maker = None if views is None else ViewMaker(views, data, model)
        self.images: PretrainBatches | None = None
        if data.images:
            self.images = self._image_batches()
        self._epoch: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def _image_batches(self) -> PretrainBatches:
        """The images of the same steps, as clips of one frame.

        Raises:
            ConfigError: their number does not divide into the passes of a step.
        """
        passes = self.accumulate * self.world_size
        total = self.data.image_batch or self.micro_batch * passes
        if total % passes:
            raise ConfigError(f"image_batch {total} is not a multiple of the {passes} passes of a step")
        return PretrainBatches(
            self.data.images,
            replace(self.data, images=(), mix=None),
            replace(self.model, num_frames=1, img_size=self.data.image_size or self.model.img_size),
            replace(self.masking, masks=self.masking.image_masks),
            seed=self.seed + 1,  # other random numbers than the clips'
            micro_batch=total // passes,
            accumulate=self.accumulate,
            rank=self.rank,
            world_size=self.world_size,
        )

    def __getitem__(self, item: int) -> Batch:
        """clips uint8 [B, 3, T, H, W], masks_enc and masks_pred (lists of int64 [B, K]), labels int64 [B], step, bad.

        With images also `images`: the same of clips of one frame. Or `error`, for `PretrainLoader` to raise: across a
        worker's border, torch adds its traceback to the message.
        """
        try:
            batch = self.batch(item)
            if self.images is not None:
                batch["images"] = self.images.batch(item)
                batch["bad"] |= batch["images"].pop("bad")
            return batch
        except OpenVJEPAError as error:
            return {"error": error}

    def batch(self, item: int) -> Batch:
        """As `__getitem__`, without the images, and raising errors."""
        step, part = divmod(item, self.accumulate)
        batch_size = self.micro_batch * self.accumulate * self.world_size
        first = (part * self.world_size + self.rank) * self.micro_batch
        bad: dict[str, str] = {}
        samples = [self._sample(step * batch_size + first + i, bad) for i in range(self.micro_batch)]
        pairs = sample_masks(
            self.masking.masks,
            self.model.grid,
            self.micro_batch,
            truncation=self.masking.truncation,
            generator=seeded(self.seed, _MASK, step, part, self.rank),
        )
        batch: Batch = {
            "clips": torch.stack([clip for clip, _, _ in samples]),
            "labels": torch.tensor([label for _, label, _ in samples]),
            "masks_enc": [enc for enc, _ in pairs],
            "masks_pred": [pred for _, pred in pairs],
            "step": step,
            "bad": bad,
        }
        if self.view_maker is not None:
            batch["views"] = [_join_view(views) for views in zip(*(views for _, _, views in samples), strict=True)]
        return batch

    def _sample(self, number: int, bad: dict[str, str]) -> tuple[Tensor, int, list[View]]:
        """Clip, label and views of the sample of that number; an unreadable file is replaced by another one, drawn at random."""
        which = self._video_of(number)
        for attempt in range(_MAX_RETRIES):
            record = self.records[which]
            generator = seeded(self.seed, _CLIP, number, attempt)
            try:
                video = self.reader.video(record)
                start = self.spec.random_start(video, generator)
                frames = self.reader.frames(record, self.spec, start, video)
            except VideoError as error:
                bad[record.name] = error.reason
                which = self._replacement(which, number, attempt)
                continue
            clip = train_transform(
                frames,
                self.model.image_hw,
                scale=self.data.crop_scale,
                ratio=self.data.crop_ratio,
                hflip=self.data.hflip,
                generator=generator,
            )
            views = []
            if self.view_maker is not None:
                views = self.view_maker(frames, seeded(self.seed, _VIEWS, number, attempt))
            return clip, -1 if record.label is None else record.label, views
        reasons = "; ".join(f"{path}: {reason}" for path, reason in list(bad.items())[:3])
        raise DataError(f"{_MAX_RETRIES} videos in a row cannot be read, for example {reasons}")

    def _video_of(self, number: int) -> int:
        """Which video a sample shows: epochs of a new random order each, or weighted draws from several sources."""
        if self.data.mix is None:
            epoch, position = divmod(number, len(self.records))
            if self._epoch[0] != epoch:
                order = np.random.default_rng((self.seed, _ORDER, epoch)).permutation(len(self.records))
                self._epoch = (epoch, order)
            return int(self._epoch[1][position])
        rng = np.random.default_rng((self.seed, _MIX, number))
        weights = np.asarray(self.data.mix) / sum(self.data.mix)
        source = int(rng.choice(len(weights), p=weights))
        return int(self.ends[source]) - len(self.shown[source]) + int(rng.integers(len(self.shown[source])))

    def _replacement(self, which: int, number: int, attempt: int) -> int:
        """A random video in place of an unreadable one; where sources have weights, of the same source, which keeps them."""
        first, end = 0, len(self.records)
        if self.data.mix is not None:
            source = int(np.searchsorted(self.ends, which, side="right"))
            first, end = int(self.ends[source]) - len(self.shown[source]), int(self.ends[source])
        return int(torch.randint(first, end, (), generator=seeded(self.seed, _RETRY, number, attempt)))


def _join_view(views: Sequence[View]) -> dict[str, Tensor]:
    """The same view of all clips of a batch."""
    joined = {"clips": torch.stack([clip for clip, _ in views])}
    kept = [ids for _, ids in views if ids is not None]
    return joined | ({"ids": torch.stack(kept)} if kept else {})


class PretrainLoader:
    """Micro batches from a step on; counts the files that could not be read and stops when they are too many."""

    def __init__(self, dataset: PretrainBatches, *, start_step: int, steps: int, pin_memory: bool) -> None:
        self.dataset = dataset
        self.bad: dict[str, str] = {}
        workers = worker_count(dataset.data)
        self.loader = DataLoader(
            dataset,
            batch_size=None,
            sampler=range(start_step * dataset.accumulate, steps * dataset.accumulate),
            num_workers=workers,
            pin_memory=pin_memory,
            worker_init_fn=one_thread if workers else None,
            prefetch_factor=4 if workers else None,
            generator=torch.Generator(),  # its own: else a new loader draws from the run's, and a resume is not exact
        )

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            if "error" in batch:
                raise batch["error"]
            self._count(batch.pop("bad"))
            yield batch

    def _count(self, bad: dict[str, str]) -> None:
        """Name each bad file once.

        Raises:
            DataError: more than the allowed share of all files is bad.
        """
        for path, reason in bad.items():
            if path not in self.bad:
                self.bad[path] = reason
                _log.warning("skipped %s: %s (%d so far)", printable(path), printable(reason), len(self.bad))
        files = len(self.dataset.records) + (len(self.dataset.images.records) if self.dataset.images else 0)
        if bad and len(self.bad) > self.dataset.data.max_bad * files:
            raise DataError(
                f"{len(self.bad)} of {files} videos cannot be read, more than max_bad allows "
                f"({self.dataset.data.max_bad:.0%}): run `vjepa data check` on the source"
            )


def worker_count(data: DataConfig) -> int:
    """Loader processes: as asked for, within reason; none with a cache (each would fill its own), or cores - 1, at most 8."""
    if data.workers is not None:
        return process_count(data.workers, data.workers) if data.workers > 0 else 0
    return 0 if data.cache else min(8, usable_cores() - 1)


def one_thread(worker: int) -> None:
    """Start of a loader process: the processes together already use all cores, and the run ends them, not a signal."""
    torch.set_num_threads(1)
    leave_signals_to_parent()


class EvalClips(Dataset[tuple[Tensor, int, str]]):
    """Clips of an index for frozen evaluation: item i is (uint8 [clips, 3, T, H, W], i, reason if unreadable).

    Without `augment`, segments x views deterministic clips, segment by segment. With it, that many random crops at random
    times, which depend on (seed, i, draw) alone; there is no flip, since it would change what a direction is called.

    An image fills its clip. It is antialiased in any case: so were those of the published image figures of all families.
    """

    def __init__(
        self,
        index: VideoIndex,
        spec: ClipSpec,
        size: tuple[int, int],
        *,
        segments: int = 1,
        views: int = 1,
        augment: int = 0,
        crop_scale: tuple[float, float] = (0.5, 1.0),
        seed: int = 0,
        antialias: bool = True,
        placement: Placement = "centers",
        fit: Fit = "crop",
    ) -> None:
        self.index, self.spec, self.size, self.antialias = index, spec, size, antialias
        self.placement: Placement = placement
        self.fit: Fit = fit
        self.segments, self.views, self.augment, self.crop_scale, self.seed = segments, views, augment, crop_scale, seed

    @property
    def clips_per_video(self) -> int:
        """Clips in an item."""
        return self.augment or self.segments * view_count(self.fit, self.views)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: int) -> tuple[Tensor, int, str]:
        try:
            video = self.index.records[item].open()
            clips = self._random(video, item) if self.augment else self._fixed(video)
        except VideoError as error:
            empty = torch.zeros((self.clips_per_video, 3, self.spec.num_frames, *self.size), dtype=torch.uint8)
            return empty, item, error.reason
        return torch.stack(clips).expand(-1, -1, self.spec.num_frames, -1, -1), item, ""

    def _fixed(self, video: Video) -> list[Tensor]:
        antialias = self.antialias or video.is_image
        starts = self.spec.segment_starts(video, self.segments, self.placement)
        clips = (self._frames(video, start) for start in starts)
        return [
            view
            for clip in clips
            for view in eval_views(clip, self.size, self.views, antialias=antialias, fit=self.fit)
        ]

    def _random(self, video: Video, item: int) -> list[Tensor]:
        return [self.random_clip(video, item, draw) for draw in range(self.augment)]

    def random_clip(self, video: Video, item: int, draw: int, *, hflip: float = 0.0) -> Tensor:
        """Draw number `draw` of the random clips of video `item`, uint8 [3, T, H, W] (of an image one frame, T = 1).

        Where whole frames are squeezed at evaluation, random crops are squeezed alike.
        """
        generator = seeded(self.seed, _VIEW, item, draw)
        frames = self._frames(video, self.spec.random_start(video, generator))
        squeezed = chosen_fit(self.fit, frames.shape[1:3], self.size) == "squeeze"
        aspect = frames.shape[2] * self.size[0] / (frames.shape[1] * self.size[1]) if squeezed else 1.0
        return train_transform(
            frames,
            self.size,
            scale=self.crop_scale,
            ratio=(aspect * 3 / 4, aspect * 4 / 3),
            hflip=hflip,
            generator=generator,
            antialias=self.antialias or video.is_image,
        )

    def _frames(self, video: Video, start: float) -> NDArray[np.uint8]:
        """Frames of a clip, uint8 [T, H, W, 3]; of an image only the one, which is repeated when it is small."""
        indices = [0] if video.is_image else [int(i) for i in self.spec.indices(video, start)]
        return video.frames(indices).frames
