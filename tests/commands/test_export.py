"""`vjepa export`: what transformers and onnxruntime compute from what was written, beside our own numbers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from huggingface_hub import constants
from torch import Tensor

from openvjepa.cli import main
from openvjepa.commands.convert import convert
from openvjepa.commands.export import export
from openvjepa.commands.probe import probe as run_probe
from openvjepa.config import ClipProtocol, ConvertConfig, ExportConfig, Fit, ModelConfig, ProbeConfig
from openvjepa.data.transforms import eval_views, normalize
from openvjepa.errors import CheckpointError, ConfigError
from openvjepa.model.encoder import Encoder, create_model
from openvjepa.model.pooler import AttentiveClassifier, LinearClassifier
from openvjepa.model.predictor import Predictor
from openvjepa.weights.formats import hf
from openvjepa.weights.formats import onnx as onnx_model
from openvjepa.weights.formats.onnx import onnx_metadata
from openvjepa.weights.hub import load_model, save_model

LABELS = ("left", "right", "up", "down")
SMALL = ModelConfig(
    arch="vit_femto", embed_dim=48, depth=2, num_heads=3, img_size=32, patch_size=8, num_frames=4,
    predictor_embed_dim=36, predictor_depth=1, predictor_num_heads=3,
)  # fmt: skip
V2 = replace(SMALL, positions="rope-tiled", num_mask_tokens=4)
FAMILIES = {
    "V-JEPA 1": SMALL,
    "image model": replace(SMALL, num_frames=1),
    "V-JEPA 2": V2,
    "V-JEPA 2.1": replace(
        SMALL, positions="rope", interpolate_rope=True, modality_embed=True, levels=(0, 1), img_size=(32, 48)
    ),
}


def saved(folder: Path, config: ModelConfig, probe: AttentiveClassifier | LinearClassifier | None = None) -> Path:
    """A folder of ours with large random weights, so that a wrong number shows."""
    torch.manual_seed(0)
    encoder = Encoder(config)
    for module in (encoder, probe):
        for name, value in module.named_parameters() if module else ():
            if name != "pos_embed" and value.ndim > 1:
                value.data.normal_(0, 1.2 / value[0].numel() ** 0.5)
    save_model(folder, encoder, Predictor(config), probe=probe, labels=LABELS if probe else None)
    return folder


def v2_probe(**settings: Any) -> AttentiveClassifier:
    return AttentiveClassifier(48, 3, len(LABELS), style="v2", depth=3, **settings)


def clips(config: ModelConfig, count: int) -> Tensor:
    return torch.randn(count, 3, config.num_frames, *config.image_hw, generator=torch.Generator().manual_seed(7))


def front_matter(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "README.md").read_text().split("---")[1])


def test_transformers_runs_the_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transformers = pytest.importorskip("transformers")
    source = saved(tmp_path / "own", V2, v2_probe(eps=1e-6))
    assert main(["export", str(source), str(tmp_path / "hf"), "--to", "hf"]) == 0
    assert f"transformers {transformers.__version__} gives our numbers" in capsys.readouterr().err
    theirs = transformers.VJEPA2ForVideoClassification.from_pretrained(tmp_path / "hf").eval()
    ours, x = load_model(source), clips(V2, 2)
    assert ours.probe is not None
    with torch.no_grad():
        tokens = ours.encoder(x)
        out = theirs(x.transpose(1, 2))
        torch.testing.assert_close(out.logits, ours.probe(tokens), rtol=0, atol=1e-5)
    assert out.logits.std() > 0.1
    assert theirs.config.id2label == dict(enumerate(LABELS))
    assert theirs.config.label2id == {name: i for i, name in enumerate(LABELS)}


def test_transformers_runs_encoder_and_predictor(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    source = saved(tmp_path / "own", V2)
    export(ExportConfig(str(source), str(tmp_path / "hf"), "hf"))
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "hf").eval()
    ours, x = load_model(source), clips(V2, 2)
    context, target = torch.arange(20).expand(2, -1), torch.arange(20, 32).expand(2, -1)
    assert ours.predictor is not None
    with torch.no_grad():
        tokens = ours.encoder(x)
        out = theirs(x.transpose(1, 2), context_mask=[context], target_mask=[target])
        torch.testing.assert_close(out.last_hidden_state, tokens, rtol=0, atol=1e-5)
        predicted = ours.predictor(tokens[:, :20], context, target, 1).masked
        torch.testing.assert_close(out.predictor_output.last_hidden_state, predicted, rtol=0, atol=1e-5)
    assert front_matter(tmp_path / "hf")["pipeline_tag"] == "feature-extraction"


def test_the_video_processor_prepares_frames_as_we_do(tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="transformers' video processors need torchvision", exc_type=ImportError)
    transformers = pytest.importorskip("transformers")
    export(ExportConfig(str(saved(tmp_path / "own", V2)), str(tmp_path / "hf"), "hf"))
    processor = transformers.AutoVideoProcessor.from_pretrained(tmp_path / "hf")
    frames = np.random.default_rng(0).integers(0, 256, (4, 61, 80, 3), dtype=np.uint8)
    theirs = processor(torch.from_numpy(frames).permute(0, 3, 1, 2), return_tensors="pt")["pixel_values_videos"]
    ours = normalize(eval_views(frames, V2.image_hw, 1)[0][None])
    torch.testing.assert_close(theirs.transpose(1, 2), ours, rtol=0, atol=1e-5)


@pytest.fixture
def probed(shapes: Path, tmp_path: Path) -> Path:
    """A run of `vjepa probe` on an encoder with the positions of V-JEPA 2."""
    encoder = replace(V2, patch_size=16)
    config = ProbeConfig(
        model=str(saved(tmp_path / "encoder", encoder)), source=str(shapes), label="motion", out=str(tmp_path / "run"),
        kinds=("attentive",), frame_step=1, epochs=2, lrs=(1e-2,), weight_decays=(0.01,), workers=0,
    )  # fmt: skip
    return run_probe(config).out


def test_a_trained_probe_for_transformers(probed: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    export(ExportConfig(str(probed), str(tmp_path / "hf"), "hf"))
    theirs = transformers.VJEPA2ForVideoClassification.from_pretrained(tmp_path / "hf").eval()
    ours = load_model(probed)
    x = clips(ours.config, 3)
    assert ours.probe is not None
    with torch.no_grad():
        torch.testing.assert_close(theirs(x.transpose(1, 2)).logits, ours.probe(ours.encoder(x)), rtol=0, atol=1e-5)
    results = json.loads((probed / "results.json").read_text())
    assert tuple(theirs.config.id2label.values()) == tuple(results["classes"])
    card = (tmp_path / "hf" / "README.md").read_text()
    accuracy = results["probes"]["attentive"]["test_top1"]
    assert f"Top-1 accuracy on 24 test videos: {accuracy:.1f} % (chance level: 12.5 %)" in card
    assert "Clips have consecutive frames" in card
    assert "AutoModelForVideoClassification.from_pretrained" in card
    assert ", ".join(results["classes"]) in card


def test_figures_are_of_the_model_that_was_measured(probed: Path, tmp_path: Path) -> None:
    export(ExportConfig(str(probed), str(tmp_path / "hf"), "hf", geometry="num_frames: 8"))
    assert "## Metrics" not in (tmp_path / "hf" / "README.md").read_text()
    assert "## Metrics" not in card_of(saved(tmp_path / "own", V2, v2_probe()), tmp_path / "plain")


def card_of(source: Path, out: Path) -> str:
    export(ExportConfig(str(source), str(out), "hf"))
    return (out / "README.md").read_text()


def test_the_license_travels(tmp_path: Path) -> None:
    source = saved(tmp_path / "own", V2)
    assert "license" not in front_matter_of(source, tmp_path / "first")
    readme = tmp_path / "first" / "README.md"
    readme.write_text("---\nlicense: mit\n---\n# A model\n")
    assert front_matter_of(tmp_path / "first", tmp_path / "second")["license"] == "mit"
    readme.write_text("---\n: [")
    assert "license" not in front_matter_of(tmp_path / "first", tmp_path / "third")


def front_matter_of(source: Path, out: Path) -> dict[str, Any]:
    card_of(source, out)
    return front_matter(out)


def test_the_card_says_what_to_know(tmp_path: Path) -> None:
    card = card_of(saved(tmp_path / "own", V2, v2_probe()), tmp_path / "hf")
    assert "frames of 32 x 32 px: other sizes give wrong positions" in card
    assert "layer norm epsilon of 1e-05" in card
    assert str(tmp_path) not in card
    assert "left, right, up, down" in card


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_attention_heads": 4}, "outputs of the exported model in transformers differ by"),
        ({"id2label": dict(enumerate("abcd"))}, "class names in transformers differ"),
        ({"model_type": "vjepa3"}, "cannot load it"),
    ],
)
def test_what_differs_is_not_handed_over(
    change: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    source = saved(tmp_path / "own", V2, v2_probe())
    real = hf.hf_config
    monkeypatch.setattr(hf, "hf_config", lambda model: {**real(model), **change})
    with pytest.raises(CheckpointError, match=words):
        export(ExportConfig(str(source), str(tmp_path / "hf"), "hf"))
    assert not list((tmp_path / "hf").iterdir())


def test_without_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("openvjepa.commands.export.find_spec", lambda name: None)
    caplog.set_level("INFO", "openvjepa")
    export(ExportConfig(str(saved(tmp_path / "own", V2)), str(tmp_path / "hf"), "hf"))
    assert "pip install 'openvjepa[export]'" in caplog.text
    assert load_model(tmp_path / "hf").config.grid == V2.grid


@pytest.mark.parametrize("family", FAMILIES)
def test_onnx_encoders(family: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    onnxruntime = need_onnx()
    config = FAMILIES[family]
    source = saved(tmp_path / "own", config)
    export(ExportConfig(str(source), str(tmp_path / "onnx"), "onnx"))
    printed = capfd.readouterr()
    assert (printed.err, printed.out) == ("", "")
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {"model.onnx", "model.json"}
    facts = json.loads((tmp_path / "onnx" / "model.json").read_text())
    assert facts["max_difference"] < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.shape) == ("video", facts["input"]["shape"])
    assert (given.name, given.shape) == ("tokens", facts["output"]["shape"])
    grid = facts["output"]["grid"]
    assert (grid["time"], grid["height"], grid["width"]) == config.grid.shape
    encoder = load_model(source).encoder
    for count in (1, 2, 5):
        x = clips(config, count)
        tokens = torch.from_numpy(session.run(None, {"video": x.numpy()})[0])
        torch.testing.assert_close(tokens, encoder(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "probe"),
    [
        (SMALL, AttentiveClassifier(48, 3, 4)),
        (SMALL, AttentiveClassifier(48, 3, 4, style="nano", depth=2)),
        (SMALL, LinearClassifier(48, 4)),
        (V2, v2_probe()),
    ],
)
def test_onnx_classifiers(config: ModelConfig, probe: AttentiveClassifier | LinearClassifier, tmp_path: Path) -> None:
    onnxruntime = need_onnx()
    source = saved(tmp_path / "own", config, probe)
    export(ExportConfig(str(source), str(tmp_path / "onnx"), "onnx"))
    facts = json.loads((tmp_path / "onnx" / "model.json").read_text())
    assert (facts["task"], tuple(facts["labels"])) == ("classifier", LABELS)
    assert facts["output"] == {"name": "logits", "dtype": "float32", "shape": ["batch", 4]}
    # as a program would that knows nothing but model.json
    frames = np.random.default_rng(0).integers(0, 256, (config.num_frames, 32, 32, 3), dtype=np.uint8)
    pixels = (frames / 255 - facts["input"]["mean"]) / facts["input"]["std"]
    video = pixels.transpose(3, 0, 1, 2)[None].astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    (logits,) = session.run(["logits"], {"video": video})
    model = load_model(source)
    assert model.probe is not None
    expected = model.probe(model.encoder(normalize(eval_views(frames, (32, 32), 1)[0][None])))
    assert expected.std() > 0.01
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)


def test_large_weights_have_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = need_onnx()
    monkeypatch.setattr(onnx_model, "INLINE_BYTES", 10_000)
    export(ExportConfig(str(saved(tmp_path / "own", SMALL)), str(tmp_path / "onnx"), "onnx"))
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {"model.onnx", "model.onnx.data", "model.json"}
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    assert session.run(None, {"video": clips(SMALL, 1).numpy()})[0].shape == (1, 32, 48)


def test_onnx_that_differs_is_not_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_onnx()
    source = saved(tmp_path / "own", SMALL)
    for difference in (1e-3, float("nan")):
        monkeypatch.setattr(onnx_model, "largest_difference", lambda ours, theirs, d=difference: d)
        with pytest.raises(CheckpointError, match="nothing was written"):
            export(ExportConfig(str(source), str(tmp_path / "onnx"), "onnx"))
        assert not list((tmp_path / "onnx").iterdir())


def test_missing_packages_are_named_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr(onnx_model, "find_spec", lambda name: None if name == "onnxscript" else object())
    assert main(["export", str(tmp_path / "none"), str(tmp_path / "onnx"), "--to", "onnx"]) == 1
    assert "ONNX needs onnxscript: pip install 'openvjepa[export]'" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["V-JEPA 1", "V-JEPA 2.1"])
def test_not_for_transformers(family: str, tmp_path: Path) -> None:
    source = saved(tmp_path / "own", FAMILIES[family])
    with pytest.raises(CheckpointError, match=r"cannot be written for transformers: .*`vjepa export --to onnx`"):
        export(ExportConfig(str(source), str(tmp_path / "out"), "hf"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["vitl16", "vjepa2.1-vitb"])
def test_published_models_are_refused_before_the_download(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # a download would be another error
    with pytest.raises(CheckpointError, match="cannot be written for transformers"):
        export(ExportConfig(name, str(tmp_path / "out"), "hf"))
    with pytest.raises(CheckpointError, match="cannot be written for transformers"):
        convert(ConvertConfig(name, str(tmp_path / "out"), "hf"))
    with pytest.raises(CheckpointError, match="not downloaded yet"):
        convert(ConvertConfig(name, str(tmp_path / "out"), "openvjepa"))


def test_weights_are_not_read_for_a_layout_that_cannot_hold_them(tmp_path: Path) -> None:
    source = saved(tmp_path / "own", FAMILIES["V-JEPA 1"])
    (source / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="pretrain with --positions rope-tiled"):
        export(ExportConfig(str(source), str(tmp_path / "out"), "hf"))


def test_a_folder_in_use(tmp_path: Path) -> None:
    source = saved(tmp_path / "own", V2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(ConfigError, match="choose another folder"):
        export(ExportConfig(str(source), str(tmp_path / "out"), "hf"))
    export(ExportConfig(str(source), str(tmp_path / "out"), "hf", overwrite=True))
    need_onnx()
    export(ExportConfig(str(source), str(tmp_path / "out"), "onnx", overwrite=True))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.onnx", "model.json", "mine.txt"}


def need_onnx() -> Any:
    """onnxruntime; the test is skipped where the optional packages are not installed."""
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    return pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("fit", ["auto", "crop", "squeeze", "pad"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("shape", [(40, 40), (40, 100), (90, 41), (32, 32)])
def test_model_json_says_how_frames_are_made_ready(
    fit: Fit, antialias: bool, shape: tuple[int, int], tmp_path: Path
) -> None:
    """A program that follows model.json gets the clips that our model is shown."""
    encoder = create_model(SMALL).eval().requires_grad_(False)
    save_model(tmp_path, encoder, clip=ClipProtocol.of(SMALL, antialias=antialias, fit=fit))
    model = load_model(tmp_path)
    facts = onnx_metadata(model)["input"]["resize"]
    frames = np.random.default_rng(0).integers(0, 256, (SMALL.num_frames, *shape, 3), dtype=np.uint8)
    assert facts["fit"] == fit

    height, width = shape
    side = 32
    way = fit
    if fit == "auto":  # a share of the area: that of the largest square
        assert facts["auto"]["crop"].endswith("at least 0.8 of the frame's area")
        way = "crop" if min(shape) ** 2 / (height * width) >= 0.8 else "squeeze"
    rule = facts[way]
    video = torch.from_numpy(frames).permute(0, 3, 1, 2).float()

    def resized(size: tuple[int, int]) -> torch.Tensor:
        assert facts["interpolation"] == "bilinear"
        return F.interpolate(video, size=size, mode="bilinear", antialias=facts["antialias"]).round().clamp(0, 255)

    if way == "squeeze":
        result = resized(tuple(rule["size"]))
    elif way == "pad":
        scale = side / max(shape)
        inner = resized((max(1, round(height * scale)), max(1, round(width * scale))))
        result = torch.tensor(rule["bars"]).view(1, 3, 1, 1).float().repeat(len(video), 1, side, side)
        top, left = (side - inner.shape[2]) // 2, (side - inner.shape[3]) // 2
        result[:, :, top : top + inner.shape[2], left : left + inner.shape[3]] = inner
    elif shape == (side, side):
        assert rule["frames of this size"] == "as they are"
        result = video
    else:
        cover = rule["cover"][0]
        scale = cover / min(shape)
        large = resized((int(height * scale + 1e-9), int(width * scale + 1e-9)))
        top, left = ((n - side) / 2 for n in large.shape[2:])
        top, left = (int(v) if antialias else round(v) for v in (top, left))
        result = large[:, :, top : top + side, left : left + side]
    clip = model.clip
    (ours,) = eval_views(frames, clip.size, 1, antialias=clip.antialias, margin=clip.margin, fit=clip.fit)
    assert (ours.float().transpose(0, 1) - result).abs().max() <= 1  # rounding of the last bit
