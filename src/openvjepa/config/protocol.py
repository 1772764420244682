"""The clip that a model was made for: what frames must be before they go into its encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from openvjepa.config.clips import Fit
from openvjepa.config.pretraining.model import ModelConfig
from openvjepa.config.ranges import Config, Count, FrameRate, Pixels, Range
from openvjepa.config.yaml import to_mapping
from openvjepa.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EVAL_MARGIN = 256 / 224
"""Short side of a resized frame over the side of its crop, in evaluation."""
FRAME_STEP = 4
"""Frames from one of a clip to the next, of the published models' evaluation."""

Channels: TypeAlias = Annotated[tuple[float, float, float], Range(-1000, 1000)]
Deviations: TypeAlias = Annotated[tuple[float, float, float], Range(1e-6, 1000)]


@dataclass(frozen=True, kw_only=True)
class ClipProtocol(Config):
    """Frames, frame rate, size and preprocessing of a model's clips."""

    num_frames: Pixels
    """Frames of a clip."""
    size: tuple[Pixels, Pixels]
    """(height, width) of a clip, px."""
    frame_step: Count | None = FRAME_STEP
    """Every n-th frame of the video; or `fps`."""
    fps: FrameRate | None = None
    """Frames per second of a clip, by time; or `frame_step`."""
    mean: Channels = IMAGENET_MEAN
    """Mean of red, green and blue, of pixels from 0 to 1, which is subtracted."""
    std: Deviations = IMAGENET_STD
    """Standard deviation of red, green and blue, by which they are divided."""
    antialias: bool = True
    """Whether frames are made smaller with antialiasing (Hugging Face) or by plain bilinear interpolation (Meta)."""
    margin: Annotated[float, Range(1, 4)] = EVAL_MARGIN
    """Short side of a resized frame over the side of the center crop."""
    fit: Fit = "auto"
    """How frames of another shape are brought to the size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.frame_step is None) == (self.fps is None):
            raise ConfigError("give exactly one of frame_step and fps for a model's clips (the other is null)")

    @classmethod
    def of(
        cls,
        model: ModelConfig,
        *,
        frame_step: int | None = None,
        fps: float | None = None,
        antialias: bool = True,
        fit: Fit = "auto",
    ) -> ClipProtocol:
        """The clip of a model, with its own number and size of frames; without a rate that of the published models."""
        step = FRAME_STEP if frame_step is None and fps is None else frame_step
        return cls(
            num_frames=model.num_frames, size=model.image_hw, frame_step=step, fps=fps, antialias=antialias, fit=fit
        )

    @property
    def is_published(self) -> bool:
        """Whether frames are normalized and cropped as for every published model."""
        return (self.mean, self.std, self.margin) == (IMAGENET_MEAN, IMAGENET_STD, EVAL_MARGIN)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for model.yaml, without the number and size of frames, which its model settings hold."""
        values = to_mapping(self)
        return {name: value for name, value in values.items() if name not in ("num_frames", "size")}

    def __str__(self) -> str:
        """Such as "16 x 224 x 224 px, every 4th frame"."""
        every = f"{self.fps:g} frames/s" if self.fps is not None else f"every {_ordinal(self.frame_step or 1)}frame"
        return f"{self.num_frames} x {self.size[0]} x {self.size[1]} px, {every}"


def _ordinal(number: int) -> str:
    """1 -> "", 2 -> "2nd ", 3 -> "3rd ", 4 -> "4th "."""
    if number == 1:
        return ""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix} "
