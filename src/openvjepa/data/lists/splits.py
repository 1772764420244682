"""Which labeled videos a classifier is trained on, chosen with and tested on."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections import Counter
from dataclasses import replace

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from openvjepa.config import SplitConfig
from openvjepa.data.lists.index import VideoIndex, VideoRecord, read_index, sorted_classes, stratified_split
from openvjepa.data.splitting.classes import without_classes
from openvjepa.errors import ConfigError, DataError

_log = logging.getLogger("openvjepa")
_NEEDS = "a classifier needs class folders, a list of `path label` lines, or a CSV with a label column"


def read_splits(config: SplitConfig) -> dict[str, VideoIndex]:
    """The splits train, val and test, all with the same classes.

    A split is a source of its own, else the videos that the source marks with it, else a part of the training videos,
    class by class, which follows from the seed. Classes that no video has are dropped.

    Raises:
        ConfigError: no source is given.
        DataError: a source cannot be read; videos lack labels; the labels allow no split or no classifier.
    """
    if not config.source:
        raise ConfigError("no videos given: pass a folder, list or CSV file of labeled videos")
    source = read_labeled(config.source, config.label, config.group)
    held_out = {name: source.select(name) for name in ("val", "test")}
    splits = {"train": source.without(*held_out)}
    for name, own in (("val", config.val_source), ("test", config.test_source)):
        if own is not None:
            splits[name] = read_labeled(own, config.label, config.group)
        elif len(held_out[name]):
            splits[name] = held_out[name]
    if not len(splits["train"]):
        raise DataError(f"{source.source}: all videos are marked as val or test: there are no training videos")
    splits = same_classes(without_classes(splits, config))
    _check_classes(splits["train"])
    missing = [name for name in ("val", "test") if name not in splits]
    if missing:
        splits |= _carve(splits["train"], missing, config)
    check_splits(splits)
    _warn_of_shared(splits["val"], splits["test"])
    return splits


def _warn_of_shared(val: VideoIndex, test: VideoIndex) -> None:
    """Warn where videos that choose hyperparameters are tested on, too; some data sets have no third part."""
    seen = _by_path(val)
    if shared := [record.name for record in test.records if _is_in(record, seen)]:
        _log.warning(
            "%s: %s in val and in test, such as %s: the test accuracy is overestimated, as these videos choose hyperparameters",
            test.source,
            _count(len(shared), "video is", "videos are"),
            shared[0],
        )


def check_splits(splits: dict[str, VideoIndex]) -> None:
    """Every split has videos, every class that occurs has videos to train on, and these are in no other split.

    Raises:
        DataError: names the split or the class.
    """
    trained, seen = set(splits["train"].labels), _by_path(splits["train"])
    for name, index in splits.items():
        if not len(index):
            raise DataError(f"{index.source}: no videos in the split {name}: add videos, or mark or give some for it")
        unknown = sorted(set(index.labels) - trained)
        if unknown:
            names = ", ".join((index.classes or ())[i] for i in unknown[:5])
            number = _count(len(unknown), "class", "classes")
            raise DataError(
                f"{index.source}: the split {name} has videos of {number} without training videos ({names})"
            )
        shared = [] if name == "train" else sorted(r.name for r in index.records if _is_in(r, seen))
        if shared:
            number = _count(len(shared), "video is", "videos are")
            raise DataError(f"{index.source}: {number} in train and in {name}, such as {shared[0]}")
        mixed = [] if name == "train" else sorted(_groups(index) & _groups(splits["train"]))
        if mixed:
            raise DataError(
                f"{index.source}: {_count(len(mixed), 'group is', 'groups are')} in train and in {name}, such as {mixed[0]}: "
                "remove the split column to create new splits, or leave out --group"
            )


def _groups(index: VideoIndex) -> set[str]:
    return {record.group for record in index.records if record.group is not None}


def _by_path(index: VideoIndex) -> dict[str, list[VideoRecord]]:
    found: dict[str, list[VideoRecord]] = {}
    for record in index.records:
        found.setdefault(os.path.abspath(record.path), []).append(record)
    return found


def _is_in(record: VideoRecord, others: dict[str, list[VideoRecord]]) -> bool:
    """Whether a video, or some of the part of it that is meant, is among others."""
    return any(map(record.overlaps, others.get(os.path.abspath(record.path), ())))


def read_labeled(source: str, label: str | None, group: str | None) -> VideoIndex:
    """An index in which every video has a label, and a group where there is a column of them."""
    index = read_index(source, label=label, group=group)
    if index.classes is None:
        has = f"its columns are {', '.join(index.columns)}: choose one with --label" if index.columns else _NEEDS
        raise DataError(f"{index.source}: the videos have no labels: {has}")
    unlabeled = [record.path for record in index.records if record.label is None]
    if unlabeled:
        raise DataError(
            f"{index.source}: {_count(len(unlabeled), 'video has', 'videos have')} no label, such as {unlabeled[0]}"
        )
    bare = [] if group is None else [record.path for record in index.records if not record.group]
    if bare:  # else all of them would be one group
        raise DataError(
            f"{index.source}: {_count(len(bare), 'video has', 'videos have')} no {group}, such as {bare[0]}"
        )
    return index


def same_classes(splits: dict[str, VideoIndex]) -> dict[str, VideoIndex]:
    """Number the classes alike in all splits, in the order of their indices."""
    used = {name for index in splits.values() for name in ((index.classes or ())[i] for i in set(index.labels))}
    order = dict.fromkeys(name for index in splits.values() for name in index.classes or () if name in used)
    number = {name: i for i, name in enumerate(sorted_classes(order))}
    return {split: _renumbered(index, number) for split, index in splits.items()}


def _renumbered(index: VideoIndex, number: dict[str, int]) -> VideoIndex:
    names = index.classes or ()
    records = tuple(replace(r, label=number[names[r.label]]) for r in index.records if r.label is not None)
    return replace(index, records=records, classes=tuple(number))


def _check_classes(train: VideoIndex) -> None:
    names = train.classes or ()
    if len(names) < 2:
        raise DataError(
            f"{train.source}: all videos are of one class ({', '.join(names)}): a classifier needs at least two"
        )
    if len(names) > len(train):
        raise DataError(
            f"{train.source}: {len(names)} classes for {len(train)} videos to train on: is this the right label column?"
        )


def _carve(train: VideoIndex, missing: list[str], config: SplitConfig) -> dict[str, VideoIndex]:
    """Take the missing splits out of the training videos: they, and what is left to train on."""
    counts = Counter(train.labels)
    single = [name for i, name in enumerate(train.classes or ()) if counts[i] == 1]
    if single:
        number, names = _count(len(single), "class has", "classes have"), ", ".join(single[:5])
        raise DataError(
            f"{train.source}: {number} a single video ({names}), which cannot be both trained on and tested: add "
            f"videos, or mark or give {' and '.join(missing)} videos"
        )
    if config.group is not None:
        return _carve_groups(train, missing, config)
    shares = stratified_split(train, val=config.val_share, test=config.test_share, seed=config.seed)
    kept = tuple(replace(r, split=r.split if r.split in missing else "train") for r in shares.records)
    shares = replace(shares, records=kept)
    return {name: shares.select(name) for name in ("train", *missing)}


def _carve_groups(train: VideoIndex, missing: list[str], config: SplitConfig) -> dict[str, VideoIndex]:
    """As `_carve`, by whole groups."""
    wanted = {"val": config.val_share, "test": config.test_share}
    parts, rest, left = {}, train, 1.0
    for name in reversed(missing):  # test before val
        held = hold_out(rest, min(0.5, wanted[name] / left), config.seed)
        parts[name] = replace(rest, records=tuple(rest.records[i] for i in held))
        chosen = set(held)
        rest = replace(rest, records=tuple(r for i, r in enumerate(rest.records) if i not in chosen))
        left -= wanted[name]
    return {"train": rest, **{name: parts[name] for name in missing}}


def hold_out(index: VideoIndex, share: float, seed: int) -> list[int]:
    """Places of about a share of the videos, class by class; whole groups, where there are groups.

    Raises:
        DataError: there is no such part that leaves every class something to train on.
    """
    parts = max(2, round(1 / share))
    held, least = None, math.inf
    for fold in folds_of(index, parts, seed):
        chosen = set(fold)
        if {index.labels[i] for i in range(len(index)) if i not in chosen} != set(index.labels):
            continue
        if (distance := abs(len(fold) / len(index) - share)) < least:
            held, least = fold, distance
    if held is None:
        raise DataError(
            f"{index.source}: no part of the groups can be held out that leaves every class to train on: some class has videos "
            "of a single group: add videos, or leave out --group"
        )
    return held


def folds_of(index: VideoIndex, parts: int, seed: int) -> list[list[int]]:
    """Places of the videos of each of so many parts, with the classes alike in all, and whole groups where there are groups.

    Raises:
        DataError: there are fewer videos, or fewer groups, than parts.
    """
    groups = [record.group for record in index.records]
    grouped = all(group is not None for group in groups)
    units, most = ("groups", len(set(groups))) if grouped else ("videos", len(index))
    if most < 2:
        raise DataError(f"{index.source}: {most} of {units}: cannot be divided")
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    divider = kind(min(parts, most), shuffle=True, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer videos than parts is in some of them only
        try:
            found = list(divider.split(np.zeros(len(index)), index.labels, groups if grouped else None))
        except ValueError as error:
            raise DataError(f"{index.source}: cannot be split into {parts} folds ({error})") from None
    return [sorted(map(int, test)) for _, test in found]


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
