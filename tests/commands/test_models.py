"""The table of published models: its figures, what is on this computer, and the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from openvjepa.cli import main
from openvjepa.commands import models as task
from openvjepa.commands.models import models
from openvjepa.config import ModelConfig, ModelsConfig
from openvjepa.errors import ConfigError
from openvjepa.weights.local import PROCESS_GB, free_memory_gb, memory_gb
from openvjepa.weights.registry import find, list_models


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's cache, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def test_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "free_memory_gb", lambda: 4.0)
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {cells[0]: cells for line in lines if len(cells := line.replace("│", "").split()) > 5}
    assert set(rows) >= {info.name for info in list_models()}
    row = next(line for line in lines if "vitl16 " in line)
    for word in ("V-JEPA", "304", "224", "16", "CC BY-NC 4.0", "K400 80.8, SSv2 69.5, IN1k 74.8"):
        assert word in row
    assert "!" not in row
    assert "!" in next(line for line in lines if "gigantic" in line)
    assert any("4.0 GB free here" in line for line in lines)


def test_details_say_how_to_load_it(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert main(["models", "vjepa2-vitl"]) == 0
    told = capsys.readouterr().out
    for text in (
        "https://dl.fbaipublicfiles.com/vjepa2/vitl.pt",
        "facebook/vjepa2-vitl-fpc64-256",
        "https://dl.fbaipublicfiles.com/vjepa2/evals/ssv2-vitl-16x2x3.pt",
        'openvjepa.load_model("vjepa2-vitl", probe="ssv2")',
        "vjepa probe videos/ --model vjepa2-vitl",
        "64 frames of 256 px",
        "not downloaded yet",
    ):
        assert text in told
    home.mkdir(parents=True)
    (home / "vitl.pt").touch()
    assert main(["models", "vjepa2-vitl"]) == 0
    assert str(home / "vitl.pt") in capsys.readouterr().out


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    several = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in several] == [info.name for info in list_models()]
    assert main(["models", "vitl16", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found in several
    assert found["num_frames"] == 16
    assert found["path"] is None


def test_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="did you mean vitl16"):
        models(ModelsConfig("vit-l16"))
    assert main(["models", "what"]) == 1
    assert capsys.readouterr().err == (
        "vjepa: error: what: no published model has this name: `vjepa models` lists all names\n"
    )


def test_memory_by_hand() -> None:
    """ViT-L at 16 x 224: 24 blocks of 12 D^2 weights; 1568 tokens of 2 (D + 4 D) numbers, 1.6 times."""
    expected = 0.35 + 4e-9 * (24 * 12 * 1024**2 + 1.6 * 1568 * 10 * 1024)
    assert memory_gb(ModelConfig(arch="vit_large")) == pytest.approx(expected)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_a_process() -> None:
    """The estimate against what a process grows by, at its peak, when it makes and runs an encoder."""
    program = """
import torch
from openvjepa.config import ModelConfig
from openvjepa.model.encoder import Encoder
def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) * 1024
before = status("VmRSS")
model = Encoder(ModelConfig(arch="vit_small", img_size=256, num_frames=16)).eval()
with torch.inference_mode():
    model(torch.randn(1, 3, 16, 256, 256))
print(status("VmHWM") - before)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    config = ModelConfig(arch="vit_small", img_size=256, num_frames=16)
    pixels_and_imports = 0.1
    assert int(done.stdout) / 1e9 == pytest.approx(memory_gb(config) - PROCESS_GB + pixels_and_imports, rel=0.4)


def test_free_memory() -> None:
    free = free_memory_gb()
    if sys.platform == "win32":
        assert free is None
    else:
        assert free is not None
        assert 0.05 < free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9


def test_listing_does_not_import_torch() -> None:
    program = "import sys; from openvjepa.cli import main; main(['models', '--json']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


def test_every_model_is_found_by_its_name() -> None:
    assert all(find(info.name) is info for info in list_models())
