"""`vjepa probe`: what a frozen encoder knows, by attentive and linear probe and nearest neighbours (spec section 6)."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openvjepa.config import ProbeConfig, command, to_mapping, to_yaml
from openvjepa.data.images import is_image
from openvjepa.data.index import VideoIndex
from openvjepa.data.seen import SPLITS_FILE, splits_csv
from openvjepa.data.splits import check_splits, read_splits
from openvjepa.errors import ConfigError
from openvjepa.features.cache import FeatureSet, encode_index
from openvjepa.features.encode import EncodeSettings, encode
from openvjepa.features.sampling import ClipPlan, clip_rate, plan_for
from openvjepa.grid import TokenGrid
from openvjepa.inference.classifier import VideoClassifier, save_classifier
from openvjepa.metrics import Labels
from openvjepa.model.encoder import Encoder
from openvjepa.model.pooler import probe_eps
from openvjepa.probing.attentive import Recipe
from openvjepa.probing.features import Features, OnEpoch
from openvjepa.probing.low_shot import Share, label_efficiency
from openvjepa.probing.probes import Outcome, best_kind, probe_features
from openvjepa.reports import low_shot as low_shot_report
from openvjepa.reports import pages as report
from openvjepa.reports.confusion import draw_confusion
from openvjepa.train.distributed import make_runtime, one_process
from openvjepa.train.logs import RunLog
from openvjepa.train.run_folder import RunFolder, open_run
from openvjepa.version import versions
from openvjepa.weights.files import write_file
from openvjepa.weights.hub import LoadedModel, load_model

__all__ = ["Outcome", "ProbeResult", "encode", "probe", "probe_features"]

log = logging.getLogger("openvjepa")


@dataclass(frozen=True)
class ProbeResult:
    """What `vjepa probe` found; results.json holds the same figures."""

    out: Path
    classes: tuple[str, ...]
    outcomes: dict[str, Outcome]
    """By kind of probe."""
    kind: str
    """The probe that is best on validation, which is the one that is saved."""
    chance: float
    """Chance level, 100 / C."""
    majority: float
    """Accuracy on the test videos of always predicting the most frequent class of the training videos."""
    videos: dict[str, int]
    """Videos in each split."""
    skipped: dict[str, str]
    """Unreadable files: path -> reason."""
    seconds: dict[str, float]
    """Spent encoding and training."""
    shares: tuple[Share, ...] = ()
    """With `label_fraction`: accuracies by share of the training videos, the last that of all."""


@command(ProbeConfig, "source")
def probe(config: ProbeConfig) -> ProbeResult:
    """Encode labelled videos once, train classifiers on the frozen features, choose on val, report on test.

    Writes into the run folder: features (the cache), config.yaml, metrics.jsonl, tensorboard, results.json,
    confusion.png, report.html, splits.csv, and the model with the probe that is best on validation, which `vjepa predict` reads.

    Raises:
        ConfigError: the run folder is in use, or a setting is impossible.
        DataError: the videos or their labels do not allow it.
        CheckpointError: the model cannot be read, or the results cannot be written.
    """
    one_process("probing")
    out = Path(config.out)
    if not config.model:
        raise ConfigError("no model given: name the run folder of a pretraining, or a checkpoint file")
    if out.resolve() == Path(config.model).resolve():
        raise ConfigError(f"{out}: is the model to probe: choose another --out")
    with open_run(out, overwrite=config.overwrite, resumable=False) as folder:
        return _probe(config, folder)


def _probe(config: ProbeConfig, folder: RunFolder) -> ProbeResult:
    """The probe, in a folder that is held."""
    out = folder.path
    splits = read_splits(config)
    model = load_model(config.model)
    frame_step, fps = clip_rate(model, config.frame_step, config.fps)
    config = replace(config, frame_step=frame_step, fps=fps)
    with make_runtime(config) as runtime:
        log.info("probe on %s", runtime)
        settings = EncodeSettings(runtime, config.encode_batch, config.feature_dtype, config.workers, config.max_bad)
        encoder = model.encoder.to(runtime.device)
        started = time.monotonic()
        cache = Path(config.cache_dir) if config.cache_dir else out / "features"
        plans = _plans(config, model, splits)
        sets = {
            name: encode_index(encoder, index, plans[name], settings, cache, name=name)
            for name, index in splits.items()
        }
        splits = {name: _kept(index, sets[name]) for name, index in splits.items()}
        check_splits(splits)
        seconds = {"encode": time.monotonic() - started}
        started = time.monotonic()
        folder.start()
        write_file(out / "config.yaml", to_yaml(config).encode())
        write_file(out / SPLITS_FILE, splits_csv(splits))
        outcomes, shares = _train(config, splits, sets, encoder, plans["test"], runtime.device)
        seconds["train"] = time.monotonic() - started
        result = _result(out, splits, sets, outcomes, shares, seconds)
        _write(config, result, encoder, plans["test"])
    return result


def _plans(config: ProbeConfig, model: LoadedModel, splits: dict[str, VideoIndex]) -> dict[str, ClipPlan]:
    """The clips of each split: plain and random ones to train on, segments x views to evaluate."""
    records = tuple(record for index in splits.values() for record in index.records)
    plain = plan_for(model, records, config.frame_step, config.fps)
    still = all(is_image(record.path) for record in records)  # all segments of an image are the same
    evaluation = replace(plain.asked(config), segments=1 if still else config.segments)
    train = evaluation.for_training(random=config.train_views - 1, crop_scale=config.crop_scale, seed=config.seed)
    return {"train": train, "val": evaluation, "test": evaluation}


def _kept(index: VideoIndex, features: FeatureSet) -> VideoIndex:
    """The videos that could be read."""
    return replace(index, records=tuple(index.records[i] for i in features.kept))


def _train(
    config: ProbeConfig,
    splits: dict[str, VideoIndex],
    sets: dict[str, FeatureSet],
    encoder: Encoder,
    plan: ClipPlan,
    device: torch.device,
) -> tuple[dict[str, Outcome], tuple[Share, ...]]:
    """Train all kinds of probes, the attentive one with its accuracy per epoch in metrics.jsonl and TensorBoard.

    Then again on shares of the training videos, where these are asked for.
    """
    y = {name: np.array(index.labels, dtype=np.int64) for name, index in splits.items()}
    eps = probe_eps(encoder.config)
    recipe = Recipe(config.lrs, config.weight_decays, config.epochs, config.batch_size, config.seed, eps, device)
    epochs = recipe.epochs_for(len(y["train"]))
    log = RunLog(Path(config.out), start_step=0, steps=epochs, enabled="attentive" in config.kinds)
    last = time.monotonic()

    def on_epoch(epoch: int, figures: dict[str, float]) -> None:
        nonlocal last
        seconds, last = time.monotonic() - last, time.monotonic()
        log.pace.add(len(y["train"]), seconds, 0.0)
        log.advance(epoch, figures["loss"])
        log.write(epoch, figures)

    def train(x: Features, labels: Labels, on_epoch: OnEpoch | None = None) -> dict[str, Outcome]:
        return probe_features(
            x,
            labels,
            sets["val"].x,
            y["val"],
            sets["test"].x,
            y["test"],
            classes=splits["train"].classes or (),
            num_heads=encoder.num_heads,
            grid=_grid(encoder, plan),
            kinds=config.kinds,
            recipe=recipe,
            on_epoch=on_epoch,
        )

    x = sets["train"].x
    try:
        outcomes = train(x, y["train"], on_epoch)
    finally:
        log.close()
    if not config.label_fraction:
        return outcomes, ()
    few = {"fractions": config.label_fraction, "draws": config.draws, "seed": config.seed}
    return outcomes, label_efficiency(train, x, y["train"], outcomes, **few)


def _grid(encoder: Encoder, plan: ClipPlan) -> TokenGrid:
    """Tokens of the planned clips."""
    config, frames = encoder.config, plan.spec.num_frames
    return TokenGrid.of_clip(frames, *plan.size, patch_size=config.patch_size, tubelet_size=config.tubelet_size)


def _result(
    out: Path,
    splits: dict[str, VideoIndex],
    sets: dict[str, FeatureSet],
    outcomes: dict[str, Outcome],
    shares: tuple[Share, ...],
    seconds: dict[str, float],
) -> ProbeResult:
    commonest = int(np.bincount(splits["train"].labels).argmax())
    classes = splits["train"].classes or ()
    return ProbeResult(
        out=out,
        classes=classes,
        outcomes=outcomes,
        kind=best_kind(outcomes, np.array(splits["val"].labels, dtype=np.int64)),
        chance=100 / len(classes),
        majority=100 * splits["test"].labels.count(commonest) / len(splits["test"]),
        videos={name: len(index) for name, index in splits.items()},
        skipped={path: reason for features in sets.values() for path, reason in features.skipped.items()},
        seconds=seconds,
        shares=shares,
    )


def _write(config: ProbeConfig, result: ProbeResult, encoder: Encoder, plan: ClipPlan) -> None:
    """Model, picture, and results.json, which is the last: a folder without it is unfinished."""
    kind, outcome = result.kind, result.outcomes[result.kind]
    if outcome.module is not None:
        save_classifier(result.out, VideoClassifier(encoder, outcome.module, result.classes, plan))
    title = f"{kind}: {outcome.test_top1:.1f} % of {result.videos['test']} test videos"
    draw_confusion(result.out / "confusion.png", title, np.array(outcome.confusion), result.classes)
    results: dict[str, Any] = {
        "model": config.model,
        "source": config.source,
        "label": config.label,
        "classes": result.classes,
        "videos": result.videos,
        "chance": result.chance,
        "majority": result.majority,
        "saved": result.kind if outcome.module is not None else None,
        "probes": {name: outcome.to_dict() for name, outcome in result.outcomes.items()},
        "clips": to_mapping(plan),
        "seed": config.seed,
        "seconds": result.seconds,
        "skipped": result.skipped,
        "versions": versions(),
    }
    if result.shares:
        results["label_efficiency"] = [share.to_dict() for share in result.shares]
    _write_report(config, result, results)
    write_file(result.out / "results.json", json.dumps(results, indent=1).encode())


def _write_report(config: ProbeConfig, result: ProbeResult, results: dict[str, Any]) -> None:
    """report.html: accuracies, how few labels are enough, confusion, and what ran."""
    label, best = config.label or "test videos", result.outcomes[result.kind]
    accuracies = {kind: outcome.test_top1 for kind, outcome in result.outcomes.items()}
    always = dict.fromkeys(accuracies, result.majority)
    matrices = {kind: (outcome.confusion, result.classes) for kind, outcome in result.outcomes.items()}
    names = ("model", "source", "label", "videos", "seed", "seconds", "clips", "skipped", "versions")
    sections = [
        report.accuracy_table({label: {config.model: accuracies, "majority class": always}}, {label: result.chance}),
        *([low_shot_report.section(result.shares)] if result.shares else []),
        report.confusion_matrices(matrices),
        report.run_facts({name: results[name] for name in names}),
    ]
    lead = (
        f"Frozen features of {config.model}, {result.kind} probe (chosen on validation): {best.test_top1:.1f} % of "
        f"{result.videos['test']} test videos."
    )
    report.write_report(result.out / "report.html", "Probe", sections, lead=lead)
