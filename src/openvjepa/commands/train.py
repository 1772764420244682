"""`vjepa train`: from labeled videos to a tested, calibrated classifier and a report."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from openvjepa.config import ClassifierConfig, ModelConfig, command, to_yaml
from openvjepa.data.lists.index import VideoIndex
from openvjepa.data.lists.seen import SPLITS_FILE, splits_csv
from openvjepa.data.lists.splits import check_splits, read_splits
from openvjepa.errors import ConfigError, DataError
from openvjepa.features.cache import encode_index
from openvjepa.features.encode import EncodeSettings
from openvjepa.inference.classifier import VideoClassifier, save_classifier
from openvjepa.metrics import Groups
from openvjepa.probing.search.candidates import (
    Candidate,
    Encoded,
    compare_kinds,
    encode_candidate,
    final_probe,
    learning_curve,
)
from openvjepa.probing.search.crossval import Suspicion, suspicious_labels
from openvjepa.reports.runs.train import TrainResult, write_training
from openvjepa.train.distributed import Runtime, make_runtime
from openvjepa.weights.files import write_file
from openvjepa.weights.hub import load_model
from openvjepa.weights.local import downloaded, free_memory_gb, memory_gb
from openvjepa.weights.registry import list_models

RUN_FILES = ("results.json", "config.yaml", SPLITS_FILE, "report.html", "model.safetensors", "model.yaml")
BASELINES = ("pixels", "untrained:nano")
RELIABLE = 75.0  # accuracy, percent, from which a classifier's disagreement says something about a label

log = logging.getLogger("openvjepa")


@command(ClassifierConfig, "source")
def train_classifier(config: ClassifierConfig) -> TrainResult:
    """Compare classifiers on several encoders by cross-validation, and train, calibrate, test and save the best one.

    Writes into the run folder: features (the cache), config.yaml, splits.csv, model.safetensors and model.yaml (which
    `load_classifier` and `vjepa predict` read), report.html and, last, results.json.

    Raises:
        ConfigError: the run folder is in use, or a setting is impossible.
        DataError: the videos or their labels do not allow it, or there was no time for any encoder.
        CheckpointError: a model cannot be read, or the results cannot be written.
    """
    started, out = time.monotonic(), Path(config.out)
    if not config.overwrite and (out / "results.json").exists():
        raise ConfigError(f"{out}: holds a finished run: add --overwrite to replace it, or choose another --out")
    splits = read_splits(config)
    with make_runtime(config) as runtime:
        best, candidates, skipped = _search(config, splits, runtime, started + 60 * config.minutes)
        chosen = max(candidates, key=lambda candidate: candidate.result.rank)
        settings = EncodeSettings(runtime, workers=config.workers, max_bad=config.max_bad)
        encoder = best.model.encoder.to(runtime.device)
        test = encode_index(encoder, splits["test"], best.plan, settings, out / "features", name="test videos")
    index = replace(splits["test"], records=tuple(splits["test"].records[i] for i in test.kept))
    outcome = final_probe(best, chosen.result.kind, config, test.x, np.array(index.labels, dtype=np.int64))
    outcome = outcome.with_groups(_groups(index))
    used = {
        "train": replace(best.index, records=best.index.records[: best.train]),
        "val": replace(best.index, records=best.index.records[best.train :]),
        "test": index,
    }
    check_splits(used)
    result = TrainResult(
        out=out,
        classes=best.index.classes or (),
        candidates=tuple(candidates),
        chosen=chosen,
        outcome=outcome,
        splits=used,
        plan=best.plan,
        not_tried=skipped,
        skipped=best.features.skipped | test.skipped,
        curve=learning_curve(best, chosen, config),
        suspicions=_suspicions(chosen, best),
        seconds=time.monotonic() - started,
    )
    _write(config, result, best)
    return result


def _groups(index: VideoIndex) -> Groups | None:
    """Group of each video; None where a video has none."""
    found = [record.group for record in index.records]
    return None if any(group is None for group in found) else np.array(found)


def _suspicions(chosen: Candidate, best: Encoded) -> tuple[Suspicion, ...]:
    """Likely wrong labels; none where the classifier itself is too often wrong to tell."""
    if chosen.result.mean < RELIABLE:
        return ()
    return tuple(suspicious_labels(np.nan_to_num(chosen.result.probabilities), best.labels))


def _search(
    config: ClassifierConfig, splits: dict[str, VideoIndex], runtime: Runtime, deadline: float
) -> tuple[Encoded, list[Candidate], dict[str, str]]:
    """The best encoder's features, all candidates, and why encoders were not tried."""
    best: Encoded | None = None
    leader: Candidate | None = None
    candidates: list[Candidate] = []
    skipped: dict[str, str] = {}
    for name in config.model or default_models():
        model = load_model(name)
        model.encoder.to(runtime.device)
        settings = EncodeSettings(runtime, workers=config.workers, max_bad=config.max_bad)
        encoded = encode_candidate(name, model, splits, config, settings, seconds=deadline - time.monotonic())
        if isinstance(encoded, str):
            log.warning("%s: skipped: %s", name, encoded)
            skipped[name] = encoded
            continue
        found = compare_kinds(encoded, config, deadline=deadline)
        candidates += found
        top = max(found, key=lambda candidate: candidate.result.rank)
        if leader is None or top.result.rank > leader.result.rank:
            best, leader = encoded, top
    if best is None:
        raise DataError(
            f"{config.minutes:g} minutes are not enough to encode the videos with any model: increase --minutes"
        )
    return best, candidates, skipped


def default_models() -> tuple[str, ...]:
    """The baselines, and the published models that are downloaded and fit the memory, the smallest first."""
    free = free_memory_gb()
    here = [(memory_gb(ModelConfig(**info.arch)), info.name) for info in list_models() if downloaded(info)]
    return (*BASELINES, *(name for needed, name in sorted(here) if free is None or needed < free))


def _write(config: ClassifierConfig, result: TrainResult, best: Encoded) -> None:
    write_file(result.out / "config.yaml", to_yaml(config).encode())
    write_file(result.out / SPLITS_FILE, splits_csv(result.splits))
    assert result.outcome.module is not None
    encoder = best.model.encoder.cpu()
    save_classifier(result.out, VideoClassifier(encoder, result.outcome.module, result.classes, result.plan))
    write_training(result, config)
