"""Masks against Meta's own draws, and against what a union of blocks must be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from openvjepa.config import LONG_RANGE, SHORT_RANGE, MaskConfig, from_mapping
from openvjepa.data.masks import block_size, sample_masks, tube
from openvjepa.errors import ConfigError
from openvjepa.grid import TokenGrid

FIXTURES = Path(__file__).parents[1] / "fixtures" / "vjepa" / "masks"
META = json.loads((FIXTURES / "v1_meta.json").read_text())
GRID = TokenGrid(8, 14, 14)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ["default_224_16f", "temporal_maxkeep"])
def test_meta_parity(name: str) -> None:
    meta, expected = META[name], load_file(FIXTURES / "v1_multiblock.safetensors")
    masks = tuple(from_mapping(MaskConfig, config) for config in meta["cfgs"])
    side = meta["crop"] // meta["patch"]
    grid = TokenGrid(meta["num_frames"] // meta["tubelet"], side, side)
    rng = generator(meta["torch_manual_seed_before_first_call"])
    for call in range(3):
        pairs = sample_masks(masks, grid, meta["batch"], truncation="first", generator=rng, block_seed=call)
        for i, (enc, pred) in enumerate(pairs):
            assert torch.equal(enc, expected[f"{name}.call{call}.enc{i}"].long())
            assert torch.equal(pred, expected[f"{name}.call{call}.pred{i}"].long())


def test_meta_parity_of_several_clip_lengths() -> None:
    """V-JEPA 2's batches: a group for each clip length, whose generators are counted apart."""
    meta = json.loads((FIXTURES / "v2_meta.json").read_text())["multi"]
    expected = load_file(FIXTURES / "v2_multiseq.safetensors")
    masks = tuple(MaskConfig(num_blocks=c["num_blocks"], spatial_scale=tuple(c["spatial_scale"])) for c in meta["cfgs"])
    rng = generator(meta["seed"])
    for call in range(2):
        for frames in meta["group_order"]:
            batch = meta["sample_fpcs_in_batch"].count(frames)
            pairs = sample_masks(
                masks, TokenGrid(frames // 2, 8, 8), batch, truncation="first", generator=rng, block_seed=call
            )
            for i, (enc, pred) in enumerate(pairs):
                assert torch.equal(enc, expected[f"multi.call{call}.fpc{frames}.enc{i}"].long())
                assert torch.equal(pred, expected[f"multi.call{call}.fpc{frames}.pred{i}"].long())


@pytest.mark.parametrize(("name", "config"), [("short", SHORT_RANGE), ("long", LONG_RANGE)])
def test_meta_block_sizes(name: str, config: MaskConfig) -> None:
    sizes = [block_size(config, GRID, generator(seed)) for seed in range(50)]
    assert [[size.t, size.h, size.w] for size in sizes] == META["block_sizes_seed_0_49_224"][name]


@pytest.mark.parametrize("ratio", [0.75, 0.9])
def test_meta_tubes(ratio: float) -> None:
    expected = load_file(FIXTURES / "v1_tube.safetensors")
    for sample in range(2):
        context = expected[f"ratio{ratio}.enc"][sample].long()
        predicted = tube(context[context < 196], GRID)
        assert torch.equal(predicted.nonzero()[:, 0], expected[f"ratio{ratio}.pred"][sample].long())
    ((enc, pred),) = sample_masks((MaskConfig(kind="tube", ratio=ratio),), GRID, 2, generator=generator())
    assert enc.shape == expected[f"ratio{ratio}.enc"].shape
    assert pred.shape == expected[f"ratio{ratio}.pred"].shape


@pytest.mark.parametrize("truncation", ["random", "first"])
def test_context_and_targets_are_disjoint_and_ascending(truncation: str) -> None:
    for enc, pred in sample_masks((SHORT_RANGE, LONG_RANGE), GRID, 6, truncation=truncation, generator=generator(3)):
        for context, targets in zip(enc, pred, strict=True):
            assert not set(context.tolist()) & set(targets.tolist())
            assert context.tolist() == sorted(set(context.tolist()))
            assert targets.tolist() == sorted(set(targets.tolist()))


def test_one_sample_is_a_union_of_full_length_blocks() -> None:
    ((enc, pred),) = sample_masks((LONG_RANGE,), GRID, 1, generator=generator(5))
    assert sorted(torch.cat([enc[0], pred[0]]).tolist()) == list(range(GRID.tokens))  # batch of one: nothing is cut
    mask = torch.zeros(GRID.tokens, dtype=torch.bool)
    mask[pred[0]] = True
    frames = mask.view(GRID.shape)
    assert all(torch.equal(frame, frames[0]) for frame in frames)
    size = block_size(LONG_RANGE, GRID, generator(5))
    windows = frames[0].unfold(0, size.h, 1).unfold(1, size.w, 1).flatten(2).all(2).nonzero()
    covered = torch.zeros_like(frames[0])
    for top, left in windows.tolist():
        covered[top : top + size.h, left : left + size.w] = True
    assert torch.equal(covered, frames[0])


def test_random_truncation_keeps_late_frames_and_first_does_not() -> None:
    def share_of_last_to_first_step(truncation: str) -> float:
        counts = np.zeros(GRID.t)
        for seed in range(20):
            for enc, pred in sample_masks(
                (SHORT_RANGE, LONG_RANGE), GRID, 8, truncation=truncation, generator=generator(seed)
            ):
                for ids in (enc, pred):
                    counts += np.bincount(ids.flatten() // GRID.tokens_per_frame, minlength=GRID.t)
        return counts[-1] / counts[0]

    assert share_of_last_to_first_step("random") == pytest.approx(1, abs=0.03)
    assert share_of_last_to_first_step("first") < 0.5


def test_limits_on_the_context() -> None:
    config = MaskConfig(num_blocks=1, max_temporal_keep=0.5, max_keep=11)
    ((enc, pred),) = sample_masks((config,), GRID, 4, generator=generator())
    assert enc.shape[1] == 11
    assert enc.max() < GRID.tokens // 2
    assert (pred >= GRID.tokens // 2).sum() > 0


@pytest.mark.parametrize(
    "config", [MaskConfig(spatial_scale=(1.0, 1.0), aspect_ratio=(1.0, 1.0)), MaskConfig(kind="tube", ratio=1.0)]
)
def test_a_mask_without_context_is_an_error(config: MaskConfig) -> None:
    with pytest.raises(ConfigError):
        sample_masks((config,), GRID, 2, generator=generator())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_blocks", 0),
        ("spatial_scale", (-0.1, 0.5)),
        ("temporal_scale", (0.5, 1.5)),
        ("aspect_ratio", (0.0, 1.0)),
        ("max_keep", 0),
    ],
)
def test_a_setting_out_of_its_range_is_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name} "):
        sample_masks((MaskConfig(**{name: value}),), GRID, 2, generator=generator())
