"""Commands called with settings by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openvjepa.config import PRESETS, PretrainConfig, ProbeConfig, command, override, to_mapping, to_yaml
from openvjepa.errors import ConfigError


@command(PretrainConfig, "sources", PRESETS)
def show(config: PretrainConfig) -> PretrainConfig:
    """Says what it was called with."""
    return config


def test_a_configuration_is_passed_on() -> None:
    config = PretrainConfig(out="there")
    assert show(config) is config
    assert show.__doc__ == "Says what it was called with."


def test_settings_reach_their_sections(tmp_path: Path) -> None:
    found = show("videos/", preset="nano", out=tmp_path / "x", steps=400, img_size=64, lr=2e-3)
    nano = PRESETS["nano"]()
    assert found.sources == ("videos/",)
    assert (found.out, found.train.steps, found.model.img_size, found.optim.lr) == (str(tmp_path / "x"), 400, 64, 2e-3)
    changed: dict[str, Any] = to_mapping(nano)
    changed |= {"sources": ["videos/"], "out": str(tmp_path / "x")}
    changed["train"]["steps"], changed["model"]["img_size"], changed["optim"]["lr"] = 400, 64, 2e-3
    assert to_mapping(found) == changed
    assert show([Path("a"), "b"]).sources == ("a", "b")


def test_a_rate_replaces_that_of_the_base() -> None:
    assert (show("v", fps=5).data.frame_step, show("v", fps=5).data.fps) == (None, 5.0)
    found = show("v", preset="vjepa2-vitl", frame_step=2)
    assert (found.data.frame_step, found.data.fps) == (2, None)
    with pytest.raises(ConfigError, match="not both"):
        show("v", frame_step=2, fps=5)


def test_a_file_is_a_base(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(to_yaml(PretrainConfig(out="there")))
    assert show(config=tmp_path / "c.yaml", steps=7).out == "there"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stepz": 4}, "no setting 'stepz': did you mean 'steps'"),
        ({"preset": "nanoo"}, "preset 'nanoo' is unknown"),
        ({"preset": "nano", "config": "x.yaml"}, "preset or config, not both"),
        ({"steps": "many"}, "steps"),
        ({"steps": -1}, "steps"),
        ({"steps": True}, "steps True: give a number"),
    ],
)
def test_wrong_settings_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        show("videos/", **settings)
    with pytest.raises(ConfigError, match="not both"):
        show(PretrainConfig(), steps=4)  # type: ignore[call-overload]


def test_flat_configurations() -> None:
    found = override(ProbeConfig(), {"kinds": "linear", "device": "cpu", "lrs": [1e-3], "source": Path("v")})
    assert (found.kinds, found.device, found.lrs, found.source) == (("linear",), "cpu", (1e-3,), "v")
