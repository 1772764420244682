"""The main job on real files: exact resume after a kill, the record, the monitors, bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from openvjepa.commands.embed import embed
from openvjepa.commands.pretrain import pretrain
from openvjepa.config import (
    DataConfig,
    EmbedConfig,
    MaskConfig,
    MaskingConfig,
    ModelConfig,
    ObjectiveConfig,
    PretrainConfig,
    ShapesConfig,
    TrainConfig,
    read_yaml,
    to_yaml,
)
from openvjepa.data.rendered.synthetic import make_shapes
from openvjepa.errors import CheckpointError, ConfigError, DataError
from openvjepa.features.encode import encode
from openvjepa.pretraining.task import PretrainTask
from openvjepa.train.checkpoint import list_checkpoints, load_checkpoint
from openvjepa.train.distributed import make_runtime
from openvjepa.train.logs import read_metrics
from openvjepa.train.optim import learning_rate, weight_decay
from openvjepa.weights.hub import load_model


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrain") / "shapes"
    make_shapes(ShapesConfig(out=str(out), train=24, val=8, test=0, size=32, frames=10), workers=1)
    return out


def tiny(shapes: Path, out: Path, **train: object) -> PretrainConfig:
    settings = {"steps": 8, "batch_size": 4, "save_every": 2, "monitor_every": 4, "log_every": 1, "threads": 1}
    return PretrainConfig(
        sources=(str(shapes),),
        out=str(out),
        model=ModelConfig(
            embed_dim=24,
            depth=2,
            num_heads=2,
            img_size=32,
            num_frames=8,
            patch_size=8,
            predictor_embed_dim=16,
            predictor_depth=1,
        ),
        data=DataConfig(frame_step=1, label="motion", workers=0),
        objective=ObjectiveConfig(reg_coeff=0.1, sigreg_coeff=1.0),  # SIGReg draws from torch's generator
        train=TrainConfig(**{**settings, **train}),  # type: ignore[arg-type]
    )


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(list_checkpoints(out / "checkpoints")[-1])["model"]


def record(out: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what depends on the clock."""
    timed = ("clips_per_s", "seconds_per_step", "data_wait")
    return [{k: v for k, v in line.items() if k not in timed} for line in read_metrics(out / "metrics.jsonl")]


@pytest.fixture(scope="module")
def whole(shapes: Path) -> Path:
    out = shapes.parent / "whole"
    pretrain(tiny(shapes, out))
    return out


def test_what_a_run_leaves(whole: Path) -> None:
    lines = record(whole)
    assert [line["step"] for line in lines] == list(range(9))
    assert {"loss", "lr", "weight_decay", "feature_std", "rankme", "knn"} <= lines[8].keys()
    assert all(json.dumps(line) for line in lines)
    assert len(list_checkpoints(whole / "checkpoints")) == 2
    model = load_model(whole)
    state = weights(whole)
    for key, value in model.encoder.state_dict().items():
        assert torch.equal(value, state[f"jepa.target_encoder.{key}"])
    assert model.predictor is not None


@pytest.mark.slow
def test_kill_and_resume_equals_one_go_bit_for_bit(shapes: Path, whole: Path) -> None:
    out = shapes.parent / "killed"
    config = tiny(shapes, out)
    (shapes.parent / "killed.yaml").write_text(to_yaml(config))
    command = [sys.executable, "-m", "openvjepa", "pretrain", "--config", str(shapes.parent / "killed.yaml")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while (
        not (out / "checkpoints" / "step-00000004.pt").exists()
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.002)
    process.kill()
    process.wait()
    steps = [load_checkpoint(path)["step"] for path in list_checkpoints(out / "checkpoints")]
    assert steps, "nothing was saved"
    for later in list_checkpoints(out / "checkpoints"):
        if load_checkpoint(later)["step"] > 4:
            later.unlink()  # the kill came late: go back to the middle all the same
    pretrain(replace(config, train=replace(config.train, resume=True)))
    ours, theirs = weights(out), weights(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert record(out) == record(whole)


def test_fp16_trains_to_nearly_the_same_losses(shapes: Path, whole: Path, tmp_path: Path) -> None:
    pretrain(replace(tiny(shapes, tmp_path / "fp32", precision="fp32", steps=4)))
    pretrain(replace(tiny(shapes, tmp_path / "fp16", precision="fp16", steps=4)))
    exact, ours = (read_metrics(tmp_path / name / "metrics.jsonl")[1:] for name in ("fp32", "fp16"))
    for name in ("loss", "grad_norm_encoder"):
        assert [line[name] for line in ours] == pytest.approx([line[name] for line in exact], rel=5e-3)
        assert [line[name] for line in ours] != [line[name] for line in exact]
    video = shapes / "videos" / sorted(path.name for path in (shapes / "videos").iterdir())[0]
    model = load_model(tmp_path / "fp16")
    with make_runtime(TrainConfig(device="cpu", precision="fp16")) as runtime:
        half = encode(model, video, runtime=runtime)
    torch.testing.assert_close(half, model.encode(video), rtol=0, atol=0.02)


def test_number_of_workers_does_not_matter(shapes: Path, whole: Path, tmp_path: Path) -> None:
    config = tiny(shapes, tmp_path / "run")
    pretrain(replace(config, data=replace(config.data, workers=2)))
    assert all(torch.equal(value, weights(whole)[key]) for key, value in weights(tmp_path / "run").items())


def test_the_encoder_learns_to_predict(shapes: Path, tmp_path: Path) -> None:
    config = tiny(shapes, tmp_path / "run", steps=150, monitor_every=0, save_every=150, batch_size=8)
    config = replace(config, objective=ObjectiveConfig(), data=replace(config.data, cache=True))
    pretrain(config)
    losses = [line["loss"] for line in record(tmp_path / "run")]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_run_is_not_written_over(shapes: Path, whole: Path) -> None:
    with pytest.raises(ConfigError, match="--resume"):
        pretrain(tiny(shapes, whole))


def test_a_resumed_run_keeps_its_settings(shapes: Path, whole: Path) -> None:
    before = (whole / "config.yaml").read_text()
    config = tiny(shapes, whole, resume=True)
    with pytest.raises(ConfigError, match="settings"):
        pretrain(replace(config, model=replace(config.model, depth=3)))
    assert (whole / "config.yaml").read_text() == before


def test_impossible_runs_leave_nothing(shapes: Path, tmp_path: Path) -> None:
    config = tiny(shapes, tmp_path / "run")
    full = MaskingConfig(masks=(MaskConfig(spatial_scale=(1.0, 1.0), aspect_ratio=(1.0, 1.0)),))
    with pytest.raises(ConfigError, match="cover the whole grid"):
        pretrain(replace(config, masking=full))
    with pytest.raises(ConfigError, match="multiple of micro_batch"):
        pretrain(replace(config, out=str(tmp_path / "other"), train=replace(config.train, micro_batch=3)))
    with pytest.raises(DataError, match="no such file or folder"):
        pretrain(replace(config, out=str(tmp_path / "third"), sources=(str(tmp_path / "nowhere"),)))
    assert not (tmp_path / "other").exists()
    assert not (tmp_path / "third").exists()


def test_an_unfinished_run_says_so(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    pretrain(tiny(shapes, out, monitor_every=0))
    (out / "model.safetensors").unlink()  # as of a kill between the two files of the model
    with pytest.raises(CheckpointError, match="model"):
        load_model(tmp_path)
    model, newest = load_model(out), list_checkpoints(out / "checkpoints")[-1]
    assert (
        model.notes[-1]
        == f"the run is not finished: using the checkpoint of step {load_checkpoint(newest)['step']} ({newest.name})"
    )
    target = load_checkpoint(newest)["model"]["jepa.target_encoder.blocks.0.norm1.weight"]
    assert torch.equal(model.encoder.state_dict()["blocks.0.norm1.weight"], target)
    newest.write_bytes(newest.read_bytes()[:500])
    for path in list_checkpoints(out / "checkpoints")[:-1]:
        path.unlink()
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        load_model(out)


def test_a_lengthened_run_follows_the_longer_schedule(
    shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    short = tiny(shapes, out, steps=4)
    pretrain(short)
    before = record(out)
    longer = tiny(shapes, out, steps=7, resume=True)
    assert pretrain(longer).step == 7
    lines = record(out)
    assert lines[:4] == before[:4]
    assert [line["step"] for line in lines] == list(range(8))
    for line in lines[1:]:
        steps = 4 if line["step"] <= 4 else 7
        assert line["lr"] == pytest.approx(learning_rate(int(line["step"]), longer.optim, steps))
        assert line["weight_decay"] == pytest.approx(weight_decay(int(line["step"]), longer.optim, steps))
    assert "Lengthened from 4 to 7 steps: from step 5 on" in caplog.text
    stored = read_yaml(PretrainConfig, out / "config.yaml")
    assert stored == tiny(shapes, out, steps=7), "the settings of the start, with the steps"
    with pytest.raises(ConfigError, match=r"train\.steps is 5, was 7"):
        pretrain(tiny(shapes, out, steps=5, resume=True))
    caplog.clear()
    pretrain(longer)
    assert "Lengthened" not in caplog.text, "it is as long as asked for"


def test_no_steps_save_the_untrained_model(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = tiny(shapes, out, steps=0)
    assert pretrain(config).step == 0
    torch.manual_seed(config.train.seed)
    truth = PretrainTask(config).jepa.target_encoder.state_dict()
    found = load_model(out).encoder.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in truth.items())
    assert len(list_checkpoints(out / "checkpoints")) == 1
    features = tmp_path / "f.npz"
    embed(EmbedConfig(source=str(shapes), model=str(out), out=str(features), workers=0))
    assert features.exists()
    pretrain(tiny(shapes, out, steps=2, resume=True))
    once = tmp_path / "once"
    pretrain(tiny(shapes, once, steps=2))
    assert all(torch.equal(value, weights(once)[key]) for key, value in weights(out).items()), (
        "as if it had not stopped"
    )
