"""A classifier of dark and bright videos, and a long video with known scenes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from openvjepa.commands.probe import probe
from openvjepa.config import ModelConfig, ProbeConfig
from openvjepa.model.encoder import create_model
from openvjepa.weights.hub import save_model

sys.path.insert(0, str(Path(__file__).parent))
from gray_videos import render


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe that tells dark videos from bright ones; clips of 4 frames, every second one: 0.8 s."""
    folder = tmp_path_factory.mktemp("grays")
    torch.manual_seed(0)
    model = create_model(ModelConfig(img_size=32, num_frames=4, embed_dim=24, depth=1, num_heads=3)).eval()
    save_model(folder / "model", model.requires_grad_(False))
    for split, count in (("train", 8), ("val", 2), ("test", 2)):
        for name, level in (("bright", 200), ("dark", 50)):
            (folder / "videos" / split / name).mkdir(parents=True)
            for i in range(count):
                render(folder / "videos" / split / name / f"{i}.mp4", [level + 3 * i] * (8 + i))
    config = ProbeConfig(model=str(folder / "model"), source=str(folder / "videos"), out=str(folder / "run"))
    result = probe(replace(config, kinds=("linear",), frame_step=2, workers=0, train_views=1))
    assert result.outcomes["linear"].test_top1 == 100
    return result.out


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """6 s: 3 s dark, 2 s bright, 1 s dark; an odd number of rows."""
    return render(tmp_path / "long.mp4", [50] * 30 + [200] * 20 + [50] * 10, size=(73, 96))
