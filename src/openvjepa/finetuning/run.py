"""A run of `vjepa finetune`: its data, what is trained of the model, the loop, and what is written at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openvjepa.config import FinetuneConfig, OptimConfig, TrainConfig, to_mapping, to_yaml
from openvjepa.data.augment import Augmentation
from openvjepa.data.lists.index import VideoIndex
from openvjepa.data.lists.seen import SPLITS_FILE, splits_csv
from openvjepa.data.lists.splits import check_splits
from openvjepa.data.loader import Batch
from openvjepa.data.media.images import is_image
from openvjepa.errors import Interrupted
from openvjepa.features.cache import encode_index
from openvjepa.features.encode import EncodeSettings
from openvjepa.features.sampling import ClipPlan, plan_for
from openvjepa.finetuning.batches import ClipBatches, Order, feature_batches, readable
from openvjepa.finetuning.task import FinetuneTask, balanced_weights, make_head
from openvjepa.finetuning.validation import Validation, clip_probabilities, feature_probabilities
from openvjepa.metrics import Metrics, classification_metrics
from openvjepa.model.adapters import merge_lora, set_trainable
from openvjepa.model.encoder import Encoder
from openvjepa.train.checkpoint import list_checkpoints
from openvjepa.train.distributed import Runtime
from openvjepa.train.logs import read_metrics
from openvjepa.train.resume import FREE_WITH_FEATURES
from openvjepa.train.trainer import fit
from openvjepa.weights.files import write_file
from openvjepa.weights.hub import LoadedModel
from openvjepa.weights.probes import Probe

log = logging.getLogger("openvjepa")

Show = Callable[[int, int, NDArray[np.float64]], None]
"""Is told step, epoch and the class probabilities [n, C] of the validation videos after each epoch."""

EPOCHS, LEAST_STEPS = 20, 600  # where the number of epochs is left open; on 100 videos, 300 steps are too few
ENCODER_LR, LORA_LR = 1 / 30, 1 / 3  # over the learning rate of the classifier
SAVES = 20  # about so many checkpoints are written in a run; each at the end of an epoch
# Settings that do not alter what a run computes, so that a resumed one may change them.
FREE = (*FREE_WITH_FEATURES, "patience", "watts", "grams_per_kwh")


@dataclass(frozen=True)
class FinetuneResult:
    """Result of a fine-tuning run, for the epoch with the best validation accuracy. Accuracies in percent."""

    out: Path
    classes: tuple[str, ...]
    metrics: Metrics
    """On the test videos."""
    val_top1: float
    probabilities: NDArray[np.float64]
    """Of the test videos, [n, C]."""
    encoder: Encoder
    probe: Probe
    """The trained encoder (LoRA adapters merged) and classifier, on the CPU, in eval mode."""
    best_epoch: int
    epochs: int
    """Epochs that were run."""
    chance: float
    """Chance level, 100 / C."""
    majority: float
    """Accuracy on the test videos of always predicting the most frequent class of the training videos."""
    videos: dict[str, int]
    """Videos in each split."""
    skipped: dict[str, str]
    """Unreadable files: path -> reason."""
    seconds: dict[str, float]
    """Spent preparing (encoding or checking the videos), training with validation, and testing."""


class FinetuneRun:
    """A fine-tuning run: its data, what is trained, and what becomes of it."""

    def __init__(
        self, config: FinetuneConfig, model: LoadedModel, splits: dict[str, VideoIndex], runtime: Runtime
    ) -> None:
        self.config, self.model, self.runtime, self.out = config, model, runtime, Path(config.out)
        torch.manual_seed(config.seed)  # for the new weights
        classes = splits["train"].classes or ()
        head, self.head_source = make_head(model, config.head, config.head_depth, classes, new=config.new_head)
        set_trainable(model.encoder, config.tune, last_blocks=config.last_blocks, lora_rank=config.lora_rank)
        self.encoder = model.encoder.to(runtime.device)
        self.cached = config.cache and config.fixed_clips
        started = time.monotonic()
        self.plans = _plans(config, model, splits)
        self.splits, self.skipped, self.features = self._prepare(splits)
        check_splits(self.splits)
        self.prepared = time.monotonic() - started
        self.labels = {name: np.array(index.labels, dtype=np.int64) for name, index in self.splits.items()}
        weights = balanced_weights(self.labels["train"], len(classes)) if config.class_weights == "balanced" else None
        encoder_lr = config.encoder_lr or config.lr * (LORA_LR if config.tune == "lora" else ENCODER_LR)
        self.task = FinetuneTask(
            None if self.cached else self.encoder,
            head,
            class_weights=weights,
            label_smoothing=config.label_smoothing,
            encoder_scale=encoder_lr / config.lr,
            layer_decay=1.0 if config.tune == "lora" else config.layer_decay,
        ).to(runtime.device)
        self.schedule, self.epoch_steps = _train_config(config, len(self.splits["train"]))

    def _prepare(
        self, splits: dict[str, VideoIndex]
    ) -> tuple[dict[str, VideoIndex], dict[str, str], dict[str, NDArray[Any]]]:
        """The videos that can be read, why the others cannot, and the features where they are cached."""
        config = self.config
        kept: dict[str, VideoIndex] = {}
        skipped: dict[str, str] = {}
        features: dict[str, NDArray[np.float16]] = {}
        for name, index in splits.items():
            if not self.cached:
                kept[name], bad = readable(
                    index, self.plans[name], workers=config.workers, max_bad=config.max_bad, name=name
                )
                skipped |= bad
                continue
            settings = EncodeSettings(self.runtime, config.eval_batch, workers=config.workers, max_bad=config.max_bad)
            cache = Path(config.cache_dir) if config.cache_dir else self.out / "features"
            found = encode_index(self.encoder, index, self.plans[name], settings, cache, name=name)
            kept[name] = replace(index, records=tuple(index.records[i] for i in found.kept))
            skipped |= found.skipped
            features[name] = found.x
        for path, reason in skipped.items():
            log.warning("skipped %s: %s", path, reason)
        return kept, skipped, features

    def train(self, show: Show) -> None:
        """Run the loop.

        Raises:
            Interrupted: by a signal; the run has been saved.
        """
        config = self.config
        if not list_checkpoints(self.out / "checkpoints"):  # a resumed run keeps the settings it was started with
            write_file(self.out / "config.yaml", to_yaml(config).encode())
        write_file(self.out / SPLITS_FILE, splits_csv(self.splits))
        rows = read_metrics(self.out / "metrics.jsonl")
        validation = Validation(
            self.task,
            partial(self._probabilities, "val"),
            self.labels["val"],
            steps=self.epoch_steps,
            patience=config.patience,
            count_start=self.head_source == f"of {self.model.source}",
            show=show,
            elapsed=max((row.get("elapsed", 0.0) for row in rows), default=0.0),
        )
        own = {name: value for name, value in to_mapping(config).items() if name not in FREE}
        result = fit(
            self.task,
            self._batches,
            optim=_optim_config(config),
            train=self.schedule,
            run_dir=self.out,
            runtime=self.runtime,
            config={"finetune": own, "train": to_mapping(self.schedule)},
            monitor=validation,
            stop=validation.stop,
        )
        if result.interrupted:
            raise Interrupted(f"fine-tuning stopped at step {result.step}: resume with --resume", result.signal)
        if result.step < self.schedule.steps:
            log.info("stopped early: no better epoch in the last %d", config.patience)

    def _batches(self, step: int) -> Iterable[Batch]:
        """Passes from a step on."""
        config, train = self.config, self.schedule
        size = train.micro_batch or train.batch_size
        passes = train.batch_size // size
        first, end = step * passes, train.steps * passes
        order = Order(len(self.splits["train"]), config.train_views if config.fixed_clips else None, config.seed)
        if self.cached:
            labels = self.labels["train"]
            return feature_batches(self.features["train"], labels, order, size=size, first=first, end=end)
        index, plan = self.splits["train"], self.plans["train"]
        augmentation = Augmentation(config.randaugment, config.erasing)
        clips = ClipBatches(index, plan, order, size, augmentation, config.hflip, config.mixup)
        return clips.batches(first, end, workers=config.workers, pin_memory=self.runtime.device.type == "cuda")

    def _probabilities(self, split: str) -> NDArray[np.float64]:
        """Class probabilities of a split's videos, by the task as it is now."""
        config = self.config
        if self.cached:
            return feature_probabilities(self.task, self.features[split], config.eval_batch, self.runtime)
        index, plan = self.splits[split], self.plans[split]
        return clip_probabilities(self.task, index, plan, config.eval_batch, config.workers, self.runtime)

    def finish(self) -> FinetuneResult:
        """Test the best weights."""
        rows = read_metrics(self.out / "metrics.jsonl")
        started = time.monotonic()
        self.task.restore_best()
        if self.config.tune == "lora":
            merge_lora(self.encoder)
        probabilities = self._probabilities("test")
        seconds = {
            "prepare": self.prepared,
            "train": max((row.get("elapsed", 0.0) for row in rows), default=0.0),
            "test": time.monotonic() - started,
        }
        best, classes, labels = self.task.best, self.splits["train"].classes or (), self.labels["test"]
        commonest, groups = np.bincount(self.labels["train"]).argmax(), self.splits["test"].groups
        return FinetuneResult(
            out=self.out,
            classes=classes,
            metrics=classification_metrics(
                probabilities, labels, classes, None if groups is None else np.array(groups)
            ),
            val_top1=best.top1,
            probabilities=probabilities,
            encoder=self.encoder.cpu().eval().requires_grad_(False),
            probe=self.task.head.cpu().eval().requires_grad_(False),
            best_epoch=round(best.step / self.epoch_steps),
            epochs=max((int(row.get("epoch", 0)) for row in rows), default=0),
            chance=100 / len(classes),
            majority=100 * float((labels == commonest).mean()),
            videos={name: len(index) for name, index in self.splits.items()},
            skipped=self.skipped,
            seconds=seconds,
        )


def _plans(config: FinetuneConfig, model: LoadedModel, splits: dict[str, VideoIndex]) -> dict[str, ClipPlan]:
    """The clips of each split: plain and random ones to train on, segments x views to evaluate."""
    records = tuple(record for index in splits.values() for record in index.records)
    plain = plan_for(model, records, config.frame_step, config.fps)
    still = all(is_image(record.path) for record in records)  # all segments of an image are the same
    evaluation = replace(plain.asked(config), segments=1 if still else config.segments)
    train = evaluation.for_training(random=config.train_views - 1, crop_scale=config.crop_scale, seed=config.seed)
    return {"train": train, "val": evaluation, "test": evaluation}


def _train_config(config: FinetuneConfig, videos: int) -> tuple[TrainConfig, int]:
    """The loop's settings, and the steps of an epoch: so many whole ones as come closest to every video once."""
    micro = min(config.micro_batch or config.batch_size, config.batch_size, videos)
    passes = max(1, min(config.batch_size, videos) // micro)
    batch = micro * passes
    if batch < config.batch_size:
        log.info("%d videos to train on: a step takes %d clips, not %d", videos, batch, config.batch_size)
    steps = max(1, round(videos / batch))
    epochs = config.epochs or max(EPOCHS, -(-LEAST_STEPS // steps))
    train = TrainConfig(
        steps=epochs * steps,
        batch_size=batch,
        micro_batch=micro,
        seed=config.seed,
        device=config.device,
        precision=config.precision or "auto",
        threads=config.threads,
        log_every=max(1, min(10, steps // 5)),
        save_every=steps * max(1, epochs // SAVES),
        monitor_every=steps,
        resume=config.resume,
        overwrite=config.overwrite,
    )
    return train, steps


def _optim_config(config: FinetuneConfig) -> OptimConfig:
    return OptimConfig(
        lr=config.lr,
        start_lr=0.0 if config.warmup else config.lr,
        final_lr=config.lr if config.schedule == "constant" else 0.0,
        warmup=config.warmup,
        weight_decay=config.weight_decay,
        final_weight_decay=config.weight_decay,
        schedule_scale=1.0,
        clip_grad=config.clip_grad,
    )
