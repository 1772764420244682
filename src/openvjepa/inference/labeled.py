"""Which labeled videos classifiers are evaluated on."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from openvjepa.config import ClassesConfig, Split, SplitConfig
from openvjepa.data.lists.index import VideoIndex, read_index
from openvjepa.data.lists.seen import SPLITS_FILE, Seen, content_key, read_seen, span_of
from openvjepa.data.lists.splits import read_splits
from openvjepa.data.splitting.classes import without_classes
from openvjepa.errors import CheckpointError, ConfigError, DataError
from openvjepa.inference.ensemble import Member
from openvjepa.weights.files import read_settings

log = logging.getLogger("openvjepa")


@dataclass(frozen=True)
class Chosen:
    """The videos to evaluate on, and what is known about them."""

    index: VideoIndex
    left_out: int
    """Videos that are not evaluated, since a run was trained on them or chosen with them."""
    seen: int
    """Videos that are evaluated although a run was trained on them or chosen with them: the split was asked for by name."""
    unknown: dict[str, str]
    """Runs that do not say which videos they were trained on -> why."""


def videos_for(
    runs: Sequence[str],
    data: str,
    *,
    label: str | None,
    split: Split,
    group: str | None = None,
    classes: ClassesConfig | None = None,
) -> Chosen:
    """The labeled videos to look at.

    Args:
        runs: what is evaluated.
        data: folder, list or CSV file.
        label: column of a CSV.
        group: column of people, cameras or sources.
        classes: those that are left out.
        split: auto: those that are marked as test, or else all; less those that a run was trained on or chosen with.

    Raises:
        DataError: they cannot be read, have no labels, or none is left.
    """
    index = read_index(data, label=label, group=group)
    if index.classes is None:
        raise DataError(
            f"{index.source}: the videos have no labels: an evaluation needs class folders, a list of `path label` lines, or "
            "a CSV with a label column (of several, choose one with --label)"
        )
    bare = [record.path for record in index.records if record.label is None]
    if bare:
        raise DataError(f"{index.source}: {len(bare)} of {len(index)} videos have no label, such as {bare[0]}")
    if classes is not None:
        index = without_classes({"all": index}, classes)["all"]
    if split in ("train", "val", "test"):
        index = index.select(split)
    elif split == "auto" and len(index.select("test")):
        index = index.select("test")
    if not len(index):
        raise DataError(f"{index.source}: no videos in the split {split}: use --split all to evaluate on all videos")
    known, unknown = seen_by(runs)
    fresh = tuple(record for record in index.records if record not in known)
    count = len(index) - len(fresh)
    if split == "auto":
        index = replace(index, records=fresh)
    if not len(index):
        raise DataError(
            f"{index.source}: the runs were trained on all of these videos: use --split all to evaluate on all videos"
        )
    chosen = Chosen(index, *((count, 0) if split == "auto" else (0, count)), unknown)
    _warn(chosen)
    return chosen


def _warn(chosen: Chosen) -> None:
    for run, reason in chosen.unknown.items():
        log.warning(
            "%s: it is not known which videos it was trained on (%s): if some of the %d evaluated videos are among them, "
            "the accuracy is too high",
            run,
            reason,
            len(chosen.index),
        )
    if chosen.seen:
        log.warning(
            "%d of the %d evaluated videos are training or validation videos of a classifier: the accuracy is overestimated",
            chosen.seen,
            len(chosen.index),
        )


def seen_by(runs: Sequence[str]) -> tuple[Seen, dict[str, str]]:
    """The videos that runs were trained on or chosen with, and the runs for which this is not known, with the reason."""
    known, unknown = Seen(), dict[str, str]()
    for run in runs:
        try:
            known.add_all(_seen(Path(run)))
        except DataError as error:
            unknown[run] = str(error)
    return known, unknown


def _seen(run: Path) -> Seen:
    """As the run's splits.csv lists them; of a run of an older version, worked out from its settings.

    Raises:
        DataError: it is not known.
    """
    if (run / SPLITS_FILE).exists():
        return read_seen(run / SPLITS_FILE)
    settings = _settings(run)
    names = [item.name for item in fields(SplitConfig)]
    where = _started_in(run, settings)
    for name in ("source", "val_source", "test_source"):
        if settings.get(name) is not None:
            settings[name] = str(where / str(settings[name]))
    try:
        splits = read_splits(SplitConfig(**{name: settings[name] for name in names if name in settings}))
    except (DataError, ConfigError, TypeError) as error:
        raise DataError(f"no {SPLITS_FILE}, and its videos cannot be listed again: {error}") from None
    counts = {name: len(index) for name, index in splits.items()}
    stored = _stored_counts(run)
    if any(stored.get(name, 0) > count for name, count in counts.items()) or sum(stored.values()) < 0.9 * sum(
        counts.values()
    ):
        raise DataError(f"no {SPLITS_FILE}, and {settings['source']} no longer holds the videos of the run")
    seen = Seen()
    for name in ("train", "val"):
        for record in splits[name].records:
            seen.add(os.path.abspath(record.path), content_key(record.path), span_of(record))
    return seen


def _settings(run: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(read_settings(run / "config.yaml"))
    except (CheckpointError, yaml.YAMLError, RecursionError) as error:
        reason = str(error) if isinstance(error, CheckpointError) else type(error).__name__
        raise DataError(f"no {SPLITS_FILE}, and its config.yaml cannot be read: {reason}") from None
    if not isinstance(settings, dict) or not settings.get("source"):
        raise DataError(f"no {SPLITS_FILE}, and its config.yaml names no labeled videos")
    return settings


def _started_in(run: Path, settings: Mapping[str, Any]) -> Path:
    """The folder that a run was started in, from which its relative paths count.

    Raises:
        DataError: it does not follow from the run's own path.
    """
    given = [settings.get(name) for name in ("source", "val_source", "test_source")]
    if all(name is None or os.path.isabs(str(name)) for name in given):
        return Path()
    out, place = Path(str(settings.get("out", ""))), run.resolve()
    parts = [part for part in out.parts if part != "."]
    if not out.is_absolute() and parts and ".." not in parts and place.parts[-len(parts) :] == tuple(parts):
        return place.parents[len(parts) - 1]
    raise DataError(
        f"no {SPLITS_FILE}, and {settings['source']} counts from a folder that is not known: evaluate with --split"
    )


def _stored_counts(run: Path) -> dict[str, int]:
    """Videos in each split, as results.json has them."""
    try:
        stored = json.loads(read_settings(run / "results.json"))["videos"]
        return {str(name): int(count) for name, count in stored.items()}
    except (CheckpointError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"no {SPLITS_FILE}, and its results.json cannot be read ({type(error).__name__})") from None


def check_labels(index: VideoIndex, member: Member) -> None:
    """Every class that the videos have is one of the classifier's.

    Raises:
        DataError: lists those that are not.
    """
    names, known = index.classes or (), member.classifier.classes
    unknown = sorted({names[label] for label in index.labels} - set(known))
    if unknown:
        raise DataError(
            f"{index.source}: {member.name} lacks {len(unknown)} of its classes ({_some(unknown)}): it knows "
            f"{len(known)} ({_some(known)}); classes are matched by name"
        )


def _some(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
