"""Which clips of videos and images a model is shown, and how they are cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from openvjepa.config import PROTOCOLS, ClipConfig, EvalProtocol, Fit, Placement, from_mapping
from openvjepa.data.clips import ClipSpec
from openvjepa.data.lists.index import VideoIndex, VideoRecord
from openvjepa.data.loader import EvalClips
from openvjepa.data.media.images import is_image
from openvjepa.data.transforms import describe_fit, view_count
from openvjepa.errors import ConfigError
from openvjepa.weights.loaded import LoadedModel

_WHERE = {"centers": "at the centers of equal parts", "ends": "from the first frame to the last"}


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
    placement: Placement = "centers"
    """Where the segments lie."""
    fit: Fit = "auto"
    """How frames are brought to the size."""

    def __post_init__(self) -> None:
        view_count(self.fit, self.views)  # refuses what cannot be combined

    @property
    def views_per_clip(self) -> int:
        """Views of each plain clip."""
        return view_count(self.fit, self.views)

    @property
    def plain_clips(self) -> int:
        """Plain clips of a video: segments, each in all its views."""
        return self.segments * self.views_per_clip

    @property
    def clips(self) -> int:
        """Clips of a video, V."""
        return self.plain_clips + self.random

    def under(self, protocol: EvalProtocol) -> ClipPlan:
        """The same under another protocol, such as `PROTOCOLS["published"]`."""
        return replace(self, placement=protocol.placement, fit=protocol.fit)

    def asked(self, clips: ClipConfig) -> ClipPlan:
        """The same, but for what a configuration says of the clips."""
        names = ("segments", "views", "placement", "fit")
        given = {name: value for name in names if (value := getattr(clips, name)) is not None}
        return replace(self, **given)

    def for_training(self, *, random: int, crop_scale: tuple[float, float], seed: int) -> ClipPlan:
        """One plain clip, from the middle, and random ones; their frames fit as at evaluation (of three crops, the center)."""
        fit = "crop" if self.fit == "three" else self.fit
        plan = replace(self, segments=1, views=1, fit=fit)
        return replace(plan, random=random, crop_scale=crop_scale, seed=seed) if random else plan

    def plain(self, index: VideoIndex, *, segments: int | None = None, views: int | None = None) -> EvalClips:
        """The plain clips of videos; of fewer segments or views where they are given."""
        return EvalClips(
            index,
            self.spec,
            self.size,
            segments=segments or self.segments,
            views=views or self.views,
            crop_scale=self.crop_scale,
            seed=self.seed,
            antialias=self.antialias,
            placement=self.placement,
            fit=self.fit,
        )

    def randomized(self, index: VideoIndex) -> EvalClips:
        """The random clips of videos."""
        return EvalClips(
            index,
            self.spec,
            self.size,
            augment=self.random,
            crop_scale=self.crop_scale,
            seed=self.seed,
            antialias=self.antialias,
            fit=self.fit,
        )

    def describe(self, frame: tuple[int, int]) -> str:
        """The sampled clips in words, for a video with frames of (height, width) px."""
        rate = f"frame step {self.spec.frame_step}" if self.spec.frame_step else f"{self.spec.fps:g} frames per second"
        where = "at the center of the video" if self.segments == 1 else _WHERE[self.placement]
        clips = (
            f"{self.segments} clip{'s' if self.segments > 1 else ''} of {self.spec.num_frames} frames ({rate}) {where}"
        )
        return f"{clips}; {describe_fit(self.fit, frame, self.size, self.views)}"


def stored_plan(values: Mapping[str, Any], *, where: str) -> ClipPlan:
    """A plan from a file. Plans of older versions do not say where clips lie and how frames fit: as published.

    Raises:
        ConfigError: it cannot be read.
    """
    return from_mapping(ClipPlan, {**asdict(PROTOCOLS["published"]), **values}, where=where)


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
    spec = ClipSpec(frames, *clip_rate(model, frame_step, fps))
    return ClipPlan(spec, clip.size, antialias=clip.antialias, fit=clip.fit)


def clip_rate(model: LoadedModel, frame_step: int | None, fps: float | None) -> tuple[int | None, float | None]:
    """(frame_step, fps), one of them None: as asked for, else those of the clip that the model was made for."""
    if frame_step is not None or fps is not None:
        return frame_step, fps
    return model.clip.frame_step, model.clip.fps
