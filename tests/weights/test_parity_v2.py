"""Numbers of Meta's V-JEPA 2, computed once by the reference code with random weights, through our loader."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from openvjepa.config import ModelConfig, ObjectiveConfig
from openvjepa.grid import TokenGrid
from openvjepa.model.action import ActionPredictor
from openvjepa.model.blocks.layers import gather_tokens
from openvjepa.model.blocks.positions import make_rope
from openvjepa.model.encoder import Encoder
from openvjepa.model.jepa import JEPA
from openvjepa.model.objectives.masked import normalize_targets, prediction_loss
from openvjepa.model.pooler import AttentiveClassifier
from openvjepa.model.predictor import Predictor, diffuse
from openvjepa.weights.hub import LoadedModel, load_model
from openvjepa.weights.probes import load_probe

FIXTURES = Path(__file__).parents[1] / "fixtures" / "vjepa"
V2 = FIXTURES / "v2"
CHECKPOINT = V2 / "checkpoint.pt"
# What the file does not hold; everything else is read off its tensors.
ARCH: dict[str, Any] = {
    "positions": "rope-tiled",
    "img_size": 32,
    "num_frames": 8,
    "num_heads": 3,
    "predictor_num_heads": 3,
}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
GRIDS = {4: TokenGrid(2, 4, 4), 8: TokenGrid(4, 4, 4)}
PAIRS = [(frames, mask) for frames in (4, 8) for mask in (0, 1)]


@pytest.fixture(scope="module")
def io() -> dict[str, Tensor]:
    return load_file(V2 / "io.safetensors")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(CHECKPOINT, arch=ARCH)


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """The encoder that is trained, which most of the fixtures' outputs are of."""
    container = torch.load(CHECKPOINT, weights_only=True)
    path = tmp_path_factory.mktemp("v2") / "online.pt"
    torch.save({"encoder": container["encoder"]}, path)
    return load_model(path, arch=ARCH).encoder


@pytest.fixture(scope="module")
def predictor(model: LoadedModel) -> Predictor:
    assert isinstance(model.predictor, Predictor)
    return model.predictor


def wrapped(tmp_path: Path, tensors: dict[str, Tensor], **sections: str) -> Path:
    """Bare tensors as a container: section=prefix."""
    parts = {
        name: {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        for name, prefix in sections.items()
    }
    torch.save(parts, tmp_path / "made.pt")
    return tmp_path / "made.pt"


@pytest.mark.parametrize("kind", ["rotated", "rotated_perhead"])
@pytest.mark.parametrize("dim", [4, 10, 20, 26])
def test_rotation(dim: int, kind: str) -> None:
    unit = load_file(FIXTURES / "common" / "rope_unit.safetensors")
    positions = unit["pos"] if kind == "rotated" else unit["pos"].flip(0)
    # One axis takes dim of 3 * dim channels: the others stand at 0, where nothing turns.
    still = torch.zeros(1, len(positions), dtype=torch.int64)
    x = torch.cat([unit[f"x_dim{dim}"], torch.zeros(1, 2, 6, 2 * dim)], dim=-1)
    turned = make_rope([positions[None], still, still], 3 * dim, "rope-tiled", torch.float32)(x)
    torch.testing.assert_close(turned[..., :dim], unit[f"{kind}_dim{dim}"], **CLOSE)


def test_the_file_is_read_as_v_jepa_2(model: LoadedModel) -> None:
    facts = json.loads((V2 / "config.json").read_text())
    config = model.config
    assert model.section == "target_encoder"
    assert model.notes == (
        "pos_embed dropped: a model with rotary positions does not use it",
        "predictor_pos_embed dropped: a model with rotary positions does not use it",
    )
    for name in ("patch_size", "tubelet_size", "embed_dim", "depth", "mlp_ratio"):
        assert getattr(config, name) == facts["encoder"][name]
    assert config.num_mask_tokens == facts["predictor"]["num_mask_tokens"]
    assert not model.clip.antialias


def test_encoders(model: LoadedModel, online: Encoder, io: dict[str, Tensor]) -> None:
    for frames in (4, 8):
        torch.testing.assert_close(online(io[f"video{frames}"]), io[f"encoder_out{frames}"], **CLOSE)
        torch.testing.assert_close(model.encoder(io[f"video{frames}"]), io[f"target_encoder_out{frames}"], **CLOSE)
    other = io["video_6f_48x40"]
    torch.testing.assert_close(online(other), io["encoder_out_6f_48x40"], **CLOSE)
    torch.testing.assert_close(online(other, io["mask_6f_48x40"]), io["encoder_out_6f_48x40_masked"], **CLOSE)


def test_inside_the_first_block(online: Encoder, io: dict[str, Tensor]) -> None:
    x = online.embed(io["video8"])
    torch.testing.assert_close(x, io["patch_embed_out8"], **CLOSE)
    layers = online.forward_intermediates(io["video8"], [0, 1])
    torch.testing.assert_close(torch.cat(layers, dim=1), io["out_layers_0_1_concat_tokens"], **CLOSE)
    torch.testing.assert_close(online.norm(io["block0_out8"]), layers[0], **CLOSE)


@pytest.mark.parametrize(("frames", "mask"), PAIRS)
def test_masked_encoder_predictor_and_targets(
    frames: int, mask: int, online: Encoder, predictor: Predictor, model: LoadedModel, io: dict[str, Tensor]
) -> None:
    enc, pred = io[f"masks_enc_fpc{frames}_{mask}"], io[f"masks_pred_fpc{frames}_{mask}"]
    context = online(io[f"video{frames}"], enc)
    torch.testing.assert_close(context, io[f"ctx_out_fpc{frames}_{mask}"], **CLOSE)
    out = predictor(context, enc, pred, {4: 0, 8: 1}[frames]).masked
    torch.testing.assert_close(out, io[f"pred_out_fpc{frames}_{mask}"], **CLOSE)
    targets = normalize_targets(model.encoder(io[f"video{frames}"]))
    torch.testing.assert_close(gather_tokens(targets, pred), io[f"target_fpc{frames}_{mask}"], **CLOSE)


def test_loss(io: dict[str, Tensor]) -> None:
    losses = [prediction_loss(io[f"pred_out_fpc{f}_{m}"], io[f"target_fpc{f}_{m}"], 1.0) for f, m in PAIRS]
    torch.testing.assert_close(torch.stack(losses).mean(), io["loss"], rtol=0, atol=1e-6)


def test_order_of_the_ids_does_not_matter(online: Encoder, predictor: Predictor, io: dict[str, Tensor]) -> None:
    enc, pred = io["masks_enc_shuffled"], io["masks_pred_shuffled"]
    context = online(io["video8"], enc)
    torch.testing.assert_close(context, io["ctx_out_shuffled"], **CLOSE)
    torch.testing.assert_close(predictor(context, enc, pred, 1).masked, io["pred_out_shuffled_maskindex1"], **CLOSE)


def test_all_tokens_of_the_predictor(predictor: Predictor, io: dict[str, Tensor]) -> None:
    enc, pred = io["masks_enc_fpc8_0"], io["masks_pred_fpc8_0"]
    predicted, seen = predictor(io["ctx_out_fpc8_0"], enc, pred, 1)
    torch.testing.assert_close(predicted, io["pred_default_maskindex1"], **CLOSE)
    order = torch.cat([enc, pred], dim=1).argsort(dim=1)
    together = gather_tokens(torch.cat([seen, predicted], dim=1), order)
    torch.testing.assert_close(together, io["pred_all_tokens_maskindex1_sorted"], **CLOSE)


@pytest.mark.parametrize(("head", "num_heads"), [(0, 3), (1, 4)])
def test_probes(head: int, num_heads: int, io: dict[str, Tensor]) -> None:
    probe = load_probe(V2 / "probe.pt", num_heads=num_heads, head=head)
    assert (probe.pooler.style, probe.pooler.eps, len(probe.pooler.blocks)) == ("v2", 1e-5, 3)
    tokens = io["target_encoder_out8"]
    torch.testing.assert_close(probe.pooler(tokens), io[f"probe_heads{num_heads}_pooled"][:, 0], **CLOSE)
    torch.testing.assert_close(probe(tokens), io[f"probe_heads{num_heads}_logits"], **CLOSE)


def test_layer_norm_epsilons(model: LoadedModel) -> None:
    expected = load_file(V2 / "eps_sensitive.safetensors")
    encoder = load_model(CHECKPOINT, arch=ARCH).encoder
    for tensor in encoder.patch_embed.parameters():
        tensor.mul_(1e-3)
    out = encoder(expected["video"])
    torch.testing.assert_close(out, expected["encoder_out_patch_embed_scaled_1e3"], rtol=1e-4, atol=1e-4)
    probe = load_probe(V2 / "probe.pt", num_heads=3)
    torch.testing.assert_close(probe(expected["tokens_small"]), expected["logits_tokens_small"], **CLOSE)


def test_segments_and_views(model: LoadedModel) -> None:
    tensors, probe = load_file(V2 / "multiview.safetensors"), load_probe(V2 / "probe.pt", num_heads=3)
    logits = []
    for view in range(3):
        clips = [tensors[f"clip_seg{segment}_view{view}"] for segment in (0, 1)]
        tokens = torch.cat([model.encoder(clip) for clip in clips], dim=1)
        torch.testing.assert_close(tokens, tensors[f"attend_tokens_view{view}"], **CLOSE)
        logits.append(probe(tokens))
        torch.testing.assert_close(logits[-1], tensors[f"attend_logits_view{view}"], **CLOSE)
    torch.testing.assert_close(torch.stack(logits).softmax(-1).mean(0), tensors["attend_probs"], **CLOSE)


def test_three_training_steps() -> None:
    log, data = json.loads((V2 / "train_log.json").read_text()), load_file(V2 / "train_io.safetensors")
    start, final = load_file(V2 / "init.safetensors"), torch.load(CHECKPOINT, weights_only=True)
    config = ModelConfig(
        **ARCH, patch_size=8, embed_dim=48, depth=2, predictor_embed_dim=36, predictor_depth=2, num_mask_tokens=4
    )
    jepa = JEPA(config, ObjectiveConfig(loss_exp=log["loss_exp"]))
    for name in ("encoder", "predictor", "target_encoder"):
        prefix = f"{name}.backbone."
        jepa.get_submodule(name).load_state_dict(
            {key.removeprefix(prefix): value for key, value in start.items() if key.startswith(prefix)}
        )
    optimizer = torch.optim.AdamW(jepa.param_groups(), betas=tuple(log["betas"]), eps=log["eps"])
    for step, expected in enumerate(log["steps"]):
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = expected["lr"], expected["wd"] if group["decay"] else 0.0
        losses = []
        for number, frames in enumerate(log["fpcs"]):
            masks = [[data[f"masks_{kind}_fpc{frames}_{i}_{step}"] for i in (0, 1)] for kind in ("enc", "pred")]
            losses.append(jepa(data[f"video_fpc{frames}_{step}"], *masks, length_index=number)["loss"])
        loss = torch.stack(losses).mean()
        assert loss.item() == pytest.approx(expected["loss"], abs=1e-6 if step == 0 else 1e-5)
        optimizer.zero_grad()
        loss.backward()
        for name, key in (("encoder", "enc_grad_norm"), ("predictor", "pred_grad_norm")):
            norm = nn.utils.clip_grad_norm_(jepa.get_submodule(name).parameters(), torch.inf)
            assert norm.item() == pytest.approx(expected[key], rel=1e-4)
        optimizer.step()
        jepa.update_target(expected["ema"])
    for name in ("encoder", "predictor", "target_encoder"):
        ours = jepa.get_submodule(name).state_dict()
        for key, value in ours.items():
            theirs = final[name][f"module.backbone.{key}"]
            if key.endswith("qkv.bias"):  # a key bias has no gradient but rounding: see tests/model/test_parity.py
                value, theirs = (torch.cat([t.chunk(3)[0], t.chunk(3)[2]]) for t in (value, theirs))
            torch.testing.assert_close(value, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "depth"), [("wide", 2), ("tight", 1)])
def test_swiglu(name: str, depth: int, tmp_path: Path) -> None:
    tensors = load_file(V2 / "swiglu.safetensors")
    model = load_model(wrapped(tmp_path, tensors, encoder=f"{name}."), arch=ARCH)
    assert (model.config.mlp, model.config.depth) == ("swiglu", depth)
    torch.testing.assert_close(model.encoder(tensors["video"]), tensors[f"out_{name}"], **CLOSE)


def test_without_rope(tmp_path: Path) -> None:
    """V-JEPA 2 with use_rope=False is V-JEPA 1's model; shorter clips, whose codes it cuts off, were never released."""
    tensors = load_file(V2 / "sincos_variant.safetensors")
    path = wrapped(tmp_path, tensors, encoder="encoder.", predictor="predictor.")
    model = load_model(path, arch={"positions": "sincos", "num_heads": 3})
    assert model.config.grid == GRIDS[8]
    torch.testing.assert_close(model.encoder(tensors["video8"]), tensors["out8"], **CLOSE)
    enc, pred = tensors["masks_enc"].long(), tensors["masks_pred"].long()
    context = model.encoder(tensors["video8"], enc)
    torch.testing.assert_close(context, tensors["ctx_out"], **CLOSE)
    assert isinstance(model.predictor, Predictor)
    torch.testing.assert_close(model.predictor(context, enc, pred, 1).masked, tensors["pred_out_maskindex1"], **CLOSE)


def test_action_conditioned_predictor(tmp_path: Path) -> None:
    tensors = load_file(V2 / "ac_predictor.safetensors")
    container = torch.load(CHECKPOINT, weights_only=True)
    path = tmp_path / "ac.pt"
    prefix = "predictor."
    state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    torch.save({"encoder": container["encoder"], "predictor": state}, path)
    model = load_model(path, arch={**ARCH, "num_frames": 6})
    predictor = model.predictor
    assert isinstance(predictor, ActionPredictor)
    tokens, actions, states = (tensors[name] for name in ("tokens", "actions", "states"))
    torch.testing.assert_close(predictor(tokens, actions, states), tensors["out"], **CLOSE)
    short = predictor(tokens[:, :32], actions[:, :2], states[:, :2])
    torch.testing.assert_close(short, tensors["out_first2frames"], **CLOSE)


def test_v_jepa_1_with_noisy_targets(tmp_path: Path) -> None:
    tensors = load_file(FIXTURES / "v1" / "diffusion_predictor.safetensors")
    encoder = torch.load(FIXTURES / "v1" / "checkpoint.pth.tar", weights_only=True)["target_encoder"]
    state = {key.removeprefix("predictor."): value for key, value in tensors.items() if key.startswith("predictor.")}
    path = tmp_path / "diffusion.pth.tar"
    torch.save({"encoder": encoder, "predictor": state}, path)
    predictor = load_model(path, arch={"num_heads": 3}).predictor
    assert isinstance(predictor, Predictor)
    torch.manual_seed(99)
    noisy = diffuse(predictor.predictor_embed(tensors["target"]))
    codes = gather_tokens(predictor.predictor_pos_embed.expand(2, -1, -1), tensors["masks_pred"])
    known = tensors["noisy_tokens"]
    assert min((noisy - known).abs().max(), (noisy + codes - known).abs().max()) < 1e-5
    torch.manual_seed(99)
    out = predictor(
        tensors["ctxt"], tensors["masks_enc"], tensors["masks_pred"], noisy_targets=tensors["target"]
    ).masked
    torch.testing.assert_close(out, tensors["pred_out"], **CLOSE)


def test_published_names_and_shapes() -> None:
    """The real files' tensors, names and shapes, are those of our modules."""
    shapes = json.loads((FIXTURES / "keys" / "keys_v2.json").read_text())
    config = ModelConfig(
        arch="vit_large",
        img_size=256,
        num_frames=64,
        positions="rope-tiled",
        predictor_num_heads=12,
        num_mask_tokens=10,
    )
    action = replace(
        config,
        arch="vit_giant_xformers",
        predictor_kind="action",
        predictor_embed_dim=1024,
        predictor_depth=1,
        predictor_num_heads=16,
    )
    with torch.device("meta"):
        modules = {
            "vit_large": Encoder(config),
            "predictor_L": Predictor(config),
            "probe_ssv2_vitl": AttentiveClassifier(1024, 16, 174, depth=4, style="v2"),
            "ac_predictor_depth1": ActionPredictor(action),
        }
    assert set(shapes) == set(modules)
    for section, module in modules.items():
        theirs = {key.removeprefix("backbone."): list(shape) for key, shape in shapes[section].items()}
        ours = {key: list(value.shape) for key, value in module.state_dict().items()}
        assert ours == theirs, section
