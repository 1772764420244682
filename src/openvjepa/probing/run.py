"""A run of `vjepa probe`: which clips are encoded, the probes and baselines on them, and what may be wrong with the result.

n videos, V clips of each, N tokens, D channels, C classes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from openvjepa.config import ProbeConfig
from openvjepa.data.lists.index import VideoIndex
from openvjepa.data.lists.splits import check_splits
from openvjepa.data.media.images import is_image
from openvjepa.features.cache import FeatureSet, encode_together
from openvjepa.features.encode import EncodeSettings
from openvjepa.features.sampling import ClipPlan, plan_for
from openvjepa.grid import TokenGrid
from openvjepa.metrics import Difference, Groups, Labels, difference, groups_of
from openvjepa.model.encoder import Encoder
from openvjepa.model.pixels import PixelEncoder, pixel_config, untrained
from openvjepa.model.pooler import probe_eps
from openvjepa.probing.attentive import Recipe
from openvjepa.probing.features import Features, OnEpoch
from openvjepa.probing.folds.summary import Folded
from openvjepa.probing.probes import Outcome, best_kind, probe_features
from openvjepa.probing.search.low_shot import Share, label_efficiency
from openvjepa.train.logs import RunLog
from openvjepa.weights.hub import LoadedModel

log = logging.getLogger("openvjepa")

PIXELS, UNTRAINED = "pixels", "untrained encoder"
LARGE = 100_000_000  # parameters above which the untrained encoder is left out on a CPU
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Encoded:
    """Features of the splits, by encoder, and the videos that could be read."""

    splits: dict[str, VideoIndex]
    features: dict[str, dict[str, FeatureSet]]
    """Encoder ("" is the one that is probed, others are baselines) -> split -> features."""
    encoders: dict[str, Encoder]
    plans: dict[str, ClipPlan]

    def labels(self, split: str) -> Labels:
        """Class numbers [n]."""
        return np.array(self.splits[split].labels, dtype=np.int64)

    def groups(self, split: str) -> Groups | None:
        """Group of each video [n]; None where there are none."""
        return groups_of(self.splits[split])

    def grid(self, encoder: str) -> TokenGrid:
        """Tokens of the planned clips."""
        config, plan = self.encoders[encoder].config, self.plans["test"]
        size = {"patch_size": config.patch_size, "tubelet_size": config.tubelet_size}
        return TokenGrid.of_clip(plan.spec.num_frames, *plan.size, **size)

    @property
    def skipped(self) -> dict[str, str]:
        """Unreadable files: path -> reason."""
        return {path: reason for found in self.features[""].values() for path, reason in found.skipped.items()}


@dataclass(frozen=True)
class Probed:
    """What probes and baselines scored."""

    outcomes: dict[str, Outcome]
    """By kind of probe."""
    kind: str
    """The probe that is best on validation, which is the one that is saved."""
    baselines: dict[str, Outcome]
    """The grid probe on pixels and on the untrained encoder."""
    differences: dict[str, Difference]
    """Of the saved probe over each baseline and over the majority class, on the test videos."""
    shares: tuple[Share, ...] = ()
    folds: Folded | None = None
    """Of a cross-validation: `outcomes` and `baselines` are those of held-out videos."""
    kept_apart: Outcome | None = None
    """Of a cross-validation: the saved probe on test videos that no fold holds."""


def encode_splits(
    config: ProbeConfig, model: LoadedModel, splits: dict[str, VideoIndex], settings: EncodeSettings
) -> Encoded:
    """Encode the clips of all splits with the model and its baselines, in one reading of the videos.

    Raises:
        DataError: too many videos cannot be read, or a split or class has none left.
    """
    found = encode_all(config, model, splits, settings)
    check_splits(found.splits)
    return found


def encode_all(
    config: ProbeConfig,
    model: LoadedModel,
    splits: dict[str, VideoIndex],
    settings: EncodeSettings,
    names: Mapping[str, str] | None = None,
) -> Encoded:
    """As `encode_splits`, for splits that may share videos; `names` says what the log calls them."""
    plans = plans_of(config, model, splits)
    encoders = {"": model.encoder} | baselines_of(config, model, plans["test"], settings)
    cache = Path(config.cache_dir) if config.cache_dir else Path(config.out) / "features"
    features: dict[str, dict[str, FeatureSet]] = {name: {} for name in encoders}
    kept: dict[str, VideoIndex] = {}
    for encoder in encoders.values():
        encoder.to(settings.runtime.device)
    for split, index in splits.items():
        called = (names or {}).get(split, split)
        sets = encode_together(list(encoders.values()), index, plans[split], settings, cache, name=called)
        for name, found in zip(encoders, sets, strict=True):
            features[name][split] = found
        kept[split] = replace(index, records=tuple(index.records[i] for i in sets[0].kept))
    return Encoded(kept, features, encoders, plans)


def plans_of(config: ProbeConfig, model: LoadedModel, splits: Mapping[str, VideoIndex]) -> dict[str, ClipPlan]:
    """The clips of each split: plain and random ones to train on, segments x views to evaluate."""
    records = tuple(record for index in splits.values() for record in index.records)
    plain = plan_for(model, records, config.frame_step, config.fps)
    still = all(is_image(record.path) for record in records)  # all segments of an image are the same
    evaluation = replace(plain.asked(config), segments=1 if still else config.segments)
    train = evaluation.for_training(random=config.train_views - 1, crop_scale=config.crop_scale, seed=config.seed)
    return {"train": train, "val": evaluation, "test": evaluation}


def baselines_of(
    config: ProbeConfig, model: LoadedModel, plan: ClipPlan, settings: EncodeSettings
) -> dict[str, Encoder]:
    """Encoders that the model is compared with: pixels, and the same encoder with random weights."""
    if not config.baselines or isinstance(model.encoder, PixelEncoder):
        return {}
    pixels = PixelEncoder(pixel_config(plan.spec.num_frames, plan.size)).eval()
    size = sum(parameter.numel() for parameter in model.encoder.parameters())
    if model.section == "untrained":
        return {PIXELS: pixels}
    if size > LARGE and settings.runtime.device.type == "cpu":
        log.info("the untrained encoder is left out as a baseline: %.0f M parameters take long on a CPU", size / 1e6)
        return {PIXELS: pixels}
    return {PIXELS: pixels, UNTRAINED: untrained(model.config, config.seed)}


def recipe_of(config: ProbeConfig, encoder: Encoder, settings: EncodeSettings) -> Recipe:
    """How attentive probes are trained."""
    eps, device = probe_eps(encoder.config), settings.runtime.device
    return Recipe(config.lrs, config.weight_decays, config.epochs, config.batch_size, config.seed, eps, device)


def train_probes(config: ProbeConfig, data: Encoded, settings: EncodeSettings) -> Probed:
    """Train all kinds of probes and the baselines; the attentive one with its metrics per epoch in metrics.jsonl.

    Then again on shares of the training videos, where these are asked for.
    """
    encoder = data.encoders[""]
    recipe = recipe_of(config, encoder, settings)
    sets = data.features[""]

    def train(x: Features, labels: Labels, on_epoch: OnEpoch | None = None) -> dict[str, Outcome]:
        return probe_features(
            x,
            labels,
            sets["val"].x,
            data.labels("val"),
            sets["test"].x,
            data.labels("test"),
            classes=data.splits["train"].classes or (),
            num_heads=encoder.num_heads,
            grid=data.grid(""),
            kinds=config.kinds,
            recipe=recipe,
            on_epoch=on_epoch,
        )

    x, y = sets["train"].x, data.labels("train")
    with _EpochLog(config, len(y), recipe.epochs_for(len(y))) as on_epoch:
        outcomes = {kind: outcome.with_groups(data.groups("test")) for kind, outcome in train(x, y, on_epoch).items()}
    kind = best_kind(outcomes, data.labels("val"))
    baselines = {name: _baseline(data, name) for name in data.encoders if name}
    differences = _differences(data, outcomes[kind], baselines)
    shares: tuple[Share, ...] = ()
    if config.label_fraction:
        few, draws, seed = config.label_fraction, config.draws, config.seed
        shares = label_efficiency(train, x, y, outcomes, fractions=few, draws=draws, seed=seed)
    return Probed(outcomes, kind, baselines, differences, shares)


def _baseline(data: Encoded, name: str) -> Outcome:
    """The grid probe on the features of a baseline."""
    sets, classes = data.features[name], data.splits["train"].classes or ()
    parts = [part for split in SPLITS for part in (sets[split].x, data.labels(split))]
    heads = data.encoders[name].num_heads
    outcome = probe_features(*parts, classes=classes, num_heads=heads, grid=data.grid(name), kinds=("grid",))["grid"]
    return outcome.with_groups(data.groups("test"))


def _differences(data: Encoded, saved: Outcome, baselines: Mapping[str, Outcome]) -> dict[str, Difference]:
    labels, groups = data.labels("test"), data.groups("test")
    majority = np.bincount(data.labels("train")).argmax() == labels
    rights = {name: outcome.probabilities.argmax(1) == labels for name, outcome in baselines.items()}
    ours = saved.probabilities.argmax(1) == labels
    return {name: difference(ours, right, groups) for name, right in {**rights, "majority class": majority}.items()}


class _EpochLog:
    """Writes the metrics of each epoch into the run folder."""

    def __init__(self, config: ProbeConfig, videos: int, epochs: int) -> None:
        self.videos, self.last = videos, time.monotonic()
        self.log = RunLog(Path(config.out), start_step=0, steps=epochs, enabled="attentive" in config.kinds)

    def __enter__(self) -> OnEpoch:
        return self._write

    def __exit__(self, *_: object) -> None:
        self.log.close()

    def _write(self, epoch: int, values: dict[str, float]) -> None:
        seconds, self.last = time.monotonic() - self.last, time.monotonic()
        self.log.pace.add(self.videos, seconds, 0.0)
        self.log.advance(epoch, values["loss"])
        self.log.write(epoch, values)
