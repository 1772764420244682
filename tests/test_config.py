"""Settings fail early and say which key is wrong; grids divide or complain."""

from __future__ import annotations

from pathlib import Path

import pytest

from openvjepa.config import (
    ENCODER_SIZES,
    PRESETS,
    DataConfig,
    ModelConfig,
    PretrainConfig,
    from_mapping,
    read_yaml,
    to_mapping,
    to_yaml,
)
from openvjepa.errors import ConfigError
from openvjepa.grid import TokenGrid


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_yaml(name: str, tmp_path: Path) -> None:
    config = PRESETS[name]()
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert read_yaml(PretrainConfig, tmp_path / "config.yaml") == config
    assert from_mapping(PretrainConfig, to_mapping(config)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modle": {}}, "modle"),
        ({"model": {"arhc": "vit_tiny"}}, "model.arhc"),
        ({"model": {"arch": "vit_enormous"}}, "vit_enormous"),
        ({"model": {"embed_dim": 100}}, "does not divide by its 3 attention heads"),
        ({"model": {"img_size": 100}}, "does not divide into tubelets of 2 frames and patches of 16 px"),
        ({"model": {"num_frames": 15}}, "does not divide"),
        ({"train": {"steps": "many"}}, "train.steps"),
        ({"data": {"fps": 4.0}}, "exactly one of frame_step and fps"),
        ({"data": {"crop_ratio": [0, 1]}}, "crop_ratio"),
        ({"data": {"crop_scale": [1, 0.5]}}, "crop_scale"),
        ({"data": {"workers": -1}}, "workers -1"),
        ({"data": {"max_bad": -0.1}}, "max_bad"),
        ({"masking": {"masks": [{"kind": "stripes"}]}}, "masking.masks.0.kind"),
    ],
)
def test_mistakes_are_named(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(PretrainConfig, values)


@pytest.mark.parametrize("text", ["a: [", "- 1", "\x00"])
def test_files_that_are_no_configuration(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        read_yaml(PretrainConfig, tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=r"missing\.yaml"):
        read_yaml(PretrainConfig, tmp_path / "missing.yaml")


def test_every_size_is_possible() -> None:
    for name, (width, depth, heads, ratio) in ENCODER_SIZES.items():
        dims = ModelConfig(arch=name, predictor_num_heads=12).dims
        assert (dims.embed_dim, dims.depth, dims.num_heads, dims.mlp_ratio) == (width, depth, heads, ratio)
    assert int(1408 * ENCODER_SIZES["vit_giant"][3]) == 6144


def test_token_grid() -> None:
    assert TokenGrid.of_clip(16, 224, 160, patch_size=16, tubelet_size=2) == TokenGrid(8, 14, 10)
    assert TokenGrid.of_clip(1, 32, 32, patch_size=8, tubelet_size=2).shape == (1, 4, 4)
    assert TokenGrid(8, 14, 14).tokens == 1568
    for frames, height, width in ((3, 32, 32), (2, 33, 32), (2, 32, 8), (0, 32, 32)):
        with pytest.raises(ConfigError):
            TokenGrid.of_clip(frames, height, width, patch_size=16, tubelet_size=2)


def test_frame_step_or_fps() -> None:
    assert DataConfig(frame_step=None, fps=4.0).fps == 4.0
