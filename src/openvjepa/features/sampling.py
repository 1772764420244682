"""Which clips of videos and images a model is shown, and how they are cut."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from openvjepa.data.clips import ClipSpec
from openvjepa.data.images import is_image
from openvjepa.data.index import VideoRecord
from openvjepa.weights.hub import LoadedModel

FRAME_STEP = 4  # of the published models


@dataclass(frozen=True)
class ClipPlan:
    """Which clips of a video are encoded: `segments` x `views` plain ones, then `random` ones with random crops."""

    spec: ClipSpec
    size: tuple[int, int]
    segments: int = 1
    views: int = 1
    random: int = 0
    crop_scale: tuple[float, float] = (0.5, 1.0)
    seed: int = 0
    antialias: bool = True
    """How frames are made smaller: as the model's `antialias` says."""
    image_path: bool = False
    """Still images are clips of one frame, for a model with a path of its own for them; else they fill a clip."""

    @property
    def clips(self) -> int:
        """Clips of a video, V."""
        return self.segments * self.views + self.random


def plan_for(
    model: LoadedModel, records: tuple[VideoRecord, ...], frame_step: int | None, fps: float | None
) -> ClipPlan:
    """The plain clip of each of these files, in the model's own size and preprocessing.

    Images alone are clips of one frame for a model with a path for images (V-JEPA 2.1); beside videos they fill a clip.
    """
    frames = model.config.num_frames
    if model.config.modality_embed and all(is_image(record.path) for record in records):
        frames = 1
    return ClipPlan(ClipSpec(frames, frame_step, fps), model.config.image_hw, antialias=model.antialias)


def clip_rate(model: str, frame_step: int | None, fps: float | None) -> tuple[int | None, float | None]:
    """(frame_step, fps), one of them None: as asked for, else those that the run was pretrained with, else the published."""
    if frame_step is not None or fps is not None:
        return frame_step, fps
    path = Path(model)
    run = path.parents[1] if path.parent.name == "checkpoints" else path
    try:
        settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        rate = settings.get("data", settings)  # a pretraining has a section for it, a probe has not
        frame_step, fps = rate.get("frame_step"), rate.get("fps")
    except (OSError, yaml.YAMLError, AttributeError):  # not a run of ours
        frame_step, fps = None, None
    return (None, fps) if fps else (frame_step or FRAME_STEP, None)
