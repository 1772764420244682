"""A model knows the clip that it was made for, and old folders are understood."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from openvjepa.config import ClipProtocol, ModelConfig, ObjectiveConfig, PretrainConfig, to_mapping
from openvjepa.data.lists.index import VideoRecord
from openvjepa.errors import CheckpointError, ConfigError
from openvjepa.features.sampling import plan_for
from openvjepa.model.encoder import Encoder
from openvjepa.model.jepa import JEPA
from openvjepa.model.pooler import LinearClassifier
from openvjepa.train.checkpoint import save_checkpoint
from openvjepa.weights.files import read_tensors, write_tensors
from openvjepa.weights.hub import load_model, save_model

FIXTURES = Path(__file__).parents[1] / "fixtures" / "vjepa"
TINY = ModelConfig(arch="vit_femto", img_size=(16, 24), num_frames=4, patch_size=8, depth=1, predictor_depth=1)
CLIP = ClipProtocol(
    num_frames=4, size=(16, 24), frame_step=None, fps=7.5, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), antialias=False, margin=1.0
)  # fmt: skip
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "margin": 256 / 224}


def test_a_model_keeps_its_clip(tmp_path: Path) -> None:
    probe = LinearClassifier(96, 2)
    save_model(tmp_path, Encoder(TINY), probe=probe, labels=["Füße", "b: c"], clip=CLIP)
    model = load_model(tmp_path)
    assert model.clip == CLIP
    assert model.labels == ("Füße", "b: c")
    settings = yaml.safe_load((tmp_path / "model.yaml").read_text(encoding="utf-8"))
    assert settings["clip"]["fps"] == 7.5
    assert settings["classes"] == ["Füße", "b: c"]
    assert "7.5 frames/s" in str(model)
    assert repr(model) == f"<LoadedModel {model}>"
    larger = load_model(tmp_path, arch={"img_size": 32, "num_frames": 8})
    assert larger.clip == replace(CLIP, num_frames=8, size=(32, 32))


def test_the_published_clip() -> None:
    for folder, arch, antialias in (("v1/checkpoint.pth.tar", {"num_heads": 3}, False), ("hf_base", {}, True)):
        model = load_model(FIXTURES / folder, arch=arch)
        frames, size = model.config.num_frames, model.config.image_hw
        assert model.clip == ClipProtocol(
            num_frames=frames, size=size, frame_step=4, fps=None, antialias=antialias, **IMAGENET
        )
        assert model.clip.is_published


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("data: {frame_step: null, fps: 3.5}", (None, 3.5)),
        ("data: {frame_step: 2, fps: null}", (2, None)),
        ("{frame_step: 3, fps: null, segments: 2}", (3, None)),  # a probe's
        ("{}", (4, None)),
        ("- some other program's", (4, None)),
        ("a: [", (4, None)),
        (None, (4, None)),
    ],
)
def test_old_folders(tmp_path: Path, text: str | None, rate: tuple[int | None, float | None]) -> None:
    """model.yaml without a clip, classes in the weights' metadata, the rate in the run's config.yaml."""
    save_model(tmp_path, Encoder(TINY), probe=LinearClassifier(96, 2))
    tensors, metadata = read_tensors(tmp_path / "model.safetensors")
    metadata["classifier"]["classes"] = ["a", "b"]
    write_tensors(tmp_path / "model.safetensors", tensors, metadata)
    settings = yaml.safe_load((tmp_path / "model.yaml").read_text())
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"model": settings["model"], "antialias": False}))
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    model = load_model(tmp_path)
    assert (model.clip.frame_step, model.clip.fps) == rate
    assert (model.clip.antialias, model.labels) == (False, ("a", "b"))


def test_a_checkpoint_of_a_run_knows_its_rate(tmp_path: Path) -> None:
    config = PretrainConfig(model=TINY)
    config = replace(config, data=replace(config.data, frame_step=None, fps=5.0))
    jepa = JEPA(TINY, ObjectiveConfig())
    state = {f"jepa.{name}": value for name, value in jepa.state_dict().items()}
    held = {"model": state, "step": 5, "config": to_mapping(config), "optimizer": {}, "rng": {}}
    save_checkpoint(tmp_path / "checkpoints", 5, held, keep_last=1)
    (path,) = (tmp_path / "checkpoints").iterdir()
    moved = Path(shutil.copy(path, tmp_path / "elsewhere.pt"))  # without the run's config.yaml beside it
    for source in (tmp_path, path, moved):
        assert (load_model(source).clip.frame_step, load_model(source).clip.fps) == (None, 5.0)


@pytest.mark.parametrize(
    "clip",
    [
        {"fps": nan, "frame_step": None}, {"fps": 0.0, "frame_step": None}, {"frame_step": 0}, {"frame_step": 10**12},
        {"fps": 4.0}, {"std": [0.0, 1.0, 1.0]}, {"mean": [1.0, 2.0]}, {"mean": "x"}, {"margin": 0.5}, {"sharpen": True},
        {"antialias": "perhaps"}, "x", [1],
    ],
)  # fmt: skip
def test_clips_that_make_no_sense(tmp_path: Path, clip: Any) -> None:
    save_model(tmp_path, Encoder(TINY), clip=ClipProtocol.of(TINY))
    settings = yaml.safe_load((tmp_path / "model.yaml").read_text())
    settings["clip"] = {**settings["clip"], **clip} if isinstance(clip, dict) else clip
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(CheckpointError, match=r"model\.yaml: the model's clip cannot be read") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_preprocessing_of_a_hugging_face_folder(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "hf_base", tmp_path / "hf")
    published = json.loads((FIXTURES / "hf_classifier" / "video_preprocessor_config_256.json").read_text())
    (folder / "video_preprocessor_config.json").write_text(json.dumps(published))
    assert load_model(folder).clip.is_published
    published |= {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"shortest_edge": 280}}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(published))
    clip = load_model(folder).clip
    assert (clip.mean, clip.std, int(256 * clip.margin)) == ((0.5,) * 3, (0.25,) * 3, 280)


def test_plans_follow_the_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_model(tmp_path, Encoder(TINY), clip=ClipProtocol.of(TINY, fps=7.5, antialias=False))
    model, records = load_model(tmp_path), (VideoRecord("a.mp4"),)
    plan = plan_for(model, records)
    assert (plan.spec.num_frames, plan.spec.frame_step, plan.spec.fps) == (4, None, 7.5)
    assert (plan.size, plan.antialias) == ((16, 24), False)
    assert plan_for(model, records, frame_step=2).spec.frame_step == 2
    with pytest.raises(ConfigError, match=r"only load_model\(\.\.\.\)\.encode prepares"):
        plan_for(replace(model, clip=CLIP), records)


def test_the_rate_in_words() -> None:
    words = [str(ClipProtocol.of(TINY, frame_step=step)).rpartition("px, ")[2] for step in (1, 2, 3, 4, 11, 21)]
    numbers = ("", "2nd ", "3rd ", "4th ", "11th ", "21st ")
    assert words == [f"every {number}frame" for number in numbers]
