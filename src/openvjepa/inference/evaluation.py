"""Metrics of classifiers on labeled videos, each alone and all together, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from openvjepa.config import Combine
from openvjepa.data.lists.index import VideoIndex
from openvjepa.errors import DataError
from openvjepa.inference.ensemble import Answers, Member, Probabilities, combined, label_sets, passes
from openvjepa.inference.labeled import Chosen
from openvjepa.metrics import Difference, Labels, Metrics, classification_metrics, difference, groups_of


@dataclass(frozen=True)
class Evaluation:
    """How one classifier, or all together, did, and at what cost."""

    name: str
    metrics: Metrics
    probabilities: Probabilities
    """[n, C] of the videos that could be read."""
    passes: int
    """Clips of a video that go through an encoder (segments x views); of several runs those of all encoder passes."""
    seconds_per_video: float
    """Wall time, reading included."""
    distances: Probabilities | None = None
    """To the training videos [n], above 1 unlike them; None where the classifier does not know."""

    @property
    def unlike(self) -> int | None:
        """Videos that are unlike the training videos; None where the classifier does not know."""
        return None if self.distances is None else int((self.distances > 1).sum())

    @property
    def seconds_per_clip(self) -> float:
        """Wall time, reading included."""
        return self.seconds_per_video / self.passes


@dataclass(frozen=True)
class EvaluateResult:
    """Result of `vjepa evaluate`, also saved as results.json."""

    out: Path
    classes: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    """Of each run, and last, where there are several with the same classes, of all together."""
    index: VideoIndex
    """The videos that could be read; labels are numbers of `classes`."""
    skipped: dict[str, str]
    """Unreadable files: path -> reason."""
    left_out: int
    """Videos that a run was trained on or chosen with, which are not evaluated."""
    seen: int = 0
    """Videos that a run was trained on or chosen with, which are evaluated, as they were asked for by split."""
    unknown: dict[str, str] = field(default_factory=dict[str, str])
    """Runs that do not say which videos they were trained on -> why; their accuracy may be too high."""

    @property
    def labels(self) -> Labels:
        """Class numbers [n]."""
        return np.array(self.index.labels, dtype=np.int64)

    @property
    def differences(self) -> dict[tuple[str, str], Difference]:
        """(classifier, another that stands after it) -> how much more accurate the first is on the same videos."""
        rights = [(v.name, v.probabilities.argmax(1) == self.labels) for v in self.evaluations]
        groups = groups_of(self.index)
        return {(a, b): difference(x, y, groups) for (a, x), (b, y) in combinations(rights, 2)}

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "source": self.index.source,
            "classes": self.classes,
            "videos": len(self.index),
            "skipped": self.skipped,
            "differences": [
                {"of": ours, "over": theirs, **asdict(lead)} for (ours, theirs), lead in self.differences.items()
            ],
            "left_out": self.left_out,
            "seen": self.seen,
            "training_videos_unknown": self.unknown,
            "results": [
                {
                    "name": evaluation.name,
                    **evaluation.metrics.to_dict(),
                    "passes_per_video": evaluation.passes,
                    "seconds_per_video": evaluation.seconds_per_video,
                    "seconds_per_clip": evaluation.seconds_per_clip,
                    "unlike_training": evaluation.unlike,
                }
                for evaluation in self.evaluations
            ],
        }


def evaluation_result(
    out: Path, members: Sequence[Member], chosen: Chosen, said: Answers, combine: Combine
) -> EvaluateResult:
    """Score each run, in the order of the first one's classes where they are the same, and all together."""
    kept, index = said.kept, chosen.index
    skipped = {index.records[place].name: reason for place, reason in said.skipped.items()}
    if not kept:
        path, reason = next(iter(skipped.items()))
        raise DataError(f"{index.source}: none of {len(index)} videos can be read, for example {path}: {reason}")
    classes = members[0].classifier.classes
    if len(label_sets(members)) > 1:  # of supersets of the videos' classes, every run keeps its own
        classes = tuple(dict.fromkeys(name for member in members for name in member.classifier.classes))
    number = {name: i for i, name in enumerate(classes)}
    names = index.classes or ()
    records = tuple(replace(index.records[i], label=number[names[index.labels[i]]]) for i in kept)
    read = replace(index, records=records, classes=classes)
    labels = np.array(read.labels, dtype=np.int64)
    evaluations: list[Evaluation] = []
    short = short_names([member.name for member in members])
    parts = zip(short, members, said.probabilities, said.seconds, said.distances, strict=True)
    for name, member, found, seconds, far in parts:
        shares = _widen(found[kept], member.classifier.classes, classes)
        metrics, plan = classification_metrics(shares, labels, classes, groups_of(read)), member.classifier.plan
        distances = None if far is None else far[kept]
        evaluations.append(Evaluation(name, metrics, shares, plan.clips, seconds / len(index), distances))
    if len(members) > 1 and len(label_sets(members)) == 1:
        ((_, _, together),) = combined(members, said.probabilities, combine)
        evaluations.append(_all(members, together[kept], read, said, combine))
    known = (chosen.left_out, chosen.seen, chosen.unknown)
    return EvaluateResult(out, classes, tuple(evaluations), read, skipped, *known)


def short_names(names: Sequence[str]) -> list[str]:
    """The last part of each path where these differ, else the whole."""
    last = [Path(name).name for name in names]
    return last if len(set(last)) == len(last) else list(names)


def _widen(probabilities: Probabilities, have: Sequence[str], want: Sequence[str]) -> Probabilities:
    """Columns [n, C] of the classes `have` in the order of `want`; 0 for classes that are not among them."""
    wide = np.zeros((len(probabilities), len(want)))
    wide[:, [want.index(name) for name in have]] = probabilities
    return wide


def _all(members: Sequence[Member], shares: Probabilities, read: VideoIndex, said: Answers, how: Combine) -> Evaluation:
    """All runs together: the cost is that of the passes that they need."""
    firsts = [group[0] for group in passes(members)]
    clips = sum(members[i].classifier.plan.clips for i in firsts)
    seconds = sum(said.seconds[i] for i in firsts) / len(said.probabilities[0])
    name = f"all {len(members)} ({'mean softmax' if how == 'mean' else 'vote'})"
    labels = np.array(read.labels, dtype=np.int64)
    metrics = classification_metrics(shares, labels, members[0].classifier.classes, groups_of(read))
    return Evaluation(name, metrics, shares, clips, seconds)
