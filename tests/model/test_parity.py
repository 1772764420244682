"""Numbers of Meta's V-JEPA 1, computed once by the reference code with random weights (tests/fixtures/vjepa)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from openvjepa.config import ModelConfig, ObjectiveConfig
from openvjepa.grid import TokenGrid
from openvjepa.model.blocks.layers import gather_tokens
from openvjepa.model.blocks.positions import interpolate_positions, sincos_1d, sincos_2d, sincos_3d
from openvjepa.model.encoder import Encoder
from openvjepa.model.jepa import JEPA
from openvjepa.model.objectives.masked import normalize_targets, prediction_loss
from openvjepa.model.pooler import AttentiveClassifier

FIXTURES = Path(__file__).parents[1] / "fixtures" / "vjepa"
V1 = FIXTURES / "v1"
SMALL = ModelConfig(
    img_size=32,
    num_frames=4,
    patch_size=8,
    embed_dim=48,
    depth=2,
    num_heads=3,
    predictor_embed_dim=36,
    predictor_depth=2,
)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def section(name: str, file: str = "checkpoint.pth.tar") -> dict[str, torch.Tensor]:
    state = torch.load(V1 / file, weights_only=True)[name]
    return {key.replace("module.", "").replace("backbone.", ""): value for key, value in state.items()}


def part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix).removeprefix("backbone."): v for k, v in tensors.items() if k.startswith(prefix)}


@pytest.fixture(scope="module")
def io() -> dict[str, torch.Tensor]:
    return load_file(V1 / "io.safetensors")


@pytest.fixture(scope="module")
def jepa() -> JEPA:
    model = JEPA(SMALL, ObjectiveConfig()).eval().requires_grad_(False)
    model.encoder.load_state_dict(section("encoder"))
    model.target_encoder.load_state_dict(section("target_encoder"))
    model.predictor.load_state_dict(section("predictor"))
    return model


def classifier(file: str = "probe.pth.tar", **variant: bool) -> AttentiveClassifier:
    model = AttentiveClassifier(48, 3, 5, **variant).eval().requires_grad_(False)
    model.load_state_dict(section("classifier", file))
    return model


def test_position_tables() -> None:
    tables = load_file(FIXTURES / "common" / "sincos_pos_embed.safetensors")
    for name, table in tables.items():
        kind, *numbers = name.split("_")
        values = {"".join(c for c in n if c.isalpha()): int("".join(c for c in n if c.isdigit())) for n in numbers}
        if kind == "3d":
            grid = TokenGrid(values["depth"], values["grid"], values["grid"])
            ours = sincos_3d(values["dim"], grid, uniform_power=bool(values["uniform"]))
        elif kind == "2d":
            ours = sincos_2d(values["dim"], TokenGrid(1, values["grid"], values["grid"]))
        else:
            ours = sincos_1d(values["dim"], torch.arange(values["len"])).float()
        torch.testing.assert_close(ours, table.float(), rtol=0, atol=1e-7)


def test_encoder_on_full_clips(jepa: JEPA, io: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(jepa.encoder(io["video"]), io["encoder_out"], **CLOSE)
    torch.testing.assert_close(jepa.target_encoder(io["video"]), io["target_encoder_out"], **CLOSE)
    torch.testing.assert_close(normalize_targets(io["target_encoder_out"]), io["target_ln"], **CLOSE)


def test_inside_the_first_block(jepa: JEPA, io: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(jepa.encoder.patch_embed(io["video"]), io["patch_embed_out"], **CLOSE)
    x, block = jepa.encoder.embed(io["video"]), jepa.encoder.blocks[0]
    torch.testing.assert_close(block.attn(block.norm1(x)), io["attn0_out"], **CLOSE)
    torch.testing.assert_close(block(x), io["block0_out"], **CLOSE)
    torch.testing.assert_close(jepa.encoder.forward_intermediates(io["video"], [1])[0], io["encoder_out"], **CLOSE)


@pytest.mark.parametrize("mask", [0, 1])
def test_masked_encoder_and_predictor(jepa: JEPA, io: dict[str, torch.Tensor], mask: int) -> None:
    enc, pred = io[f"masks_enc_{mask}"].long(), io[f"masks_pred_{mask}"].long()
    context = jepa.encoder(io["video"], enc)
    torch.testing.assert_close(context, io[f"ctx_out_{mask}"], **CLOSE)
    torch.testing.assert_close(gather_tokens(io["target_ln"], pred), io[f"target_{mask}"], **CLOSE)
    torch.testing.assert_close(jepa.predictor(context, enc, pred, mask).masked, io[f"pred_out_{mask}"], **CLOSE)


def test_predictor_uses_the_mask_token_it_is_told_to(jepa: JEPA, io: dict[str, torch.Tensor]) -> None:
    out = jepa.predictor(io["ctx_out_0"], io["masks_enc_0"].long(), io["masks_pred_0"].long(), 1).masked
    torch.testing.assert_close(out, io["pred0_maskindex1"], **CLOSE)


@pytest.mark.parametrize("exponent", [1, 2])
def test_losses(io: dict[str, torch.Tensor], exponent: int) -> None:
    losses = [prediction_loss(io[f"pred_out_{i}"], io[f"target_{i}"], exponent) for i in (0, 1)]
    torch.testing.assert_close(sum(losses) / 2, io[f"loss_exp{exponent}"].reshape(()), **CLOSE)


def test_other_resolution_and_length(jepa: JEPA, io: dict[str, torch.Tensor]) -> None:
    codes = interpolate_positions(jepa.encoder.pos_embed, SMALL.grid, TokenGrid(4, 6, 6), image=False)
    torch.testing.assert_close(codes, io["pos_embed_interp"], **CLOSE)
    torch.testing.assert_close(jepa.encoder(io["video_interp"]), io["encoder_out_interp"], **CLOSE)


def test_image_model() -> None:
    tensors = load_file(V1 / "image_model.safetensors")
    encoder = Encoder(ModelConfig(img_size=32, num_frames=1, patch_size=8, embed_dim=48, depth=2, num_heads=3)).eval()
    encoder.load_state_dict(part(tensors, "encoder."))
    as_clip = {k: tensors[k].unsqueeze(2) if tensors[k].ndim == 4 else tensors[k] for k in ("image", "image_interp")}
    with torch.no_grad():
        torch.testing.assert_close(encoder(as_clip["image"]), tensors["out"], **CLOSE)
        torch.testing.assert_close(encoder(as_clip["image_interp"]), tensors["out_interp"], **CLOSE)
        torch.testing.assert_close(encoder(as_clip["image"], tensors["mask"].long()), tensors["out_masked"], **CLOSE)


def test_attentive_classifier(jepa: JEPA, io: dict[str, torch.Tensor]) -> None:
    probe = classifier()
    torch.testing.assert_close(probe.pooler(io["target_encoder_out"]), io["pooled"].reshape(-1, 48), **CLOSE)
    torch.testing.assert_close(probe(io["target_encoder_out"]), io["logits"], **CLOSE)
    nano = classifier("nano-jepa-probe-latest.pth.tar", style="nano")
    torch.testing.assert_close(nano(io["target_encoder_out"]), io["logits_nano_proj_applied"], **CLOSE)


@pytest.mark.parametrize(
    ("prefix", "variant"), [("depth3", {"depth": 3}), ("incomplete_block", {"complete_block": False})]
)
def test_other_poolers(io: dict[str, torch.Tensor], prefix: str, variant: dict[str, int]) -> None:
    probe = AttentiveClassifier(48, 3, 5, **variant).eval().requires_grad_(False)
    probe.load_state_dict(part(load_file(V1 / "probe_extra.safetensors"), prefix + "."))
    torch.testing.assert_close(probe(io["target_encoder_out"]), io[f"logits_{prefix}"], **CLOSE)


def test_layer_norm_epsilons(jepa: JEPA, io: dict[str, torch.Tensor]) -> None:
    expected = load_file(V1 / "eps_sensitive.safetensors")
    encoder = Encoder(SMALL).eval().requires_grad_(False)
    encoder.load_state_dict(section("target_encoder"))
    for tensor in (encoder.patch_embed.proj.weight, encoder.patch_embed.proj.bias, encoder.pos_embed):
        tensor.mul_(1e-3)
    out = encoder(expected.get("video", io["video"]))
    torch.testing.assert_close(out, expected["encoder_out_patch_embed_scaled_1e3"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(classifier()(expected["tokens_small"]), expected["logits_tokens_small"], **CLOSE)


def test_multiple_segments_and_views(jepa: JEPA) -> None:
    tensors, probe = load_file(V1 / "multiview.safetensors"), classifier()
    features = {(s, v): jepa.target_encoder(tensors[f"clip_seg{s}_view{v}"]) for s in (0, 1) for v in (0, 1, 2)}
    attending = [probe(torch.cat([features[0, v], features[1, v]], dim=1)) for v in (0, 1, 2)]
    for v in (0, 1, 2):
        torch.testing.assert_close(attending[v], tensors[f"attend_logits_view{v}"], **CLOSE)
    torch.testing.assert_close(torch.stack(attending).softmax(-1).mean(0), tensors["attend_probs"], **CLOSE)
    separate = torch.stack([probe(tokens) for tokens in features.values()]).softmax(-1).mean(0)
    torch.testing.assert_close(separate, tensors["separate_probs"], **CLOSE)


def test_three_training_steps() -> None:
    log, data = json.loads((V1 / "train_log.json").read_text()), load_file(V1 / "train_io.safetensors")
    start = load_file(V1 / "init.safetensors")
    jepa = JEPA(SMALL, ObjectiveConfig(loss_exp=log["loss_exp"], reg_coeff=log["reg_coeff"]))
    for name in ("encoder", "predictor", "target_encoder"):
        jepa.get_submodule(name).load_state_dict(part(start, f"{name}."))
    groups = jepa.param_groups()
    optimizer = torch.optim.AdamW(groups, betas=tuple(log["betas"]), eps=log["eps"])
    for step, expected in enumerate(log["steps"]):
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = expected["lr"], expected["wd"] if group["decay"] else 0.0
        masks = [[data[f"masks_{kind}_{i}_{step}"].long() for i in (0, 1)] for kind in ("enc", "pred")]
        out = jepa(data[f"video_{step}"], *masks)
        assert out["loss"].item() == pytest.approx(expected["loss"], abs=1e-5)
        assert out["loss_reg"].item() == pytest.approx(expected["loss_reg"], abs=1e-5)
        optimizer.zero_grad()
        out["loss"].backward()
        for name, key in (("encoder", "enc_grad_norm"), ("predictor", "pred_grad_norm")):
            norm = nn.utils.clip_grad_norm_(jepa.get_submodule(name).parameters(), log["clip_grad"])
            assert norm.item() == pytest.approx(expected[key], rel=1e-4)
        optimizer.step()
        jepa.update_target(expected["ema"])
    for name in ("encoder", "predictor", "target_encoder"):
        for key, value in section(name).items():
            ours = jepa.get_submodule(name).state_dict()[key]
            if key.endswith("qkv.bias"):
                # Softmax does not change when a constant is added to all keys: the gradient of the key bias is zero but
                # for rounding, and Adam scales that noise up to whole steps. Nothing depends on these values.
                query, _, value_bias = ours.chunk(3)
                ours = torch.cat([query, value.chunk(3)[1], value_bias])
            torch.testing.assert_close(ours, value, rtol=0, atol=2e-5)
