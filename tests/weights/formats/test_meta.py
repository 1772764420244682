"""Reading a configuration off tensors: against models that were built from it, and the published shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from openvjepa.config import ENCODER_SIZES, ModelConfig
from openvjepa.errors import CheckpointError
from openvjepa.model.blocks.positions import position_codes
from openvjepa.model.encoder import Encoder
from openvjepa.model.predictor import Predictor
from openvjepa.weights.formats.meta import drop_unused_codes, infer_config, strip_prefixes

KEYS = Path(__file__).parents[2] / "fixtures" / "vjepa" / "keys" / "keys_v1.json"


def states(config: ModelConfig) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Encoder and predictor of a configuration; only the position codes have values."""
    with torch.device("meta"):
        encoder, predictor = Encoder(config).state_dict(), Predictor(config).state_dict()
    encoder["pos_embed"] = position_codes(config.dims.embed_dim, config)
    return encoder, predictor


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(arch="vit_femto", img_size=64, patch_size=8),
        ModelConfig(arch="vit_pico", img_size=(48, 80), num_frames=8, tubelet_size=4),
        ModelConfig(arch="vit_tiny", img_size=(16, 64), num_frames=2, predictor_embed_dim=96, predictor_depth=3),
        ModelConfig(arch="vit_small", img_size=(64, 16), uniform_power=False, num_mask_tokens=2),
        ModelConfig(arch="vit_tiny", img_size=16, num_frames=6),
        ModelConfig(arch="vit_tiny", img_size=(48, 32), num_frames=1),
        ModelConfig(arch="vit_femto", img_size=16, num_frames=2),
    ],
)
def test_configuration_comes_back(config: ModelConfig) -> None:
    assert infer_config(*states(config), {}, "file") == config


def test_published_large_model() -> None:
    shapes = json.loads(KEYS.read_text())
    encoder, predictor = (
        strip_prefixes({name: torch.empty(shape, device="meta") for name, shape in shapes[part].items()}, part)
        for part in ("vit_large", "vit_large_predictor")
    )
    encoder["pos_embed"] = position_codes(1024, ModelConfig(arch="vit_large"))
    assert infer_config(encoder, predictor, {}, "file") == ModelConfig(arch="vit_large")


@pytest.mark.parametrize("noise", [1e-4, 1e-3])
def test_codes_that_a_moving_average_has_rounded(noise: float) -> None:
    config = ModelConfig(arch="vit_tiny", img_size=64)
    encoder, predictor = states(config)
    encoder["pos_embed"] += noise * torch.randn(encoder["pos_embed"].shape, generator=torch.Generator().manual_seed(0))
    assert infer_config(encoder, predictor, {}, "file") == config


def test_heads_must_be_given_where_sizes_differ_in_them_only() -> None:
    config = ModelConfig(arch="vit_giant", img_size=16, num_frames=2, num_heads=22, predictor_num_heads=12)
    encoder, _ = states(config)
    with pytest.raises(CheckpointError, match=r"vit_giant and vit_giant_xformers: pass arch=\{\"num_heads\""):
        infer_config(encoder, None, {}, "file")
    for arch in ({"num_heads": 22}, {"arch": "vit_giant_xformers"}):
        assert infer_config(encoder, None, {**arch, "predictor_num_heads": 12}, "file").dims == config.dims


def test_unknown_size() -> None:
    config = ModelConfig(img_size=32, embed_dim=48, depth=2, num_heads=4, mlp_ratio=3.0)
    encoder, predictor = states(config)
    with pytest.raises(CheckpointError, match="width 48 with 2 blocks is no size known here"):
        infer_config(encoder, predictor, {}, "file")
    assert infer_config(encoder, predictor, {"num_heads": 4}, "file") == config


def test_clip_shape_must_be_given_where_the_codes_do_not_tell() -> None:
    config = ModelConfig(arch="vit_tiny", img_size=32, num_frames=4)
    encoder, _ = states(config)
    encoder["pos_embed"] = torch.randn(1, 8, 192)
    with pytest.raises(CheckpointError, match="num_frames"):
        infer_config(encoder, None, {}, "file")
    assert infer_config(encoder, None, {"num_frames": 4, "img_size": 32}, "file") == config


@pytest.mark.parametrize(
    ("arch", "reason"),
    [({"heads": 3}, "heads"), ({"num_heads": "many"}, "num_heads"), ({"num_heads": 5}, "not divisible")],
)
def test_wrong_arch(arch: dict[str, object], reason: str) -> None:
    encoder, _ = states(ModelConfig(arch="vit_tiny", img_size=32, num_frames=4))
    with pytest.raises(CheckpointError, match=f"^file: .*{reason}"):
        infer_config(encoder, None, arch, "file")


ROPE = {"positions": "rope-tiled", "predictor_num_heads": 12}
V21 = {
    "positions": "rope", "interpolate_rope": True, "modality_embed": True, "predict_context": True, "num_mask_tokens": 8,
    "predictor_num_heads": 12, "img_size": 384, "num_frames": 64,
}  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(arch="vit_large", img_size=256, num_frames=64, num_mask_tokens=10, **ROPE),
        ModelConfig(arch="vit_giant_xformers", img_size=384, num_frames=64, num_mask_tokens=10, **ROPE),
        ModelConfig(arch="vit_base", levels=(2, 5, 8, 11), predictor_out_dim=1664, **V21),
        ModelConfig(
            arch="vit_gigantic_xformers", levels=(11, 23, 37, 47), predictor_levels=4, predictor_depth=24, **V21
        ),
    ],
)
def test_rotary_models(config: ModelConfig) -> None:
    """All but the clip's shape is in the tensors, or is what every published model has."""
    with torch.device("meta"):
        encoder, predictor = Encoder(config).state_dict(), Predictor(config).state_dict()
    with pytest.raises(CheckpointError, match="does not hold the shape of a clip: pass arch="):
        infer_config(encoder, predictor, {}, "file")
    shape = {"img_size": config.img_size, "num_frames": config.num_frames}
    assert infer_config(encoder, predictor, shape, "file") == config


def test_position_codes_that_v_jepa_2_does_not_use() -> None:
    encoder, predictor = states(ModelConfig(arch="vit_tiny", img_size=32, num_frames=4, num_mask_tokens=10))
    config = infer_config(encoder, predictor, {"img_size": 32, "num_frames": 4}, "file")
    assert (config.positions, config.predictor_num_heads) == ("rope-tiled", 12)
    state, notes = drop_unused_codes(encoder, config)
    assert set(encoder) - set(state) == {"pos_embed"}
    assert notes == ["pos_embed dropped: a model with rotary positions does not use it"]


def test_position_codes_of_unknown_use() -> None:
    encoder, predictor = states(ModelConfig(arch="vit_tiny", img_size=32, num_frames=4, num_mask_tokens=3))
    with pytest.raises(CheckpointError, match=r'3 mask tokens, .*pass arch=\{"positions": "sincos"\} for V-JEPA 1'):
        infer_config(encoder, predictor, {}, "latest.pt")
    assert infer_config(encoder, predictor, {}, "jepa-latest.pth.tar").positions == "sincos"
    assert infer_config(encoder, predictor, {"positions": "sincos"}, "latest.pt").positions == "sincos"


@pytest.mark.parametrize("name", ["patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "predictor_embed.weight"])
def test_not_a_model(name: str) -> None:
    encoder, predictor = states(ModelConfig(arch="vit_tiny", img_size=32, num_frames=4))
    part = encoder if name in encoder else predictor
    part[name] = torch.zeros(3)
    with pytest.raises(CheckpointError, match=f"{name} has the shape"):
        infer_config(encoder, predictor, {}, "file")
    del part[name]
    with pytest.raises(CheckpointError, match=f"no {name}"):
        infer_config(encoder, predictor, {}, "file")


def test_prefixes() -> None:
    one = torch.ones(1)
    stripped = strip_prefixes({"module.backbone.norm.weight": one, "backbone.norm.bias": one, "linear.bias": one}, "f")
    assert set(stripped) == {"norm.weight", "norm.bias", "linear.bias"}
    with pytest.raises(CheckpointError, match="twice"):
        strip_prefixes({"module.norm.bias": one, "norm.bias": one}, "f")
    for section in ({}, [one], None, {"norm.bias": 1.0}, {3: one}):
        with pytest.raises(CheckpointError, match=r"^f: "):
            strip_prefixes(section, "f")


def test_sizes_with_one_width_and_depth_are_told_apart_or_refused() -> None:
    seen = [(dim, depth) for dim, depth, _, _ in ENCODER_SIZES.values()]
    twins = {size for size in seen if seen.count(size) > 1}
    assert twins == {(1408, 40)}  # a new twin needs a look at infer_config
