"""Classes that are left out: by name, or for lack of videos."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from openvjepa.config import ClassesConfig
from openvjepa.data.lists.records import VideoIndex
from openvjepa.errors import DataError

log = logging.getLogger("openvjepa")


def without_classes(splits: Mapping[str, VideoIndex], config: ClassesConfig) -> dict[str, VideoIndex]:
    """Labeled videos without those of classes that are excluded, or have fewer than `min_videos` in all splits together.

    What is left out is counted and logged. The numbers of the classes stay the same.

    Raises:
        DataError: no class has an excluded name, or nothing is left.
    """
    counts = Counter(_class(index, label) for index in splits.values() for label in index.labels)
    known = {name for index in splits.values() for name in index.classes or ()}
    if unknown := sorted(set(config.exclude) - known):
        source = next(iter(splits.values())).source
        raise DataError(f"{source}: no class {unknown[0]!r} to exclude: its classes are {', '.join(sorted(known))}")
    rare = [name for name, count in counts.items() if count < config.min_videos and name not in config.exclude]
    gone = {*config.exclude, *rare}
    if not gone:
        return dict(splits)
    if config.exclude:
        log.info("excluded: %s, %d videos", ", ".join(config.exclude), sum(counts[name] for name in config.exclude))
    if rare:
        shown = ", ".join(f"{name} ({counts[name]})" for name in sorted(rare)[:10])
        more = f" and {len(rare) - 10} more" if len(rare) > 10 else ""
        log.info(
            "left out: %d classes with fewer than %d videos, %d videos in all: %s%s",
            len(rare),
            config.min_videos,
            sum(counts[name] for name in rare),
            shown,
            more,
        )
    kept = {name: _without(index, gone) for name, index in splits.items()}
    if not any(len(index) for index in kept.values()):
        raise DataError(f"{next(iter(splits.values())).source}: no class is left: exclude fewer, or lower --min-videos")
    return kept


def _without(index: VideoIndex, gone: set[str]) -> VideoIndex:
    records = tuple(r for r, label in zip(index.records, index.labels, strict=True) if _class(index, label) not in gone)
    return replace(index, records=records)


def _class(index: VideoIndex, label: int) -> str:
    return "" if label < 0 else (index.classes or ())[label]
