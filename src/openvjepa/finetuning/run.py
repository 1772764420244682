"""A run of `vjepa finetune`: its data, what is trained of the model, the loop, and what is written at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from openvjepa.commands.probe import versions
from openvjepa.config import OptimConfig, TrainConfig, to_mapping, to_yaml
from openvjepa.data.augment import Augmentation
from openvjepa.data.images import is_image
from openvjepa.data.index import VideoIndex
from openvjepa.data.loader import Batch
from openvjepa.data.splits import check_splits
from openvjepa.features.encode import EncodeSettings, encode_index
from openvjepa.features.sampling import ClipPlan, plan_for
from openvjepa.finetuning.batches import ClipBatches, Order, feature_batches, readable
from openvjepa.finetuning.task import (
    FinetuneTask,
    Validation,
    balanced_weights,
    clip_probabilities,
    feature_probabilities,
    make_head,
)
from openvjepa.inference.classifier import VideoClassifier, save_classifier
from openvjepa.model.adapters import merge_lora, set_trainable
from openvjepa.probing.outcomes import Outcome, outcome_of
from openvjepa.reports.finetune import Pictures, write_documents
from openvjepa.train.distributed import Runtime
from openvjepa.train.logs import read_metrics
from openvjepa.train.trainer import fit, open_run_dir
from openvjepa.weights.files import write_file
from openvjepa.weights.hub import LoadedModel

if TYPE_CHECKING:
    from openvjepa.config import FinetuneConfig

EPOCHS, LEAST_STEPS = 20, 600  # where the number of epochs is left open; on 100 videos, 300 steps are too few
ENCODER_LR, LORA_LR = 1 / 30, 1 / 3  # over the learning rate of the classifier
SAVES = 20  # about so many checkpoints are written in a run; each at the end of an epoch
# Written at the end, beside the trainer's RUN_FILES.
RESULT_FILES = ("results.json", "report.html", "README.md", "confusion.png", "model.yaml")
# Settings that do not alter what a run computes, so that a resumed one may change them.
FREE = (
    "out",
    "resume",
    "overwrite",
    "patience",
    "cache_dir",
    "device",
    "precision",
    "threads",
    "workers",
    "eval_batch",
)
FREE += ("max_bad", "watts", "grams_per_kwh")


@dataclass(frozen=True)
class FinetuneResult:
    """What `vjepa finetune` found; results.json holds the same figures."""

    out: Path
    classes: tuple[str, ...]
    outcome: Outcome
    """Of the best epoch, on the test videos."""
    best_epoch: int
    epochs: int
    """Epochs that were run."""
    chance: float
    """Accuracy of guessing, 100 / C."""
    majority: float
    """Accuracy on the test split of always naming the commonest class of the training videos."""
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
        config, kept, skipped, features = self.config, {}, {}, {}
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
            print(f"skipped {path}: {reason}", flush=True)
        return kept, skipped, features

    def train(self) -> bool:
        """Runs the loop; False after a Ctrl-C."""
        config = self.config
        open_run_dir(self.out, self.schedule)
        if config.overwrite:
            for name in RESULT_FILES:
                (self.out / name).unlink(missing_ok=True)
        if not (self.out / "config.yaml").exists():  # a resumed run keeps the settings it was started with
            write_file(self.out / "config.yaml", to_yaml(config).encode())
        rows = read_metrics(self.out / "metrics.jsonl")
        classes = self.splits["train"].classes or ()
        pictures = Pictures(self.out, self.splits["val"], self.plans["val"], classes, self.schedule, self.epoch_steps)
        validation = Validation(
            self.task,
            partial(self._probabilities, "val"),
            self.labels["val"],
            steps=self.epoch_steps,
            patience=config.patience,
            count_start=self.head_source == f"of {self.model.source}",
            show=pictures,
            elapsed=max((row.get("elapsed", 0.0) for row in rows), default=0.0),
        )
        own = {name: value for name, value in to_mapping(config).items() if name not in FREE}
        with pictures:
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
        if not result.interrupted and result.step < self.schedule.steps:
            print(f"stopped early: nothing better for {config.patience} epochs", flush=True)
        return not result.interrupted

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
        """Tests the best weights, and writes everything that is of use afterwards; results.json is the last."""
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
        epoch, commonest = round(best.step / self.epoch_steps), np.bincount(self.labels["train"]).argmax()
        chosen, head = {"epoch": float(epoch)}, self.task.head
        outcome = outcome_of(
            probabilities, labels, classes, val_top1=best.top1, chosen=chosen, seconds=seconds["train"], module=head
        )
        result = FinetuneResult(
            out=self.out,
            classes=classes,
            outcome=outcome,
            best_epoch=epoch,
            epochs=max((int(row.get("epoch", 0)) for row in rows), default=0),
            chance=100 / len(classes),
            majority=100 * float((labels == commonest).mean()),
            videos={name: len(index) for name, index in self.splits.items()},
            skipped=self.skipped,
            seconds=seconds,
        )
        probe = head.cpu().eval().requires_grad_(False)
        encoder = self.encoder.cpu().eval().requires_grad_(False)
        save_classifier(self.out, VideoClassifier(encoder, probe, classes, self.plans["test"]))
        self._write(result, rows)
        return result

    def _write(self, result: FinetuneResult, rows: list[dict[str, float]]) -> None:
        config, outcome = self.config, result.outcome
        results = {
            "model": config.model,
            "source": config.source,
            "label": config.label,
            "classes": result.classes,
            "id2label": dict(enumerate(result.classes)),
            "label2id": {name: i for i, name in enumerate(result.classes)},
            "videos": result.videos,
            "chance": result.chance,
            "majority": result.majority,
            "tune": config.tune,
            "head": self.head_source,
            "batch_size": self.schedule.batch_size,
            "best_epoch": result.best_epoch,
            "epochs": result.epochs,
            "probes": {config.head: outcome.to_dict()},  # as of a probe, for what reads both
            "clips": to_mapping(self.plans["test"]),
            "seed": config.seed,
            "seconds": result.seconds,
            "skipped": result.skipped,
            "device": str(self.runtime),
            "versions": versions(),
        }
        sample = self.splits["test"], self.plans["test"]
        write_documents(self.out, results, to_mapping(config), rows, outcome.probabilities, *sample)
        write_file(self.out / "results.json", json.dumps(results, indent=1).encode())
        print(
            f"test accuracy {outcome.test_top1:.1f} % of {result.videos['test']} videos (guessing {result.chance:.1f} %, "
            f"always the commonest class {result.majority:.1f} %), validation {outcome.val_top1:.1f} % at epoch "
            f"{result.best_epoch} of {result.epochs}\nresults in {self.out}: report.html, README.md (model card)",
            flush=True,
        )


def _plans(config: FinetuneConfig, model: LoadedModel, splits: dict[str, VideoIndex]) -> dict[str, ClipPlan]:
    """The clips of each split: plain and random ones to train on, segments x views to evaluate."""
    records = tuple(record for index in splits.values() for record in index.records)
    plain = plan_for(model, records, config.frame_step, config.fps)
    still = all(is_image(record.path) for record in records)  # all segments of an image are the same
    evaluation = replace(plain, segments=1 if still else config.segments, views=config.views)
    train = replace(plain, random=config.train_views - 1, crop_scale=config.crop_scale, seed=config.seed)
    return {"train": train, "val": evaluation, "test": evaluation}


def _train_config(config: FinetuneConfig, videos: int) -> tuple[TrainConfig, int]:
    """The loop's settings, and the steps of an epoch: so many whole ones as come closest to every video once."""
    micro = min(config.micro_batch or config.batch_size, config.batch_size, videos)
    passes = max(1, min(config.batch_size, videos) // micro)
    batch = micro * passes
    if batch < config.batch_size:
        print(f"note: {videos} videos to train on: a step takes {batch}, not {config.batch_size} clips", flush=True)
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
