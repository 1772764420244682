"""Masks over the token grid: which tokens are the context, and which are predicted (Bardes et al. 2024, section 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from openvjepa.config import MaskConfig
from openvjepa.errors import ConfigError
from openvjepa.grid import TokenGrid

_MAX_TRIES = 1000


@dataclass(frozen=True)
class BlockSize:
    """Size of a block in tokens."""

    t: int
    h: int
    w: int


def sample_masks(
    masks: tuple[MaskConfig, ...],
    grid: TokenGrid,
    batch_size: int,
    *,
    truncation: str = "random",
    generator: torch.Generator,
    block_seed: int | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Draw the masks of a batch.

    Args:
        masks: what to draw; each gives one pair.
        grid: tokens of a clip.
        batch_size: B.
        truncation: samples of a batch come to one length by keeping random ids ("random"), or the first ("first", as in
            Meta's code, which loses the last time steps).
        generator: source of all draws.
        block_seed: seed of a generator of its own for the size of the blocks, which is the number of the batch in Meta's
            code; None: sizes come from `generator` too.

    Returns:
        For each mask (context ids int64 [B, Ke], predicted ids int64 [B, Kp]), ascending and disjoint.

    Raises:
        ConfigError: a setting is out of its range, or the mask never leaves a context.
    """
    pairs = []
    for config in masks:
        _check(config)
        if config.kind == "tube":
            pairs.append(_stack([_tube(config, grid, generator) for _ in range(batch_size)], None, "first", generator))
            continue
        sizes = generator if block_seed is None else torch.Generator().manual_seed(block_seed)
        block = block_size(config, grid, sizes)
        predicted = [multiblock(config, grid, block, generator) for _ in range(batch_size)]
        pairs.append(_stack(predicted, config.max_keep, truncation, generator))
    return pairs


def _check(config: MaskConfig) -> None:
    """Refuse settings that would give no context, nothing to predict, or blocks longer than the clip."""
    for name, valid, rule in (
        ("num_blocks", config.num_blocks >= 1, "at least 1"),
        ("spatial_scale", min(config.spatial_scale) > 0, "above 0"),
        ("temporal_scale", min(config.temporal_scale) >= 0 and max(config.temporal_scale) <= 1, "from 0 to 1"),
        ("aspect_ratio", min(config.aspect_ratio) > 0, "above 0"),
        ("max_keep", config.max_keep is None or config.max_keep >= 1, "at least 1, or null for no limit"),
    ):
        if not valid:
            raise ConfigError(f"{name} of a mask is {getattr(config, name)}: it must be {rule}")


def block_size(config: MaskConfig, grid: TokenGrid, generator: torch.Generator) -> BlockSize:
    """Size of the blocks of a batch: three draws, for time, area and aspect, in Meta's order."""

    def uniform(low: float, high: float) -> float:
        return low + torch.rand(1, generator=generator).item() * (high - low)

    t = max(1, int(grid.t * uniform(*config.temporal_scale)))
    area = int(grid.tokens_per_frame * uniform(*config.spatial_scale))
    aspect = uniform(*config.aspect_ratio)
    h = min(grid.h, round(math.sqrt(area * aspect)))
    w = min(grid.w, round(math.sqrt(area / aspect)))
    return BlockSize(t, max(1, h), max(1, w))


def multiblock(config: MaskConfig, grid: TokenGrid, block: BlockSize, generator: torch.Generator) -> Tensor:
    """Predicted tokens of one sample, bool [N]: the union of random blocks, and all past max_temporal_keep.

    Raises:
        ConfigError: no draw leaves any context.
    """
    spans = (grid.h - block.h + 1, grid.w - block.w + 1, grid.t - block.t + 1)
    for _ in range(_MAX_TRIES):
        predicted = torch.zeros(grid.shape, dtype=torch.bool)
        for _ in range(config.num_blocks):
            top, left, start = (int(torch.randint(0, span, (1,), generator=generator)) for span in spans)
            predicted[start : start + block.t, top : top + block.h, left : left + block.w] = True
        predicted[max(1, int(grid.t * config.max_temporal_keep)) :] = True
        if not predicted.all():
            return predicted.flatten()
    raise ConfigError(
        f"{config.num_blocks} blocks of {block.t} x {block.h} x {block.w} tokens cover the whole grid of "
        f"{grid.t} x {grid.h} x {grid.w}: lower spatial_scale or num_blocks, or use smaller patches"
    )


def _tube(config: MaskConfig, grid: TokenGrid, generator: torch.Generator) -> Tensor:
    """Predicted tokens of one sample, bool [N]: the same random patches in every frame."""
    keep = int(grid.tokens_per_frame * (1 - config.ratio))
    if not 0 < keep < grid.tokens_per_frame:
        raise ConfigError(f"tube ratio {config.ratio} keeps {keep} of {grid.tokens_per_frame} patches: change ratio")
    return tube(torch.randperm(grid.tokens_per_frame, generator=generator)[:keep], grid)


def tube(kept: Tensor, grid: TokenGrid) -> Tensor:
    """Predicted tokens, bool [N], when the context is the same patches, int64 [K], in every frame."""
    predicted = torch.ones(grid.tokens_per_frame, dtype=torch.bool)
    predicted[kept] = False
    return predicted.repeat(grid.t)


def _stack(
    predicted: list[Tensor], max_keep: int | None, truncation: str, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(context ids, predicted ids) of a batch, cut to the shortest sample's lengths."""
    context = [(~sample).nonzero()[:, 0] for sample in predicted]
    targets = [sample.nonzero()[:, 0] for sample in predicted]
    keep = min(len(ids) for ids in context)
    keep = keep if max_keep is None else min(keep, max_keep)
    return (
        _cut(context, keep, truncation, generator),
        _cut(targets, min(len(ids) for ids in targets), truncation, generator),
    )


def _cut(samples: list[Tensor], length: int, truncation: str, generator: torch.Generator) -> Tensor:
    if truncation == "first":
        return torch.stack([ids[:length] for ids in samples])
    return torch.stack([ids[torch.randperm(len(ids), generator=generator)[:length].sort().values] for ids in samples])
