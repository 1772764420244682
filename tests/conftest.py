"""A small labelled data set and a small random encoder, saved as `load_model` reads it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from openvjepa.config import ModelConfig, ShapesConfig
from openvjepa.data.synthetic import make_shapes
from openvjepa.model.encoder import Encoder, create_model
from openvjepa.weights.hub import save_model

TINY = ModelConfig(arch="vit_femto", img_size=32, patch_size=16, num_frames=4, embed_dim=24, depth=2, num_heads=3)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 48 / 16 / 24 videos of 32 px and 6 frames, labels motion (8) and appearance (6)."""
    out = tmp_path_factory.mktemp("shapes")
    make_shapes(ShapesConfig(out=str(out), train=48, val=16, test=24, size=32, frames=6), workers=1)
    return out


@pytest.fixture
def encoder() -> Encoder:
    """8 tokens of 24 channels; weights large enough that wrong inputs show."""
    torch.manual_seed(0)
    model = create_model(TINY).eval().requires_grad_(False)
    for name, value in model.named_parameters():
        if name != "pos_embed" and value.ndim > 1:
            value.normal_(0, 1.2 / value[0].numel() ** 0.5)
    return model


@pytest.fixture
def saved(encoder: Encoder, tmp_path: Path) -> Path:
    """Folder of the encoder."""
    save_model(tmp_path / "model", encoder)
    return tmp_path / "model"


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see what the library says at INFO, and nothing on the terminal that an earlier test's command line set up."""
    monkeypatch.setattr(logging.getLogger("openvjepa"), "handlers", [])
    caplog.set_level(logging.INFO, logger="openvjepa")
