"""The objective in closed form, the moving average, parameter groups and precision."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from openvjepa.config import ModelConfig, ObjectiveConfig
from openvjepa.errors import ConfigError
from openvjepa.model.jepa import JEPA
from openvjepa.model.objectives.masked import normalize_targets, prediction_loss, variance_term
from openvjepa.model.objectives.sigreg import token_sigreg as sigreg

TINY = ModelConfig(
    img_size=16,
    num_frames=4,
    patch_size=8,
    embed_dim=24,
    depth=1,
    num_heads=2,
    predictor_embed_dim=12,
    predictor_depth=1,
)
MASKS_ENC = [torch.tensor([[0, 3], [1, 2]]), torch.tensor([[4, 5, 6], [0, 6, 7]])]
MASKS_PRED = [torch.tensor([[1, 2, 7], [0, 3, 4]]), torch.tensor([[0], [2]])]


def make(**objective: Any) -> JEPA:
    torch.manual_seed(0)
    return JEPA(TINY, ObjectiveConfig(**objective))


def clip(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)


def test_targets_have_no_mean_and_unit_variance() -> None:
    targets = normalize_targets(torch.randn(2, 5, 64, dtype=torch.bfloat16) * 7 + 3)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets.mean(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.var(-1, correction=0), torch.ones(2, 5), atol=1e-4, rtol=0)


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_prediction_loss_by_hand(exponent: float) -> None:
    prediction, target = torch.tensor([[[1.0, -2.0]]]), torch.tensor([[[0.0, 1.0]]])
    expected = (1.0 + 3.0**exponent) / 2 / exponent
    assert prediction_loss(prediction, target, exponent).item() == pytest.approx(expected)


def test_pixels_as_targets_by_hand() -> None:
    """The loss on one predicted token is that of its own pixels, cut out by hand."""
    jepa, video = make(target="pixels"), clip()
    masks_enc, masks_pred = [torch.tensor([[0, 3], [1, 2]])], [torch.tensor([[5], [6]])]  # of 2 x 2 x 2 tokens
    predicted = jepa.predictor(jepa.encoder(video, masks_enc[0]), masks_enc[0], masks_pred[0]).masked
    cuts = torch.stack([video[0, :, 2:4, 0:8, 8:16].flatten(), video[1, :, 2:4, 8:16, 0:8].flatten()])
    target = (cuts - cuts.mean(1, keepdim=True)) / (cuts.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    expected = (predicted[:, 0] - target).abs().mean()
    loss = jepa(video, masks_enc, masks_pred)["loss"]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert jepa.encoder.patch_embed.proj.weight.grad is not None
    with pytest.raises(ConfigError, match="one level"):
        JEPA(replace(TINY, num_mask_tokens=0), ObjectiveConfig(target="pixels"))


def test_variance_term_by_hand() -> None:
    narrow = torch.tensor([[[0.0], [0.2]]])  # unbiased variance 0.02
    wide = torch.tensor([[[0.0], [1.0]]])  # 0.5
    expected = 1 - (math.sqrt(0.0201) + math.sqrt(0.5001)) / 2
    assert variance_term([narrow, wide]).item() == pytest.approx(expected, abs=1e-6)
    assert variance_term([wide * 10]).item() == 0
    assert variance_term([narrow[:, :1]]).item() == pytest.approx(1 - 0.01)  # one token: no spread, and no nan


def test_sigreg_tells_normal_tokens_from_collapsed_ones() -> None:
    torch.manual_seed(0)
    normal = sigreg(torch.randn(8, 500, 16)).item()
    # All tokens at zero: the characteristic function is 1 everywhere, whatever the direction.
    points = torch.linspace(0.2, 3.0, 9)
    weight = torch.exp(-points.square() / 2)
    assert sigreg(torch.zeros(8, 500, 16)).item() == pytest.approx(
        ((1 - weight).square() * weight).mean().item(), rel=1e-4
    )
    flat = torch.randn(8, 500, 1) * torch.ones(16)  # one dimension only
    assert normal < 1e-3 < sigreg(flat).item()
    assert sigreg(torch.randn(8, 500, 16) + 1).item() > 10 * normal


def test_sigreg_joins_the_loss() -> None:
    out = make(sigreg_coeff=2.0)(clip(), MASKS_ENC, MASKS_PRED)
    torch.testing.assert_close(out["loss"].detach(), out["loss_jepa"] + 2 * out["loss_sigreg"])


@pytest.mark.parametrize("coefficient", [0.0, 0.5])
def test_loss_is_the_sum_of_its_terms(coefficient: float) -> None:
    jepa = make(reg_coeff=coefficient)
    out = jepa(clip(), MASKS_ENC, MASKS_PRED)
    torch.testing.assert_close(out["loss"].detach(), out["loss_jepa"] + coefficient * out["loss_reg"])
    out["loss"].backward()
    trained = [p for p in (*jepa.encoder.parameters(), *jepa.predictor.parameters()) if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert all(p.grad is None for p in jepa.target_encoder.parameters())


def test_target_encoder_sees_the_whole_clip_once(monkeypatch: pytest.MonkeyPatch) -> None:
    jepa, calls = make(), []
    jepa.target_encoder.register_forward_hook(lambda _, args, out: calls.append((len(args), out.shape[1])))
    jepa(clip(), MASKS_ENC, MASKS_PRED)
    assert calls == [(1, 8)]


def test_moving_average() -> None:
    jepa = make()
    assert not any(p.requires_grad for p in jepa.target_encoder.parameters())
    before = {name: value.clone() for name, value in jepa.target_encoder.state_dict().items()}
    with torch.no_grad():
        for parameter in jepa.encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    online = jepa.encoder.state_dict()
    jepa.update_target(0.9)
    for name, value in jepa.target_encoder.state_dict().items():
        torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * online[name], atol=1e-6, rtol=1e-6)
    for _ in range(100):
        jepa.update_target(0.999)
    assert torch.equal(jepa.target_encoder.pos_embed, jepa.encoder.pos_embed)  # no drift by rounding
    frozen = {name: value.clone() for name, value in jepa.target_encoder.state_dict().items()}
    jepa.update_target(1.0)
    assert all(torch.equal(value, frozen[name]) for name, value in jepa.target_encoder.state_dict().items())


def test_parameter_groups() -> None:
    jepa = make()
    groups = jepa.param_groups()
    assert [(g["module"], g["decay"]) for g in groups] == [
        ("encoder", True),
        ("predictor", True),
        ("encoder", False),
        ("predictor", False),
    ]
    names = {id(p): name for name, p in jepa.named_parameters()}
    listed = [names[id(p)] for group in groups for p in group["params"]]
    wanted = [n for n, p in jepa.named_parameters() if p.requires_grad]
    assert sorted(listed) == sorted(wanted)
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert name.startswith(group["module"])
            assert group["decay"] == (not name.endswith("bias") and "norm" not in name), name


def test_bf16_autocast_keeps_targets_and_loss_in_float32() -> None:
    jepa = make(reg_coeff=0.1)
    expected = jepa(clip(), MASKS_ENC, MASKS_PRED)["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = jepa(clip(), MASKS_ENC, MASKS_PRED)
    assert {value.dtype for value in out.values()} == {torch.float32}
    assert out["loss"].item() == pytest.approx(expected.item(), rel=0.02)


def test_clip_of_another_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\[4, 16, 16\], not \[4, 24, 16\]"):
        make()(torch.zeros(2, 3, 4, 24, 16), MASKS_ENC, MASKS_PRED)


def test_state_holds_all_three_parts() -> None:
    jepa = make()
    assert {name.split(".")[0] for name in jepa.state_dict()} == {"encoder", "predictor", "target_encoder"}
    other = JEPA(TINY, ObjectiveConfig())
    other.load_state_dict(jepa.state_dict())
    first, second = (model(clip(), MASKS_ENC, MASKS_PRED)["loss"] for model in (jepa, other))
    assert torch.equal(first, second)
