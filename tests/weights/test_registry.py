"""The published checkpoints: sizes against models that are built, geometry against what a file's tensors say."""

from __future__ import annotations

import pytest
import torch

from openvjepa.config import PRESETS, ModelConfig
from openvjepa.model.action import ActionPredictor
from openvjepa.model.encoder import Encoder
from openvjepa.weights.formats.meta import infer_config
from openvjepa.weights.registry import ModelInfo, find, list_models, of_file, suggest

EXACT = {  # encoder parameters as others counted them
    "vitl16": 303_885_312,
    "vjepa2-vitl": 303_885_312,
    "vjepa2.1-vitb": 86_833_152,
    "vjepa2.1-vitl": 304_680_960,
    "vjepa2.1-vit-giant": 1_013_267_968,
    "vjepa2.1-vit-gigantic": 1_845_216_768,
}


@pytest.mark.parametrize("info", list_models(), ids=lambda info: info.name)
def test_parameters_are_those_of_the_model(info: ModelInfo) -> None:
    with torch.device("meta"):
        encoder = Encoder(ModelConfig(**info.arch))
    count = sum(value.numel() for name, value in encoder.state_dict().items() if name != "pos_embed")
    assert info.parameters == round(count / 1e6, 1)
    assert EXACT.get(info.name, count) == count


@pytest.mark.parametrize("info", list_models(), ids=lambda info: info.name)
def test_an_encoder_alone_is_described_fully(info: ModelInfo) -> None:
    """With `arch`, nothing has to be asked of the user, and what the tensors say does not disagree."""
    config = ModelConfig(**info.arch)
    with torch.device("meta"):
        state = Encoder(config).state_dict()
    read = infer_config(state, None, info.arch, info.file or info.name)
    assert (read.dims, read.grid, read.positions, read.levels) == (
        config.dims,
        config.grid,
        config.positions,
        config.levels,
    )


def test_an_action_predictor_has_its_heads() -> None:
    info = find("vjepa2-ac-vitg")
    assert info is not None
    config = ModelConfig(**info.arch, predictor_kind="action", predictor_embed_dim=1024, predictor_depth=24)
    with torch.device("meta"):
        encoder, predictor = Encoder(config).state_dict(), ActionPredictor(config).state_dict()
    read = infer_config(encoder, predictor, info.arch, "vjepa2-ac-vitg.pt")
    assert (read.predictor_kind, read.predictor_heads, read.predictor_embed_dim) == ("action", 16, 1024)
    with torch.device("meta"):
        ActionPredictor(read).load_state_dict(predictor)


@pytest.mark.parametrize("info", [i for i in list_models() if i.name in PRESETS], ids=lambda info: info.name)
def test_a_model_and_its_preset_are_of_one_size(info: ModelInfo) -> None:
    preset, model = PRESETS[info.name]().model, ModelConfig(**info.arch)
    assert (preset.dims, preset.positions, preset.levels) == (model.dims, model.positions, model.levels)


def test_names_files_and_addresses_are_unique() -> None:
    models = list_models()
    addresses = [info.url for info in models if info.url] + [url for info in models for url in info.probes.values()]
    for values in ([info.name for info in models], addresses, [info.hf_id for info in models if info.hf_id]):
        assert len(set(values)) == len(values)
    assert all(info.url or info.hf_id or info.folder for info in models)
    assert all(0 < value < 100 for info in models for value in info.accuracy.values())


def test_published_addresses() -> None:
    """Copied from the specification, not made by the registry's rules."""
    base = "https://dl.fbaipublicfiles.com"
    addresses = {info.name: info.url for info in list_models()}
    assert addresses["vith16-384"] == f"{base}/jepa/vith16-384/vith16-384.pth.tar"
    assert addresses["vjepa2-vitg-384"] == f"{base}/vjepa2/vitg-384.pt"
    assert addresses["vjepa2.1-vit-giant"] == f"{base}/vjepa2/vjepa2_1_vitg_384.pt"
    assert addresses["vjepa2.1-vit-gigantic"] == f"{base}/vjepa2/vjepa2_1_vitG_384.pt"
    probes = {f"{info.name}/{probe}": url for info in list_models() for probe, url in info.probes.items()}
    assert len(probes) == 3 * 5 + 2 * 2
    assert probes["vith16/in1k"] == f"{base}/jepa/vith16/in1k-probe.pth.tar"
    assert probes["vjepa2-vitg-384/ssv2"] == f"{base}/vjepa2/evals/ssv2-vitg-384-64x2x3.pt"
    assert {info.hf_id for info in list_models() if not info.url and not info.shipped} == {
        f"facebook/vjepa2-{name}"
        for name in (
            "vitl-fpc16-256-ssv2",
            "vitl-fpc32-256-diving48",
            "vitg-fpc64-384-ssv2",
            "vitg-fpc32-384-diving48",
        )
    }


def test_look_up() -> None:
    info = find("vjepa2-vitl")
    assert info is not None
    assert info.hf_id == "facebook/vjepa2-vitl-fpc64-256"
    assert of_file("vitl.pt") is info
    giant, gigantic = of_file("vjepa2_1_vitg_384.pt"), of_file("vjepa2_1_vitG_384.pt")
    assert giant is not None
    assert gigantic is not None
    assert (giant.name, gigantic.name) == ("vjepa2.1-vit-giant", "vjepa2.1-vit-gigantic")
    assert find("vitl") is None
    assert of_file("latest.pt") is None
    assert "did you mean vjepa2-vitl?" in suggest("vjepa2_vitl")
    assert suggest("my-model-9000") == ": `vjepa models` lists all names"
