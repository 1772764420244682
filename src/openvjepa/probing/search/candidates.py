"""The search for the best classifier of labeled videos: encoders and kinds of classifiers, compared by cross-validation.

n videos, V clips of each, N tokens, D channels, C classes; accuracies in percent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import numpy as np

from openvjepa.config import ClassifierConfig
from openvjepa.data.lists.index import VideoIndex
from openvjepa.features.cache import FeatureSet, cache_key, encode_index
from openvjepa.features.encode import EncodeSettings, encode_videos
from openvjepa.features.novelty import Novelty
from openvjepa.features.sampling import ClipPlan, plan_for
from openvjepa.grid import TokenGrid
from openvjepa.metrics import Groups, Labels, classification_metrics, groups_of
from openvjepa.model.pixels import PixelEncoder
from openvjepa.model.pooler import probe_eps
from openvjepa.probing.attentive import Recipe
from openvjepa.probing.calibration import divide_logits, mean_softmax, module_logits
from openvjepa.probing.features import OnEpoch, mean_tokens
from openvjepa.probing.probes import Outcome, probe_features
from openvjepa.probing.search.crossval import CrossValidated, cross_validate, judged, make_folds
from openvjepa.probing.search.kept import kept_result
from openvjepa.probing.search.regression import Rows, choose_regression, fit_regression, shares_of_labels
from openvjepa.weights.loaded import LoadedModel

FRACTIONS = (0.25, 0.5)  # of the training videos, for the learning curve; all of them are the third point
REGRESSIONS = ("grid", "linear")
TIMED_EPOCHS = 3  # of an attentive probe, to estimate the time of all
_TIMED = 4  # videos that are encoded to estimate the time of all

log = logging.getLogger("openvjepa")


class OutOfTimeError(Exception):
    """A candidate that has been started would take longer than what is left; caught where it was started."""


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
    """The training videos (train, then val) and the test videos as one encoder's features."""

    name: str
    model: LoadedModel
    plan: ClipPlan
    """Of an evaluated video."""
    features: FeatureSet
    index: VideoIndex
    """Those that could be read."""
    train: int
    """How many of them are of the split train; the others are of val."""
    test: FeatureSet
    test_index: VideoIndex
    key: str
    """Of the features on disk."""

    @property
    def labels(self) -> Labels:
        """Class numbers [n]."""
        return np.array(self.index.labels, dtype=np.int64)

    @property
    def test_labels(self) -> Labels:
        """Class numbers of the test videos [m]."""
        return np.array(self.test_index.labels, dtype=np.int64)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.index.classes or ()

    @property
    def groups(self) -> list[str] | None:
        """Person, camera or source of each video; None where a video has none."""
        return self.index.groups

    @property
    def test_groups(self) -> Groups | None:
        """The same of the test videos."""
        return groups_of(self.test_index)

    @property
    def grid(self) -> TokenGrid:
        """Of the tokens of a clip."""
        config = self.model.config
        return TokenGrid.of_clip(
            self.plan.spec.num_frames, *self.plan.size, patch_size=config.patch_size, tubelet_size=config.tubelet_size
        )

    def folds(self, config: ClassifierConfig) -> tuple[list[Rows], bool]:
        """Rows of each fold, and whether it is a cross-validation: else the only fold is the split val."""
        folds = make_folds(self.labels, config.folds, config.seed, self.groups)
        return (folds, True) if folds else ([np.arange(self.train, len(self.index))], False)

    def novelty(self) -> Novelty | None:
        """What tells videos that are unlike these."""
        return Novelty.of(mean_tokens(self.features.x[:, :1])[:, 0], self.groups)


def encode_candidate(
    name: str,
    model: LoadedModel,
    splits: dict[str, VideoIndex],
    config: ClassifierConfig,
    settings: EncodeSettings,
    *,
    seconds: float,
) -> Encoded | str:
    """Encode all videos; or why there is not enough time.

    Args:
        name: of the model, as the user gave it.
        model: on the device.
        splits: of `read_splits`.
        config: clips and run folder.
        settings: how to encode.
        seconds: time that is left.
    """
    train, val, test = splits["train"], splits["val"], splits["test"]
    pool = replace(train, records=train.records + val.records)
    plain = plan_for(model, pool.records, config.frame_step, config.fps)
    random = config.train_views - 1
    plan = replace(plain, random=random, crop_scale=(0.5, 1.0), seed=config.seed) if random else plain
    cache = Path(config.out) / "features"
    estimate = _estimate(model, pool, plan, settings, cache) + _estimate(model, test, plain, settings, cache)
    if estimate > seconds:
        count = len(pool) + len(test)
        return f"encoding {count} videos would take about {estimate / 60:.1f} min, {max(0.0, seconds) / 60:.1f} min are left"
    features = encode_index(model.encoder, pool, plan, settings, cache, name=f"{len(pool)} training videos with {name}")
    tested = encode_index(model.encoder, test, plain, settings, cache, name=f"{len(test)} test videos with {name}")
    kept = replace(pool, records=tuple(pool.records[i] for i in features.kept))
    kept_test = replace(test, records=tuple(test.records[i] for i in tested.kept))
    count = sum(i < len(train) for i in features.kept)
    return Encoded(name, model, plain, features, kept, count, tested, kept_test, features.key)


def _estimate(model: LoadedModel, videos: VideoIndex, plan: ClipPlan, settings: EncodeSettings, cache: Path) -> float:
    """Seconds that encoding all videos takes, from some of them, spread over the list; 0 where they are encoded already."""
    if (cache / cache_key(model.encoder, videos, plan, settings)).exists():
        return 0.0
    places = sorted({round(i) for i in np.linspace(0, len(videos) - 1, _TIMED)})
    alone = replace(settings, workers=0)

    def seconds(numbers: Sequence[int]) -> float:
        some, started = replace(videos, records=tuple(videos.records[i] for i in numbers)), time.monotonic()
        for _ in encode_videos(model.encoder, some, plan, alone, name=""):
            pass
        return time.monotonic() - started

    seconds(places[:1])  # the first pass is slower
    return seconds(places) / len(places) * len(videos)


def compare_kinds(
    encoded: Encoded, config: ClassifierConfig, *, deadline: float, first: bool = False
) -> Iterator[Candidate | str]:
    """Cross-validate every kind of classifier on one encoder.

    Groups are never divided. Where a class has too few videos (or groups) for cross-validation, the validation videos choose.
    What has been compared is kept in the run folder, where a repeated command finds it.

    Args:
        encoded: features of all videos.
        config: kinds, folds, seed.
        deadline: on the monotonic clock, s.
        first: whether nothing has been compared yet, so that the first kind is not given up.

    Yields:
        Each candidate, or why it was not tried: "KIND: reason".
    """
    folds, crossed = encoded.folds(config)
    for kind in kinds_for(encoded, config):
        limit = inf if first else deadline

        def work(kind: str = kind, limit: float = limit) -> CrossValidated:
            return _judge(encoded, folds, kind, config, limit, crossed=crossed)

        facts = [encoded.key, kind, [rows.tolist() for rows in folds], encoded.labels.tolist(), config.seed]
        try:
            if time.monotonic() > limit:
                raise OutOfTimeError("the time budget is used up")
            folder = Path(config.out) / "candidates"
            result = kept_result(folder, facts, work, lambda limit=limit: time.monotonic() <= limit)
        except OutOfTimeError as error:
            yield f"{kind}: {error}"
            continue
        log.info("%s, %s: %.1f %%", encoded.name, kind, result.mean)
        first = False
        yield Candidate(encoded.name, result)


def kinds_for(encoded: Encoded, config: ClassifierConfig) -> Sequence[str]:
    """The kinds that an encoder is tried with: colors alone have nothing for attention to tell apart."""
    if isinstance(encoded.model.encoder, PixelEncoder):
        return [kind for kind in config.kinds if kind != "attentive"] or ["grid"]
    return config.kinds


def _judge(
    encoded: Encoded, folds: Sequence[Rows], kind: str, config: ClassifierConfig, deadline: float, *, crossed: bool
) -> CrossValidated:
    """Held-out predictions of one kind.

    Raises:
        OutOfTimeError: it would take longer than until the deadline.
    """
    started, x, y = time.monotonic(), encoded.features.x, encoded.labels
    if kind in REGRESSIONS:
        found = choose_regression(
            x,
            y,
            folds,
            classes=len(encoded.classes),
            grid=encoded.grid,
            linear=kind == "linear",
            deadline=deadline,
        )
        if found is None:
            raise OutOfTimeError("the time budget was used up before it was solved")
        return judged(kind, found.logits, y, folds, time.monotonic() - started, found)
    recipe = Recipe((1e-3,), (0.01,), seed=config.seed, eps=probe_eps(encoded.model.config))
    videos = len(y) * max(1, len(folds) - 2) // len(folds)
    if crossed:
        return cross_validate(
            x,
            y,
            folds,
            kind,
            classes=encoded.classes,
            num_heads=encoded.model.encoder.num_heads,
            recipe=recipe,
            seed=config.seed,
            on_epoch=_watch(deadline, recipe.epochs_for(videos) * len(folds)),
            on_fold=lambda done: _check_left(started, deadline, (time.monotonic() - started) * len(folds) / done),
        )
    outcome = _trained(encoded, kind, config, _watch(deadline, recipe.epochs_for(encoded.train)))
    logits = np.full((len(y), len(encoded.classes)), np.nan)
    logits[encoded.train :] = np.log(np.maximum(outcome.val_probabilities, 1e-9))
    return judged(kind, logits, y, folds, time.monotonic() - started)


def _watch(deadline: float, epochs: int) -> OnEpoch:
    """Ends an attentive probe of which even half of all epochs, after which it often stops, take longer than there is time."""
    started, done = [0.0], [0]

    def look(_: int, __: dict[str, float]) -> None:
        if not done[0]:
            started[0] = time.monotonic()  # the first epoch is slower than the others
        elif done[0] >= TIMED_EPOCHS:
            seconds = (time.monotonic() - started[0]) / done[0] * epochs
            _check_left(started[0], deadline, seconds, least=0.5)
        done[0] += 1

    return look


def _check_left(started: float, deadline: float, seconds: float, least: float = 1.0) -> None:
    """End a candidate that takes so many seconds in all, if even the share `least` of it takes longer than there is time."""
    if started + least * seconds > deadline:
        left = max(0.0, deadline - started)
        raise OutOfTimeError(f"it would take about {seconds / 60:.1f} min, {left / 60:.1f} min were left")


def _trained(encoded: Encoded, kind: str, config: ClassifierConfig, on_epoch: OnEpoch | None = None) -> Outcome:
    """A classifier that is trained on the split train and chosen on val."""
    x, y, train = encoded.features.x, encoded.labels, encoded.train
    return probe_features(
        x[:train],
        y[:train],
        x[train:][:, :1],
        y[train:],
        encoded.test.x,
        encoded.test_labels,
        classes=encoded.classes,
        num_heads=encoded.model.encoder.num_heads,
        kinds=(kind,),
        recipe=Recipe(seed=config.seed, eps=probe_eps(encoded.model.config)),
        on_epoch=on_epoch,
    )[kind]


def final_classifier(encoded: Encoded, candidate: Candidate, config: ClassifierConfig) -> Outcome:
    """Train a candidate, calibrate it by its held-out predictions, and test it.

    A logistic regression is trained on train and val together; an attentive probe on train, as val tells when to stop.
    """
    started, result = time.monotonic(), candidate.result
    labels, classes = encoded.test_labels, encoded.classes
    if result.chosen is not None:
        module = fit_regression(
            encoded.features.x,
            encoded.labels,
            result.chosen,
            classes=len(classes),
            grid=encoded.grid,
            linear=result.kind == "linear",
        )
        settings = result.chosen.settings
    else:
        outcome = _trained(encoded, result.kind, config)
        if outcome.module is None:
            return outcome.with_groups(encoded.test_groups)
        module, settings = outcome.module, outcome.chosen
        divide_logits(module, 1 / (outcome.temperature or 1.0))
    logits, temperature = module_logits(module, encoded.test.x), result.calibration.temperature
    probabilities = mean_softmax(logits, temperature)
    divide_logits(module, temperature)
    return Outcome(
        metrics=classification_metrics(probabilities, labels, classes),
        val_top1=result.mean,
        chosen=settings,
        seconds=time.monotonic() - started,
        probabilities=probabilities,
        labels=labels,
        module=module,
        val_probabilities=result.probabilities,
        temperature=temperature,
        uncalibrated=classification_metrics(mean_softmax(logits), labels, classes),
    ).with_groups(encoded.test_groups)


def learning_curve(encoded: Encoded, best: Candidate, config: ClassifierConfig) -> dict[float, float]:
    """Cross-validated accuracy by share of the training videos, the last that of all; empty without cross-validation."""
    folds, crossed = encoded.folds(config)
    if not crossed:
        return {}
    x, y, chosen = encoded.features.x, encoded.labels, best.result.chosen
    if chosen is not None:
        classes = len(encoded.classes)
        curve = shares_of_labels(x, y, folds, chosen, FRACTIONS, classes=classes, grid=encoded.grid, seed=config.seed)
        return curve | {1.0: best.result.mean}
    recipe = Recipe((1e-3,), (0.01,), seed=config.seed, eps=probe_eps(encoded.model.config))
    heads = encoded.model.encoder.num_heads
    curve = {
        share: cross_validate(
            x, y, folds, best.result.kind, classes=encoded.classes, num_heads=heads, recipe=recipe, fraction=share
        ).mean
        for share in FRACTIONS
    }
    return curve | {1.0: best.result.mean}
