"""Pixels in the place of features: the baseline that every encoder has to beat.

Shapes: B clips, N tokens; D = 3, the colors.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvjepa.config import ModelConfig
from openvjepa.errors import ConfigError
from openvjepa.grid import TokenGrid
from openvjepa.model.encoder import Encoder

SIDE = 16  # tokens along the longer side of a frame, at most
TIMES = 4  # tokens along time, at most


class PixelEncoder(Encoder):
    """An encoder whose tokens are the mean colors of the tubelets; it has nothing to train."""

    def __init__(self, config: ModelConfig) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.embed_dim, self.num_heads, self.checkpointing = 3, 1, False
        self.blocks = nn.ModuleList([nn.Identity()])  # one layer, which changes nothing
        self.scale = nn.Parameter(torch.ones(3), requires_grad=False)  # so that it has a device, and a file a tensor

    def forward(
        self, video: Tensor, ids: Tensor | None = None, *, num_levels: int = 1, output_positions: bool = True
    ) -> Tensor:
        """Clips float [B, 3, T, H, W] -> mean colors [B, N, 3].

        Raises:
            ConfigError: only some tokens are wanted, or the clip does not divide into whole tubelets and patches.
        """
        if ids is not None or num_levels != 1:
            raise ConfigError("the pixel baseline supports neither masks nor levels")
        patch, tubelet = self.config.patch_size, 1 if video.shape[2] == 1 else self.config.tubelet_size
        TokenGrid.of_clip(*video.shape[2:], patch_size=patch, tubelet_size=tubelet)
        means = F.avg_pool3d(video, (tubelet, patch, patch)).flatten(2).transpose(1, 2)
        return means * self.scale

    def forward_intermediates(self, video: Tensor, layers: Sequence[int], ids: Tensor | None = None) -> list[Tensor]:
        """As `forward`, for the only layer there is, 0 or -1."""
        if any(layer not in (0, -1) for layer in layers):
            raise ConfigError(f"layers {list(layers)}: pixels have one layer, 0")
        return [self(video, ids) for _ in layers]


def pixel_config(frames: int = 16, size: tuple[int, int] = (64, 64)) -> ModelConfig:
    """Geometry of a pixel encoder: at most 16 x 16 tokens a frame and 4 along time, that divide such a clip."""
    common = gcd(*size)
    patch = next((p for p in range(1, common + 1) if common % p == 0 and max(size) // p <= SIDE), common)
    tubelet = next((t for t in range(1, frames + 1) if frames % t == 0 and frames // t <= TIMES), frames)
    if frames == 1:  # sin-cos codes of an image model would need 4 channels; a still image fills a clip of two frames
        frames = tubelet = 2
    return ModelConfig(
        arch="vit_femto",
        num_frames=frames,
        img_size=size,
        patch_size=patch,
        tubelet_size=tubelet,
        embed_dim=3,
        depth=1,
        num_heads=1,
        predictor_embed_dim=12,
        predictor_num_heads=1,
    )


def untrained(config: ModelConfig, seed: int = 0) -> Encoder:
    """An encoder with random weights that follow from a seed, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder(config).eval().requires_grad_(False)
