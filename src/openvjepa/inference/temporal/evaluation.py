"""Classifiers on long videos whose parts are labeled: their segments against the labeled ones."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from openvjepa.config import Combine
from openvjepa.config.verbs.temporal import TemporalConfig
from openvjepa.data.lists.index import VideoIndex, VideoRecord
from openvjepa.data.media.images import is_image
from openvjepa.errors import DataError, VideoError
from openvjepa.inference.ensemble import Member, label_sets
from openvjepa.inference.evaluation import short_names
from openvjepa.inference.labeled import Chosen
from openvjepa.inference.temporal.scores import Agreement, Piece, TemporalMetrics, agreement, temporal_metrics
from openvjepa.inference.temporal.segments import refined
from openvjepa.inference.timeline import Timeline
from openvjepa.inference.windows import follow_each
from openvjepa.train.distributed import Runtime

_log = logging.getLogger("openvjepa")


@dataclass(frozen=True)
class Followed:
    """One video: its labeled segments and the answers of each classifier, times in s of the file."""

    path: str
    truth: tuple[Piece, ...]
    """Classes are numbers of the result's."""
    timelines: tuple[Timeline, ...]
    """Of each classifier, and last of all together."""
    group: str | None


@dataclass(frozen=True)
class TemporalResult:
    """What `vjepa evaluate --window` found; results.json holds the same."""

    out: Path
    source: str
    classes: tuple[str, ...]
    metrics: dict[str, TemporalMetrics]
    """Of each classifier, and last, where there are several, of all together."""
    videos: tuple[Followed, ...]
    skipped: dict[str, str]
    """Files that are unreadable, or end before one of their labeled segments: path -> reason."""
    left_out: int
    """Segments that a run was trained on or chosen with, which are not evaluated."""
    seen: int = 0
    """Segments that a run was trained on or chosen with, which are evaluated, as they were asked for by split."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Runs that do not say which videos they were trained on -> why; their metrics may be too high."""

    @property
    def seconds(self) -> float:
        """Labeled time, s."""
        return sum(end - start for video in self.videos for start, end, _ in video.truth)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "source": self.source,
            "classes": self.classes,
            "videos": len(self.videos),
            "labeled_seconds": round(self.seconds, 3),
            "skipped": self.skipped,
            "left_out": self.left_out,
            "seen": self.seen,
            "training_videos_unknown": self.unknown,
            "results": [{"name": name, **metrics.to_dict()} for name, metrics in self.metrics.items()],
        }


def evaluate_over_time(
    out: Path,
    members: Sequence[Member],
    chosen: Chosen,
    config: TemporalConfig,
    runtime: Runtime,
    *,
    combine: Combine = "mean",
    background: str | None = None,
) -> TemporalResult:
    """Follow every video of a list from its first to its last labeled segment, and compare segments.

    Args:
        out: folder of the results.
        members: on the device; all know the same classes.
        chosen: the labeled segments.
        config: windows, smoothing, minimum length.
        runtime: how to compute.
        combine: how several classifiers are combined.
        background: class of the time without a label, which is then looked at from the first to the last frame; None: it does
            not count.

    Raises:
        DataError: labeled segments overlap, an image is among them, or nothing can be read.
    """
    if len(label_sets(members)) > 1:
        raise DataError("with --window, all classifiers must know the same classes: evaluate them one at a time")
    classes = members[0].classifier.classes
    if background is not None and background not in classes:
        raise DataError(f"background {background!r} is not a class of {members[0].name}: {', '.join(classes[:10])}")
    videos: list[Followed] = []
    skipped: dict[str, str] = {}
    for path, records in _by_file(chosen.index).items():
        try:
            videos.append(_follow(path, records, chosen.index, members, config, runtime, combine, background))
        except VideoError as error:
            skipped[path] = error.reason
    if not videos:
        raise DataError(f"{chosen.index.source}: no video can be read, for example {next(iter(skipped.items()))}")
    names = short_names([member.name for member in members])
    names = [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]
    names += [f"all {len(members)} ({'mean softmax' if combine == 'mean' else 'vote'})"] if len(members) > 1 else []
    groups = [video.group for video in videos]
    known = None if any(group is None for group in groups) else [str(group) for group in groups]
    metrics = {
        name: temporal_metrics([_agreement(video, number) for video in videos], classes, known)
        for number, name in enumerate(names)
    }
    left = (chosen.left_out, chosen.seen, chosen.unknown)
    return TemporalResult(out, chosen.index.source, classes, metrics, tuple(videos), skipped, *left)


def pieces_of(timeline: Timeline) -> list[Piece]:
    """The segments of a timeline, s of the file; time that cannot be read has none."""
    offset = timeline.offset
    return [(offset + s.start, offset + s.end, s.label) for s in timeline.scenes() if s.label is not None]


def _agreement(video: Followed, number: int) -> Agreement:
    return agreement(pieces_of(video.timelines[number]), video.truth)


def _by_file(index: VideoIndex) -> dict[str, list[VideoRecord]]:
    files: dict[str, list[VideoRecord]] = {}
    for record in index.records:
        if is_image(record.path):
            raise DataError(f"{record.path}: is an image: --window needs videos")
        files.setdefault(record.path, []).append(record)
    return files


def _follow(
    path: str,
    records: Sequence[VideoRecord],
    index: VideoIndex,
    members: Sequence[Member],
    config: TemporalConfig,
    runtime: Runtime,
    combine: Combine,
    background: str | None,
) -> Followed:
    assert config.window is not None
    classes, names = members[0].classifier.classes, index.classes or ()
    length = VideoRecord(path).open().duration
    truth: list[Piece] = []
    for record in records:
        start, end = record.start or 0.0, length if record.end is None else min(record.end, length)
        if start >= end:
            raise VideoError(path, f"a labeled segment starts at {start:g} s, and the video lasts {length:g} s")
        truth.append((start, end, classes.index(names[record.label or 0])))
    truth.sort()
    for (_, end, _), (start, _, _) in itertools.pairwise(truth):
        if start < end - 1e-3:
            raise DataError(f"{path}: labeled segments overlap at {start:g} s: give each time one label")
    part = VideoRecord(path, start=truth[0][0] or None, end=truth[-1][1])
    if background is not None:
        truth, part = _filled(truth, length, classes.index(background)), VideoRecord(path)
    stride = config.stride or config.window / 2
    timelines = follow_each(members, part, config.window, stride, runtime, combine)[: len(members) + (len(members) > 1)]
    lines = tuple(refined(line, smooth=config.smooth, min_length=config.min_length) for line in timelines)
    in_order = tuple(_in_order(line, classes) for line in lines)
    return Followed(path, tuple(truth), in_order, records[0].group)


def _filled(truth: Sequence[Piece], length: float, label: int) -> list[Piece]:
    """Segments with those of the background between them."""
    filled: list[Piece] = []
    time = 0.0
    for piece in truth:
        if piece[0] > time + 1e-3:
            filled.append((time, piece[0], label))
        filled.append(piece)
        time = piece[1]
    return filled + ([(time, length, label)] if length > time + 1e-3 else [])


def _in_order(line: Timeline, classes: tuple[str, ...]) -> Timeline:
    """The same with its classes in another order."""
    if line.classes == classes:
        return line
    places = [line.classes.index(name) for name in classes]
    number = {place: i for i, place in enumerate(places)}
    picked = None if line.chosen is None else tuple(None if i is None else number[i] for i in line.chosen)
    return replace(line, classes=classes, probabilities=line.probabilities[:, places], chosen=picked)
