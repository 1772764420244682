"""Which clips of videos and images a model is shown, and how they are cut."""

from __future__ import annotations

from dataclasses import dataclass

from openvjepa.data.clips import ClipSpec
from openvjepa.data.images import is_image
from openvjepa.data.index import VideoRecord
from openvjepa.errors import ConfigError
from openvjepa.weights.loaded import LoadedModel


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
    """How frames are made smaller: as the model's clip says."""
    image_path: bool = False
    """Still images are clips of one frame, for a model with a path of its own for them; else they fill a clip."""

    @property
    def clips(self) -> int:
        """Clips of a video, V."""
        return self.segments * self.views + self.random


def plan_for(
    model: LoadedModel, records: tuple[VideoRecord, ...], frame_step: int | None = None, fps: float | None = None
) -> ClipPlan:
    """The plain clip of each of these files, in the model's own size, rate and preprocessing.

    Images alone are clips of one frame for a model with a path for images (V-JEPA 2.1); beside videos they fill a clip.

    Args:
        model: knows the clip that it was made for.
        records: files that will be shown.
        frame_step: every n-th frame of a video; None, and fps None too: the model's own rate.
        fps: frames per second of a clip.

    Raises:
        ConfigError: the model wants other preprocessing than that of the published ones.
    """
    clip = model.clip
    if not clip.is_published:
        raise ConfigError(
            f"{model.source}: made for frames with mean {clip.mean}, standard deviation {clip.std} and margin {clip.margin:g}, "
            "which only load_model(...).encode prepares; commands know those of the published models"
        )
    frames = clip.num_frames
    if model.config.modality_embed and all(is_image(record.path) for record in records):
        frames = 1
    return ClipPlan(ClipSpec(frames, *clip_rate(model, frame_step, fps)), clip.size, antialias=clip.antialias)


def clip_rate(model: LoadedModel, frame_step: int | None, fps: float | None) -> tuple[int | None, float | None]:
    """(frame_step, fps), one of them None: as asked for, else those of the clip that the model was made for."""
    if frame_step is not None or fps is not None:
        return frame_step, fps
    return model.clip.frame_step, model.clip.fps
