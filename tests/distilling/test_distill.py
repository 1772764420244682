"""Distillation: the loss in closed form, clips that belong together, every family as the teacher, resume, the report."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from openvjepa.commands.distill import distill
from openvjepa.config import ClipProtocol, DistillConfig, ModelConfig
from openvjepa.data.clips import ClipSpec
from openvjepa.data.lists.index import read_index
from openvjepa.data.transforms import normalize
from openvjepa.distilling.clips import Pairs, student_plan
from openvjepa.distilling.task import DistillTask, Statistics, match, regrid
from openvjepa.errors import CheckpointError, ConfigError
from openvjepa.features.encode import PlannedClips
from openvjepa.features.sampling import ClipPlan
from openvjepa.grid import TokenGrid
from openvjepa.model.encoder import Encoder
from openvjepa.train.logs import read_metrics
from openvjepa.weights.hub import load_model, save_model

V1 = ModelConfig(arch="vit_femto", img_size=32, patch_size=16, num_frames=4, embed_dim=24, depth=2, num_heads=3)
V2 = replace(V1, positions="rope-tiled", img_size=48)
V21 = replace(V1, positions="rope", interpolate_rope=True, modality_embed=True, levels=(0, 1))
FAMILIES = {"v1": V1, "v2": V2, "v2.1": V21}


def teacher(folder: Path, config: ModelConfig) -> Path:
    """A random encoder whose features differ between clips."""
    torch.manual_seed(5)
    encoder = Encoder(config)
    for name, value in encoder.named_parameters():
        if name != "pos_embed" and value.ndim > 1:
            torch.nn.init.normal_(value, 0, 1.2 / value[0].numel() ** 0.5)
    save_model(folder, encoder, clip=ClipProtocol.of(config, frame_step=1))
    return folder


def config_of(shapes: Path, tmp_path: Path, **settings: Any) -> DistillConfig:
    values: dict[str, Any] = {
        "sources": (str(shapes),), "label": "motion", "teacher": str(tmp_path / "teacher"), "out": str(tmp_path / "run"),
        "student": "vit_femto", "steps": 4, "batch_size": 8, "save_every": 2, "log_every": 1, "threads": 1, "workers": 0,
    }  # fmt: skip
    return DistillConfig(**{**values, **settings})


def test_distances_in_closed_form() -> None:
    distance, angle = match(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [0.0, 2.0]]))
    assert distance.item() == pytest.approx((1 + 1 + 1 + 2) / 4)
    assert angle.item() == pytest.approx(1 - (24 / 25 + 0) / 2)


def test_regrid_averages_and_interpolates() -> None:
    own, smaller, longer = TokenGrid(2, 4, 4), TokenGrid(1, 2, 2), TokenGrid(4, 4, 2)
    x = torch.randn(3, own.tokens, 5)
    cells = x.view(3, 2, 4, 4, 5)
    means = torch.stack([cells[:, :, a : a + 2, b : b + 2].mean((1, 2, 3)) for a in (0, 2) for b in (0, 2)], 1)
    torch.testing.assert_close(regrid(x, own, smaller), means)
    assert regrid(x, own, own) is x
    found = regrid(x, own, longer).view(3, 4, 4, 2, 5)
    halves = cells.view(3, 2, 4, 2, 2, 5).mean(4)  # width averaged
    # Two time steps at 0.5 and 1.5 of their unit, asked for at 0.25, 0.75, 1.25 and 1.75, held at the ends.
    for i, share in enumerate((0, 0.25, 0.75, 1)):
        torch.testing.assert_close(found[:, i], (1 - share) * halves[:, 0] + share * halves[:, 1])


def test_the_loss_is_that_of_its_parts() -> None:
    torch.manual_seed(0)
    grids = TokenGrid(2, 3, 3), TokenGrid(2, 2, 2)
    features, clips = torch.randn(6, 18, 7) * 3 + 1, torch.randint(0, 256, (6, 3, 4, 32, 32), dtype=torch.uint8)
    targets = regrid(features, *grids)
    statistics = Statistics.of(targets.split(4))
    task = DistillTask(Encoder(V1), 7, grids, statistics, token_coeff=2.0, pooled_coeff=0.5)
    loss = task({"clips": clips, "features": features})["loss"]
    tokens = task.student(normalize(clips))
    expected = 0.0
    for weight, head, x, y in (
        (2.0, task.token_head, tokens, targets), (0.5, task.pooled_head, tokens.mean(1), targets.mean(1)),
    ):  # fmt: skip
        assert head is not None
        flat = y.reshape(-1, 7)
        z = (y - flat.mean(0)) / flat.std(0, correction=0)
        p = head(x)
        cosines = (p * z).sum(-1) / (p.norm(dim=-1) * z.norm(dim=-1))
        expected = expected + weight * ((p - z).abs().mean() + 1 - cosines.mean())
    torch.testing.assert_close(loss, torch.as_tensor(expected), rtol=1e-4, atol=1e-5)
    names = {
        name for group in task.param_groups() for p in group["params"] for name, q in task.named_parameters() if p is q
    }
    assert names == {name for name, _ in task.named_parameters()} - {"student.pos_embed"}


def test_clips_show_the_same_parts_of_the_videos(shapes: Path) -> None:
    """Another size, and half of the frames over the same time: the crops are those of the teacher's clips, made smaller."""
    index = read_index(shapes, label="motion")
    plan = ClipPlan(ClipSpec(4, 1), (32, 32), random=2, seed=3)
    own = student_plan(plan, replace(V1, img_size=16), index)
    for item in (0, 7):
        big, small = (PlannedClips(index, p)[item][0].float() for p in (plan, own))
        shrunk = F.avg_pool3d(big.flatten(0, 1), (1, 2, 2)).view(small.shape)
        other = F.avg_pool3d(big[[1, 2, 0]].flatten(0, 1), (1, 2, 2)).view(small.shape)
        assert (shrunk - small).abs().mean() < 0.3 * (other - small).abs().mean()
    half = student_plan(plan, replace(V1, num_frames=2), index)
    assert half.spec == ClipSpec(2, 2)
    frames, all_frames = (PlannedClips(index, p)[0][0][0] for p in (half, plan))
    assert any(torch.equal(frames[:, 0], all_frames[:, i]) for i in (0, 1))
    with pytest.raises(ConfigError, match="cannot span"):
        student_plan(plan, replace(V1, num_frames=6), index)
    with pytest.raises(ConfigError, match="one shape"):
        student_plan(plan, replace(V1, img_size=(32, 48)), index)
    assert student_plan(replace(plan, spec=ClipSpec(64, None, 8.0)), V1, index).spec == ClipSpec(4, None, 0.5)


def test_epochs_show_every_clip_once() -> None:
    pairs = Pairs(np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1, 1), np.arange(6, dtype=np.float16).reshape(6, 1, 1))
    batches = list(pairs.batches(seed=1, size=4, first=0, steps=3))
    shown = torch.cat([batch["clips"].flatten() for batch in batches]).tolist()
    assert sorted(shown[:6]) == sorted(shown[6:]) == list(range(6))
    assert shown[:6] != shown[6:]
    assert torch.cat([batch["features"].flatten() for batch in batches]).tolist() == shown
    assert torch.equal(next(pairs.batches(seed=1, size=4, first=2, steps=3))["clips"], batches[2]["clips"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_of_the_same_architecture_learns_to_match(family: str, shapes: Path, tmp_path: Path) -> None:
    folder = teacher(tmp_path / "teacher", FAMILIES[family])
    start = tmp_path / "start"  # the teacher's architecture with other weights
    torch.manual_seed(9)
    save_model(start, Encoder(FAMILIES[family]), clip=ClipProtocol.of(FAMILIES[family], frame_step=1))
    config = config_of(shapes, tmp_path, student=str(start), steps=120, lr=3e-3, clips=1, save_every=120)
    distill(config)
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    first, last = rows[0], rows[-1]
    assert last["loss"] < 0.6 * first["loss"]
    assert last["cosine_tokens"] > 0.5 > first["cosine_tokens"] + 0.4
    student, own = load_model(tmp_path / "run"), load_model(folder)
    assert student.config == own.config
    assert student.clip == own.clip
    assert student.predictor is None


def test_resume_is_exact_and_the_teacher_encodes_once(
    shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teacher(tmp_path / "teacher", V2)
    whole = config_of(shapes, tmp_path, out=str(tmp_path / "whole"), cache_dir=str(tmp_path / "cache"))
    result = distill(whole)
    half = replace(whole, out=str(tmp_path / "half"))
    distill(half)
    (tmp_path / "half/checkpoints/step-00000004.pt").unlink()
    (tmp_path / "half/model.safetensors").unlink()
    distill(replace(half, resume=True))
    assert "Resuming at step 2" in caplog.text
    assert "read from" in caplog.text
    one, other = (load_model(tmp_path / name).encoder.state_dict() for name in ("whole", "half"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert not (tmp_path / "half" / "clips.npy").exists()
    # Labels are in the list: the report compares the three encoders.
    stored = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert set(stored["accuracy"]) == {"student", "teacher", "untrained student"} == set(result.accuracy)
    assert result.chance == pytest.approx(100 / 8)
    assert result.gflops["student"] > 0
    assert f"{result.accuracy['student']['linear']:.1f}" in (tmp_path / "whole" / "report.html").read_text()
    with pytest.raises(ConfigError, match="token_coeff is 3"):
        distill(replace(half, token_coeff=3.0, resume=True))


def test_a_preset_as_the_student(shapes: Path, tmp_path: Path) -> None:
    """Of another size, patch and number of frames: the student knows the clip that spans the teacher's time."""
    teacher(tmp_path / "teacher", replace(V1, num_frames=32))
    videos = (str(shapes / "videos"),)
    result = distill(config_of(shapes, tmp_path, student="demo", student_size=16, steps=1, label=None, sources=videos))
    student = load_model(tmp_path / "run")
    assert (student.config.img_size, student.config.patch_size, student.config.num_frames) == (16, 8, 16)
    assert student.clip.frame_step == 2
    assert not result.accuracy
    assert "no labels" in result.sentence
    assert math.isfinite(read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["loss"])


def test_what_cannot_work_says_so(shapes: Path, tmp_path: Path) -> None:
    teacher(tmp_path / "teacher", V1)
    with pytest.raises(ConfigError, match="no teacher"):
        distill(config_of(shapes, tmp_path, teacher=""))
    with pytest.raises(ConfigError, match="choose another --out"):
        distill(config_of(shapes, tmp_path, out=str(tmp_path / "teacher")))
    with pytest.raises(ConfigError, match="both losses"):
        config_of(shapes, tmp_path, token_coeff=0, pooled_coeff=0)
    with pytest.raises(CheckpointError, match="nowhere"):
        distill(config_of(shapes, tmp_path, student=str(tmp_path / "nowhere")))
