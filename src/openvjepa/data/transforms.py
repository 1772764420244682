"""Spatial transforms on uint8 frames, the same for all frames of a clip."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from openvjepa.config.clips import Fit
from openvjepa.config.protocol import EVAL_MARGIN, IMAGENET_MEAN, IMAGENET_STD
from openvjepa.errors import ConfigError

MAX_CROPPED = 0.2  # share of a frame's area; where a crop loses more, the whole frame is shown

Box = tuple[int, int, int, int]  # top, left, height, width


def normalize(
    clips: Tensor,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> Tensor:
    """uint8 [B, 3, T, H, W] -> float32, with the mean and standard deviation of each channel; runs where the clips are."""
    mean_255 = 255 * torch.tensor(mean, device=clips.device).view(3, 1, 1, 1)
    std_255 = 255 * torch.tensor(std, device=clips.device).view(3, 1, 1, 1)
    return (clips.float() - mean_255) / std_255


def resize(frames: Tensor, size: tuple[int, int], *, antialias: bool = True) -> Tensor:
    """Bilinear resize of uint8 [T, C, H, W] to (height, width), in uint8.

    With antialias it is that of torchvision and Pillow. Without, a smaller frame is sampled from the nearest four pixels
    alone, as OpenCV does, whose integers it meets within one gray level.
    """
    if tuple(frames.shape[-2:]) == size:
        return frames
    if antialias:
        return F.interpolate(frames, size=size, mode="bilinear", antialias=True)
    # Torch's own arithmetic for uint8 is coarser; frame by frame, since floats take four times the memory.
    floats = (F.interpolate(frame.float(), size=size, mode="bilinear") for frame in torch.split(frames, 1))
    return torch.cat([frame.round().to(torch.uint8) for frame in floats])


def channels_first(frames: NDArray[np.uint8]) -> Tensor:
    """[T, H, W, 3] array -> [T, 3, H, W] view (channels-last memory, in which torch resizes fastest)."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)


def random_box(
    height: int, width: int, *, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> Box:
    """A box of random area and log-uniform aspect (width / height) inside the frame; the center after ten failures."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    for _ in range(10):
        area = uniform(*scale) * height * width
        aspect = math.exp(uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(height - h + 1, (), generator=generator))
            left = int(torch.randint(width - w + 1, (), generator=generator))
            return top, left, h, w
    h = min(height, round(width / ratio[0]))
    w = min(width, round(height * ratio[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def train_transform(
    frames: NDArray[np.uint8],
    size: tuple[int, int],
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    hflip: float,
    generator: torch.Generator,
    antialias: bool = True,
) -> Tensor:
    """Random resized crop and flip: uint8 [T, H, W, 3] -> uint8 [3, T, height, width]."""
    clip = channels_first(frames)
    top, left, h, w = random_box(clip.shape[2], clip.shape[3], scale=scale, ratio=ratio, generator=generator)
    clip = resize(clip[:, :, top : top + h, left : left + w], size, antialias=antialias)
    if torch.rand((), generator=generator).item() < hflip:
        clip = clip.flip(3)
    return clip.transpose(0, 1).contiguous()


def eval_views(
    frames: NDArray[np.uint8],
    size: tuple[int, int],
    views: int,
    *,
    antialias: bool = True,
    margin: float = EVAL_MARGIN,
    fit: Fit = "crop",
) -> list[Tensor]:
    """Deterministic views: uint8 [T, H, W, 3] -> `view_count(fit, views)` clips uint8 [3, T, height, width].

    One crop is the center, of a frame resized to cover the crop with a margin; a frame of just the crop's size is left as it
    is. Several crops are spread along the longer side of a frame that covers the crop without a margin.

    Args:
        frames: the clip.
        size: (height, width) of the view, px.
        views: how many crops.
        fit: "crop" as published; "squeeze" shows the whole frame, resized to the view; "pad" the whole frame at its own
            aspect, with bars of ImageNet's mean color; "three" is three crops; "auto" as `chosen_fit` says.
        antialias: as Hugging Face's processors do it: antialiased, and a center that falls between two pixels is rounded
            down. False: as Meta's code does it for videos: plain bilinear, and rounded to even.
    """
    clip = channels_first(frames)
    fit, views = chosen_fit(fit, (clip.shape[2], clip.shape[3]), size, views), view_count(fit, views)
    if fit in ("squeeze", "pad"):
        whole = resize(clip, size, antialias=antialias) if fit == "squeeze" else _padded(clip, size, antialias)
        return [whole.transpose(0, 1).contiguous()]
    height, width = size
    margin = margin if views == 1 and tuple(clip.shape[-2:]) != size else 1.0
    covering = _cover(clip.shape[2], clip.shape[3], int(height * margin), int(width * margin))
    resized = resize(clip, covering, antialias=antialias)
    spare_h, spare_w = resized.shape[2] - height, resized.shape[3] - width
    crops: list[Tensor] = []
    for view in range(views):
        top, left = (spare // 2 if antialias else round(spare / 2) for spare in (spare_h, spare_w))
        if views > 1 and spare_w >= spare_h:
            left = view * (spare_w // (views - 1))
        elif views > 1:
            top = view * (spare_h // (views - 1))
        crops.append(resized[:, :, top : top + height, left : left + width].transpose(0, 1).contiguous())
    return crops


def view_count(fit: Fit, views: int) -> int:
    """Views of a clip: those asked for; three where the fit says so.

    Raises:
        ConfigError: several views where each would show the same, or another number than three.
    """
    if fit == "three" and views in (1, 3):
        return 3
    if views > 1 and fit in ("squeeze", "pad", "three"):
        raise ConfigError(f"fit {fit} with {views} views: leave views at 1, or choose fit crop")
    return views


def kept_area(frame: tuple[int, int], size: tuple[int, int]) -> float:
    """Share of the area of a frame (height, width) that the largest crop of the shape of `size` keeps."""
    aspect = frame[1] * size[0] / (frame[0] * size[1])
    return min(aspect, 1 / aspect)


def chosen_fit(fit: Fit, frame: tuple[int, int], size: tuple[int, int], views: int = 1) -> Fit:
    """The fit that "auto" stands for: crop, unless that loses more than a fifth of the frame's area; then squeeze.

    What counts is the shape alone, not the margin that is cut off all around. Several views are always crops, since together
    they show the whole frame.
    """
    if fit != "auto":
        return fit
    return "crop" if views > 1 or kept_area(frame, size) >= 1 - MAX_CROPPED else "squeeze"


def describe_fit(fit: Fit, frame: tuple[int, int], size: tuple[int, int], views: int = 1) -> str:
    """How frames of one size are brought to that of the model, and why, in words."""
    chosen, lost = chosen_fit(fit, frame, size, views), 1 - kept_area(frame, size)
    shown = {
        "crop": "center crop" if views == 1 else f"{views} crops along the longer side",
        "squeeze": "whole frame, squeezed",
        "pad": "whole frame, with bars",
        "three": "three crops along the longer side",
    }[chosen]
    why = "--fit"
    if fit == "auto" and views > 1:
        why = "several views cover the whole frame"
    elif fit == "auto":
        why = f"a crop would lose {lost:.0%} of the frame" if lost else "same aspect ratio"
    return f"{shown} ({frame[1]} x {frame[0]} px to {size[1]} x {size[0]} px: {why})"


def _padded(clip: Tensor, size: tuple[int, int], antialias: bool) -> Tensor:
    """The whole frames [T, C, H, W] inside `size`, centered, with bars of ImageNet's mean color, which normalizes to 0."""
    scale = min(size[0] / clip.shape[2], size[1] / clip.shape[3])
    inside = (max(1, round(clip.shape[2] * scale)), max(1, round(clip.shape[3] * scale)))
    color = torch.tensor([round(255 * mean) for mean in IMAGENET_MEAN], dtype=torch.uint8).view(1, 3, 1, 1)
    padded = color.expand(len(clip), 3, *size).clone()
    top, left = (size[0] - inside[0]) // 2, (size[1] - inside[1]) // 2
    padded[:, :, top : top + inside[0], left : left + inside[1]] = resize(clip, inside, antialias=antialias)
    return padded


def _cover(h: int, w: int, height: int, width: int) -> tuple[int, int]:
    """Size of a frame of h x w once it just covers height x width."""
    if h * width <= w * height:
        return height, int(height * w / h)
    return int(width * h / w), width
