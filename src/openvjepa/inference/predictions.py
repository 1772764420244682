"""Predictions of classifiers: types, and the most probable classes of probabilities.

n videos, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvjepa.inference.timeline import Timeline

Top = tuple[tuple[str, float], ...]
"""(class, probability), likeliest first."""


@dataclass(frozen=True)
class Answer:
    """What the runs that know one set of classes say together."""

    runs: tuple[str, ...]
    top: Top


@dataclass(frozen=True)
class Prediction:
    """Predictions of the classifiers for one video."""

    path: str
    answers: tuple[Answer, ...]
    """One for each set of classes; empty if the video could not be read."""
    error: str | None = None
    """Why it could not be read."""
    timeline: Timeline | None = field(default=None, compare=False, repr=False)
    """Of a video that was followed over time: the answer of each window (`answers` are their mean)."""
    distance: float | None = None
    """To the training videos, over what 95 % of these have to one another; None where the classifiers do not know."""

    @property
    def is_unlike(self) -> bool:
        """Whether the video is unlike the training videos, so that the answer is a guess."""
        return self.distance is not None and self.distance > 1

    @property
    def top(self) -> Top:
        """The first answer, where there is one."""
        return self.answers[0].top if self.answers else ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `answers` where there are several sets of classes, `windows` and `segments` where a video was followed over
        time (s of the file)."""
        values: dict[str, Any] = {"path": self.path, "top": top_dict(self.top), "error": self.error}
        if self.distance is not None:
            values |= {"distance": self.distance, "unlike_training": self.is_unlike}
        if len(self.answers) > 1:
            values["answers"] = [{"runs": answer.runs, "top": top_dict(answer.top)} for answer in self.answers]
        if self.timeline is not None:
            values["windows"] = list(_windows(self.timeline, len(self.top)))
            values["segments"] = list(_segments(self.timeline))
        return values


def _windows(timeline: Timeline, top: int) -> Iterator[dict[str, Any]]:
    """For JSON."""
    for number, ((start, end), row) in enumerate(zip(timeline.spans, timeline.probabilities, strict=True)):
        error = timeline.skipped.get(number)
        best = () if error else best_of(row, timeline.classes, top)
        start, end = start + timeline.offset, end + timeline.offset
        yield {"start": start, "end": end, "top": top_dict(best), "error": error}


def _segments(timeline: Timeline) -> Iterator[dict[str, Any]]:
    """For JSON."""
    for scene in timeline.scenes():
        label = None if scene.label is None else timeline.classes[scene.label]
        start, end = scene.start + timeline.offset, scene.end + timeline.offset
        yield {"start": start, "end": end, "label": label, "probability": scene.probability}


def top_dict(top: Top) -> list[dict[str, object]]:
    """For JSON."""
    return [{"class": name, "probability": probability} for name, probability in top]


def best_of(shares: NDArray[np.float64], classes: tuple[str, ...], top: int) -> Top:
    """The likeliest classes of probabilities [C]."""
    return tuple((classes[i], float(shares[i])) for i in shares.argsort(kind="stable")[::-1][:top])
