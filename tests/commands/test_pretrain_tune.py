"""`vjepa pretrain --init MODEL --tune last|lora`: the published objective on own videos, most of the encoder kept."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from openvjepa.commands.pretrain import pretrain
from openvjepa.config import ClipProtocol, DataConfig, ModelConfig, ObjectiveConfig, PretrainConfig, TrainConfig
from openvjepa.config.pretraining.pretrain import OptimConfig
from openvjepa.errors import ConfigError
from openvjepa.model.encoder import Encoder
from openvjepa.model.jepa import JEPA
from openvjepa.train.logs import read_metrics
from openvjepa.weights.hub import load_model, save_model

V1 = ModelConfig(
    arch="vit_femto", img_size=32, patch_size=16, num_frames=4, embed_dim=24, depth=3, num_heads=3, predictor_embed_dim=24,
    predictor_depth=1, predictor_num_heads=3,
)  # fmt: skip
V2 = replace(V1, positions="rope-tiled")
V21 = replace(
    V2, positions="rope", interpolate_rope=True, modality_embed=True, levels=(1, 2), predictor_levels=2, predict_context=True
)  # fmt: skip
TAUGHT = replace(V21, predictor_levels=1, predictor_out_dim=40)
"""As V-JEPA 2.1 B and L: the predictor predicts the features of a larger teacher."""
FAMILIES = {"v1": V1, "v2": V2, "v2.1": V21, "v2.1 distilled": TAUGHT}
OPTIM = OptimConfig(lr=3e-3, start_lr=3e-3, warmup=0, ema=(0.5, 1.0))


def saved(folder: Path, config: ModelConfig, *, predictor: bool = True) -> Encoder:
    """A model of this architecture with random weights, in a folder."""
    torch.manual_seed(0)
    jepa = JEPA(replace(config, predictor_out_dim=None), ObjectiveConfig())
    if config.predictor_out_dim:
        from openvjepa.model.predictor import Predictor

        jepa.predictor, jepa.target_encoder.config = Predictor(config), config
    clip = ClipProtocol.of(config, frame_step=1)
    save_model(folder, jepa.target_encoder, jepa.predictor if predictor else None, clip=clip)
    return copy.deepcopy(jepa.target_encoder)


def config_of(shapes: Path, out: Path, init: Path, **settings: Any) -> PretrainConfig:
    train = {"steps": 3, "batch_size": 4, "save_every": 2, "monitor_every": 0, "log_every": 1, "threads": 1, "seed": 3}
    train |= settings.pop("train", {})
    return PretrainConfig(
        sources=(str(shapes),),
        out=str(out),
        init=str(init),
        model=ModelConfig(img_size=32, num_frames=4),
        data=DataConfig(frame_step=1, label="motion", workers=0),
        optim=OPTIM,
        train=TrainConfig(**train),
        **settings,
    )


def changed(before: Encoder, after: Encoder) -> set[str]:
    """Names of the tensors that differ."""
    now = after.state_dict()
    return {name for name, value in before.state_dict().items() if not torch.equal(value, now[name])}


@pytest.mark.parametrize("family", FAMILIES)
def test_only_what_is_tuned_changes(family: str, shapes: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    before = saved(tmp_path / "model", FAMILIES[family])
    for tune in ("last", "lora", "all"):
        pretrain(config_of(shapes, tmp_path / tune, tmp_path / "model", tune=tune, last_blocks=1, lora_rank=2))
    after = {tune: load_model(tmp_path / tune).encoder for tune in ("last", "lora", "all")}
    last = changed(before, after["last"])
    assert last
    assert all(name.startswith(("blocks.2.", "norm.", "norms_block.1.")) for name in last)
    # LoRA changes the matrices of attention and MLP in every block, and nothing else: no bias, norm or embedding.
    matrices = {f"blocks.{i}.{m}.weight" for i in range(3) for m in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert changed(before, after["lora"]) == matrices
    for name in matrices:  # by what rank 2 allows: the moving average of three steps' products has at most rank 6
        delta = after["lora"].state_dict()[name] - before.state_dict()[name]
        values = torch.linalg.svdvals(delta)
        assert values[6:].max() < 1e-4 * values[0]
    assert {f"blocks.{i}.attn.qkv.bias" for i in range(3)} <= changed(before, after["all"])
    assert load_model(tmp_path / "lora").config == load_model(tmp_path / "all").config


def test_the_target_follows_the_merged_weights(shapes: Path, tmp_path: Path) -> None:
    """EMA of base + 2 B A (LoRA's alpha is twice its rank), against the product written out."""
    pytest.importorskip("peft")
    jepa = JEPA(V1, ObjectiveConfig())
    jepa.adapt("lora", last_blocks=1, lora_rank=2)
    start = {name: value.clone() for name, value in jepa.target_encoder.named_parameters()}
    parts: dict[str, Tensor] = dict(jepa.encoder.named_parameters())
    with torch.no_grad():
        for name, value in parts.items():
            if ".lora_B." in name:
                value.normal_()
    jepa.update_target(0.75)
    for name, value in jepa.target_encoder.named_parameters():
        stem = name.removesuffix(".weight")
        if f"{stem}.lora_A.default.weight" in parts:
            product = parts[f"{stem}.lora_B.default.weight"] @ parts[f"{stem}.lora_A.default.weight"]
            torch.testing.assert_close(value, start[name] + 0.25 * 2 * product)
            assert not torch.equal(value, start[name])
        else:
            assert torch.equal(value, start[name])


@pytest.mark.parametrize("tune", ["last", "lora"])
def test_resume_is_exact(tune: str, shapes: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    saved(tmp_path / "model", V1)
    whole = config_of(shapes, tmp_path / "whole", tmp_path / "model", tune=tune)
    pretrain(whole)
    half = replace(whole, out=str(tmp_path / "half"))
    pretrain(half)
    (tmp_path / "half/checkpoints/step-00000003.pt").unlink()
    (tmp_path / "half/model.safetensors").unlink()
    pretrain(replace(half, train=replace(half.train, resume=True)))
    one, other = load_model(tmp_path / "whole"), load_model(tmp_path / "half")
    assert not changed(one.encoder, other.encoder)
    assert one.predictor is not None
    assert other.predictor is not None
    for name, value in one.predictor.state_dict().items():
        assert torch.equal(value, other.predictor.state_dict()[name])


def test_the_predictor_is_that_of_the_file_or_new(
    shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def first_loss(config: ModelConfig, name: str, *, predictor: bool) -> float:
        saved(tmp_path / name, config, predictor=predictor)
        pretrain(config_of(shapes, tmp_path / f"{name}-run", tmp_path / name, tune="last", train={"steps": 1}))
        return read_metrics(tmp_path / f"{name}-run" / "metrics.jsonl")[0]["loss"]

    kept = first_loss(V1, "kept", predictor=True)
    assert "random weights" not in caplog.text
    assert first_loss(V1, "bare", predictor=False) != kept
    assert "no predictor of hidden tokens" in caplog.text
    first_loss(TAUGHT, "taught", predictor=True)
    assert "its predictor predicts something else" in caplog.text
    assert load_model(tmp_path / "taught-run").config.predictor_out_dim is None


def test_a_run_with_other_objectives_is_a_start(shapes: Path, tmp_path: Path) -> None:
    """A run of next latent and views has no predictor and no state that masked prediction could take."""
    pooled = replace(V1, tubelet_size=2, time_attention="tubelet")
    first = replace(
        config_of(shapes, tmp_path / "first", tmp_path),
        init=None,
        model=pooled,
        objective=ObjectiveConfig(masked_coeff=0, next_coeff=1, step_sigreg_coeff=0.1),
    )
    pretrain(first)
    pretrain(config_of(shapes, tmp_path / "second", tmp_path / "first"))
    model = load_model(tmp_path / "second")
    assert model.config.time_attention == "tubelet"
    assert model.predictor is not None


def test_tune_needs_a_model(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--init"):
        replace(config_of(shapes, tmp_path, tmp_path, tune="lora"), init=None)
    saved(tmp_path / "model", V1)
    with pytest.raises(ConfigError, match="last_blocks 4: the encoder has 3 blocks"):
        pretrain(config_of(shapes, tmp_path / "run", tmp_path / "model", tune="last", last_blocks=4))
