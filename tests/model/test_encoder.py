"""Clips of every shape: what the fixtures do not hold, against torch's own layers and closed forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from openvjepa.config import ModelConfig
from openvjepa.errors import ConfigError
from openvjepa.grid import TokenGrid
from openvjepa.model.blocks.positions import interpolate_positions, sincos_3d
from openvjepa.model.encoder import Encoder, create_model
from openvjepa.model.pooler import AttentiveClassifier
from openvjepa.model.predictor import Predictor

KEYS = Path(__file__).parents[1] / "fixtures" / "vjepa" / "keys" / "keys_v1.json"
TINY = ModelConfig(img_size=16, num_frames=4, patch_size=8, embed_dim=24, depth=2, num_heads=2)


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    model = Encoder(TINY).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)  # far from the initial near-identity
    return model


def some_ids(count: int, tokens: int = 8, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(tokens, generator=generator)[:count] for _ in range(2)])


@pytest.mark.parametrize("part", ["vit_tiny", "vit_large", "vit_large_predictor", "probe_k400_vitl"])
def test_names_and_shapes_of_the_published_models(part: str) -> None:
    with torch.device("meta"):
        if part == "vit_large_predictor":
            module: torch.nn.Module = Predictor(ModelConfig(arch="vit_large"))
        elif part == "probe_k400_vitl":
            module = AttentiveClassifier(1024, 16, 400)
        else:
            module = create_model(part)
    expected = json.loads(KEYS.read_text())[part]
    ours = {name: list(value.shape) for name, value in module.state_dict().items()}
    assert ours == {name.removeprefix("backbone."): shape for name, shape in expected.items()}


@pytest.mark.parametrize(
    ("arch", "millions"),
    [("vit_tiny", 5.634), ("vit_small", 21.88), ("vit_base", 86.24), ("vit_large", 303.885312), ("vit_huge", 631.648),
     ("vit_giant", 1012.17)],
)  # fmt: skip
def test_sizes(arch: str, millions: float) -> None:
    with torch.device("meta"):
        encoder = create_model(arch)
    trained = sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad)
    assert trained / 1e6 == pytest.approx(millions, rel=5e-4)


def test_patch_embedding_is_the_convolution(encoder: Encoder) -> None:
    video = torch.randn(2, 3, 6, 24, 40)
    proj = encoder.patch_embed.proj
    expected = F.conv3d(video, proj.weight, proj.bias, stride=proj.stride).flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder.patch_embed(video), expected)


@pytest.mark.parametrize("shape", [(4, 16, 16), (2, 16, 16), (8, 24, 40), (6, 8, 16), (1, 16, 16), (1, 32, 8)])
def test_any_clip_shape(encoder: Encoder, shape: tuple[int, int, int]) -> None:
    grid = TokenGrid.of_clip(*shape, patch_size=8, tubelet_size=2)
    out = encoder(torch.randn(2, 3, *shape))
    assert out.shape == (2, grid.tokens, 24)
    assert out.isfinite().all()


def test_single_image_is_a_still_tubelet_in_the_middle(encoder: Encoder) -> None:
    image = torch.randn(2, 3, 1, 16, 16)
    tubelet = image.repeat(1, 1, 2, 1, 1)
    torch.testing.assert_close(encoder(image), encoder(tubelet))
    middle = encoder.pos_embed.unflatten(1, (2, 4)).mean(1)  # between the two time steps
    torch.testing.assert_close(encoder.positions(image), middle)


def test_kept_tokens_see_only_each_other(encoder: Encoder) -> None:
    video, ids = torch.randn(2, 3, 4, 16, 16), some_ids(3)
    changed = video.clone()
    hidden = next(i for i in range(8) if i not in ids[0])
    t, row, column = hidden // 4, hidden // 2 % 2, hidden % 2
    changed[0, :, 2 * t : 2 * t + 2, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 1
    assert torch.equal(encoder(video, ids), encoder(changed, ids))
    assert not torch.allclose(encoder(video), encoder(changed))


def test_all_tokens_kept_in_another_order(encoder: Encoder) -> None:
    video, ids = torch.randn(2, 3, 4, 16, 16), some_ids(8)
    expected = torch.stack([tokens[order] for tokens, order in zip(encoder(video), ids, strict=True)])
    torch.testing.assert_close(encoder(video, ids), expected)


def test_several_masks_and_layers(encoder: Encoder) -> None:
    video, masks = torch.randn(2, 3, 4, 16, 16), [some_ids(3), some_ids(5, seed=2)]
    for out, ids in zip(encoder.forward_masks(video, masks), masks, strict=True):
        torch.testing.assert_close(out, encoder(video, ids))
    last, first = encoder.forward_intermediates(video, [1, 0], masks[0])
    torch.testing.assert_close(last, encoder(video, masks[0]))
    expected = encoder.norm(encoder.blocks[0](encoder.embed(video)))
    torch.testing.assert_close(encoder.forward_intermediates(video, [0])[0], expected)
    assert first.shape == last.shape


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((2, 3, 5, 16, 16), "does not divide"),
        ((2, 3, 4, 20, 16), "does not divide"),
        ((2, 3, 4, 4, 16), "does not divide"),
        ((2, 16, 16, 3), "shape"),
        ((2, 4, 4, 16, 16), "shape"),
    ],
)
def test_impossible_clips(encoder: Encoder, shape: tuple[int, ...], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        encoder(torch.zeros(shape))


def test_image_model_takes_one_frame() -> None:
    encoder = Encoder(ModelConfig(img_size=16, num_frames=1, patch_size=8, embed_dim=24, depth=1, num_heads=2))
    assert encoder(torch.zeros(1, 3, 1, 16, 32)).shape == (1, 8, 24)
    with pytest.raises(ConfigError, match="one frame"):
        encoder(torch.zeros(1, 3, 2, 16, 16))


def test_video_model_of_one_tubelet_stretches_its_codes_trilinearly() -> None:
    codes = sincos_3d(24, TokenGrid(1, 2, 2), uniform_power=True)[None]
    ours = interpolate_positions(codes, TokenGrid(1, 2, 2), TokenGrid(1, 3, 5), image=False)
    cube = codes.unflatten(1, (1, 2, 2)).permute(0, 4, 1, 2, 3)
    expected = F.interpolate(cube, scale_factor=(1.0, 3 / 2, 5 / 2), mode="trilinear").flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("pair", [(49, 1), (22, 7), (14, 24), (93, 87)])
def test_stretched_grids_have_the_size_asked_for(pair: tuple[int, int]) -> None:
    source, target = TokenGrid(1, pair[0], 2), TokenGrid(1, pair[1], 2)
    assert (
        interpolate_positions(torch.zeros(1, source.tokens, 6), source, target, image=False).shape[1] == target.tokens
    )


def test_unknown_size_is_named() -> None:
    with pytest.raises(ConfigError, match="vit_colossal"):
        create_model("vit_colossal")


@pytest.mark.parametrize("positions", ["sincos", "rope-tiled", "rope"])
def test_shapes_without_values(positions: Literal["sincos", "rope-tiled", "rope"]) -> None:
    """On the device "meta", a model tells the shapes of what it would compute."""
    config = ModelConfig(
        arch="vit_femto", img_size=32, num_frames=4, positions=positions, predictor_embed_dim=48, predictor_num_heads=3
    )
    encoder, predictor = Encoder(config).to("meta"), Predictor(config).to("meta")
    tokens = encoder(torch.zeros(1, 3, 4, 32, 32, device="meta"))
    assert (tokens.shape, tokens.device.type) == ((1, 8, 96), "meta")
    ids = torch.arange(4, device="meta")[None]
    assert predictor(tokens[:, :4], ids, ids + 4).masked.shape == (1, 4, 96)
