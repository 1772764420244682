"""Views of a clip: crops that differ in place, size and color, the same for all frames (LeVJEPA, arXiv 2608.27395)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvjepa.config import DataConfig, ModelConfig, ViewsConfig
from openvjepa.data.transforms import train_transform
from openvjepa.errors import ConfigError
from openvjepa.grid import TokenGrid

View = tuple[Tensor, Tensor | None]
"""A view of a clip, uint8 [3, T, h, w], and the tokens of it to keep, int64 [K] ascending; None: all."""


class ViewMaker:
    """Makes the views of one clip after the other.

    Raises:
        ConfigError: a local view does not divide into patches.
    """

    def __init__(self, views: ViewsConfig, data: DataConfig, model: ModelConfig) -> None:
        self.views, self.data = views, data
        local = self._local_size(model)
        self.kinds = [(model.image_hw, views.global_scale)] * views.global_views
        self.kinds += [(local, views.local_scale)] * views.local_views
        self.grids = [
            TokenGrid.of_clip(model.num_frames, *size, patch_size=model.patch_size, tubelet_size=model.tubelet_size)
            for size, _ in self.kinds
        ]

    def _local_size(self, model: ModelConfig) -> tuple[int, int]:
        patch, asked = model.patch_size, self.views.local_size
        if asked is not None and asked % patch:
            raise ConfigError(f"local_size {asked} does not divide into patches of {patch} px")
        height, width = model.image_hw
        return (
            (asked, asked)
            if asked
            else (max(patch, height // 2 // patch * patch), max(patch, width // 2 // patch * patch))
        )

    def __call__(self, frames: NDArray[np.uint8], generator: torch.Generator) -> list[View]:
        """Views of a clip, global ones first.

        Args:
            frames: of the clip, uint8 [T, H, W, 3].
            generator: source of all draws.
        """
        made: list[View] = []
        for (size, scale), grid in zip(self.kinds, self.grids, strict=True):
            clip = train_transform(
                frames, size, scale=scale, ratio=self.data.crop_ratio, hflip=self.data.hflip, generator=generator
            )
            clip = jitter_colors(clip, self.views.color_jitter, generator)
            made.append((clip, keep_tokens(grid, self.views.token_keep, generator)))
        return made


def jitter_colors(clip: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Random brightness, contrast and gain of each color: uint8 [3, T, H, W] -> the same shape.

    Contrast stretches the clip around its mean, brightness moves the mean; both factors are uniform in 1 +- strength. The
    channels are then scaled by uniform factors in 1 +- strength / 2.

    Args:
        clip: all frames are changed alike.
        strength: 0..1; 0 returns the clip as it is.
        generator: source of all draws.
    """
    if not strength:
        return clip
    draws: list[float] = (1 + strength * (2 * torch.rand(5, generator=generator) - 1)).tolist()
    contrast, brightness, *gains = draws
    colors = 1 + (torch.tensor(gains) - 1).view(3, 1, 1, 1) / 2
    pixels = clip.float()
    mean = pixels.mean()
    return ((pixels - mean).mul_(contrast).add_(mean * brightness) * colors).round_().clamp_(0, 255).to(torch.uint8)


def keep_tokens(grid: TokenGrid, share: float, generator: torch.Generator) -> Tensor | None:
    """Ids of a random share of the patches of every tubelet, the same number in each: int64 [K]; None: all."""
    count = max(1, round(share * grid.tokens_per_frame))
    if count == grid.tokens_per_frame:
        return None
    order = torch.rand(grid.t, grid.tokens_per_frame, generator=generator).argsort(1)[:, :count].sort(1).values
    return (order + torch.arange(grid.t)[:, None] * grid.tokens_per_frame).flatten()
