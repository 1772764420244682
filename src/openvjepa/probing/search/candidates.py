"""The search for the best classifier of labeled videos: encoders and kinds of probes, compared by cross-validation.

n videos, V clips of each, N tokens, D channels, C classes; accuracies in percent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from openvjepa.config import ClassifierConfig
from openvjepa.data.lists.index import VideoIndex
from openvjepa.features.cache import FeatureSet, encode_index
from openvjepa.features.encode import EncodeSettings, encode_videos
from openvjepa.features.sampling import ClipPlan, plan_for
from openvjepa.grid import TokenGrid
from openvjepa.metrics import Labels
from openvjepa.model.pooler import probe_eps
from openvjepa.probing.attentive import Recipe
from openvjepa.probing.probes import Outcome, probe_features
from openvjepa.probing.search.crossval import CrossValidated, cross_validate, make_folds
from openvjepa.weights.loaded import LoadedModel

FRACTIONS = (0.25, 0.5)  # of the training videos, for the learning curve; all of them are the third point
_TIMED = 4  # videos that are encoded to estimate the time of all

log = logging.getLogger("openvjepa")


@dataclass(frozen=True)
class Candidate:
    """One kind of classifier on one encoder."""

    model: str
    result: CrossValidated

    @property
    def name(self) -> str:
        """Such as "runs/mine, grid"."""
        return f"{self.model}, {self.result.kind}"


@dataclass(frozen=True)
class Encoded:
    """The training videos (train, then val) as one encoder's features."""

    name: str
    model: LoadedModel
    plan: ClipPlan
    """Of an evaluated video."""
    features: FeatureSet
    index: VideoIndex
    """Those that could be read."""
    train: int
    """How many of them are of the split train; the others are of val."""

    @property
    def labels(self) -> Labels:
        """Class numbers [n]."""
        return np.array(self.index.labels, dtype=np.int64)

    @property
    def groups(self) -> list[str] | None:
        """Person, camera or source of each video; None where a video has none."""
        found = [record.group for record in self.index.records]
        return None if any(group is None for group in found) else [str(group) for group in found]

    @property
    def grid(self) -> TokenGrid:
        """Of the tokens of a clip."""
        config = self.model.config
        return TokenGrid.of_clip(
            self.plan.spec.num_frames, *self.plan.size, patch_size=config.patch_size, tubelet_size=config.tubelet_size
        )


def encode_candidate(
    name: str,
    model: LoadedModel,
    splits: dict[str, VideoIndex],
    config: ClassifierConfig,
    settings: EncodeSettings,
    *,
    seconds: float,
) -> Encoded | str:
    """Encode the training and validation videos; or why there is not enough time.

    Args:
        name: of the model, as the user gave it.
        model: on the device.
        splits: of `read_splits`.
        config: clips and run folder.
        settings: how to encode.
        seconds: time that is left.
    """
    train, val = splits["train"], splits["val"]
    pool = replace(train, records=train.records + val.records)
    plain = plan_for(model, pool.records, config.frame_step, config.fps)
    random = config.train_views - 1
    plan = replace(plain, random=random, crop_scale=(0.5, 1.0), seed=config.seed) if random else plain
    estimate = _estimate(model, pool, plan, settings)
    if estimate > seconds:
        return f"encoding {len(pool)} videos would take about {estimate / 60:.1f} min, {max(0.0, seconds) / 60:.1f} min are left"
    cache = Path(config.out) / "features"
    features = encode_index(model.encoder, pool, plan, settings, cache, name=f"{len(pool)} training videos with {name}")
    kept = replace(pool, records=tuple(pool.records[i] for i in features.kept))
    return Encoded(name, model, plain, features, kept, sum(i < len(train) for i in features.kept))


def _estimate(model: LoadedModel, pool: VideoIndex, plan: ClipPlan, settings: EncodeSettings) -> float:
    """Seconds that encoding all videos takes, from some of them, spread over the list."""
    places = np.unique(np.linspace(0, len(pool) - 1, _TIMED).astype(int))
    some = replace(pool, records=tuple(pool.records[i] for i in places))
    started = time.monotonic()
    for _ in encode_videos(model.encoder, some, plan, replace(settings, workers=0), name=""):
        pass
    return (time.monotonic() - started) / len(some) * len(pool)


def compare_kinds(encoded: Encoded, config: ClassifierConfig, *, deadline: float) -> list[Candidate]:
    """Cross-validate every kind of classifier on one encoder; kinds that come after the deadline are left out.

    Groups are never divided. Where a class has too few videos (or groups) for cross-validation, the validation videos choose.

    Args:
        encoded: features of the training and validation videos.
        config: kinds, folds, seed.
        deadline: on the monotonic clock, s.
    """
    y = encoded.labels
    folds = make_folds(y, config.folds, config.seed, encoded.groups)
    found: list[Candidate] = []
    for kind in config.kinds:
        if found and time.monotonic() > deadline:
            log.warning("%s, %s: skipped, the time budget is used up", encoded.name, kind)
            continue
        result = _cross_validated(encoded, folds, kind, config.seed) if folds else _validated(encoded, kind, config)
        log.info("%s, %s: %.1f %%", encoded.name, kind, result.mean)
        found.append(Candidate(encoded.name, result))
    return found


def _cross_validated(
    encoded: Encoded, folds: Sequence[Labels], kind: str, seed: int, fraction: float = 1.0
) -> CrossValidated:
    encoder = encoded.model.encoder
    return cross_validate(
        encoded.features.x,
        encoded.labels,
        folds,
        kind,
        classes=encoded.index.classes or (),
        num_heads=encoder.num_heads,
        grid=encoded.grid,
        recipe=Recipe((1e-3,), (0.01,), seed=seed, eps=probe_eps(encoder.config)),
        fraction=fraction,
        seed=seed,
    )


def _validated(encoded: Encoded, kind: str, config: ClassifierConfig) -> CrossValidated:
    started, rows = time.monotonic(), slice(encoded.train, None)
    outcome = final_probe(encoded, kind, config, encoded.features.x[rows][:, :1], encoded.labels[rows])
    probabilities = np.full((len(encoded.index), len(encoded.index.classes or ())), np.nan)
    probabilities[rows] = outcome.probabilities
    return CrossValidated(
        kind, probabilities, (outcome.test_top1,), outcome.metrics.log_loss, time.monotonic() - started
    )


def final_probe(encoded: Encoded, kind: str, config: ClassifierConfig, test_x: np.ndarray, test_y: Labels) -> Outcome:
    """Train the chosen classifier on the split train, choose its hyperparameters and temperature on val, and test it."""
    x, y, encoder = encoded.features.x, encoded.labels, encoded.model.encoder
    return probe_features(
        x[: encoded.train],
        y[: encoded.train],
        x[encoded.train :][:, :1],
        y[encoded.train :],
        test_x,
        test_y,
        classes=encoded.index.classes or (),
        num_heads=encoder.num_heads,
        grid=encoded.grid,
        kinds=(kind,),
        recipe=Recipe(seed=config.seed, eps=probe_eps(encoder.config)),
    )[kind]


def learning_curve(encoded: Encoded, best: Candidate, config: ClassifierConfig) -> dict[float, float]:
    """Cross-validated accuracy by share of the training videos, the last that of all; empty without cross-validation."""
    folds = make_folds(encoded.labels, config.folds, config.seed, encoded.groups)
    if not folds:
        return {}
    curve = {share: _cross_validated(encoded, folds, best.result.kind, config.seed, share).mean for share in FRACTIONS}
    return curve | {1.0: best.result.mean}
