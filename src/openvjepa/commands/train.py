"""`vjepa train`: from labeled videos to a tested, calibrated classifier and a report."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openvjepa.config import ClassifierConfig, ModelConfig, command, to_yaml
from openvjepa.data.lists.index import VideoIndex
from openvjepa.data.lists.seen import SPLITS_FILE, splits_csv
from openvjepa.data.lists.splits import check_splits, read_splits
from openvjepa.errors import ConfigError, DataError
from openvjepa.features.encode import EncodeSettings
from openvjepa.inference.classifier import VideoClassifier, save_classifier
from openvjepa.probing.features import mean_tokens
from openvjepa.probing.probes import Outcome
from openvjepa.probing.search.candidates import (
    Candidate,
    Encoded,
    compare_kinds,
    encode_candidate,
    final_classifier,
    learning_curve,
)
from openvjepa.probing.search.crossval import Suspicion, suspicious_labels
from openvjepa.reports.runs.train import TrainResult, write_training
from openvjepa.train.distributed import Runtime, make_runtime
from openvjepa.train.run_folder import open_run
from openvjepa.weights.files import write_file
from openvjepa.weights.hub import load_model
from openvjepa.weights.local import downloaded, free_memory_gb, memory_gb
from openvjepa.weights.registry import list_models

BASELINES = ("pixels", "untrained:nano")
RELIABLE = 75.0  # accuracy, percent, from which a classifier's disagreement says something about a label
SEARCH = 0.8  # of the time; the rest is for the chosen classifier and the report

log = logging.getLogger("openvjepa")


@command(ClassifierConfig, "source")
def train_classifier(config: ClassifierConfig) -> TrainResult:
    """Compare classifiers on several encoders by cross-validation, and train, calibrate, test and save the best one.

    Writes into the run folder: features and candidates (from which a repeated command resumes), config.yaml, splits.csv,
    model.safetensors, model.yaml and novelty.npz (which `load_classifier` and `vjepa predict` read), report.html and, last,
    results.json.

    Raises:
        ConfigError: the run folder is in use, or a setting is impossible.
        DataError: the videos or their labels do not allow it, or there was no time for any encoder.
        CheckpointError: a model cannot be read, or the results cannot be written.
    """
    started, out = time.monotonic(), Path(config.out)
    if not config.overwrite and (out / "results.json").exists():
        raise ConfigError(f"{out}: holds a finished run: add --overwrite to replace it, or choose another --out")
    if set(config.kinds) == {"knn"}:
        raise ConfigError("kinds knn: kNN is compared but cannot be saved: add another kind")
    splits = read_splits(config)
    with open_run(out, overwrite=config.overwrite, resumable=False), make_runtime(config) as runtime:
        found = _search(config, splits, runtime, started + SEARCH * 60 * config.minutes)
        result = _result(config, found, started)
        _write(config, result, found.best)
    return result


@dataclass(frozen=True)
class _Found:
    """What the search has found."""

    chosen: Candidate
    best: Encoded
    """Its encoder's features."""
    candidates: tuple[Candidate, ...]
    baselines: dict[str, tuple[Candidate, Encoded]]
    """Baseline -> its best classifier."""
    not_tried: dict[str, str]


def _search(config: ClassifierConfig, splits: dict[str, VideoIndex], runtime: Runtime, deadline: float) -> _Found:
    """Compare all kinds of classifiers on all encoders, as far as there is time."""
    best: tuple[Candidate, Encoded] | None = None
    candidates: list[Candidate] = []
    baselines: dict[str, tuple[Candidate, Encoded]] = {}
    not_tried: dict[str, str] = {}
    settings = EncodeSettings(runtime, workers=config.workers, max_bad=config.max_bad)
    for name in config.model or default_models():
        model = load_model(name)
        model.encoder.to(runtime.device)
        encoded = encode_candidate(name, model, splits, config, settings, seconds=deadline - time.monotonic())
        if isinstance(encoded, str):
            log.warning("%s: skipped: %s", name, encoded)
            not_tried[name] = encoded
            continue
        check_splits(_used(encoded))
        here: list[Candidate] = []
        for found in compare_kinds(encoded, config, deadline=deadline, first=best is None):
            if isinstance(found, str):
                kind, reason = found.split(": ", 1)
                not_tried[f"{name}, {kind}"] = reason
                log.warning("%s, %s: skipped: %s", name, kind, reason)
            else:
                here.append(found)
        candidates += here
        saved = [candidate for candidate in here if candidate.result.kind != "knn"]
        if not saved:
            continue
        top = max(saved, key=lambda candidate: candidate.result.rank)
        if is_baseline(name):
            baselines[name] = top, encoded
        if best is None or top.result.rank > best[0].result.rank:
            best = top, encoded
    if best is None:
        raise DataError(
            f"{config.minutes:g} minutes are not enough to encode the videos with any model: increase --minutes"
        )
    return _Found(*best, tuple(candidates), baselines, not_tried)


def is_baseline(name: str) -> bool:
    """Whether an encoder is there to be beaten."""
    return name == "pixels" or name.startswith("untrained:")


def _used(encoded: Encoded) -> dict[str, VideoIndex]:
    """The videos that could be read."""
    records = encoded.index.records
    return {
        "train": replace(encoded.index, records=records[: encoded.train]),
        "val": replace(encoded.index, records=records[encoded.train :]),
        "test": encoded.test_index,
    }


def _result(config: ClassifierConfig, found: _Found, started: float) -> TrainResult:
    """Train, calibrate and test the chosen classifier and the baselines."""
    best, chosen = found.best, found.chosen
    outcome = final_classifier(best, chosen, config)
    others = {name: pair for name, pair in found.baselines.items() if name != chosen.model}
    deadline = started + 60 * config.minutes
    baselines: dict[str, Outcome] = {}
    for name, (candidate, encoded) in others.items():
        if time.monotonic() + outcome.seconds > deadline:
            found.not_tried[f"test of {name}"] = "the time budget is used up"
        else:
            baselines[name] = final_classifier(encoded, candidate, config)
    curve: dict[float, float] = {}
    if time.monotonic() + 0.5 * chosen.result.seconds < deadline:
        curve = learning_curve(best, chosen, config)
    else:
        found.not_tried["learning curve"] = "the time budget is used up"
    return TrainResult(
        out=Path(config.out),
        classes=best.classes,
        candidates=found.candidates,
        chosen=chosen,
        outcome=outcome,
        baselines=baselines,
        splits=_used(best),
        plan=best.plan,
        not_tried=found.not_tried,
        skipped=best.features.skipped | best.test.skipped,
        curve=curve,
        suspicions=_suspicions(chosen, best),
        novelty=best.novelty(),
        distances=_distances(best),
        seconds=time.monotonic() - started,
    )


def _distances(best: Encoded) -> NDArray[np.float64] | None:
    novelty = best.novelty()
    return None if novelty is None else novelty(mean_tokens(best.test.x)[:, 0])


def _suspicions(chosen: Candidate, best: Encoded) -> tuple[Suspicion, ...]:
    """Likely wrong labels; none where the classifier itself is too often wrong to tell."""
    if chosen.result.mean < RELIABLE:
        return ()
    return tuple(suspicious_labels(np.nan_to_num(chosen.result.probabilities), best.labels))


def default_models() -> tuple[str, ...]:
    """The baselines, and the shipped and downloaded models that fit the memory, the smallest first."""
    free = free_memory_gb()
    here = [(memory_gb(ModelConfig(**info.arch)), info.name) for info in list_models() if downloaded(info)]
    return (*BASELINES, *(name for needed, name in sorted(here) if free is None or needed < free))


def _write(config: ClassifierConfig, result: TrainResult, best: Encoded) -> None:
    """The classifier, the report, and results.json, which is the last: a folder without it is unfinished."""
    (result.out / "results.json").unlink(missing_ok=True)
    write_file(result.out / "config.yaml", to_yaml(config).encode())
    write_file(result.out / SPLITS_FILE, splits_csv(result.splits))
    assert result.outcome.module is not None
    encoder = best.model.encoder.cpu()
    classifier = VideoClassifier(encoder, result.outcome.module, result.classes, result.plan, result.novelty)
    save_classifier(result.out, classifier)
    write_training(result, config)
