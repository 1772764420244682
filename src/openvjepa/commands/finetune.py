"""`vjepa finetune`: an encoder and a classifier fitted to labeled videos, the encoder frozen, in part, by LoRA or whole."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from openvjepa.atomic import json_text
from openvjepa.config import FINETUNE_PRESETS, FinetuneConfig, command, to_mapping
from openvjepa.data.augment import Augmentation
from openvjepa.data.lists.index import SPLITS, VideoIndex
from openvjepa.data.lists.splits import read_splits
from openvjepa.errors import ConfigError
from openvjepa.features.sampling import clip_rate
from openvjepa.finetuning.run import FinetuneResult, FinetuneRun
from openvjepa.inference.classifier import VideoClassifier, save_classifier
from openvjepa.reports.runs.finetune import Pictures, write_documents
from openvjepa.train.devices import CONFIGURED
from openvjepa.train.distributed import make_runtime, one_process
from openvjepa.train.logs import read_metrics
from openvjepa.train.run_folder import RunFolder, open_run
from openvjepa.version import versions
from openvjepa.weights.files import write_file
from openvjepa.weights.hub import load_model

log = logging.getLogger("openvjepa")


@command(FinetuneConfig, "source", FINETUNE_PRESETS)
def finetune(config: FinetuneConfig) -> FinetuneResult:
    """Fine-tune a classifier, and the part of its encoder selected by `tune`, on labeled videos; report the test accuracy.

    Writes into the run folder: config.yaml, metrics.jsonl, tensorboard, checkpoints (the last state, and the best weights),
    features (where they are cached), and at the end the best model (model.safetensors, model.yaml), which `load_model`,
    `vjepa predict` and `vjepa export` read, results.json, report.html, confusion.png and a model card, README.md.

    Returns:
        What was found.

    Raises:
        ConfigError: the run folder is in use, or a setting is impossible.
        DataError: the videos or their labels do not allow it.
        CheckpointError: a model or checkpoint cannot be read, or the results cannot be written.
        Interrupted: by a signal such as Ctrl-C; the run has been saved.
    """
    _check(config)
    with open_run(config.out, resume=config.resume, overwrite=config.overwrite) as folder:
        return _finetune(config, folder)


def _finetune(config: FinetuneConfig, folder: RunFolder) -> FinetuneResult:
    """The run, in a folder that is held."""
    splits = read_splits(config)
    _say_missing(config, splits)
    model = load_model(config.model)
    frame_step, fps = clip_rate(model, config.frame_step, config.fps)
    precision, reason = config.precision or "auto", CONFIGURED
    if config.precision is None and config.tune == "head":
        precision, reason = "fp32", "the encoder is frozen"
    config = replace(config, frame_step=frame_step, fps=fps, precision=precision)
    with make_runtime(config, reason=reason) as runtime:
        log.info("fine-tuning (%s) on %s\nstarting from %s", config.tune, runtime, model)
        run = FinetuneRun(config, model, splits, runtime)
        folder.start()  # not earlier: what is overwritten stays until the videos have been read
        val, plan, classes = run.splits["val"], run.plans["val"], run.splits["train"].classes or ()
        with Pictures(folder.path, val, plan, classes, run.schedule, run.epoch_steps) as pictures:
            run.train(pictures)
        result = run.finish()
        _write(config, run, result)
    return result


def _write(config: FinetuneConfig, run: FinetuneRun, result: FinetuneResult) -> None:
    """Everything for later use; results.json comes last: a folder without it is unfinished."""
    plan = run.plans["test"]
    save_classifier(result.out, VideoClassifier(result.encoder, result.probe, result.classes, plan))
    results = results_of(config, run, result)
    rows = read_metrics(result.out / "metrics.jsonl")
    write_documents(result.out, results, to_mapping(config), rows, result.probabilities, run.splits["test"], plan)
    write_file(result.out / "results.json", json_text(results).encode())
    log.info(
        "test accuracy %.1f %% (95 %%: %s) of %d videos (chance level %.1f %%, majority class %.1f %%), "
        "validation %.1f %% at epoch %d of %d\nresults in %s: report.html, README.md (model card)",
        result.metrics.top1,
        result.metrics.top1_interval,
        result.videos["test"],
        result.chance,
        result.majority,
        result.val_top1,
        result.best_epoch,
        result.epochs,
        result.out,
    )


def results_of(config: FinetuneConfig, run: FinetuneRun, result: FinetuneResult) -> dict[str, Any]:
    """What results.json holds."""
    outcome = {
        "test_top1": result.metrics.top1,
        "test_top1_interval": [result.metrics.top1_interval.low, result.metrics.top1_interval.high],
        "test_top5": result.metrics.top5,
        "val_top1": result.val_top1,
        "chosen": {"epoch": float(result.best_epoch)},
        "seconds": result.seconds["train"],
        "per_class": {row.name: row.recall for row in result.metrics.per_class},
        "confusion": result.metrics.confusion,
    }
    return {
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
        "head": run.head_source,
        "batch_size": run.schedule.batch_size,
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        "probes": {config.head: outcome},  # as of a probe, for what reads both
        "clips": to_mapping(run.plans["test"]),
        "seed": config.seed,
        "seconds": result.seconds,
        "skipped": result.skipped,
        "device": str(run.runtime),
        "versions": versions(),
    }


def _check(config: FinetuneConfig) -> None:
    """Fail before the work where it could not end well."""
    Augmentation(config.randaugment, config.erasing)  # says what it needs
    if not config.model:
        raise ConfigError(
            "no model given: pass --model with a run folder, a checkpoint file or the name of a published model"
        )
    if Path(config.out).resolve() == Path(config.model).resolve():
        raise ConfigError(f"{config.out}: is the folder of the source model: choose another --out")
    one_process("fine-tuning")


def _say_missing(config: FinetuneConfig, splits: dict[str, VideoIndex]) -> None:
    """Names class folders without videos, and classes that a split lacks."""
    classes, root = splits["train"].classes or (), Path(config.source)
    if root.is_dir() and not (root / "index.csv").is_file():
        groups = [root / name for name in SPLITS if (root / name).is_dir()] or [root]
        folders = {folder.name for group in groups for folder in group.iterdir() if folder.is_dir()}
        empty = sorted(name for name in folders - set(classes) if not name.startswith("."))
        if empty:
            log.warning("class %s has no videos and is left out", ", ".join(empty))
    for split in ("val", "test"):
        missing = [name for i, name in enumerate(classes) if i not in set(splits[split].labels)]
        if missing:
            log.warning("the split %s has no videos of %s", split, ", ".join(missing))
