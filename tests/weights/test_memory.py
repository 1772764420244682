"""A training checkpoint is several times its encoder: loading the encoder must not cost more than that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from openvjepa.config import ModelConfig
from openvjepa.model.encoder import Encoder
from openvjepa.model.predictor import Predictor

CONFIG = ModelConfig(
    arch="vit_small", img_size=64, num_frames=8, positions="rope-tiled", predictor_depth=1, predictor_num_heads=12,
    num_mask_tokens=10,
)  # fmt: skip
SMALL = Path(__file__).parents[1] / "fixtures" / "vjepa" / "v1" / "checkpoint.pth.tar"
# Anonymous memory only: pages of the mapped file are the system's to take back. A small file first, since torch imports
# some 70 MB of itself for the first model; then a thread watches for the peak.
LOAD = """
import json, sys, threading, time, openvjepa, torch
from openvjepa.weights import hub
def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) * 1024
hub.load_model(sys.argv[2], arch={"num_heads": 3})
peak, done = [anonymous()], threading.Event()
def watch():
    while not done.wait(0.001):
        peak[0] = max(peak[0], anonymous())
before = anonymous()
thread = threading.Thread(target=watch); thread.start()
model = hub.load_model(sys.argv[1], arch={"num_frames": 8, "img_size": 64})
done.set(); thread.join()
parts = [part for part in (model.encoder, model.predictor) if part is not None]
size = sum(value.numel() * value.element_size() for part in parts for value in part.state_dict().values())
print(json.dumps({"section": model.section, "size": size, "kept": anonymous() - before, "peak": peak[0] - before}))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of ViT-S as training writes it, 350 MB: student, teacher, and two moments of the optimizer for the student."""
    encoder = Encoder(CONFIG).state_dict()
    wrapped = {f"module.backbone.{name}": value for name, value in encoder.items()}
    moments = {i: {"exp_avg": value + 1, "exp_avg_sq": value + 2} for i, value in enumerate(encoder.values())}
    container = {
        "encoder": {name: value + 1 for name, value in wrapped.items()},
        "predictor": {f"module.backbone.{name}": value for name, value in Predictor(CONFIG).state_dict().items()},
        "opt": {"state": moments, "param_groups": []},
        "target_encoder": wrapped,
        "epoch": 1,
    }
    path = tmp_path_factory.mktemp("big") / "latest.pt"
    torch.save(container, path)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_costs_the_model_only(checkpoint: Path) -> None:
    command = [sys.executable, "-c", LOAD, str(checkpoint), str(SMALL)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["section"] == "target_encoder"
    assert checkpoint.stat().st_size > 3.5 * facts["size"]
    assert facts["kept"] >= 0.9 * facts["size"]  # the values are copies: the file may go
    assert facts["peak"] < 1.1 * facts["size"]
