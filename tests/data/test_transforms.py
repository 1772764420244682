"""Crops and views against Meta's results, and against plain slicing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from openvjepa.data.transforms import channels_first, eval_views, normalize, random_box, resize, train_transform

FOLDER = Path(__file__).parents[1] / "fixtures/vjepa/transforms"
FIXTURES = load_file(FOLDER / "transforms.safetensors")
META = json.loads((FOLDER / "transforms_meta.json").read_text())
ONE_LEVEL = 1.01 / 255 / 0.224


def views(name: str, count: int) -> list[torch.Tensor]:
    return [normalize(view[None])[0] for view in eval_views(FIXTURES[f"{name}.video"].numpy(), (32, 32), count)]


def test_views_without_resizing_equal_the_reference() -> None:
    for i, view in enumerate(views("exact", 3)):
        torch.testing.assert_close(view, FIXTURES[f"exact.eval_view{i}"], rtol=0, atol=1e-5)


def test_enlarged_view_is_within_a_grey_level_of_the_reference() -> None:
    torch.testing.assert_close(views("exact", 1)[0], FIXTURES["exact.eval_single"], rtol=0, atol=ONE_LEVEL)


@pytest.mark.parametrize("name", ["landscape", "portrait", "square"])
def test_reduced_views_differ_by_antialiasing_only(name: str) -> None:
    ours, reference = (
        [*views(name, 1), *views(name, 3)],
        [FIXTURES[f"{name}.eval_{v}"] for v in ("single", "view0", "view1", "view2")],
    )
    for a, b in zip(ours, reference, strict=True):
        assert a.shape == b.shape
        assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > 0.9


@pytest.mark.parametrize("name", ["square", "exact"])  # crops that are enlarged: antialiasing changes nothing
def test_an_enlarged_training_crop_is_within_a_grey_level_of_the_reference(name: str) -> None:
    top, left, h, w = META[f"{name}.crop_ijhw_seed3"]
    clip = channels_first(FIXTURES[f"{name}.video"].numpy())[:, :, top : top + h, left : left + w]
    ours = normalize(resize(clip, (32, 32)).transpose(0, 1)[None])[0]
    torch.testing.assert_close(ours, FIXTURES[f"{name}.pretrain_seed3"], rtol=0, atol=ONE_LEVEL)


@pytest.mark.parametrize(("source", "size"), [((96, 128), (64, 64)), ((40, 50), (64, 48)), ((240, 320), (224, 224))])
def test_resizing_is_within_a_grey_level_of_pillow(source: tuple[int, int], size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, *source, 3), dtype=np.uint8)
    ours = resize(channels_first(image), size)[0].permute(1, 2, 0).numpy()
    pillow = np.asarray(Image.fromarray(image[0]).resize(size[::-1], Image.Resampling.BILINEAR))
    assert np.abs(ours.astype(int) - pillow).max() <= 1


def test_training_crop_equals_slicing_when_nothing_is_resized() -> None:
    frames = torch.randint(0, 256, (4, 40, 40, 3), dtype=torch.uint8).numpy()
    options = {"scale": (0.64, 0.64), "ratio": (1.0, 1.0), "hflip": 0.0}
    clip = train_transform(frames, (32, 32), generator=torch.Generator().manual_seed(1), **options)
    top, left, h, w = random_box(
        40, 40, scale=(0.64, 0.64), ratio=(1.0, 1.0), generator=torch.Generator().manual_seed(1)
    )
    expected = torch.from_numpy(frames[:, top : top + h, left : left + w]).permute(3, 0, 1, 2)
    assert torch.equal(clip, expected)
    flipped = train_transform(frames, (32, 32), generator=torch.Generator().manual_seed(1), **{**options, "hflip": 1.0})
    assert torch.equal(flipped, expected.flip(3))


def test_random_boxes_have_the_asked_area_and_aspect() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(500):
        top, left, h, w = random_box(240, 320, scale=(0.3, 1.0), ratio=(0.75, 1.35), generator=generator)
        assert 0 <= top <= 240 - h
        assert 0 <= left <= 320 - w
        assert 0.29 < h * w / (240 * 320) <= 1
        assert 0.74 < w / h < 1.37


def test_an_impossible_box_falls_back_to_the_centre() -> None:
    box = random_box(10, 100, scale=(1.0, 1.0), ratio=(0.75, 1.35), generator=torch.Generator().manual_seed(0))
    assert box == (0, 43, 10, 14)


def test_normalize_closed_form() -> None:
    clips = torch.tensor([[[[[0]]], [[[128]]], [[[255]]]]], dtype=torch.uint8)
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert normalize(clips).flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_non_square_views() -> None:
    frames = torch.randint(0, 256, (2, 90, 160, 3), dtype=torch.uint8).numpy()
    for view in eval_views(frames, (48, 32), 3):
        assert view.shape == (3, 2, 48, 32)
    assert math.prod(eval_views(frames, (32, 64), 1)[0].shape) == 3 * 2 * 32 * 64
