"""Which labelled videos classifiers are evaluated on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from openvjepa.config import ProbeConfig, Split
from openvjepa.data.index import VideoIndex, read_index
from openvjepa.data.splits import read_splits
from openvjepa.errors import ConfigError, DataError
from openvjepa.inference.ensemble import Member


def videos_for(runs: Sequence[str], data: str, *, label: str | None, split: Split) -> tuple[VideoIndex, int]:
    """The labelled videos to look at, and how many are left out since a run has seen them.

    Args:
        runs: what is evaluated.
        data: folder, list or CSV file.
        label: column of a CSV.
        split: auto: those that are marked as test, or else all but those that a run was trained on or chosen with.

    Raises:
        DataError: they cannot be read, have no labels, or none is left.
    """
    index = read_index(data, label=label)
    if index.classes is None:
        raise DataError(
            f"{index.source}: the videos have no labels: an evaluation needs class folders, a list of `path label` lines, or "
            "a CSV with a label column (of several, choose one with --label)"
        )
    bare = [record.path for record in index.records if record.label is None]
    if bare:
        raise DataError(f"{index.source}: {len(bare)} of {len(index)} videos have no label, such as {bare[0]}")
    if split in ("train", "val", "test"):
        index, left_out = index.select(split), 0
    elif split == "auto" and len(index.select("test")):
        index, left_out = index.select("test"), 0
    elif split == "auto":
        seen = {path for run in runs for path in _seen(run)}
        fresh = tuple(record for record in index.records if os.path.abspath(record.path) not in seen)
        left_out = len(index) - len(fresh)
        index = replace(index, records=fresh)
    else:
        left_out = 0
    if not len(index):
        what = f"no videos in the split {split}" if not left_out else "the runs were trained on all of these videos"
        raise DataError(f"{index.source}: {what}: --split all takes every video")
    return index, left_out


def _seen(run: str) -> set[str]:
    """Absolute paths of the videos that a run was trained on or chosen with, as far as it can be known."""
    try:
        settings = yaml.safe_load((Path(run) / "config.yaml").read_text(encoding="utf-8"))
        names = ("source", "val_source", "test_source", "label", "val_share", "test_share", "seed")
        splits = read_splits(ProbeConfig(**{name: settings[name] for name in names}))
    except (
        OSError,
        yaml.YAMLError,
        KeyError,
        TypeError,
        DataError,
        ConfigError,
    ):  # not a run of ours, or its videos are gone
        return set()
    return {os.path.abspath(record.path) for name in ("train", "val") for record in splits[name].records}


def check_labels(index: VideoIndex, member: Member) -> None:
    """Every class that the videos have is one of the classifier's.

    Raises:
        DataError: lists those that are not.
    """
    names, known = index.classes or (), member.classifier.classes
    unknown = sorted({names[label] for label in index.labels} - set(known))
    if unknown:
        raise DataError(
            f"{index.source}: {member.name} does not know {len(unknown)} of its classes ({_some(unknown)}): it knows "
            f"{len(known)} ({_some(known)}); classes are matched by their names"
        )


def _some(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
