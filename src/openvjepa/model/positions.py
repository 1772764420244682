"""Fixed sin-cos position codes and their interpolation to other clip shapes (spec section 1.4)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from openvjepa.config import ModelConfig
from openvjepa.grid import TokenGrid


def position_codes(dim: int, config: ModelConfig) -> Tensor:
    """Codes of the clip (3D) or image (2D, if num_frames is 1) a model is made for; float32 [1, N, dim]."""
    if config.num_frames == 1:
        return sincos_2d(dim, config.grid)[None]
    return sincos_3d(dim, config.grid, uniform_power=config.uniform_power)[None]


def sincos_1d(dim: int, positions: Tensor) -> Tensor:
    """Sines, then cosines, of positions [N] at dim / 2 frequencies from 1 down to 1/10000; float64 [N, dim]."""
    frequencies = 10_000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = positions.to(torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def axis_widths(dim: int, *, uniform_power: bool) -> tuple[int, int, int]:
    """Channels of the depth, height and width codes of `sincos_3d`, before the surplus of the last is cut."""
    if uniform_power:
        width = 2 * math.ceil(dim / 6)
        return width, width, width
    return dim // 2, dim // 4, dim // 4


def sincos_3d(dim: int, grid: TokenGrid, *, uniform_power: bool) -> Tensor:
    """Codes of a clip's tokens, [depth | height | width] along the channels; float32 [t * h * w, dim].

    uniform_power gives every axis 2 * ceil(dim / 6) channels and cuts the surplus of the last; otherwise time has half
    of the channels.
    """
    widths = axis_widths(dim, uniform_power=uniform_power)
    return torch.cat([sincos_1d(w, p) for w, p in zip(widths, _axes(grid), strict=True)], dim=1)[:, :dim].float()


def sincos_2d(dim: int, grid: TokenGrid) -> Tensor:
    """Codes of an image's tokens, [height | width] along the channels; float32 [h * w, dim]."""
    _, rows, columns = _axes(TokenGrid(1, grid.h, grid.w))
    return torch.cat([sincos_1d(dim // 2, rows), sincos_1d(dim // 2, columns)], dim=1).float()


def interpolate_positions(codes: Tensor, source: TokenGrid, target: TokenGrid, *, image: bool) -> Tensor:
    """Codes [1, N, D] of one grid, stretched to another: trilinear for clips, bicubic for images (align_corners False).

    The reference passes scale factors target / source. Sizes are passed here, which gives the same sampling points but
    no rounding surprise: 49 * (1 / 49) is below 1, and the reference would make an axis of no tokens of it.
    """
    if source == target:
        return codes
    cube = codes.unflatten(1, source.shape).permute(0, 4, 1, 2, 3)
    if image:
        return F.interpolate(cube[:, :, 0], (target.h, target.w), mode="bicubic").flatten(2).transpose(1, 2)
    return F.interpolate(cube, target.shape, mode="trilinear").flatten(2).transpose(1, 2)


def _axes(grid: TokenGrid) -> list[Tensor]:
    """Time, row and column of every token, each [t * h * w]."""
    axes = torch.meshgrid(*(torch.arange(n) for n in grid.shape), indexing="ij")
    return [axis.flatten() for axis in axes]
