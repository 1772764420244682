"""Numbers of Meta's V-JEPA 2.1, computed once by the reference code with random weights, through our loader."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from openvjepa.config import MaskConfig, ObjectiveConfig
from openvjepa.data.masks import block_size, sample_masks
from openvjepa.errors import ConfigError
from openvjepa.grid import TokenGrid
from openvjepa.model.blocks.positions import make_rope
from openvjepa.model.encoder import Encoder
from openvjepa.model.jepa import JEPA
from openvjepa.model.objectives.masked import distance_weight, normalize_targets, prediction_loss
from openvjepa.model.predictor import Predictor
from openvjepa.weights.hub import LoadedModel, load_model

V21 = Path(__file__).parents[1] / "fixtures" / "vjepa21"
G, B = V21 / "ckpt_gstyle.pt", V21 / "ckpt_bstyle.pt"
# What the files do not hold; everything else is read off their tensors.
ARCH: dict[str, Any] = {"img_size": 64, "num_frames": 4, "num_heads": 2, "predictor_num_heads": 2}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
SHAPES = ["video", "image", "video_ns", "image_ns", "video_8f"]


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    tensors = load_file(V21 / "inputs.safetensors")
    return {**tensors, "video_2f": tensors["video"][:, :, :2]}


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return load_file(V21 / "encoder_gstyle.safetensors")


@pytest.fixture(scope="module")
def losses() -> dict[str, Tensor]:
    return load_file(V21 / "loss.safetensors")


@pytest.fixture(scope="module")
def scalars() -> dict[str, Any]:
    return json.loads((V21 / "scalars.json").read_text())


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(G, arch=ARCH)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """The encoder that is trained, where a file has the target beside it."""
    return online(G, tmp_path_factory.mktemp("g"))


def online(file: Path, folder: Path, **arch: Any) -> LoadedModel:
    container = torch.load(file, weights_only=True)
    torch.save({key: container[key] for key in ("encoder", "predictor")}, folder / "online.pt")
    return load_model(folder / "online.pt", arch={**ARCH, **arch})


def predictor_of(model: LoadedModel) -> Predictor:
    assert isinstance(model.predictor, Predictor)
    return model.predictor


def turned(x: Tensor, positions: Tensor) -> Tensor:
    """x [B, h, K, dim] turned by one axis; of the 3 * dim channels of a head the others stand at 0, where nothing turns."""
    dim = x.shape[-1]
    wide, still = torch.cat([x, x.new_zeros(*x.shape[:-1], 2 * dim)], dim=-1), torch.zeros_like(positions)
    return make_rope([positions, still, still], 3 * dim, "rope", x.dtype)(wide)[..., :dim]


def test_rotation() -> None:
    tensors = load_file(V21 / "rope.safetensors")
    x, positions = tensors["x"], tensors["pos_1d"][None]
    for dtype, name in (
        (torch.float32, "out_fp32_1d"),
        (torch.bfloat16, "out_bf16_x_fp32_pos"),
        (torch.float16, "out_fp16_x_fp32_pos"),
    ):
        assert torch.equal(turned(x.to(dtype), positions), tensors[name])
    for head in (0, 1):  # positions of their own
        out = turned(x[:, head : head + 1], tensors["pos_3d"][:, head])
        assert torch.equal(out[:, 0], tensors["out_fp32_3d"][:, head])


def test_the_sections(model: LoadedModel) -> None:
    assert (model.section, load_model(B, arch=ARCH).section) == ("target_encoder", "ema_encoder")
    config = model.config
    assert (config.positions, config.levels, config.modality_embed) == ("rope", (2, 5, 8, 11), True)
    assert (config.predictor_levels, config.predict_context, config.num_mask_tokens) == (4, True, 8)
    assert (config.interpolate_rope, config.predictor_interpolate_rope) == (True, False)
    assert load_model(B, arch=ARCH).config.predictor_out_dim == 48


@pytest.mark.parametrize("name", [*SHAPES, "video_2f"])
def test_encoder(name: str, model: LoadedModel, inputs: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(model.encoder(inputs[name]), expected[name], **CLOSE)


def test_levels(model: LoadedModel, inputs: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name in ("video", "image"):
        torch.testing.assert_close(model.encoder(inputs[name], num_levels=4), expected[f"{name}_hier"], **CLOSE)
    torch.testing.assert_close(model.encoder(inputs["video"], num_levels=1), expected["video_hier_ndist1"], **CLOSE)
    layers = model.encoder.forward_intermediates(inputs["video"], [2, 5, 8, 11])
    for number, layer in enumerate(layers):
        torch.testing.assert_close(layer, expected[f"video_out_layers_{number}"], **CLOSE)
    with pytest.raises(ConfigError, match="blocks 2, 5, 8, 11"):
        model.encoder.forward_intermediates(inputs["video"], [3])


@pytest.mark.parametrize("name", ["video_mask_enc_0", "video_mask_enc_1", "image_mask_enc_0"])
def test_masked_encoder(name: str, model: LoadedModel, inputs: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    kind, number, ids = name.split("_")[0], name[-1], inputs[name]
    torch.testing.assert_close(model.encoder(inputs[kind], ids), expected[f"{kind}_masked_{number}"], **CLOSE)
    levels = model.encoder(inputs[kind], ids, num_levels=4)
    torch.testing.assert_close(levels, expected[f"{kind}_masked_{number}_hier"], **CLOSE)


def test_several_masks(model: LoadedModel, inputs: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    ids = inputs["video_mask_enc_0"]
    both = torch.cat(model.encoder.forward_masks(inputs["video"], [ids, ids.flip(1)]))
    torch.testing.assert_close(both, expected["video_masked_list"], **CLOSE)


def test_inside_the_encoder(model: LoadedModel, inputs: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name in ("video", "image"):
        torch.testing.assert_close(model.encoder.embed(inputs[name]), expected[f"{name}_tokens_in"], **CLOSE)
    for number, block in enumerate((2, 5, 8, 11)):
        raw = expected[f"video_block_{block:02d}_sample0"]
        normed = model.encoder.norms_block[number](raw).reshape(1, 32, 32)
        torch.testing.assert_close(normed, expected[f"video_out_layers_{number}"][:1], **CLOSE)


def test_other_variants(student: LoadedModel, inputs: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(student.encoder(inputs["video"]), expected["video_student_key"], **CLOSE)
    plain = load_model(G, arch={**ARCH, "interpolate_rope": False}).encoder
    names = [name for name in expected if name.endswith("_no_interp")]
    assert names
    for name in names:
        torch.testing.assert_close(plain(inputs[name.removesuffix("_no_interp")]), expected[name], **CLOSE)


@pytest.mark.parametrize("flavour", ["hub", "train"])
@pytest.mark.parametrize("name", ["video_0", "video_1", "image_0"])
def test_predictor(flavour: str, name: str, student: LoadedModel, inputs: dict[str, Tensor]) -> None:
    tensors = load_file(V21 / "predictor_gstyle.safetensors")
    kind, number = name.split("_")
    model = load_model(G, arch={**ARCH, "predictor_interpolate_rope": flavour == "train"})
    enc, pred = (inputs[f"{kind}_mask_{part}_{number}"] for part in ("enc", "pred"))
    context = student.encoder(inputs[kind], enc, num_levels=4)
    torch.testing.assert_close(context, tensors[f"in_{name}"], **CLOSE)
    predictor, image = predictor_of(model), kind == "image"
    predicted, seen = predictor(context, enc, pred, 0, image=image)
    torch.testing.assert_close(predicted, tensors[f"{flavour}_{name}_pred"], **CLOSE)
    torch.testing.assert_close(seen, tensors[f"{flavour}_{name}_ctx"], **CLOSE)


def test_predictor_calls(model: LoadedModel, inputs: dict[str, Tensor]) -> None:
    tensors = load_file(V21 / "predictor_gstyle.safetensors")
    predictor, context = predictor_of(model), tensors["in_video_0"]
    enc, pred = inputs["video_mask_enc_0"], inputs["video_mask_pred_0"]
    torch.testing.assert_close(
        predictor(context, enc, pred, 1).masked, tensors["hub_video_0_default_args_pred"], **CLOSE
    )
    shuffled = predictor(context, enc, tensors["shuffled_mask_pred"], 0).masked
    torch.testing.assert_close(shuffled, tensors["hub_video_0_shuffled_pred"], **CLOSE)


@pytest.mark.parametrize(("steps", "name"), [(1, "anticipation_out"), (2, "anticipation_out_2steps")])
def test_anticipation(steps: int, name: str, inputs: dict[str, Tensor]) -> None:
    """Future frames, as the evaluation on EPIC-KITCHENS predicts them: the same modules, called with ids past the clip."""
    tensors = load_file(V21 / "predictor_gstyle.safetensors")
    model = load_model(G, arch={**ARCH, "interpolate_rope": False})
    predictor, dim, grid = predictor_of(model), 32, TokenGrid(8, 4, 4)
    tokens = model.encoder(inputs["video_2f"], num_levels=4)
    seen = torch.arange(16).expand(2, -1)
    ahead = 16 + 16 * (tensors["anticipation_times"] * 4 / 2).long()[:, None] + torch.arange(16)
    out = [tokens[..., -dim:]]
    for _ in range(steps):
        predicted = predictor(tokens, seen, ahead, 1, grid=grid).masked
        out.append(predicted[..., -dim:])
        tokens = torch.cat([tokens[:, 16:], predicted], dim=1)
    torch.testing.assert_close(torch.cat(out, dim=1), tensors[name], **CLOSE)


def test_distilled_style(inputs: dict[str, Tensor]) -> None:
    tensors, model = load_file(V21 / "bstyle_outputs.safetensors"), load_model(B, arch=ARCH)
    for name in ("video", "image"):
        torch.testing.assert_close(model.encoder(inputs[name]), tensors[name], **CLOSE)
    torch.testing.assert_close(model.encoder(inputs["video"], num_levels=4), tensors["video_hier"], **CLOSE)
    for name in ("video_0", "video_1", "image_0"):
        kind, number = name.split("_")
        enc, pred = (inputs[f"{kind}_mask_{part}_{number}"] for part in ("enc", "pred"))
        context = model.encoder(inputs[kind], enc)
        torch.testing.assert_close(context, tensors[f"{name}_in"], **CLOSE)
        predicted, seen = predictor_of(model)(context, enc, pred, 0, image=kind == "image")
        torch.testing.assert_close(predicted, tensors[f"{name}_pred"], **CLOSE)
        torch.testing.assert_close(seen, tensors[f"{name}_ctx"], **CLOSE)


def test_distances(inputs: dict[str, Tensor], losses: dict[str, Tensor]) -> None:
    for name, grid in (("video", TokenGrid(2, 4, 4)), ("image", TokenGrid(1, 4, 4))):
        weights = distance_weight(inputs[f"{name}_mask_enc_0"], inputs[f"{name}_mask_pred_0"], grid)
        torch.testing.assert_close(1 / weights, losses[f"{name}_dist_0"], **CLOSE)
    visible = torch.tensor([[2, 33, 34, 200, 1023], [2, 33, 34, 200, 1500]])
    weights = distance_weight(visible, torch.tensor([[0, 1, 32]] * 2), TokenGrid(2, 32, 32))
    torch.testing.assert_close(1 / weights, losses["dist32_offset_false"], **CLOSE)


@pytest.mark.parametrize(
    ("tag", "flavour", "masks"), [("video", True, 2), ("image", True, 1), ("video_hubpred", False, 2)]
)
@pytest.mark.parametrize("weighted", [True, False])
def test_dense_loss_and_its_gradients(
    tag: str,
    flavour: bool,
    masks: int,
    weighted: bool,
    student: LoadedModel,
    model: LoadedModel,
    inputs: dict[str, Tensor],
    losses: dict[str, Tensor],
    scalars: dict[str, Any],
) -> None:
    kind, expected = tag.split("_")[0], scalars["losses"][tag]
    objective = ObjectiveConfig(context_coeff=expected["lam"], distance_weighting=weighted)
    jepa = JEPA(replace(model.config, predictor_interpolate_rope=flavour), objective)
    jepa.encoder.load_state_dict(student.encoder.state_dict())
    jepa.target_encoder.load_state_dict(model.encoder.state_dict())
    jepa.predictor.load_state_dict(predictor_of(student).state_dict())
    pairs = [[inputs[f"{kind}_mask_{part}_{i}"] for i in range(masks)] for part in ("enc", "pred")]
    targets = normalize_targets(jepa.target_encoder(inputs[kind], num_levels=4), 4)
    torch.testing.assert_close(targets, losses[f"{tag}_target"], **CLOSE)
    out = jepa(inputs[kind], *pairs)
    suffix = "weighted" if weighted else "unweighted"
    assert out["loss_jepa"].item() == pytest.approx(expected["loss_pred"], abs=1e-6)
    assert out["loss_context"].item() == pytest.approx(expected[f"loss_ctx_{suffix}"], abs=1e-6)
    assert out["loss"].item() == pytest.approx(expected[f"total_{suffix}"], abs=1e-6)
    if weighted:
        out["loss"].backward()
        for name in ("encoder", "predictor"):
            for key, norm in expected[f"grad_norm_{name}"].items():
                gradient = jepa.get_submodule(name).get_parameter(key).grad
                assert (gradient is None) == (norm is None), key
                if gradient is not None and not key.endswith("qkv.bias"):
                    assert gradient.norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-7), key


def test_distillation_loss(
    tmp_path: Path, inputs: dict[str, Tensor], losses: dict[str, Tensor], scalars: dict[str, Any]
) -> None:
    model = online(B, tmp_path, predictor_interpolate_rope=True)
    target = normalize_targets(losses["distill_teacher_raw"])
    torch.testing.assert_close(target, losses["distill_target"], **CLOSE)
    sums = [0.0, 0.0]
    for number in (0, 1):
        enc, pred = (inputs[f"video_mask_{part}_{number}"] for part in ("enc", "pred"))
        predicted, seen = predictor_of(model)(model.encoder(inputs["video"], enc), enc, pred, 0)
        torch.testing.assert_close(predicted, losses[f"distill_zpred_{number}"], **CLOSE)
        weight = distance_weight(enc, pred, TokenGrid(2, 4, 4))
        gathered = [target.gather(1, ids[..., None].expand(-1, -1, 48)) for ids in (pred, enc)]
        sums[0] += prediction_loss(predicted, gathered[0], 1.0).item() / 2
        sums[1] += prediction_loss(seen, gathered[1], 1.0, weight).item() / 2
    expected = scalars["losses"]["distill"]
    assert sums == pytest.approx([expected["loss_pred"], expected["loss_ctx_weighted"]], abs=1e-6)


def test_optimizer_groups(model: LoadedModel, scalars: dict[str, Any]) -> None:
    for file, style in ((G, "gstyle"), (B, "bstyle")):
        jepa = JEPA(load_model(file, arch=ARCH).config, ObjectiveConfig())
        sizes = [len(group["params"]) for group in jepa.param_groups()]
        assert sizes == scalars["opt_group_sizes"][style]


@pytest.mark.parametrize(
    ("name", "grid", "blocks"),
    [
        ("video_256px_16f", TokenGrid(8, 16, 16), [(8, 0.15), (2, 0.7)]),
        ("image_256px", TokenGrid(1, 16, 16), [(10, 0.15)]),
        ("image_512px", TokenGrid(1, 32, 32), [(10, 0.15)]),
    ],
)
def test_masks_of_the_real_grids(name: str, grid: TokenGrid, blocks: list[tuple[int, float]]) -> None:
    tensors = load_file(V21 / "masks_real_grid.safetensors")
    configs = tuple(MaskConfig(num_blocks=count, spatial_scale=(scale, scale)) for count, scale in blocks)
    torch.manual_seed(1234)
    for call in (0, 1):
        pairs = sample_masks(configs, grid, 3, truncation="first", generator=torch.default_generator, block_seed=call)
        for number, (enc, pred) in enumerate(pairs):
            assert torch.equal(enc, tensors[f"{name}_call{call}_gen{number}_enc"].long())
            assert torch.equal(pred, tensors[f"{name}_call{call}_gen{number}_pred"].long())
    assert block_size(configs[0], grid, torch.Generator().manual_seed(0)).t == grid.t


def test_a_single_row_of_tokens_has_finite_positions(model: LoadedModel) -> None:
    """The reference divides by zero there (vjepa21, trap 11)."""
    assert model.encoder(torch.randn(1, 3, 4, 16, 64)).isfinite().all()


def test_half_precision_weights_run(model: LoadedModel, inputs: dict[str, Tensor]) -> None:
    """In the reference a model cast to bf16 fails in attention: queries become float32, values do not."""
    encoder = Encoder(model.config).eval()
    encoder.load_state_dict(model.encoder.state_dict())
    out = encoder.bfloat16()(inputs["video"].bfloat16())
    exact = model.encoder(inputs["video"])
    assert torch.nn.functional.cosine_similarity(out.float(), exact, dim=-1).min() > 0.98
