"""Pretraining with the objectives on pooled tokens, on real files: resume, micro-batches, what is saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from openvjepa.commands.convert import write_meta
from openvjepa.commands.pretrain import pretrain
from openvjepa.config import DataConfig, ModelConfig, ObjectiveConfig, PretrainConfig, TrainConfig, ViewsConfig
from openvjepa.data.rendered.synthetic import ShapesConfig, make_shapes
from openvjepa.errors import CheckpointError, ConfigError
from openvjepa.train.logs import read_metrics
from openvjepa.weights.formats.hf import check_hf
from openvjepa.weights.hub import load_model

MODEL = ModelConfig(
    embed_dim=24, depth=2, num_heads=2, img_size=32, num_frames=8, patch_size=8, predictor_embed_dim=16,
    predictor_depth=1, num_mask_tokens=2, time_attention="causal",
)  # fmt: skip
OBJECTIVE = ObjectiveConfig(
    masked_coeff=0.0, next_coeff=1.0, step_sigreg_coeff=0.1, within_coeff=1.0, views_coeff=1.0, projector_hidden=16,
    projector_dim=8, directions=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("objectives") / "shapes"
    make_shapes(ShapesConfig(out=str(out), train=24, val=8, test=0, size=32, frames=10), workers=1)
    return out


def config(shapes: Path, out: Path, **train: object) -> PretrainConfig:
    settings = {"steps": 6, "batch_size": 8, "save_every": 3, "monitor_every": 3, "log_every": 1, "threads": 1}
    return PretrainConfig(
        sources=(str(shapes),),
        out=str(out),
        model=MODEL,
        data=DataConfig(frame_step=1, label="motion", workers=0),
        views=ViewsConfig(local_views=1, token_keep=0.75),
        objective=OBJECTIVE,
        train=TrainConfig(**{**settings, **train}),  # type: ignore[arg-type]
    )


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl") if "loss" in line]


def test_a_run_learns_resumes_exactly_and_saves_its_attention(shapes: Path, tmp_path: Path) -> None:
    whole = config(shapes, tmp_path / "whole")
    pretrain(whole)
    found = losses(tmp_path / "whole")
    assert len(found) == 6
    assert found[-1] < found[0]
    line = read_metrics(tmp_path / "whole/metrics.jsonl")[-1]
    assert {
        "loss_next",
        "loss_within_std",
        "loss_views",
        "loss_views_sigreg",
        "knn",
        "grad_norm_next_latent",
    } <= line.keys()
    model = load_model(tmp_path / "whole")
    assert model.predictor is None
    assert model.config.time_attention == "causal"
    with pytest.raises(CheckpointError, match="time_attention"):
        check_hf(model)
    with pytest.raises(ConfigError, match="Meta's code"):
        write_meta(tmp_path / "meta.pt", model)
    assert not (tmp_path / "meta.pt").exists()
    (tmp_path / "half").mkdir()
    (tmp_path / "whole/checkpoints/step-00000003.pt").rename(tmp_path / "kept.pt")
    half = config(shapes, tmp_path / "half", resume=True)
    (tmp_path / "half/checkpoints").mkdir()
    (tmp_path / "kept.pt").rename(tmp_path / "half/checkpoints/step-00000003.pt")
    pretrain(half)
    assert losses(tmp_path / "half") == found[3:]
    again = load_model(tmp_path / "half")
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(again.encoder.state_dict()[name], value)


def test_micro_batches_have_statistics_of_their_own(shapes: Path, tmp_path: Path) -> None:
    """Documented: with gradient accumulation SIGReg sees the micro-batch, so that the loss is another one."""
    for name, micro in (("one", None), ("two", 4)):
        pretrain(config(shapes, tmp_path / name, steps=1, micro_batch=micro, monitor_every=0))
    assert abs(losses(tmp_path / "one")[0] - losses(tmp_path / "two")[0]) > 1e-4


def test_full_attention_is_refused_for_the_next_latent(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="time_attention"):
        replace(config(shapes, tmp_path), model=replace(MODEL, time_attention="full"))
    base = config(shapes, tmp_path)
    with pytest.raises(ConfigError, match="images"):
        replace(base, data=replace(base.data, images=("x",)), model=replace(MODEL, positions="rope"))
