"""`vjepa convert`: round trips bit for bit, Meta's names, and what is refused before anything is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from openvjepa.cli import main
from openvjepa.commands.convert import convert, write_meta, write_own
from openvjepa.config import ClipProtocol, ConvertConfig, ModelConfig
from openvjepa.errors import CheckpointError, ConfigError
from openvjepa.model.action import ActionPredictor
from openvjepa.model.encoder import Encoder
from openvjepa.model.pooler import AttentiveClassifier, LinearClassifier
from openvjepa.model.predictor import Predictor
from openvjepa.weights.hub import LoadedModel, load_model
from openvjepa.weights.probes import probe_settings

FIXTURES = Path(__file__).parents[1] / "fixtures"
KEYS = FIXTURES / "vjepa" / "keys"
LABELS = ("left", "right", "up")
SMALL = ModelConfig(
    arch="vit_femto", embed_dim=48, depth=2, num_heads=3, img_size=32, patch_size=8, num_frames=4,
    predictor_embed_dim=36, predictor_depth=2, predictor_num_heads=3,
)  # fmt: skip
V2 = replace(SMALL, positions="rope-tiled", num_mask_tokens=4)
V21 = replace(
    SMALL, positions="rope", interpolate_rope=True, modality_embed=True, levels=(0, 1), predictor_levels=2,
    predict_context=True, num_mask_tokens=8,
)  # fmt: skip
FAMILIES = {
    "V-JEPA 1": (SMALL, {"style": "v1"}),
    "nano-JEPA": (SMALL, {"style": "nano"}),
    "image model": (replace(SMALL, num_frames=1), {"style": "v1", "depth": 2}),
    "V-JEPA 2": (V2, {"style": "v2", "depth": 3}),
    "V-JEPA 2 as on Hugging Face": (V2, {"style": "v2", "depth": 3, "eps": 1e-6}),
    "V-JEPA 2-AC": (replace(V2, predictor_kind="action"), None),
    "V-JEPA 2 of SwiGLU": (replace(V2, mlp="swiglu", mlp_ratio=8 / 3), None),
    "V-JEPA 2.1 g": (V21, {"style": "v2", "depth": 2}),
    "V-JEPA 2.1 L": (replace(V21, predictor_levels=1, predictor_out_dim=64), None),
}


def made(config: ModelConfig, probe: dict[str, Any] | None, *, labels: tuple[str, ...] | None = LABELS) -> LoadedModel:
    """A model of random numbers, not one of them 0 or 1."""
    torch.manual_seed(0)
    encoder = Encoder(config)
    predictor = (ActionPredictor if config.predictor_kind == "action" else Predictor)(config)
    head = AttentiveClassifier(48, 3, len(LABELS), **probe) if probe else None
    for module in (encoder, predictor, head):
        for name, value in module.named_parameters() if module else ():
            if not name.endswith("pos_embed"):
                value.data.normal_()
            value.requires_grad_(False)
    return LoadedModel(
        encoder, predictor, config, "made", "encoder", ClipProtocol.of(config), head, labels if probe else None
    )


def states(model: LoadedModel) -> dict[str, dict[str, Tensor]]:
    parts = {"encoder": model.encoder, "predictor": model.predictor, "probe": model.probe}
    return {name: module.state_dict() for name, module in parts.items() if module is not None}


def assert_same(ours: LoadedModel, theirs: LoadedModel, *, source_antialias: bool = True) -> None:
    first, second = states(ours), states(theirs)
    assert {part: list(state) for part, state in first.items()} == {part: list(state) for part, state in second.items()}
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert ours.config.dims == theirs.config.dims
    assert ours.config.grid == theirs.config.grid
    assert ours.labels == theirs.labels
    assert ours.clip == theirs.clip
    if ours.probe is not None and theirs.probe is not None:
        assert probe_settings(ours.probe) == probe_settings(theirs.probe)


def run(source: object, out: Path, to: Any, **settings: Any) -> LoadedModel:
    """Convert, and load what was written."""
    written = convert(ConvertConfig(str(source), str(out), to, **settings))
    assert all(path.exists() for path in written)
    return load_model(written[0], probe=written[1] if len(written) > 1 else None)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("antialias", [True, False])
def test_meta_and_ours(family: str, antialias: bool, tmp_path: Path) -> None:
    model = made(*FAMILIES[family])
    rate = {"frame_step": None, "fps": 7.5} if antialias else {"frame_step": 3, "fps": None}
    model = replace(model, clip=replace(model.clip, antialias=antialias, mean=(0.1, 0.2, 0.3), **rate))
    write_own(tmp_path / "own", model)
    assert_same(load_model(tmp_path / "own"), model)
    meta = run(tmp_path / "own", tmp_path / "meta.pt", "meta")
    assert_same(meta, model)
    assert meta.config == model.config
    probe = str(tmp_path / "meta-probe.pt") if model.probe else None
    again = run(tmp_path / "meta.pt", tmp_path / "again", "openvjepa", probe=probe)
    assert_same(again, model)
    assert again.config == model.config


def test_all_layouts(tmp_path: Path) -> None:
    """Meta -> ours -> Hugging Face -> ours -> Meta."""
    model = made(*FAMILIES["V-JEPA 2 as on Hugging Face"])
    write_meta(tmp_path / "a.pt", model)
    first = run(tmp_path / "a.pt", tmp_path / "b", "openvjepa", probe=str(tmp_path / "a-probe.pt"))
    second = run(tmp_path / "b", tmp_path / "c", "hf")
    third = run(tmp_path / "c", tmp_path / "d", "openvjepa")
    last = run(tmp_path / "d", tmp_path / "e.pth.tar", "meta")
    for step in (first, second, third, last):
        assert_same(step, model)
    start, end = (torch.load(tmp_path / name, weights_only=True) for name in ("a.pt", "e.pth.tar"))
    assert start.keys() == end.keys()
    for section in ("encoder", "target_encoder", "predictor"):
        torch.testing.assert_close(start[section], end[section], rtol=0, atol=0)
    probes = [torch.load(tmp_path / name, weights_only=True) for name in ("a-probe.pt", "e-probe.pth.tar")]
    torch.testing.assert_close(probes[0]["classifiers"], probes[1]["classifiers"], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("checkpoint", "geometry"),
    [
        ("vjepa/v1/checkpoint.pth.tar", "num_heads: 3"),
        ("vjepa/v1/nano-jepa-latest.pth.tar", "num_heads: 3"),
        ("vjepa/v2/checkpoint.pt", "positions: rope-tiled, img_size: 32, num_frames: 8, num_heads: 3, predictor_num_heads: 3"),
        ("vjepa21/ckpt_gstyle.pt", "img_size: 64, num_frames: 4, num_heads: 2, predictor_num_heads: 2"),
    ],
)  # fmt: skip
def test_files_of_the_reference_code(checkpoint: str, geometry: str, tmp_path: Path) -> None:
    """Through ours and back: the tensors and names of Meta's own file, but for those that its model does not use."""
    run(FIXTURES / checkpoint, tmp_path / "own", "openvjepa", geometry=geometry)
    assert not run(tmp_path / "own", tmp_path / "back.pt", "meta").clip.antialias
    start = torch.load(FIXTURES / checkpoint, weights_only=True)
    end = torch.load(tmp_path / "back.pt", weights_only=True)
    for section in ("target_encoder", "predictor"):
        rotary = "v1" not in checkpoint
        before = {
            "module.backbone." + name.removeprefix("module.").removeprefix("backbone."): value
            for name, value in start[section].items()
            if not (rotary and name.endswith("pos_embed"))
        }
        assert set(end[section]) == set(before)
        torch.testing.assert_close(end[section], before, rtol=0, atol=0)


PUBLISHED: dict[str, tuple[str, str, ModelConfig, dict[str, Any] | None]] = {
    "V-JEPA 1 L": ("vit_large", "keys_v1", replace(SMALL, depth=24, predictor_depth=12), None),
    "V-JEPA 2 L": ("vit_large", "keys_v2", replace(V2, depth=24, predictor_depth=12, num_mask_tokens=10), None),
    "predictor of V-JEPA 1 L": ("vit_large_predictor", "keys_v1", replace(SMALL, predictor_depth=12), None),
    "predictor of V-JEPA 2 L": ("predictor_L", "keys_v2", replace(V2, predictor_depth=12, num_mask_tokens=10), None),
    "V-JEPA 2-AC": ("ac_predictor_depth1", "keys_v2", replace(V2, predictor_kind="action", predictor_depth=1), None),
    "probe of V-JEPA 1": ("probe_k400_vitl", "keys_v1", SMALL, {"style": "v1"}),
    "probe of V-JEPA 2": ("probe_ssv2_vitl", "keys_v2", V2, {"style": "v2", "depth": 4}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_in_published_files(name: str, tmp_path: Path) -> None:
    section, keys, config, probe = PUBLISHED[name]
    write_meta(tmp_path / "meta.pt", made(config, probe))
    file = tmp_path / ("meta-probe.pt" if probe else "meta.pt")
    container = torch.load(file, weights_only=True)
    if probe:
        written = container["classifiers"][0] if probe["style"] == "v2" else container["classifier"]
    else:
        written = container["predictor" if "predictor" in section else "encoder"]
    assert all(key.startswith("module.") for key in written)
    assert {key.removeprefix("module.") for key in written} == set(
        json.loads((KEYS / f"{keys}.json").read_text())[section]
    )


def test_sections_of_published_files(tmp_path: Path) -> None:
    for family, average in (("V-JEPA 2", "target_encoder"), ("V-JEPA 2.1 L", "ema_encoder")):
        write_meta(tmp_path / f"{average}.pt", made(*FAMILIES[family]))
        container = torch.load(tmp_path / f"{average}.pt", weights_only=True)
        assert set(container) == {"encoder", average, "predictor", "epoch", "openvjepa"}


def test_labels(tmp_path: Path) -> None:
    named = made(*FAMILIES["V-JEPA 2"])
    write_meta(tmp_path / "named.pt", named)
    assert load_model(tmp_path / "named.pt", probe=tmp_path / "named-probe.pt").labels == LABELS
    write_meta(tmp_path / "bare.pt", replace(named, labels=None))
    assert load_model(tmp_path / "bare.pt", probe=tmp_path / "bare-probe.pt").labels is None
    (note,) = write_own(tmp_path / "own", replace(named, labels=None))
    assert "called by their numbers" in note
    assert load_model(tmp_path / "own").labels == ("0", "1", "2")
    container = torch.load(tmp_path / "named-probe.pt", weights_only=True)
    container["openvjepa"]["labels"] = ["too", "few"]
    torch.save(container, tmp_path / "named-probe.pt")
    with pytest.raises(CheckpointError, match="do not name its 3 classes"):
        load_model(tmp_path / "named.pt", probe=tmp_path / "named-probe.pt")


def test_what_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_own(tmp_path / "own", made(*FAMILIES["V-JEPA 2 as on Hugging Face"]))
    assert main(["convert", str(tmp_path / "own"), str(tmp_path / "m.pt"), "--to", "meta"]) == 0
    out, notes = capsys.readouterr()
    assert "not to resume a training from" in notes
    assert "the probe has 3 attention heads, and Meta's code gives it 16" in notes
    assert "layer norm epsilon of 1e-06" in notes
    assert f"wrote {tmp_path / 'm.pt'} and {tmp_path / 'm-probe.pt'}" in out
    assert main(["convert", str(tmp_path / "own"), str(tmp_path / "m.pt"), "--to", "meta"]) == 1
    assert "add --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["V-JEPA 1", "V-JEPA 2.1 g", "V-JEPA 2-AC"])
def test_not_for_transformers(family: str, tmp_path: Path) -> None:
    write_own(tmp_path / "own", made(*FAMILIES[family]))
    with pytest.raises(CheckpointError, match="cannot be written for transformers"):
        convert(ConvertConfig(str(tmp_path / "own"), str(tmp_path / "hf"), "hf"))
    assert not (tmp_path / "hf").exists()


def test_meta_has_no_linear_probe(tmp_path: Path) -> None:
    write_own(tmp_path / "own", replace(made(SMALL, None), probe=LinearClassifier(48, 3), labels=LABELS))
    with pytest.raises(ConfigError, match="has no linear probe"):
        convert(ConvertConfig(str(tmp_path / "own"), str(tmp_path / "m.pt"), "meta"))
    assert not list(tmp_path.glob("m*"))


def test_a_folder_holds_one_layout(tmp_path: Path) -> None:
    write_own(tmp_path / "own", made(*FAMILIES["V-JEPA 2"]))
    convert(ConvertConfig(str(tmp_path / "own"), str(tmp_path / "out"), "hf"))
    (tmp_path / "out" / "mine.txt").write_text("stays")
    with pytest.raises(ConfigError, match="choose another folder"):
        convert(ConvertConfig(str(tmp_path / "own"), str(tmp_path / "out"), "openvjepa"))
    convert(ConvertConfig(str(tmp_path / "own"), str(tmp_path / "out"), "openvjepa", overwrite=True))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.safetensors", "model.yaml", "mine.txt"}


@pytest.mark.parametrize(
    ("out", "to", "geometry", "words"),
    [
        ("m.safetensors", "meta", "", r"end with \.pth\.tar or \.pt"),
        (".pt", "meta", "", r"end with"),
        ("folder.pt", "meta", "", "is a folder"),
        ("file", "hf", "", "is a file"),
        ("own", "openvjepa", "", "is the folder of the source model"),
        ("new", "hf", "num_heads 3", "write it as"),
        ("new", "hf", "num_heads: [", "write it as"),
    ],
)
def test_refused_before_the_work(out: str, to: Any, geometry: str, words: str, tmp_path: Path) -> None:
    write_own(tmp_path / "own", made(*FAMILIES["V-JEPA 2"]))
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "file").touch()
    config = ConvertConfig(str(tmp_path / "own"), str(tmp_path / out), to, geometry=geometry, overwrite=True)
    with pytest.raises(ConfigError, match=words):
        convert(config)
    assert load_model(tmp_path / "own").labels == LABELS


def test_the_source_is_never_overwritten(tmp_path: Path) -> None:
    write_meta(tmp_path / "m.pt", made(*FAMILIES["V-JEPA 2"]))
    with pytest.raises(ConfigError, match="already exists"):
        convert(ConvertConfig(str(tmp_path / "m.pt"), str(tmp_path / "m.pt"), "meta", overwrite=True))
    assert load_model(tmp_path / "m.pt").predictor is not None


def test_geometry_for_another_clip(tmp_path: Path) -> None:
    write_own(tmp_path / "own", made(SMALL, None))
    model = run(tmp_path / "own", tmp_path / "big", "openvjepa", geometry="img_size: 48, num_frames: 8")
    assert (model.config.img_size, model.config.num_frames) == (48, 8)
    assert model.encoder(torch.zeros(1, 3, 8, 48, 48)).shape == (1, 4 * 6 * 6, 48)


def test_heads_of_a_probe_of_its_own_size(tmp_path: Path) -> None:
    """Files of V-JEPA 2 hold them nowhere: the command takes them."""
    folder = Path(__file__).parents[1] / "fixtures" / "vjepa" / "v2"
    source, probe = str(folder / "checkpoint.pt"), str(folder / "probe.pt")
    geometry = "positions: rope-tiled, img_size: 32, num_frames: 8, num_heads: 3, predictor_num_heads: 3"
    with pytest.raises(CheckpointError, match="--probe-heads"):
        convert(ConvertConfig(source, str(tmp_path / "a"), "openvjepa", probe=probe, geometry=geometry))
    flags = ["--to", "openvjepa", "--probe", probe, "--probe-heads", "3", "--geometry", geometry]
    assert main(["convert", source, str(tmp_path / "b"), *flags]) == 0
    found = load_model(tmp_path / "b").probe
    assert found is not None
    assert probe_settings(found)["num_heads"] == 3
