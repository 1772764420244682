"""A small labeled data set and a small random encoder, saved as `load_model` reads it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from openvjepa.config import ClipProtocol, ModelConfig, ObjectiveConfig, PhysicsConfig, ShapesConfig
from openvjepa.data.rendered.physics import make_physics
from openvjepa.data.rendered.synthetic import make_shapes
from openvjepa.model.encoder import Encoder, create_model
from openvjepa.model.jepa import JEPA
from openvjepa.weights.hub import save_model

sys.path.insert(0, str(Path(__file__).parent))  # modules that tests share, such as remux

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as of a job in the background, whose processes would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = ModelConfig(arch="vit_femto", img_size=32, patch_size=16, num_frames=4, embed_dim=24, depth=2, num_heads=3)
TINY_PREDICTIVE = ModelConfig(
    arch="vit_femto",
    img_size=32,
    patch_size=16,
    num_frames=8,
    embed_dim=24,
    depth=2,
    num_heads=3,
    predictor_embed_dim=24,
    predictor_depth=2,
    num_mask_tokens=1,
    positions="rope",
)


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


@pytest.fixture(scope="session")
def physics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 6 training videos and 7 pairs of 32 px and 12 frames."""
    out = tmp_path_factory.mktemp("physics")
    make_physics(PhysicsConfig(out=str(out), train=6, val=0, test=7, size=32, frames=12), workers=1)
    return out


@pytest.fixture(scope="session")
def predictive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model: 4 x 2 x 2 tokens of 24 channels, every frame of a video."""
    torch.manual_seed(0)
    jepa = JEPA(TINY_PREDICTIVE, ObjectiveConfig())
    for module in (jepa.target_encoder, jepa.predictor):
        for value in module.parameters():
            if value.ndim > 1:
                torch.nn.init.normal_(value, 0, 1.2 / value[0].numel() ** 0.5)
    out = tmp_path_factory.mktemp("predictive")
    save_model(out, jepa.target_encoder, jepa.predictor, clip=ClipProtocol.of(TINY_PREDICTIVE, frame_step=1))
    return out


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see what the library says at INFO, and nothing on the terminal that an earlier test's command line set up."""
    monkeypatch.setattr(logging.getLogger("openvjepa"), "handlers", [])
    caplog.set_level(logging.INFO, logger="openvjepa")


@pytest.fixture
def piped() -> Iterator[Any]:
    """Make a source's name of a file's bytes, which a thread writes into a pipe."""
    threads: list[threading.Thread] = []

    def start(path: Path) -> str:
        reader, writer = os.pipe()

        def write() -> None:
            with os.fdopen(writer, "wb") as file, contextlib.suppress(BrokenPipeError):
                file.write(path.read_bytes())

        threads.append(threading.Thread(target=write, daemon=True))
        threads[-1].start()
        return f"pipe:{reader}"

    yield start
    for thread in threads:
        thread.join(timeout=5)
