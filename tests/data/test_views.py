"""Views of a clip: the same change in every frame, sizes and scales as asked for, functions of the seed alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from openvjepa.config import DataConfig, MaskingConfig, ModelConfig, ViewsConfig
from openvjepa.data.loader import PretrainBatches, PretrainLoader
from openvjepa.data.rendered.synthetic import ShapesConfig, make_shapes
from openvjepa.data.views import ViewMaker, jitter_colors, keep_tokens
from openvjepa.errors import ConfigError
from openvjepa.grid import TokenGrid

MODEL = ModelConfig(arch="vit_femto", img_size=32, num_frames=8, patch_size=8)
DATA = DataConfig(frame_step=1, hflip=0.5)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_still_video_has_still_views_that_differ() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    views = ViewMaker(ViewsConfig(local_views=2, local_size=16), DATA, MODEL)(np.repeat(picture[None], 8, 0), rng())
    assert [tuple(clip.shape) for clip, _ in views] == [(3, 8, 32, 32)] * 2 + [(3, 8, 16, 16)] * 2
    assert all(torch.equal(clip, clip[:, :1].expand_as(clip)) for clip, _ in views)
    assert not torch.equal(views[0][0], views[1][0])
    assert not torch.equal(views[2][0], views[3][0])
    assert all(ids is None for _, ids in views)


def test_scale_is_the_area_of_the_crop() -> None:
    """On a ramp of rows and columns, the values in the corners of a view tell where it was cut."""
    size = 200
    ramp = np.zeros((8, size, size, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(size)[:, None], np.arange(size)
    settings = ViewsConfig(
        global_views=1, local_views=1, global_scale=(0.5, 0.6), local_scale=(0.1, 0.2), color_jitter=0
    )
    maker = ViewMaker(settings, DataConfig(frame_step=1, hflip=0.0), MODEL)
    for seed in range(20):
        for (clip, _), (least, most) in zip(maker(ramp, rng(seed)), ((0.5, 0.6), (0.1, 0.2)), strict=True):
            pixels = clip[:, 0].float()
            n = pixels.shape[-1]
            rows = (pixels[0, -1, 0] - pixels[0, 0, 0]) * n / (n - 1)
            columns = (pixels[1, 0, -1] - pixels[1, 0, 0]) * n / (n - 1)
            assert least - 0.03 < rows * columns / size**2 < most + 0.03


def test_color_jitter_by_hand() -> None:
    clip = torch.randint(60, 160, (3, 4, 6, 6), generator=rng(), dtype=torch.uint8)
    contrast, brightness, *gains = (1 + 0.4 * (2 * torch.rand(5, generator=rng(7)) - 1)).tolist()
    pixels = clip.numpy().astype(float)
    changed = (pixels - pixels.mean()) * contrast + pixels.mean() * brightness
    for channel, gain in enumerate(gains):
        changed[channel] *= 1 + (gain - 1) / 2
    found = jitter_colors(clip, 0.4, rng(7)).numpy()
    assert np.abs(found - np.clip(changed, 0, 255)).max() <= 0.51
    assert torch.equal(jitter_colors(clip, 0.0, rng()), clip)
    assert not torch.equal(jitter_colors(clip, 0.4, rng(8)), jitter_colors(clip, 0.4, rng(7)))


def test_tokens_are_dropped_evenly_over_time() -> None:
    grid = TokenGrid(4, 3, 3)
    counts = torch.zeros(36)
    for seed in range(300):
        ids = keep_tokens(grid, 0.34, rng(seed))
        assert ids is not None
        assert torch.equal(ids, ids.sort().values)
        assert torch.bincount(ids // 9, minlength=4).tolist() == [3, 3, 3, 3]
        counts[ids] += 1
    assert counts.min() > 60
    assert counts.max() < 140
    assert keep_tokens(grid, 1.0, rng()) is None


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("views") / "set"
    make_shapes(ShapesConfig(out=str(out), train=9, val=0, test=0, size=48, frames=12), workers=1)
    return out


def batches(shapes: Path, views: ViewsConfig | None, *, start: int = 0, workers: int = 0) -> list[dict[str, Any]]:
    data = DataConfig(frame_step=1, workers=workers, label="motion")
    made = PretrainBatches((str(shapes),), data, MODEL, MaskingConfig(), seed=3, micro_batch=4, views=views)
    return list(PretrainLoader(made, start_step=start, steps=3, pin_memory=False))


def test_views_come_with_the_batch_and_follow_from_the_seed(shapes: Path) -> None:
    settings = ViewsConfig(local_views=1, token_keep=0.5)
    plain, first = batches(shapes, None), batches(shapes, settings)
    assert "views" not in plain[0]
    assert all(torch.equal(a["clips"], b["clips"]) for a, b in zip(plain, first, strict=True))
    assert [tuple(view["clips"].shape[2:]) for view in first[0]["views"]] == [(8, 32, 32), (8, 32, 32), (8, 16, 16)]
    assert [tuple(view["ids"].shape) for view in first[0]["views"]] == [(4, 4 * 8), (4, 4 * 8), (4, 4 * 2)]
    for other in (batches(shapes, settings, workers=2), batches(shapes, settings, start=1)):
        for a, b in zip(first[-len(other) :], other, strict=True):
            for x, y in zip(a["views"], b["views"], strict=True):
                assert torch.equal(x["clips"], y["clips"])
                assert torch.equal(x["ids"], y["ids"])


def test_impossible_views() -> None:
    for values in ({"global_views": 0}, {"color_jitter": 1.0}, {"token_keep": 0.0}, {"global_scale": (0.9, 0.3)}):
        with pytest.raises(ConfigError, match=next(iter(values))):
            ViewsConfig(**values)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="local_size 12"):
        ViewMaker(ViewsConfig(local_views=1, local_size=12), DATA, MODEL)
