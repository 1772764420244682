"""Crops and views against Meta's results, and against plain slicing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from openvjepa.config import Fit
from openvjepa.data.transforms import (
    channels_first,
    chosen_fit,
    describe_fit,
    eval_views,
    normalize,
    random_box,
    resize,
    train_transform,
    view_count,
)
from openvjepa.errors import ConfigError

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


def gradient(height: int, width: int) -> NDArray[np.uint8]:
    """Red grows to the right and green downward: a view tells what it shows of the frame. [2, height, width, 3]"""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[..., 0] = np.linspace(0, 250, width)[None].round()
    frame[..., 1] = np.linspace(0, 250, height)[:, None].round()
    return np.stack([frame, frame])


def shown(view: torch.Tensor) -> tuple[float, float]:
    """Share of the frame's width and height between the first and the last column and row of a view."""
    red, green = view[0, 0].float(), view[1, 0].float()
    return (red[:, -1] - red[:, 0]).mean().item() / 250, (green[-1] - green[0]).mean().item() / 250


@pytest.mark.parametrize("antialias", [True, False])
def test_squeeze_shows_the_whole_frame_and_crop_does_not(antialias: bool) -> None:
    frames = gradient(180, 320)
    (whole,) = eval_views(frames, (90, 90), 1, antialias=antialias, fit="squeeze")
    assert whole.shape == (3, 2, 90, 90)
    assert shown(whole) == pytest.approx((1, 1), abs=0.03)
    (crop,) = eval_views(frames, (90, 90), 1, antialias=antialias)
    assert shown(crop) == pytest.approx((9 / 16 * 7 / 8, 7 / 8), abs=0.03)


def test_squeeze_is_the_resize_of_pillow() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    (view,) = eval_views(frame[None], (48, 48), 1, fit="squeeze")
    pillow = np.asarray(Image.fromarray(frame).resize((48, 48), Image.Resampling.BILINEAR))
    assert np.abs(view[:, 0].permute(1, 2, 0).numpy().astype(int) - pillow).max() <= 1


def test_pad_keeps_the_aspect_and_its_bars_normalize_to_zero() -> None:
    (view,) = eval_views(gradient(180, 320), (64, 64), 1, fit="pad")
    assert shown(view[:, :, 14:50]) == pytest.approx((1, 1), abs=0.06)
    bars = normalize(view[None])[0][:, :, [*range(14), *range(50, 64)]]
    assert bars.abs().max() < 0.02
    (tall,) = eval_views(gradient(320, 180), (64, 64), 1, fit="pad")
    assert normalize(tall[None])[0][..., [*range(14), *range(50, 64)]].abs().max() < 0.02


def test_three_crops_are_three_views() -> None:
    frames = gradient(180, 320)
    for asked in (1, 3):
        views = eval_views(frames, (90, 90), asked, fit="three")
        assert all(torch.equal(a, b) for a, b in zip(views, eval_views(frames, (90, 90), 3), strict=True))
    assert view_count("three", 1) == view_count("three", 3) == 3


@pytest.mark.parametrize(("fit", "views"), [("squeeze", 3), ("pad", 2), ("three", 2)])
def test_fits_that_have_no_other_views(fit: Fit, views: int) -> None:
    with pytest.raises(ConfigError, match="leave views at 1"):
        eval_views(gradient(40, 60), (32, 32), views, fit=fit)


@pytest.mark.parametrize(
    ("height", "width", "chosen"),
    [(64, 64, "crop"), (100, 124, "crop"), (124, 100, "crop"), (100, 126, "squeeze"), (180, 320, "squeeze"),
     (320, 180, "squeeze"), (480, 640, "squeeze")],
)  # fmt: skip
def test_auto_crops_where_little_is_lost(height: int, width: int, chosen: Fit) -> None:
    frames = gradient(height, width)
    (view,) = eval_views(frames, (32, 32), 1, fit="auto")
    assert torch.equal(view, eval_views(frames, (32, 32), 1, fit=chosen)[0])
    assert chosen_fit("auto", (height, width), (32, 32)) == chosen
    assert chosen_fit("auto", (height, width), (32, 32), 3) == "crop"


def test_auto_compares_the_shapes_not_the_sizes() -> None:
    assert chosen_fit("auto", (180, 320), (90, 160)) == "crop"
    assert chosen_fit("auto", (180, 180), (90, 160)) == "squeeze"


def test_the_choice_is_explained() -> None:
    assert describe_fit("auto", (180, 320), (64, 64)) == (
        "whole frame, squeezed (320 x 180 px to 64 x 64 px: a crop would lose 44% of the frame)"
    )
    assert describe_fit("auto", (64, 64), (32, 32)) == "center crop (64 x 64 px to 32 x 32 px: same aspect ratio)"
    assert "--fit" in describe_fit("pad", (64, 64), (32, 32))
