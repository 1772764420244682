"""A cross-validation by `vjepa probe`.

n videos, V clips of each, N tokens, D channels, C classes, S seeds, K folds.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from openvjepa.config import ProbeConfig
from openvjepa.data.lists.index import VideoIndex
from openvjepa.features.cache import FeatureSet
from openvjepa.features.encode import EncodeSettings
from openvjepa.metrics import Labels, accuracy, classification_metrics
from openvjepa.probing.features import Features
from openvjepa.probing.folds.pool import Numbers, Pool
from openvjepa.probing.folds.summary import Folded, HeldOut
from openvjepa.probing.probes import Outcome, probe_features
from openvjepa.probing.run import Encoded, Probed, encode_all, recipe_of
from openvjepa.probing.search.low_shot import Rows
from openvjepa.weights.hub import LoadedModel

log = logging.getLogger("openvjepa")


@dataclass(frozen=True)
class EncodedPool:
    """Every video twice: as it is trained on (plain and random clips), and as it is tested."""

    data: Encoded
    """The splits train (the same videos), val (the same again) and test (those that are kept apart, if there are any)."""

    @property
    def index(self) -> VideoIndex:
        """The videos that could be read."""
        return self.data.splits["train"]

    def shown(self, encoder: str, part: str, rows: Numbers) -> Features:
        """Features of some videos as they are trained on ("train") or tested ("val")."""
        return cast(Features, Rows(self.data.features[encoder][part].x, rows))


def encode_pool(config: ProbeConfig, model: LoadedModel, pool: Pool, settings: EncodeSettings) -> EncodedPool:
    """Encode all videos, once for all folds, seeds and classifiers.

    Raises:
        DataError: too many videos cannot be read.
    """
    splits = {"train": pool.videos, "val": pool.videos} | ({"test": pool.test} if pool.test is not None else {})
    found = encode_all(config, model, splits, settings, _NAMES)
    common = sorted(set(found.features[""]["train"].kept) & set(found.features[""]["val"].kept))
    for sets in found.features.values():
        for split in ("train", "val"):
            sets[split] = _only(sets[split], common)
    for split in ("train", "val"):
        found.splits[split] = replace(pool.videos, records=tuple(pool.videos.records[i] for i in common))
    return EncodedPool(found)


_NAMES = {"train": "clips to train on", "val": "clips to test on", "test": "test videos kept apart"}


def _only(found: FeatureSet, kept: Sequence[int]) -> FeatureSet:
    """The rows of these places of the index."""
    if list(found.kept) == list(kept):
        return found
    place = {i: row for row, i in enumerate(found.kept)}
    rows = Rows(found.x, np.array([place[i] for i in kept], dtype=np.int64))
    return replace(found, x=cast(Features, rows), kept=tuple(kept))


@dataclass
class _Tally:
    """Held-out predictions of one classifier, filled fold by fold."""

    probabilities: NDArray[np.float64]
    """[S, n, C]."""
    folds: NDArray[np.float64]
    """[S, K]."""
    val: list[float]
    seconds: float = 0.0

    def held_out(self) -> HeldOut:
        return HeldOut(self.probabilities, self.folds, float(np.mean(self.val)), self.seconds)


def cross_validate(
    config: ProbeConfig, pool: Pool, encoded: EncodedPool, settings: EncodeSettings
) -> tuple[Encoded, Probed]:
    """Test all kinds of probes and the baselines on every fold, and train the best kind on all videos.

    The videos outside a fold are trained on, but for `val_share` of them, which choose hyperparameters and temperature.

    Returns:
        The splits that the saved classifier was trained with and their features, and what was found.
    """
    index, labels = encoded.index, encoded.data.labels("train")
    shape = config.seeds, len(index), len(index.classes or ())
    tallies: dict[tuple[str, str], _Tally] = defaultdict(
        lambda: _Tally(np.zeros(shape), np.zeros((config.seeds, pool.count)), [])
    )
    majority = np.zeros((config.seeds, pool.count))
    for number in range(config.seeds):
        seed = config.seed + number
        folds = pool.folds(index, seed)
        for fold in range(pool.count):
            started = time.monotonic()
            test, rest = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
            train, val = pool.validation(index, rest, config.val_share, seed)
            for name in encoded.data.encoders:
                rows = {"train": train, "val": val, "test": test}
                for kind, outcome in _probes(replace(config, seed=seed), encoded, name, rows, settings).items():
                    tally = tallies[name, kind]
                    tally.probabilities[number, test] = outcome.probabilities
                    tally.folds[number, fold] = accuracy(outcome.probabilities, labels[test])
                    tally.val.append(outcome.val_top1)
                    tally.seconds += outcome.seconds
            majority[number, fold] = 100 * float((labels[test] == np.bincount(labels[train]).argmax()).mean())
            took = time.monotonic() - started
            log.info("seed %d, fold %d/%d: %d videos, %.1f s", seed, fold + 1, pool.count, len(test), took)
    kinds = {kind: tallies["", kind].held_out() for kind in config.kinds}
    baselines = {name: tallies[name, "grid"].held_out() for name in encoded.data.encoders if name}
    return _finish(config, pool, encoded, settings, kinds, baselines, majority)


def _probes(
    config: ProbeConfig, encoded: EncodedPool, encoder: str, rows: Mapping[str, Numbers], settings: EncodeSettings
) -> dict[str, Outcome]:
    """Probes of one encoder on one fold; of a baseline the grid probe alone."""
    labels = encoded.data.labels("train")
    x = {part: encoded.shown(encoder, "train" if part == "train" else "val", rows[part]) for part in rows}
    network = encoded.data.encoders[encoder]
    return probe_features(
        x["train"],
        labels[rows["train"]],
        x["val"],
        labels[rows["val"]],
        x["test"],
        labels[rows["test"]],
        classes=encoded.index.classes or (),
        num_heads=network.num_heads,
        grid=encoded.data.grid(encoder),
        kinds=config.kinds if encoder == "" else ("grid",),
        recipe=recipe_of(config, network, settings),
    )


def _finish(
    config: ProbeConfig,
    pool: Pool,
    encoded: EncodedPool,
    settings: EncodeSettings,
    kinds: dict[str, HeldOut],
    baselines: dict[str, HeldOut],
    majority: NDArray[np.float64],
) -> tuple[Encoded, Probed]:
    """Train the best kind on all videos but those that choose its hyperparameters."""
    data, index, labels = encoded.data, encoded.index, encoded.data.labels("train")
    can_be_saved = [kind for kind in kinds if kind != "knn"] or list(kinds)
    best = max(can_be_saved, key=lambda kind: kinds[kind].rank(labels))
    train, val = pool.validation(index, np.arange(len(index)), config.val_share, config.seed)
    splits = {"train": _select(index, train), "val": _select(index, val)}
    sets = {"train": replace(data.features[""]["train"], x=encoded.shown("", "train", train))}
    sets["val"] = replace(data.features[""]["val"], x=encoded.shown("", "val", val))
    tested = data.splits.get("test")
    if tested is not None:
        splits["test"], sets["test"] = tested, data.features[""]["test"]
    final = Encoded(splits, {"": sets}, {"": data.encoders[""]}, data.plans)
    test_x, test_y = (
        sets["test" if tested is not None else "val"].x,
        final.labels("test" if tested is not None else "val"),
    )
    saved = probe_features(
        sets["train"].x,
        final.labels("train"),
        sets["val"].x,
        final.labels("val"),
        test_x,
        test_y,
        classes=index.classes or (),
        num_heads=data.encoders[""].num_heads,
        grid=data.grid(""),
        kinds=(best,),
        recipe=recipe_of(config, data.encoders[""], settings),
    )[best]
    counts = {name: len(found) for name, found in splits.items()}
    folded = Folded(
        pool.count, config.seeds, pool.given, labels, data.groups("train"), kinds, baselines, majority, best, counts
    )
    outcomes = {kind: _outcome(held, folded, index, saved if kind == best else None) for kind, held in kinds.items()}
    others = {name: _outcome(held, folded, index, None) for name, held in baselines.items()}
    kept_apart = None if tested is None else saved.with_groups(final.groups("test"))
    return final, Probed(outcomes, best, others, folded.differences, folds=folded, kept_apart=kept_apart)


def _select(index: VideoIndex, rows: Numbers) -> VideoIndex:
    return replace(index, records=tuple(index.records[i] for i in rows))


def _outcome(held: HeldOut, folded: Folded, index: VideoIndex, saved: Outcome | None) -> Outcome:
    """The accuracy is that of all seeds; classes, confusion and calibration are those of the first."""
    labels: Labels = folded.labels
    metrics = classification_metrics(held.probabilities[0], labels, index.classes or (), folded.groups)
    return Outcome(
        metrics=replace(metrics, top1=held.top1(labels), top1_interval=folded.interval(held)),
        val_top1=held.val_top1,
        chosen={} if saved is None else saved.chosen,
        seconds=held.seconds,
        probabilities=held.probabilities[0],
        labels=labels,
        module=None if saved is None else saved.module,
        val_probabilities=held.probabilities[0],
        temperature=None if saved is None else saved.temperature,
    )
