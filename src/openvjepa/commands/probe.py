"""`vjepa probe`: classifiers on the frozen features of an encoder (Bardes et al. 2024, section 4.3)."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from openvjepa.atomic import json_text
from openvjepa.config import ProbeConfig, command, to_mapping, to_yaml
from openvjepa.data.lists.records import VideoIndex
from openvjepa.data.lists.seen import SPLITS_FILE, splits_csv
from openvjepa.data.lists.splits import read_splits
from openvjepa.data.splitting.several import splits_of_labels
from openvjepa.errors import ConfigError
from openvjepa.features.encode import EncodeSettings
from openvjepa.features.sampling import clip_rate
from openvjepa.inference.classifier import HEADS, VideoClassifier, save_classifier
from openvjepa.probing.doubts import differ, near_duplicates
from openvjepa.probing.features import mean_tokens
from openvjepa.probing.folds.pool import read_pool
from openvjepa.probing.folds.run import cross_validate, encode_pool
from openvjepa.probing.probes import Outcome
from openvjepa.probing.run import Encoded, Probed, encode_splits, train_probes
from openvjepa.probing.search.low_shot import Share
from openvjepa.reports.confusion import draw_confusion
from openvjepa.reports.runs.probe import write_report
from openvjepa.train.distributed import make_runtime, one_process
from openvjepa.train.run_folder import RunFolder, open_run
from openvjepa.version import versions
from openvjepa.weights.files import write_file
from openvjepa.weights.hub import load_model

log = logging.getLogger("openvjepa")

FEW_DUPLICATES = 0.02
"""Share of the test videos that may be near-duplicates of training videos before it is worth a warning."""


@dataclass(frozen=True)
class ProbeResult:
    """Result of `vjepa probe`, also saved as results.json."""

    out: Path
    classes: tuple[str, ...]
    probed: Probed
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
    warnings: tuple[str, ...] = ()
    """What may be wrong with the accuracies."""
    by_label: dict[str, ProbeResult] = field(default_factory=dict)
    """With several labels: the result of each; the other fields are those of the first one."""

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """By kind of probe."""
        return self.probed.outcomes

    @property
    def kind(self) -> str:
        """The probe that is best on validation, which is the one that is saved."""
        return self.probed.kind

    @property
    def shares(self) -> tuple[Share, ...]:
        """With `label_fraction`: accuracies by share of the training videos, the last that of all."""
        return self.probed.shares


@command(ProbeConfig, "source")
def probe(config: ProbeConfig) -> ProbeResult:
    """Train classifiers on frozen features of labeled videos; select on the validation set, report on the test set.

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
        raise ConfigError(
            "no model given: pass --model with a run folder, a checkpoint file or the name of a published model"
        )
    if out.resolve() == Path(config.model).resolve():
        raise ConfigError(f"{out}: is the folder of the source model: choose another --out")
    with open_run(out, overwrite=config.overwrite, resumable=False) as folder:
        return _several(config, folder) if config.labels else _probe(config, folder)


def _several(config: ProbeConfig, folder: RunFolder) -> ProbeResult:
    """A run for each label, in folders of their own; what was encoded for the first one serves all."""
    out, found = folder.path, dict[str, ProbeResult]()
    every = splits_of_labels(config, config.labels)
    folder.start()
    cache = config.cache_dir or str(out / "features")
    for label, splits in every.items():
        own = replace(config, label=label, labels=(), out=str(out / label), cache_dir=cache)
        with open_run(own.out, overwrite=config.overwrite, resumable=False) as inner:
            found[label] = _probe(own, inner, splits)
    write_file(out / SPLITS_FILE, splits_csv(every[config.labels[0]]))
    write_file(out / HEADS, json_text({"labels": config.labels}, None).encode())
    return replace(found[config.labels[0]], out=out, by_label=found)


def _probe(config: ProbeConfig, folder: RunFolder, splits: dict[str, VideoIndex] | None = None) -> ProbeResult:
    """The probe, in a folder that is held."""
    out, started = folder.path, time.monotonic()
    pool = read_pool(config) if splits is None else None
    if splits is None:
        splits = read_splits(config) if pool is None else {}
    model = load_model(config.model)
    frame_step, fps = clip_rate(model, config.frame_step, config.fps)
    config = replace(config, frame_step=frame_step, fps=fps)
    with make_runtime(config) as runtime:
        log.info("probe on %s", runtime)
        settings = EncodeSettings(runtime, config.encode_batch, config.feature_dtype, config.workers, config.max_bad)
        whole = None if pool is None else encode_pool(config, model, pool, settings)
        data = encode_splits(config, model, splits, settings) if whole is None else whole.data
        encoded = time.monotonic()
        folder.start()
        write_file(out / "config.yaml", to_yaml(config).encode())
        if pool is None or whole is None:
            probed = train_probes(config, data, settings)
        else:
            data, probed = cross_validate(config, pool, whole, settings)
        write_file(out / SPLITS_FILE, splits_csv(data.splits))
    seconds = {"encode": encoded - started, "train": time.monotonic() - encoded}
    result = _result(out, data, probed, seconds)
    _write(config, result, data)
    return result


def _result(out: Path, data: Encoded, probed: Probed, seconds: dict[str, float]) -> ProbeResult:
    classes, folded = data.splits["train"].classes or (), probed.folds
    if folded is None:
        most = np.bincount(data.labels("train")).argmax()
        majority = 100 * float((data.labels("test") == most).mean())
    else:
        majority = float(folded.majority.mean())
    return ProbeResult(
        out=out,
        classes=classes,
        probed=probed,
        chance=100 / len(classes),
        majority=majority,
        videos={name: len(index) for name, index in data.splits.items()},
        skipped=data.skipped,
        seconds=seconds,
        warnings=_warnings(data, probed) if folded is None else (),
    )


def _warnings(data: Encoded, probed: Probed) -> tuple[str, ...]:
    """What may be wrong with the accuracies."""
    saved = probed.outcomes[probed.kind]
    right = saved.probabilities.argmax(1) == saved.labels
    found = [differ(saved.val_probabilities.argmax(1) == data.labels("val"), right)]
    sets = data.features[""]
    train, test = (mean_tokens(sets[name].x[:, :1])[:, 0] for name in ("train", "test"))
    repeated = near_duplicates(train, test)
    count = int((repeated >= 0).sum())
    if count > FEW_DUPLICATES * len(repeated):
        row = int(np.flatnonzero(repeated >= 0)[0])
        pair = data.splits["test"].records[row].name, data.splits["train"].records[int(repeated[row])].name
        found.append(
            f"{count} of {len(repeated)} test videos look nearly like a training video, such as {pair[0]} and {pair[1]}: the "
            "accuracy may be overestimated"
        )
    for text in filter(None, found):
        log.warning("%s", text)
    return tuple(text for text in found if text)


def _write(config: ProbeConfig, result: ProbeResult, data: Encoded) -> None:
    """Model, picture, and results.json, which is the last: a folder without it is unfinished."""
    kind, outcome, plan = result.kind, result.outcomes[result.kind], data.plans["test"]
    if outcome.module is not None:
        save_classifier(result.out, VideoClassifier(data.encoders[""], outcome.module, result.classes, plan))
    title = f"{kind}: {outcome.test_top1:.1f} % of {len(outcome.labels)} test videos"
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
        "baselines": {name: outcome.to_dict() for name, outcome in result.probed.baselines.items()},
        "differences": {name: to_mapping(found) for name, found in result.probed.differences.items()},
        "warnings": result.warnings,
        "clips": to_mapping(plan),
        "seed": config.seed,
        "seconds": result.seconds,
        "skipped": result.skipped,
        "versions": versions(),
    }
    if result.probed.folds is not None:
        results["cross_validation"] = result.probed.folds.to_dict()
        if (tested := result.probed.kept_apart) is not None:
            results["kept_apart"] = tested.to_dict()
    if result.shares:
        results["label_efficiency"] = [share.to_dict() for share in result.shares]
    write_report(result.out, result.probed, results, warnings=result.warnings)
    write_file(result.out / "results.json", json_text(results).encode())
