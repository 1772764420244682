"""Clips of videos with the tokens that a model makes of them: what every picture of features starts from.

Shapes: a clip has T frames of H x W px and tokens [t, h, w, D].
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from openvjepa.config.pretraining.model import MOST_TOKENS
from openvjepa.data.clips import ClipSpec
from openvjepa.data.lists.records import VideoRecord, as_record
from openvjepa.data.media.video import Video
from openvjepa.data.transforms import channels_first, eval_views, resize
from openvjepa.errors import ConfigError, DataError, VideoError
from openvjepa.features.encode import encode
from openvjepa.grid import TokenGrid
from openvjepa.model.encoder import Encoder
from openvjepa.model.pixels import untrained
from openvjepa.train.distributed import Runtime
from openvjepa.weights.hub import UNTRAINED, LoadedModel, load_model

"""Before the name of a model: its architecture with random weights."""

_log = logging.getLogger("openvjepa")


@dataclass(frozen=True)
class ClipChoice:
    """Sampling of the clips of a video, and preprocessing of their frames.

    Raises:
        ConfigError: a number that is out of range.
    """

    spec: ClipSpec
    clips: int | None = 1
    """So many clips one after the other; None: as many as cover the video."""
    start: float | None = None
    """s from the first frame, of a part from its own; None: the clips lie in the middle of the video."""
    whole: bool = False
    """Whole frames in their own aspect ratio, to the next multiple of the patch; False: the center crop."""
    short_side: int | None = None
    """Short side of what the encoder sees, px; None: that of the model."""

    def __post_init__(self) -> None:
        if self.clips is not None and self.clips < 1:
            raise ConfigError("clips must be at least 1")
        if self.start is not None and not 0 <= self.start < float("inf"):
            raise ConfigError(f"start {self.start} must be a number of seconds from 0 on")
        if self.short_side is not None and self.short_side < 1:
            raise ConfigError("short_side must be at least 1 px")


@dataclass(frozen=True, eq=False)
class ClipTokens:
    """A clip as a model saw it, and its tokens."""

    path: str
    frames: NDArray[np.uint8]
    """[T, H, W, 3] as the encoder saw them: resized and cropped, before normalization."""
    times: NDArray[np.float64]
    """Of the frames, s from the first of the video, [T]; a frame past the end is the last one again."""
    tokens: NDArray[np.float32]
    """[t, h, w, D]"""
    model: str
    layer: int

    @property
    def grid(self) -> TokenGrid:
        """(t, h, w)."""
        return TokenGrid(*self.tokens.shape[:3])

    @property
    def tubelet(self) -> int:
        """Frames of a token."""
        return len(self.frames) // len(self.tokens)

    @property
    def is_still(self) -> bool:
        """Whether all frames are the same one."""
        return bool((self.times == self.times[0]).all())

    @property
    def name(self) -> str:
        """File and times, such as "walk.mp4, 0.50-2.50 s"."""
        name = Path(self.path).name
        return name if self.is_still else f"{name}, {self.times[0]:.2f}-{self.times[-1]:.2f} s"


@dataclass(frozen=True, eq=False)
class Sight:
    """Clips of files, seen by one or several models: `clips[m][i]` is clip i as model m saw it."""

    models: tuple[LoadedModel, ...]
    clips: tuple[tuple[ClipTokens, ...], ...]
    skipped: dict[str, str]
    """Files that cannot be read: path -> reason."""


def load_any(source: str, *, seed: int = 0) -> LoadedModel:
    """`load_model`, and "untrained:SOURCE" for the same architecture with random weights of a seed.

    Raises:
        CheckpointError: the model cannot be read.
    """
    if not source.startswith(UNTRAINED):
        return load_model(source)
    model = load_model(source.removeprefix(UNTRAINED))
    encoder = untrained(model.config, seed)
    return replace(model, encoder=encoder, predictor=None, probe=None, labels=None, source=f"{source} (seed {seed})")


def see(
    models: Sequence[LoadedModel],
    files: Sequence[str | Path | VideoRecord],
    choice: ClipChoice,
    *,
    layer: int = -1,
    runtime: Runtime | None = None,
) -> Sight:
    """Encode clips of videos and images with one or several models.

    All models see the same frames, those of `choice`, each in its own size. A still image is one frame for a model with a
    path for images (V-JEPA 2.1), and fills the clip for others. A video that is shorter than a clip stands still at its end.

    Args:
        models: on the device where they compute.
        files: what to read, whole or the part that a record means; one that cannot be read is skipped, logged and listed.
        choice: which clips.
        layer: block whose output is taken (after the encoder's norm), from 0, or negative from the end.
        runtime: autocast to use; None: float32.

    Raises:
        ConfigError: frames that do not divide into a model's tubelets and patches, or no such layer.
        DataError: none of the files can be read.
    """
    clips: list[list[ClipTokens]] = [[] for _ in models]
    skipped: dict[str, str] = {}
    for record in map(as_record, files):
        try:
            for frames, times in read_clips(record.open(), choice):
                for model, row in zip(models, clips, strict=True):
                    row.append(_encode(model, record.path, frames, times, choice, layer, runtime))
        except VideoError as error:
            skipped[record.name] = error.reason
            _log.warning("%s: cannot be read: %s", record.name, error.reason)
    if not clips or not clips[0]:
        example = next((f"{path}: {reason}" for path, reason in skipped.items()), "no files were given")
        raise DataError(f"none of {len(skipped)} files can be read ({example})")
    return Sight(tuple(models), tuple(map(tuple, clips)), skipped)


def read_clips(video: Video, choice: ClipChoice) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float64]]]:
    """Frames [T, H, W, 3] in their own size, and their times in the file [T], of each chosen clip; of an image one frame.

    Raises:
        VideoError: the video cannot be read.
    """
    if video.is_image:
        yield video.frames([0]).frames, np.zeros(1)
        return
    for start in clip_starts(video, choice):
        indices = choice.spec.indices(video, start)
        yield video.frames([int(i) for i in indices]).frames, video.offset + video.times[indices]


def clip_starts(video: Video, choice: ClipChoice) -> list[float]:
    """Starts of the chosen clips of a video, s; a clip that would start after the video's end is left out."""
    seconds = choice.spec.num_frames * choice.spec.seconds_per_frame(video)
    count = choice.clips or max(1, int(np.ceil((video.duration - (choice.start or 0.0)) / seconds - 1e-6)))
    middle = max(0.0, (video.duration - count * seconds) / 2)
    first = choice.start if choice.start is not None else middle if choice.clips else 0.0
    if first >= video.duration:
        raise VideoError(video.path, f"asked for a clip at {first:g} s, and it lasts {video.duration:.2f} s")
    return [start for start in (first + i * seconds for i in range(count)) if start < video.duration]


def _encode(
    model: LoadedModel,
    path: str,
    frames: NDArray[np.uint8],
    times: NDArray[np.float64],
    choice: ClipChoice,
    layer: int,
    runtime: Runtime | None,
) -> ClipTokens:
    if len(frames) == 1 and not model.config.modality_embed:
        frames, times = frames.repeat(choice.spec.num_frames, 0), times.repeat(choice.spec.num_frames)
    clip = prepare(frames, model, whole=choice.whole, short_side=choice.short_side)
    grid = model.encoder.grid(clip[None])
    tokens = encode(model, clip[None], layer=layer, runtime=runtime)[0]
    shown = clip.permute(1, 2, 3, 0).contiguous().numpy()
    return ClipTokens(path, shown, times, tokens.unflatten(0, grid.shape).numpy(), model.source, layer)


def prepare(frames: NDArray[np.uint8], model: LoadedModel, *, whole: bool, short_side: int | None) -> Tensor:
    """Frames [T, H, W, 3] -> what the encoder sees, uint8 [3, T, H', W'], by the model's own kind of resizing."""
    antialias = model.clip.antialias or len(frames) == 1
    if not whole:
        size = model.clip.size if short_side is None else (short_side, short_side)
        _check_tokens(model, len(frames), size)
        return eval_views(frames, size, 1, antialias=antialias, margin=model.clip.margin)[0]
    size = whole_size(frames.shape[1], frames.shape[2], short_side or min(model.clip.size), model.encoder)
    _check_tokens(model, len(frames), size)
    return resize(channels_first(frames), size, antialias=antialias).transpose(0, 1).contiguous()


def _check_tokens(model: LoadedModel, frames: int, size: tuple[int, int]) -> None:
    config = model.config
    tokens = max(1, frames // config.tubelet_size) * (size[0] // config.patch_size) * (size[1] // config.patch_size)
    if tokens > MOST_TOKENS:
        raise ConfigError(
            f"{frames} frames of {size[0]} x {size[1]} px are {tokens} tokens for {model.source}: choose a smaller short_side, "
            f"for at most {MOST_TOKENS}"
        )


def whole_size(height: int, width: int, short_side: int, encoder: Encoder) -> tuple[int, int]:
    """Size of a whole frame with this short side, each side rounded to a multiple of the patch, at least one."""
    patch, scale = encoder.config.patch_size, short_side / min(height, width)
    return tuple(max(1, round(side * scale / patch)) * patch for side in (height, width))  # pyright: ignore
