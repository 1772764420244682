"""`vjepa finetune`: an encoder and a classifier fitted to labelled videos, the encoder frozen, in part, by LoRA or whole."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from openvjepa.config import FinetuneConfig, TrainConfig
from openvjepa.data.augment import Augmentation
from openvjepa.data.index import SPLITS, VideoIndex
from openvjepa.data.splits import read_splits
from openvjepa.errors import ConfigError
from openvjepa.features.sampling import clip_rate
from openvjepa.finetuning.run import FinetuneResult, FinetuneRun
from openvjepa.train.distributed import make_runtime
from openvjepa.train.trainer import open_run_dir
from openvjepa.weights.hub import load_model

__all__ = ["FinetuneResult", "finetune"]


def finetune(config: FinetuneConfig) -> FinetuneResult | None:
    """Fit a classifier, and as much of its encoder as `tune` says, to labelled videos; report accuracy on the test split.

    Writes into the run folder: config.yaml, metrics.jsonl, tensorboard, checkpoints (the last state, and the best weights),
    features (where they are cached), and at the end the best model (model.safetensors, model.yaml), which `load_model`,
    `vjepa predict` and `vjepa export` read, results.json, report.html, confusion.png and a model card, README.md.

    Returns:
        What was found; None after a Ctrl-C.

    Raises:
        ConfigError: the run folder is in use, or a setting is impossible.
        DataError: the videos or their labels do not allow it.
        CheckpointError: a model or checkpoint cannot be read, or the results cannot be written.
    """
    out = Path(config.out)
    _check(config, out)
    splits = read_splits(config.splits)
    _say_missing(config, splits)
    model = load_model(config.model)
    frame_step, fps = clip_rate(config.model, config.frame_step, config.fps)
    precision = config.precision or ("fp32" if config.tune == "head" else "auto")
    config = replace(config, frame_step=frame_step, fps=fps, precision=precision)
    with make_runtime(TrainConfig(device=config.device, precision=precision, threads=config.threads)) as runtime:
        print(f"fine-tuning ({config.tune}) on {runtime}\nstarting from {model}", flush=True)
        run = FinetuneRun(config, model, splits, runtime)
        return run.finish() if run.train() else None


def _check(config: FinetuneConfig, out: Path) -> None:
    """Fail before the work where it could not end well."""
    Augmentation(config.randaugment, config.erasing)  # says what it needs
    if not config.model:
        raise ConfigError("no model given: --model names a run folder, a checkpoint file or a published model")
    if out.resolve() == Path(config.model).resolve():
        raise ConfigError(f"{out}: is the model to start from: choose another --out")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("fine-tuning runs in one process: start it without torchrun")
    if not config.overwrite:  # what is overwritten stays until the videos have been read
        open_run_dir(out, TrainConfig(resume=config.resume))


def _say_missing(config: FinetuneConfig, splits: dict[str, VideoIndex]) -> None:
    """Names class folders without videos, and classes that a split lacks."""
    classes, root = splits["train"].classes or (), Path(config.source)
    if root.is_dir() and not (root / "index.csv").is_file():
        groups = [root / name for name in SPLITS if (root / name).is_dir()] or [root]
        folders = {folder.name for group in groups for folder in group.iterdir() if folder.is_dir()}
        empty = sorted(name for name in folders - set(classes) if not name.startswith("."))
        if empty:
            print(f"note: no videos in the class {', '.join(empty)}: it is left out", flush=True)
    for split in ("val", "test"):
        missing = [name for i, name in enumerate(classes) if i not in set(splits[split].labels)]
        if missing:
            print(f"note: the split {split} has no videos of {', '.join(missing)}", flush=True)
