"""Settings fail early and say which key is wrong; grids divide or complain."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from openvjepa.config import (
    ENCODER_SIZES,
    PRESETS,
    ClipConfig,
    ComputeConfig,
    DataConfig,
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
    ProbeConfig,
    from_mapping,
    part,
    read_yaml,
    to_mapping,
    to_yaml,
)
from openvjepa.errors import ConfigError
from openvjepa.grid import TokenGrid

HEAVY = ("torch", "numpy", "av", "sklearn", "pydantic", "yaml", "tyro", "rich")


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
        ({"model": {"embed_dim": 100}}, "is not divisible by its 3 attention heads"),
        ({"model": {"img_size": 100}}, "does not divide into tubelets of 2 frames and patches of 16 px"),
        ({"model": {"num_frames": 15}}, "does not divide"),
        ({"train": {"steps": "many"}}, "train.steps"),
        ({"data": {"fps": 4.0, "frame_step": 2}}, "frame_step or fps, not both"),
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


def test_errors_are_one_short_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="and 994 more") as caught:
        from_mapping(PretrainConfig, {f"{'x' * 500}{i}": i for i in range(1000)})
    assert len(str(caught.value)) < 2000
    (tmp_path / "config.yaml").write_text("model:\n  arch: [\n  depth: }\n")
    with pytest.raises(ConfigError, match="cannot be read as YAML") as caught:
        read_yaml(PretrainConfig, tmp_path / "config.yaml")
    assert "\n" not in str(caught.value)


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
    assert DataConfig() == DataConfig(frame_step=4)
    assert DataConfig(fps=4.0) == DataConfig(frame_step=None, fps=4.0)
    assert DataConfig(fps=4.0).frame_step is None


OLD = Path(__file__).parent / "fixtures" / "configs"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (PretrainConfig, "pretrain-0.1.yaml"),
        (PretrainConfig, "pretrain-nano-0.1.yaml"),
        (ProbeConfig, "probe-0.1.yaml"),
        (FinetuneConfig, "finetune-0.1.yaml"),
    ],
)
def test_configurations_of_earlier_versions_are_read(kind: type, name: str, tmp_path: Path) -> None:
    config, old = read_yaml(kind, OLD / name), yaml.safe_load((OLD / name).read_text(encoding="utf-8"))
    new = to_mapping(config)
    for key, value in old.items():  # whatever the old file says still holds; later versions may add settings
        assert new[key] == value or {k: new[key][k] for k in value} == value, key
    (tmp_path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert read_yaml(kind, tmp_path / "config.yaml") == config


def test_shared_settings_are_written_after_a_commands_own() -> None:
    names = list(to_mapping(ProbeConfig()))
    assert names[:2] == ["model", "out"]
    assert set(names) == {field.name for field in fields(ProbeConfig)}
    assert names.index("overwrite") < names.index("device")


def test_a_part_of_a_configuration() -> None:
    config = ProbeConfig(device="cpu", threads=2, segments=3, fps=8.0)
    assert part(config, ComputeConfig) == ComputeConfig(device="cpu", precision="fp32", threads=2)
    assert part(config, ClipConfig) == ClipConfig(fps=8.0, segments=3, views=1)
    assert isinstance(config, ComputeConfig)


def test_configurations_import_nothing_heavy() -> None:
    code = f"import sys, openvjepa.config; print([m for m in {HEAVY} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
