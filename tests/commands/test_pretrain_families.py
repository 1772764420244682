"""Pretraining beyond V-JEPA 1: rotary models, images beside videos, dense loss, starting from another model."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from openvjepa.commands.pretrain import pretrain
from openvjepa.config import (
    PRESETS,
    DataConfig,
    MaskConfig,
    MaskingConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    PretrainConfig,
    ShapesConfig,
    TrainConfig,
)
from openvjepa.data.rendered.synthetic import make_shapes
from openvjepa.errors import CheckpointError, ConfigError, DataError
from openvjepa.pretraining.task import PretrainTask
from openvjepa.train.checkpoint import list_checkpoints, load_checkpoint
from openvjepa.train.logs import read_metrics
from openvjepa.weights.hub import load_model, save_model

V2 = Path(__file__).parents[1] / "fixtures/vjepa/v2"
ROTARY: dict[str, Any] = {
    "arch": "vit_femto", "embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32, "num_frames": 8, "patch_size": 8,
    "predictor_embed_dim": 16, "predictor_depth": 1, "predictor_num_heads": 2, "positions": "rope-tiled",
}  # fmt: skip
DENSE = {
    **ROTARY, "positions": "rope", "interpolate_rope": True, "modality_embed": True, "levels": (0, 1),
    "predictor_levels": 2, "predict_context": True, "predictor_interpolate_rope": True,
}  # fmt: skip
STILL = OptimConfig(lr=1e-30, start_lr=1e-30, final_lr=1e-30, weight_decay=0, final_weight_decay=0, ema=(1.0, 1.0))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("families") / "shapes"
    make_shapes(ShapesConfig(out=str(out), train=12, val=0, test=0, size=32, frames=10), workers=1)
    return out


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(folder / f"{number}.png")
    return folder


def run(shapes: Path, out: Path, model: dict[str, Any], **parts: Any) -> PretrainConfig:
    train = {"steps": 4, "batch_size": 4, "save_every": 4, "monitor_every": 0, "log_every": 1, "threads": 1}
    data = {"frame_step": 1, "label": "motion", "workers": 0, **parts.pop("data", {})}
    return PretrainConfig(
        sources=(str(shapes),),
        out=str(out),
        model=ModelConfig(**model),
        data=DataConfig(**data),
        train=TrainConfig(**{**train, **parts.pop("train", {})}),
        **{"masking": MaskingConfig(image_masks=(MaskConfig(num_blocks=2),)), **parts},
    )


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl") if "loss" in line]


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "demo"])
def test_every_recipe_runs_in_small(name: str, shapes: Path, pictures: Path, tmp_path: Path) -> None:
    preset = PRESETS[name]()
    small = {"arch": "vit_femto", "img_size": 64, "num_frames": 8, "predictor_embed_dim": 24, "predictor_depth": 1}
    if preset.model.num_frames == 1:
        small |= {"img_size": 48, "num_frames": 1}
    levels = (0, 1, 2, 3) if preset.model.levels else ()
    config = replace(
        preset,
        sources=(str(shapes),),
        out=str(tmp_path / "run"),
        model=replace(preset.model, **small, levels=levels, predictor_num_heads=2),
        data=replace(preset.data, label="motion", workers=0, image_size=None, image_batch=None),
        train=replace(preset.train, steps=2, batch_size=2, micro_batch=None, monitor_every=0, threads=1, log_every=1),
    )
    if levels:
        config = replace(config, data=replace(config.data, images=(str(pictures),)))
    pretrain(config)
    assert np.isfinite(losses(tmp_path / "run")).all()
    assert load_model(tmp_path / "run").config == config.model


def test_recomputed_activations_change_nothing(shapes: Path, tmp_path: Path) -> None:
    plain = run(shapes, tmp_path / "plain", ROTARY)
    pretrain(plain)
    again = replace(plain, out=str(tmp_path / "again"), train=replace(plain.train, activation_checkpointing=True))
    pretrain(again)
    assert losses(tmp_path / "plain") == losses(tmp_path / "again")
    one, other = (load_model(tmp_path / name).encoder.state_dict() for name in ("plain", "again"))
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_blocks_compute_the_same(shapes: Path, tmp_path: Path) -> None:
    from torch._dynamo.utils import counters

    masking = MaskingConfig(masks=(MaskConfig(spatial_scale=(0.2, 0.4)),))  # another number of tokens at every step
    plain = run(shapes, tmp_path / "plain", ROTARY, masking=masking, train={"precision": "fp32"})
    pretrain(plain)
    compiled = replace(plain, out=str(tmp_path / "compiled"), train=replace(plain.train, compile=True))
    before = counters["stats"]["unique_graphs"]
    pretrain(compiled)
    assert 3 <= counters["stats"]["unique_graphs"] - before <= 5  # of all blocks and all numbers of tokens
    np.testing.assert_allclose(losses(tmp_path / "plain"), losses(tmp_path / "compiled"), rtol=1e-5)
    one, other = (load_model(tmp_path / name).encoder.state_dict() for name in ("plain", "compiled"))
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=1e-4)


def test_compiling_without_a_compiler_says_so(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="C\\+\\+ compiler"):
        pretrain(run(shapes, tmp_path / "run", ROTARY, train={"compile": True}))


def test_images_have_half_of_the_loss(shapes: Path, pictures: Path, tmp_path: Path) -> None:
    objective = ObjectiveConfig(context_coeff=0.5, context_ramp=(0.0, 0.5), distance_weighting=True)
    config = run(shapes, tmp_path / "run", DENSE, data={"images": (str(pictures),)}, objective=objective)
    pretrain(config)
    assert {"loss_context", "loss_jepa"} <= read_metrics(tmp_path / "run" / "metrics.jsonl")[-1].keys()
    task = PretrainTask(config)
    torch.manual_seed(0)
    batch = {
        "clips": torch.randint(0, 256, (2, 3, 8, 32, 32), dtype=torch.uint8),
        "masks_enc": [torch.tensor([[0, 1], [2, 5]])],
        "masks_pred": [torch.tensor([[3, 4], [6, 7]])],
        "step": 1,
    }
    image = {**batch, "clips": batch["clips"][:, :, :1]}
    clips, images, both = (task(part)["loss"] for part in (batch, image, {**batch, "images": image}))
    torch.testing.assert_close(both, (clips + images) / 2)
    assert clips != images
    # At step 1 of 4 the ramp (0 to half of the steps) has reached half of 0.5.
    late = task({**batch, "step": 2})
    torch.testing.assert_close(late["loss"] - clips, 0.25 * late["loss_context"], rtol=1e-4, atol=1e-6)


def test_images_need_a_model_that_can_read_them(shapes: Path, pictures: Path, tmp_path: Path) -> None:
    sincos = {**ROTARY, "positions": "sincos"}
    with pytest.raises(ConfigError, match="images"):
        run(shapes, tmp_path / "run", sincos, data={"images": (str(pictures),)})
    with pytest.raises(DataError, match="no such file or folder"):
        pretrain(run(shapes, tmp_path / "run", DENSE, data={"images": (str(tmp_path / "nowhere"),)}))
    uneven = run(shapes, tmp_path / "run", DENSE, data={"images": (str(pictures),), "image_batch": 3},
                 train={"micro_batch": 2})  # fmt: skip
    with pytest.raises(ConfigError, match="image_batch 3 is not a multiple of the 2 passes"):
        pretrain(uneven)
    assert not (tmp_path / "run").exists()


def test_a_second_phase_starts_where_the_first_ended(shapes: Path, tmp_path: Path) -> None:
    """V-JEPA 2's cooldown: longer clips, schedules from 0, weights and the optimizer's state of the first phase."""
    pretrain(run(shapes, tmp_path / "first", ROTARY))
    second = run(shapes, tmp_path / "second", {**ROTARY, "num_frames": 10, "depth": 1}, init=str(tmp_path / "first"),
                 optim=STILL, train={"steps": 2, "save_every": 2})  # fmt: skip
    pretrain(second)
    model = load_model(tmp_path / "second")
    assert (model.config.num_frames, model.config.dims.depth) == (
        10,
        2,
    )  # the shape is the new one, the size the old one
    first, later = (
        load_checkpoint(list_checkpoints(tmp_path / name / "checkpoints")[-1]) for name in ("first", "second")
    )
    for key, value in first["model"].items():
        torch.testing.assert_close(later["model"][key], value, rtol=0, atol=1e-25)
    steps = [state["step"].item() for state in later["optimizer"]["state"].values()]
    assert max(steps) == 4 + 2  # Adam's moments go on
    assert later["step"] == 2


def test_codes_of_another_shape_are_made_anew(shapes: Path, tmp_path: Path) -> None:
    sincos = {**ROTARY, "positions": "sincos"}
    pretrain(run(shapes, tmp_path / "first", sincos))
    pretrain(run(shapes, tmp_path / "second", {**sincos, "num_frames": 10}, init=str(tmp_path / "first"), optim=STILL))
    first, second = (load_model(tmp_path / name).encoder for name in ("first", "second"))
    assert second.pos_embed.shape[1] == 5 * 16
    torch.testing.assert_close(second.blocks[0].mlp.fc1.weight, first.blocks[0].mlp.fc1.weight, rtol=0, atol=1e-25)


def test_a_run_goes_on_from_a_published_file(shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file of another's: strict, and with its predictor; Meta's files need what they do not hold (`arch`)."""
    found = load_model(V2 / "checkpoint.pt", arch={"positions": "rope-tiled", "img_size": 32, "num_frames": 8,
                                                   "num_heads": 3, "predictor_num_heads": 3})  # fmt: skip
    assert found.predictor is not None
    save_model(tmp_path / "meta", found.encoder, found.predictor)
    config = run(shapes, tmp_path / "run", ROTARY, init=str(tmp_path / "meta"), optim=STILL, train={"steps": 1})
    pretrain(config)
    assert "starting from" in caplog.text
    now = load_model(tmp_path / "run")
    assert now.predictor is not None
    for ours, theirs in ((now.encoder, found.encoder), (now.predictor, found.predictor)):
        for key, value in ours.state_dict().items():
            torch.testing.assert_close(value, theirs.state_dict()[key], rtol=0, atol=1e-25)
    save_model(tmp_path / "bare", found.encoder)
    pretrain(replace(config, init=str(tmp_path / "bare"), out=str(tmp_path / "third")))
    assert "random weights" in caplog.text


def test_a_start_that_is_not_there(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        pretrain(run(shapes, tmp_path / "run", ROTARY, init=str(tmp_path / "nowhere")))
    assert not (tmp_path / "run").exists()
