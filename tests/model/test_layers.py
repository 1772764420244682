"""Initial weights: the reference's draws, and the published rules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from openvjepa.config import ModelConfig
from openvjepa.model.blocks.layers import Mlp, trunc_normal_
from openvjepa.model.encoder import Encoder, create_model
from openvjepa.model.pooler import AttentiveClassifier
from openvjepa.model.predictor import Predictor

FIXTURE = Path(__file__).parents[1] / "fixtures" / "vjepa" / "common" / "trunc_normal.safetensors"


def test_draws_of_the_reference() -> None:
    for name, expected in load_file(FIXTURE).items():
        torch.manual_seed(5)
        ours = trunc_normal_(torch.empty(expected.shape), float(name.split("std")[1]))
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_no_draw_lands_on_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.copy_(torch.tensor([low, high])))
    assert trunc_normal_(torch.empty(2), 0.02).abs().max() < 0.12  # six standard deviations; the bound is 2


def test_encoder_and_predictor_start_without_depth_rescaling() -> None:
    torch.manual_seed(0)
    config = ModelConfig(arch="vit_pico", img_size=64, predictor_embed_dim=64, predictor_depth=2)
    for module in (Encoder(config), Predictor(config)):
        for name, value in module.named_parameters():
            if value.ndim > 1 and "pos_embed" not in name and "mask_token" not in name:
                assert value.std().item() == pytest.approx(0.02, rel=0.05), name
            elif "norm" in name and name.endswith("weight"):
                assert torch.equal(value, torch.ones_like(value)), name
            elif name.endswith("bias") or "mask_token" in name:
                assert not value.any(), name


def test_probe_starts_with_depth_rescaling_of_its_output_layers() -> None:
    torch.manual_seed(0)
    probe = AttentiveClassifier(96, 3, 5, depth=3)
    state = probe.state_dict()
    divisors = {"cross_attention_block.xattn.proj": 2**0.5, "cross_attention_block.mlp.fc2": 2**0.5}
    divisors |= {f"blocks.{i}.{name}": (2 * (i + 2)) ** 0.5 for i in (0, 1) for name in ("attn.proj", "mlp.fc2")}
    for name, value in state.items():
        if name.startswith("pooler.") and value.ndim == 2:
            divisor = divisors.get(name.removeprefix("pooler.").removesuffix(".weight"), 1.0)
            assert value.std().item() == pytest.approx(0.02 / divisor, rel=0.05), name
    assert state["pooler.query_tokens"].std().item() == pytest.approx(0.02, rel=0.3)


def test_same_seed_same_weights() -> None:
    torch.manual_seed(3)
    first = create_model("vit_femto").state_dict()
    torch.manual_seed(3)
    assert all(torch.equal(value, first[name]) for name, value in create_model("vit_femto").state_dict().items())


@pytest.mark.parametrize(("dim", "hidden"), [(1408, 6144), (49, 1), (768, 3072), (100, 333)])
def test_hidden_width_survives_the_ratio(dim: int, hidden: int) -> None:
    assert Mlp(dim, hidden / dim).fc1.out_features == hidden
