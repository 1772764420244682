"""Several classifiers on the same videos: those with one encoder share its pass, and their answers are combined.

Shapes: K classifiers, n videos, V clips of each, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openvjepa.config import ClipConfig, Combine, to_yaml
from openvjepa.data.clips import ClipSpec
from openvjepa.data.lists.index import VideoIndex, VideoRecord
from openvjepa.data.media.images import is_image
from openvjepa.errors import ConfigError
from openvjepa.features.encode import EncodeSettings, encode_videos
from openvjepa.inference.classifier import VideoClassifier, heads_of, load_classifier
from openvjepa.inference.predictions import Answer, best_of
from openvjepa.train.distributed import Runtime
from openvjepa.weights.files import weights_digest

Probabilities = NDArray[np.float64]
AS_EVALUATED = ClipConfig()
"""Clips as in the evaluation of each classifier."""

_TIE_BREAK = (
    1e-9  # weight of the mean softmax in a vote: it decides between classes with equally many votes, and no more
)


@dataclass(frozen=True)
class Member:
    """One of the classifiers, and what its encoder's weights and settings are known by."""

    name: str
    classifier: VideoClassifier
    encoder_key: tuple[str, str]
    label: str | None = None
    """Label column, of a run with several: answers about different columns are not combined."""


@dataclass(frozen=True)
class Answers:
    """What every member says about every video that can be read."""

    probabilities: tuple[Probabilities, ...]
    """Of each member, [n, its classes]; the rows of unreadable videos are 0."""
    skipped: dict[int, str]
    """Place of an unreadable video in the index -> reason."""
    seconds: tuple[float, ...]
    """Spent on the backbone pass of each member, reading and its heads included; members of one pass name the same."""
    distances: tuple[Probabilities | None, ...]
    """Of each member, distance of each video to the training videos [n], above 1 unlike them; None where it does not know."""

    def distance(self, place: int) -> float | None:
        """The largest distance of a video to the training videos of a member; None where no member knows."""
        known = [float(part[place]) for part in self.distances if part is not None]
        return max(known) if known else None

    @property
    def kept(self) -> list[int]:
        """Places of the videos that could be read, in order."""
        return [place for place in range(len(self.probabilities[0])) if place not in self.skipped]


def load_members(
    sources: Sequence[str],
    records: Sequence[VideoRecord] = (),
    clips: ClipConfig = AS_EVALUATED,
) -> list[Member]:
    """Load classifiers; those with equal encoders hold the same one.

    Args:
        sources: a run with several labels gives a member for each. Run folders
            of `vjepa probe` or `vjepa finetune`, or what load_model reads with a probe.
        records: what will be shown, which may be images.
        clips: how videos are sampled; what is None is as in the evaluation of each (of images always one clip: all are alike).

    Raises:
        CheckpointError: one cannot be read or has no classifier.
    """
    members: list[Member] = []
    still = bool(records) and all(is_image(record.path) for record in records)
    named = [(source, str(Path(source) / head), head) for source in sources for head in heads_of(source)]
    alone = [(source, source, None) for source in sources if not heads_of(source)]
    for _, source, label in sorted([*named, *alone], key=lambda entry: sources.index(entry[0])):
        classifier = load_classifier(source, tuple(records))
        plan = classifier.plan.asked(clips)
        if still:
            plan = replace(plan, segments=1)
        if clips.frame_step is not None or clips.fps is not None:
            plan = replace(plan, spec=ClipSpec(plan.spec.num_frames, clips.frame_step, clips.fps))
        key = to_yaml(classifier.encoder.config), weights_digest(classifier.encoder)
        same = next((member.classifier.encoder for member in members if member.encoder_key == key), classifier.encoder)
        members.append(Member(source, replace(classifier, encoder=same, plan=plan), key, label))
    return members


def passes(members: Sequence[Member]) -> list[list[int]]:
    """Members (by number) that one pass of one encoder over the same clips serves."""
    groups: dict[object, list[int]] = {}
    for number, member in enumerate(members):
        groups.setdefault((member.encoder_key, member.classifier.plan), []).append(number)
    return list(groups.values())


def label_sets(members: Sequence[Member]) -> list[list[int]]:
    """Members (by number) that know the same classes of the same label, in any order."""
    groups: dict[tuple[str | None, frozenset[str]], list[int]] = {}
    for number, member in enumerate(members):
        groups.setdefault((member.label, frozenset(member.classifier.classes)), []).append(number)
    return list(groups.values())


def check_combinable(members: Sequence[Member]) -> None:
    """Fail where answers are to be combined that are about different things.

    Raises:
        ConfigError: names two members with different classes.
    """
    sets = label_sets(members)
    if len(sets) > 1:
        first, other = members[sets[0][0]], members[sets[1][0]]
        raise ConfigError(
            f"{first.name} and {other.name} have different classes ({_some(first.classifier.classes)}; "
            f"{_some(other.classifier.classes)}): only classifiers with the same classes can be combined: leave out --combine to "
            "see the answer of each"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def to_device(members: Sequence[Member], runtime: Runtime) -> None:
    """Move encoders and heads to where they compute."""
    for member in members:
        member.classifier.encoder.to(runtime.device)
        member.classifier.probe.to(runtime.device)


def ask(members: Sequence[Member], index: VideoIndex, settings: EncodeSettings, *, name: str = "videos") -> Answers:
    """Show every video to every member; those with one encoder and the same clips share one backbone pass.

    Args:
        members: of `load_members`, on the device.
        index: the videos; their labels do not matter.
        settings: how to encode.
        name: what to call the videos on the progress line.
    """
    probabilities = [np.zeros((len(index), len(member.classifier.classes))) for member in members]
    seconds, skipped = [0.0] * len(members), dict[int, str]()
    distances = [np.full(len(index), np.nan) for _ in members]
    for group in passes(members):
        started = time.monotonic()
        first = members[group[0]].classifier
        for place, features in encode_videos(first.encoder, index, first.plan, settings, name=name):
            if isinstance(features, str):
                skipped[place] = features
                continue
            for number in group:
                probabilities[number][place] = members[number].classifier.probabilities(features)
                if (distance := members[number].classifier.unlikeness(features)) is not None:
                    distances[number][place] = distance
        for number in group:
            seconds[number] = time.monotonic() - started
    known = [
        None if member.classifier.novelty is None else part for member, part in zip(members, distances, strict=True)
    ]
    return Answers(tuple(probabilities), skipped, tuple(seconds), tuple(known))


def combined(
    members: Sequence[Member], probabilities: Sequence[Probabilities], how: Combine
) -> Iterator[tuple[list[int], tuple[str, ...], Probabilities]]:
    """The answer of each label set: (its members, its classes in the order of the first, probabilities [n, C])."""
    for group in label_sets(members):
        classes = members[group[0]].classifier.classes
        alike = [in_order(probabilities[i], members[i].classifier.classes, classes) for i in group]
        yield group, classes, combine(np.stack(alike), how)


def answers_of(
    members: Sequence[Member], probabilities: Sequence[Probabilities], how: Combine, top: int
) -> list[tuple[Answer, ...]]:
    """Of each video, the answer of each label set; probabilities [n, C] of each member."""
    sets: list[list[Answer]] = []
    for group, classes, shares in combined(members, probabilities, how):
        names = tuple(members[i].name for i in group)
        sets.append([Answer(names, best_of(row, classes, top)) for row in shares])
    return list(zip(*sets, strict=True))


def in_order(probabilities: Probabilities, have: Sequence[str], want: Sequence[str]) -> Probabilities:
    """Columns [n, C] of the classes `have` in the order of `want`."""
    return probabilities[:, [have.index(name) for name in want]]


def combine(probabilities: Probabilities, how: Combine) -> Probabilities:
    """Answers of K classifiers [K, n, C] as one [n, C]: their mean, or the share of them whose first choice a class is.

    Where classes have equally many votes, the mean softmax decides which comes first; their shares stay equal to 9 digits.
    """
    mean = probabilities.mean(0)
    if how == "mean" or len(probabilities) == 1:
        return mean
    votes = np.eye(probabilities.shape[2])[probabilities.argmax(2)].mean(0)
    return votes + _TIE_BREAK * (mean - votes)
