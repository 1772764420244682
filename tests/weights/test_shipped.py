"""The encoder that the package holds: the recorded bytes, the recorded features, found by name without a network."""

from __future__ import annotations

import hashlib
import re
import socket
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from openvjepa.commands.models import models
from openvjepa.commands.probe import probe
from openvjepa.commands.train import default_models
from openvjepa.config import ModelConfig
from openvjepa.model.pixels import untrained
from openvjepa.weights.hub import known_config, load_model
from openvjepa.weights.local import downloaded
from openvjepa.weights.registry import ModelInfo, find, list_models, shipped_models

PACKAGE = Path(__file__).parents[2] / "src/openvjepa"
NAMES = [info.name for info in shipped_models()]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a shipped model asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def small() -> ModelInfo:
    info = find("openvjepa-small")
    assert info is not None
    return info


def test_the_file_is_the_recorded_one() -> None:
    info = small()
    assert info.folder is not None
    file = info.folder / "model.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == info.sha256
    assert file.stat().st_size <= 8e6
    assert load_model(info.name).config == ModelConfig(**info.arch) == known_config(info.name, {})


def test_features_are_the_recorded_ones() -> None:
    """Of frames that a formula draws; recorded on 2026-11-24 on an AMD EPYC in float32."""
    t, y, x = np.meshgrid(np.arange(16), np.arange(64), np.arange(64), indexing="ij")
    frames = np.stack([(5 * x + 3 * t) % 256, (4 * y + 7 * t) % 256, (x * y + t) % 256], -1).astype(np.uint8)
    features = load_model("openvjepa-small").encode(frames)
    assert features.shape == (1, 256, 192)
    recorded = [
        [0.21317, 1.21551, 0.64835, -1.05255],
        [1.331, 0.62585, 0.72822, -1.06502],
        [0.39171, 0.07558, 0.69043, 0.24041],
    ]
    torch.testing.assert_close(features[0, [0, 100, 255], :4], torch.tensor(recorded), rtol=1e-3, atol=1e-3)
    assert features.std().item() == pytest.approx(1.25089, abs=1e-3)


def test_it_is_listed_first_and_is_here() -> None:
    assert NAMES == ["openvjepa-small"] == [info.name for info in list_models()][:1]
    found = models("openvjepa-small")[0]
    assert "openvjepa-small" in default_models()  # `vjepa train` compares it
    assert found.path == small().folder == downloaded(small())
    assert found.config.grid.shape == (4, 8, 8)
    assert downloaded(replace(small(), shipped=None)) is None


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_packaged(name: str) -> None:
    """The globs of pyproject.toml reach every file of the folder; the card says what must be said."""
    settings = (PACKAGE.parents[1] / "pyproject.toml").read_text("utf-8")
    section = re.search(r"package-data\]\nopenvjepa = \[(.*?)\]", settings, re.DOTALL)
    assert section
    globs = re.findall(r'"([^"]+)"', section[1])
    folder = (find(name) or small()).folder
    assert folder is not None
    files = {path.name for path in folder.iterdir()}
    assert files == {"README.md", "model.safetensors", "model.yaml"}
    for path in folder.iterdir():
        relative = path.relative_to(PACKAGE).as_posix()
        assert any(fnmatch(relative, pattern) and pattern.count("/") == relative.count("/") for pattern in globs)
    text = (folder / "README.md").read_text("utf-8")
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "apache-2.0"
    for said in ("CC0", "MIT", "Apache-2.0", "benchmarks/shipped.py", "untrained", "pixels"):
        assert said in text


def test_it_probes_and_differs_from_untrained_weights(shapes: Path, tmp_path: Path) -> None:
    result = probe(str(shapes), model="openvjepa-small", label="motion", kinds=("linear",), out=str(tmp_path / "run"),
                   threads=1, workers=0)  # fmt: skip
    assert (tmp_path / "run" / "results.json").exists()
    assert result is not None
    model = load_model("openvjepa-small")
    other = untrained(model.config).state_dict()
    assert all(
        not torch.equal(value, other[name]) for name, value in model.encoder.state_dict().items() if "weight" in name
    )
