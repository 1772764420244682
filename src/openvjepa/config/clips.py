"""Where clips lie in a video, and how frames are brought to the size of a model; protocols of both by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Placement = Literal["centers", "ends"]
"""centers: clips in the middle of equal parts of the video. ends: spread from its first to its last."""
Fit = Literal["auto", "crop", "squeeze", "pad", "three"]
"""crop: center of the resized frame. squeeze: the whole frame, resized to the model's shape. pad: the whole frame with bars.
three: three crops along the longer side. auto: crop where that keeps at least four fifths of the frame, else squeeze."""


@dataclass(frozen=True)
class EvalProtocol:
    """What of a video a model is shown at evaluation, besides the number of clips and their rate."""

    placement: Placement
    fit: Fit


PROTOCOLS = {
    "own": EvalProtocol("centers", "auto"),
    # Meta's evaluation of V-JEPA 1 and 2: segments from the first frame to the last, center crop (or crops along a side).
    "published": EvalProtocol("ends", "crop"),
}
