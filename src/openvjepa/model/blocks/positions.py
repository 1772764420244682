"""Where a token stands: fixed sin-cos codes (V-JEPA 1) and rotations of queries and keys (V-JEPA 2 and 2.1).

Meta's jepa, src/models/utils/pos_embs.py; vjepa2, src/models/utils/modules.py; arXiv 2603.14482.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
    cube = torch.unflatten(codes, 1, source.shape).permute(0, 4, 1, 2, 3)
    if image:
        return F.interpolate(cube[:, :, 0], (target.h, target.w), mode="bicubic").flatten(2).transpose(1, 2)
    return F.interpolate(cube, target.shape, mode="trilinear").flatten(2).transpose(1, 2)


def _axes(grid: TokenGrid) -> list[Tensor]:
    """Time, row and column of every token, each [t * h * w]."""
    axes = torch.meshgrid(*(torch.arange(n) for n in grid.shape), indexing="ij")
    return [axis.flatten() for axis in axes]


BASE_SIZE = 256
"""Frame side, px, whose rows and columns V-JEPA 2.1 stretches those of all other sizes to."""


@dataclass(frozen=True)
class Rope:
    """Rotates pairs of neighboring channels of queries and keys by angles that follow from time, row and column.

    Both tables are [B or 1, 1, K, head_dim]; channels that are not rotated have cosine 1 and sine 0.
    """

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """[B, h, K, head_dim] -> the same, rotated."""
        rotated = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
        return x * self.cos + rotated * self.sin


RopeTable = Literal["rope-tiled", "rope"]


def make_rope(places: Sequence[Tensor], head_dim: int, table: RopeTable, dtype: torch.dtype) -> Rope:
    """Rotations of tokens at given times, rows and columns.

    A third of the head's channels (rounded down to an even number) is rotated with time, a third with the row, a third with the
    column; a remainder is left alone.

    Args:
        places: time, row and column, [B or 1, K] each.
        head_dim: channels of a head, even.
        table: rope: both channels of pair k are rotated by angle k. rope-tiled: the angles are listed once and then once more, so
            that the two channels of a pair have different ones; not a rotation, but what V-JEPA 2 was trained with.
        dtype: of the frequencies (and of rope-tiled's angles); training has them in that of the queries.
    """
    dim = 2 * (head_dim // 3 // 2)
    frequencies = 1.0 / 10_000 ** (torch.arange(dim // 2, dtype=dtype, device=places[0].device) / (dim / 2))
    angles: list[Tensor] = []
    for place in places:
        angle = place.to(dtype if table == "rope-tiled" else torch.float32)[..., None] * frequencies
        angles.append(torch.cat([angle, angle], -1) if table == "rope-tiled" else angle.repeat_interleave(2, -1))
    angles.append(torch.zeros_like(angles[0][..., :1]).expand(*places[0].shape, head_dim - 3 * dim))
    joined = torch.cat(angles, dim=-1)[:, None]
    return Rope(joined.cos(), joined.sin())


def rope_of(
    config: ModelConfig, ids: Tensor | None, grid: TokenGrid, num_heads: int, x: Tensor, *, interpolate: bool
) -> Rope | None:
    """Rotations for tokens x [B, K, D] of a model; None if it has sin-cos codes instead.

    Args:
        config: of the model.
        ids: which tokens, int64 [B, K]; None: all, in order.
        grid: what the ids count through.
        num_heads: attention heads.
        x: the tokens; only their width, device and number format count (that of autocast, where it is on).
        interpolate: rows and columns of any grid are stretched to the span of a frame of 256 px.
    """
    if config.positions == "sincos":
        return None
    ids = torch.arange(grid.tokens, device=x.device)[None] if ids is None else ids
    places = [ids // grid.tokens_per_frame, ids % grid.tokens_per_frame // grid.w, ids % grid.w]
    if interpolate:
        span = BASE_SIZE // config.patch_size - 1
        for axis, size in ((1, grid.h), (2, grid.w)):
            places[axis] = places[axis] * float(span) / max(1, size - 1)  # a single row or column stands at 0
    device = x.device.type
    autocast = not x.is_meta and torch.is_autocast_enabled(device)  # torch knows no autocast for shapes without values
    dtype = torch.get_autocast_dtype(device) if autocast else x.dtype
    return make_rope(places, x.shape[-1] // num_heads, config.positions, dtype)
