"""What cannot fit the memory is refused before anything is built; what fits is not."""

from __future__ import annotations

import pytest
import torch

from openvjepa.config import PRESETS, ModelConfig, ObjectiveConfig, PretrainConfig, TrainConfig
from openvjepa.errors import ConfigError
from openvjepa.model.jepa import JEPA
from openvjepa.pretraining import room
from openvjepa.train.distributed import Runtime

CPU = Runtime(torch.device("cpu"), torch.float32, "test")


@pytest.mark.parametrize("arch", ["vit_tiny", "vit_base", "vit_huge"])
@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_the_estimate_is_below_what_is_needed_and_not_by_much(arch: str, mlp: str) -> None:
    config = ModelConfig(arch=arch, mlp=mlp, predictor_num_heads=12)  # type: ignore[arg-type]
    with torch.device("meta"):
        jepa = JEPA(config, ObjectiveConfig())
    trained = sum(p.numel() for p in (*jepa.encoder.parameters(), *jepa.predictor.parameters()) if p.requires_grad)
    held = sum(p.numel() for p in jepa.target_encoder.parameters() if p.requires_grad or p.ndim > 1)
    truth = 4 * (4 * trained + held)
    assert 0.7 * truth < room.least_bytes(config) <= truth


def test_frames_of_a_clip() -> None:
    assert room.clip_bytes(ModelConfig(img_size=(32, 48), num_frames=4)) == 3 * 4 * 32 * 48 * 5


def test_too_large_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "available_memory", lambda: 2**30)
    room.check_room(PRESETS["nano"](), CPU)
    with pytest.raises(
        ConfigError, match=r"take at least .* GiB, and there are 1\.0 GiB of memory: choose a smaller arch"
    ):
        room.check_room(PretrainConfig(model=ModelConfig(arch="vit_giant")), CPU)
    many = PretrainConfig(train=TrainConfig(batch_size=1000))
    with pytest.raises(ConfigError, match=r"the frames of 1000 clips take .*: choose a smaller batch_size, or a micro"):
        room.check_room(many, CPU)
    room.check_room(PretrainConfig(train=TrainConfig(batch_size=1000, micro_batch=10)), CPU)
    monkeypatch.setattr(room, "available_memory", lambda: None)
    room.check_room(many, CPU)
