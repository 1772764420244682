"""Clips of any kind, prepared as a model wants them, through its encoder.

Shapes: B clips of T frames, N tokens, D channels.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvjepa.config import ClipProtocol
from openvjepa.data.clips import read_clip
from openvjepa.data.media.images import is_image
from openvjepa.data.transforms import eval_views, normalize
from openvjepa.errors import DataError
from openvjepa.model.encoder import Encoder

log = logging.getLogger("openvjepa")

_MOST = 3.5
"""Largest absolute value of a normalized pixel: (1 - 0.406) / 0.225 is 2.64."""

Clip: TypeAlias = str | Path | NDArray[np.uint8] | Tensor
"""A file, or frames, or clips; see `encode_clips`."""


def encode_clips(
    encoder: Encoder,
    protocol: ClipProtocol,
    clips: Clip | Sequence[Clip],
    *,
    batch_size: int,
    layer: int = -1,
    autocast: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Tensor:
    """Tokens of clips.

    Args:
        encoder: computes on the device where it is.
        protocol: how its clips are read, resized and normalized.
        clips: a video, image or folder of frames, whose clip in the middle is taken; or frames, uint8 [T, H, W, 3], of a
            clip or [B, T, H, W, 3] of several, all of which are used; or a list of these, or of frames [H, W, 3]. Or clips
            that are resized already: uint8 [B, 3, T, H, W], or float of that shape, normalized.
        batch_size: clips in one pass.
        layer: block whose output is wanted (after the encoder's norm), from 0, or negative from the end.
        autocast: precision of the pass.

    Returns:
        float32 [B, N, D] on the CPU, in the order of `TokenGrid`.

    Raises:
        DataError: something else, frames of another type or shape, clips of different lengths, or values that are not finite.
        VideoError: a file cannot be read.
        ConfigError: clips that do not divide into whole tubelets and patches; no such layer.
    """
    device, last = next(encoder.parameters()).device, layer in (-1, len(encoder.blocks) - 1)
    chunks: list[Tensor] = []
    with torch.no_grad():
        for batch in _batches(_blocks(clips, encoder, protocol), max(1, batch_size)):
            video = batch.to(device)
            video = normalize(video, protocol.mean, protocol.std) if video.dtype == torch.uint8 else video.float()
            with autocast():
                tokens = encoder(video) if last else encoder.forward_intermediates(video, [layer])[0]
            chunks.append(tokens.float() if tokens.is_meta else tokens.float().cpu())
            if chunks[-1].shape[1:] != chunks[0].shape[1:]:
                raise DataError(
                    "clips of different lengths or sizes have different numbers of tokens: encode them separately"
                )
    return torch.cat(chunks)


def _batches(blocks: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    """Clips [B, 3, T, H, W], put together to passes of `size` where they are of one shape and type."""
    waiting: list[Tensor] = []
    for block in blocks:
        for part in torch.split(block, size):
            alike = not waiting or (waiting[0].shape[1:], waiting[0].dtype) == (part.shape[1:], part.dtype)
            if waiting and (not alike or sum(map(len, waiting)) + len(part) > size):
                yield torch.cat(waiting)
                waiting = []
            waiting.append(part)
    if waiting:
        yield torch.cat(waiting)


def _blocks(clips: object, encoder: Encoder, protocol: ClipProtocol) -> Iterator[Tensor]:
    """Clips uint8 or float [B, 3, T, H, W] out of whatever `encode_clips` takes."""
    if not isinstance(clips, (list, tuple)):
        yield _block(clips, encoder, protocol)
        return
    if not clips:
        raise DataError("empty list: pass at least one clip")
    if all(isinstance(item, (np.ndarray, Tensor)) and item.ndim == 3 for item in clips):
        frames = [torch.as_tensor(np.ascontiguousarray(item)) for item in clips]
        if len({(frame.shape, frame.dtype) for frame in frames}) > 1:
            raise DataError(
                "frames of different sizes or types in one list: give frames of one video, or a list of clips"
            )
        yield _block(torch.stack(frames), encoder, protocol)
        return
    for item in clips:
        yield _block(item, encoder, protocol)


def _block(item: object, encoder: Encoder, protocol: ClipProtocol) -> Tensor:
    if isinstance(item, (str, Path)):
        return _read(item, encoder, protocol)
    if isinstance(item, np.ndarray):
        if item.dtype not in (np.uint8, np.float16, np.float32, np.float64):
            raise _unusable(f"a {item.dtype} array of shape {list(item.shape)}")
        item = torch.from_numpy(np.ascontiguousarray(item))
    if not isinstance(item, Tensor):
        raise _unusable(f"a {type(item).__name__}")
    if item.dtype == torch.uint8 and item.ndim in (4, 5) and item.shape[-1] == 3 and item.numel():
        videos = (item[None] if item.ndim == 4 else item).cpu()
        return torch.stack([_resized(frames.numpy(), protocol, antialias=protocol.antialias) for frames in videos])
    if (
        (item.dtype == torch.uint8 or item.is_floating_point())
        and item.ndim == 5
        and item.shape[1] == 3
        and item.numel()
    ):
        if item.is_floating_point() and not item.is_meta and not item.isfinite().all():
            raise DataError("clips contain NaN or infinite values")
        if item.is_floating_point() and not item.is_meta and (item.abs().max() > _MOST or item.min() >= 0):
            log.warning(
                "float clips from %.3g to %.3g do not look normalized: give uint8 frames, or normalize them first",
                item.min().item(),
                item.max().item(),
            )
        return item
    raise _unusable(f"a {item.dtype} tensor of shape {list(item.shape)}")


def _read(path: str | Path, encoder: Encoder, protocol: ClipProtocol) -> Tensor:
    """The clip in the middle of a file. Images are antialiased for all models, and single frames where these have a path."""
    still = is_image(str(path))
    frames = 1 if still and encoder.config.modality_embed else protocol.num_frames
    clip = read_clip(path, num_frames=frames, frame_step=protocol.frame_step, fps=protocol.fps)
    return _resized(clip.numpy(), protocol, antialias=still or protocol.antialias)[None]


def _resized(frames: NDArray[np.uint8], protocol: ClipProtocol, *, antialias: bool) -> Tensor:
    """uint8 [T, H, W, 3] -> uint8 [3, T, height, width]."""
    fit = "crop" if protocol.fit == "three" else protocol.fit  # of three crops, the center
    return eval_views(frames, protocol.size, 1, antialias=antialias, margin=protocol.margin, fit=fit)[0]


def _unusable(found: str) -> DataError:
    return DataError(
        f"cannot encode {found}: give a file, uint8 frames [T, H, W, 3] or [B, T, H, W, 3] (RGB, 0 to 255), a list of these, "
        "or clips [B, 3, T, H, W], uint8 or normalized float"
    )
