"""The videos of a cross-validation, and their folds.

n videos, S seeds, K folds.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from openvjepa.config import ProbeConfig
from openvjepa.data.lists.index import VideoIndex
from openvjepa.data.lists.splits import check_splits, read_labeled, same_classes
from openvjepa.data.splitting.classes import without_classes
from openvjepa.data.splitting.divide import divide, folds_for
from openvjepa.errors import ConfigError, DataError
from openvjepa.metrics import groups_of

log = logging.getLogger("openvjepa")
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """Videos to cross-validate on, and those that are kept apart to test the saved classifier."""

    videos: VideoIndex
    test: VideoIndex | None
    count: int
    """Folds."""
    given: bool
    """Whether the list has them."""

    def units(self, index: VideoIndex) -> Numbers:
        """What is never divided: the group of each video, or the video, [n]."""
        groups = groups_of(index)
        return np.arange(len(index)) if groups is None else np.unique(groups, return_inverse=True)[1].astype(np.int64)

    def folds(self, index: VideoIndex, seed: int) -> Numbers:
        """Fold of each video, from 0, [n].

        Raises:
            DataError: they cannot be made, or a class lies in a single one.
        """
        if self.given:
            folds = np.unique([str(record.fold) for record in index.records], return_inverse=True)[1]
        else:
            folds = folds_for(index.labels, self.units(index), self.count, seed) - 1
        labels = np.array(index.labels)
        for number in np.unique(labels):
            if len(found := np.unique(folds[labels == number])) == 1:
                name = (index.classes or ())[number]
                raise DataError(
                    f"{index.source}: all videos of {name} are in fold {found[0] + 1}, which leaves none to train on when it is "
                    "tested: add videos, or leave the class out with --exclude or --min-videos"
                )
        return np.asarray(folds, dtype=np.int64)

    def validation(self, index: VideoIndex, rows: Numbers, share: float, seed: int) -> tuple[Numbers, Numbers]:
        """Training rows, divided: those to train on, and those to choose with."""
        strata = [index.labels[i] for i in rows]
        found = np.array(divide(strata, self.units(index)[rows], {"val": share}, seed))
        return rows[found == "train"], rows[found == "val"]


def read_pool(config: ProbeConfig) -> Pool | None:
    """The videos of a cross-validation; None if none is asked for and the list has no folds.

    Raises:
        ConfigError: folds and those of the list differ, or seeds are given without folds.
        DataError: the videos or their labels do not allow it.
    """
    if not config.source:
        return None
    source = read_labeled(config.source, config.label, config.group)
    splits = {"train": source.without("test")}
    if config.test_source is not None:
        splits["test"] = read_labeled(config.test_source, config.label, config.group)
    elif len(source.select("test")):
        splits["test"] = source.select("test")
    given = {record.fold for record in splits["train"].records}
    has_folds = None not in given and len(given) > 1
    if config.folds is None and not (has_folds and not any(record.split for record in source.records)):
        if config.seeds > 1:
            raise ConfigError("seeds repeat a cross-validation: give folds, too")
        return None
    if has_folds and config.folds not in (None, len(given)):
        raise ConfigError(f"{source.source}: has {len(given)} folds, not {config.folds}: leave out --folds to use them")
    splits = same_classes(without_classes(splits, config))
    check_splits(splits)
    videos = splits["train"]
    if len(videos.classes or ()) < 2:
        raise DataError(f"{videos.source}: all videos are of one class: a classifier needs at least two")
    count = len({record.fold for record in videos.records}) if has_folds else int(config.folds or 0)
    units = "" if config.group is None else f", groups by {config.group}"
    log.info("%d folds%s of %d videos%s", count, " of the list" if has_folds else "", len(videos), units)
    return Pool(replace(videos, records=videos.records), splits.get("test"), count, has_folds)
