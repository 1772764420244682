"""Surprise: the context knows nothing of the future, targets are the reference's, errors are what the definition says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from openvjepa.config import PRESETS, ModelConfig, ObjectiveConfig
from openvjepa.data.transforms import normalize
from openvjepa.errors import ConfigError
from openvjepa.model.jepa import JEPA
from openvjepa.seeing.surprise.error import (
    PredictiveModel,
    check_contexts,
    context_tokens,
    default_contexts,
    mean_tokens,
    predicted_tokens,
    predictive_model,
    repeated_tokens,
    target_tokens,
    window_errors,
)
from openvjepa.weights.hub import load_model, save_model

FIXTURES = Path(__file__).parents[1] / "fixtures"
V1, V2, V21 = FIXTURES / "vjepa" / "v1", FIXTURES / "vjepa" / "v2", FIXTURES / "vjepa21"
NANO = PRESETS["nano-masked"]().model
SMALL = {"img_size": 32, "num_heads": 3, "predictor_num_heads": 3}
FAMILIES: dict[str, tuple[Path, dict[str, Any]]] = {
    "V-JEPA 1": (V1 / "checkpoint.pth.tar", {**SMALL, "num_frames": 4}),
    "V-JEPA 2": (V2 / "checkpoint.pt", {**SMALL, "num_frames": 8, "positions": "rope-tiled"}),
    "V-JEPA 2.1": (
        V21 / "ckpt_gstyle.pt",
        {"img_size": 64, "num_frames": 4, "num_heads": 2, "predictor_num_heads": 2},
    ),
}
TARGETS = {
    "V-JEPA 1": (V1 / "io.safetensors", "video", V1 / "io.safetensors", "target_encoder_out"),
    "V-JEPA 2": (V2 / "io.safetensors", "video8", V2 / "io.safetensors", "target_encoder_out8"),
    "V-JEPA 2.1": (V21 / "inputs.safetensors", "video", V21 / "encoder_gstyle.safetensors", "video_hier"),
}


def load(family: str) -> PredictiveModel:
    path, arch = FAMILIES[family]
    return predictive_model(load_model(path, arch=arch))


@pytest.fixture(scope="module")
def nano_model(tmp_path_factory: pytest.TempPathFactory) -> PredictiveModel:
    """The preset nano with random weights, as a run folder holds it."""
    torch.manual_seed(0)
    jepa = JEPA(NANO, ObjectiveConfig())
    folder = tmp_path_factory.mktemp("nano")
    save_model(folder, jepa.target_encoder, jepa.predictor)
    return predictive_model(load_model(folder))


@pytest.fixture(params=[*FAMILIES, "nano"])
def model(request: pytest.FixtureRequest, nano_model: PredictiveModel) -> PredictiveModel:
    return nano_model if request.param == "nano" else load(request.param)


def windows(model: PredictiveModel, count: int = 2, seed: int = 0) -> Tensor:
    shape = (count, 3, model.config.num_frames, *model.config.image_hw)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_nothing_after_the_context_is_known(model: PredictiveModel) -> None:
    """Any change of the later frames changes no context token, no prediction and no repeated token: difference 0."""
    for context in range(model.config.tubelet_size, model.config.num_frames, model.config.tubelet_size):
        clips = normalize(windows(model))
        other = clips.clone()
        other[:, :, context:] = torch.randn(other[:, :, context:].shape)
        for tokens in (
            lambda x, c=context: context_tokens(model, x, c)[0],
            lambda x, c=context: predicted_tokens(model, x, c),
            lambda x, c=context: repeated_tokens(model, x, c),
        ):
            assert torch.equal(tokens(clips), tokens(other))
        other[:, :, context - 1] += 1  # the last visible frame does change them
        assert not torch.equal(context_tokens(model, clips, context)[0], context_tokens(model, other, context)[0])
        assert not torch.equal(predicted_tokens(model, clips, context), predicted_tokens(model, other, context))


@pytest.mark.parametrize("family", FAMILIES)
def test_targets_are_the_references_layer_normed(family: str) -> None:
    inputs, video, outputs, tokens = TARGETS[family]
    model = load(family)
    raw = load_file(outputs)[tokens].double().numpy()
    levels = raw.reshape(*raw.shape[:2], model.config.predictor_levels, -1)
    spread = np.sqrt(levels.var(-1, keepdims=True) + 1e-5)
    normed = ((levels - levels.mean(-1, keepdims=True)) / spread).reshape(raw.shape)
    ours = target_tokens(model, load_file(inputs)[video]).numpy()
    np.testing.assert_allclose(ours, normed, rtol=2e-5, atol=2e-5)


def test_targets_of_the_fixtures_themselves() -> None:
    """V-JEPA 1 and 2.1 come with normalized targets, computed by the reference."""
    for family, file, name in (("V-JEPA 1", V1 / "io.safetensors", "target_ln"),
                               ("V-JEPA 2.1", V21 / "loss.safetensors", "video_target")):  # fmt: skip
        inputs, video, _, _ = TARGETS[family]
        ours = target_tokens(load(family), load_file(inputs)[video])
        torch.testing.assert_close(ours, load_file(file)[name], rtol=1e-5, atol=1e-5)


def test_predictions_are_the_predictors_of_all_later_tokens(model: PredictiveModel) -> None:
    """By hand, one sample at a time, with every module called by itself."""
    config, context = model.config, model.config.tubelet_size
    clips, grid = normalize(windows(model)), model.config.grid
    seen = torch.arange(grid.tokens_per_frame)
    ahead = torch.arange(grid.tokens_per_frame, grid.tokens)
    for number, clip in enumerate(clips):
        tokens = model.encoder(clip[None], seen[None], num_levels=config.predictor_levels)
        token = config.num_mask_tokens - 1 if config.positions == "sincos" else 0
        expected = model.predictor(tokens, seen[None], ahead[None], token).masked
        torch.testing.assert_close(predicted_tokens(model, clips, context)[number], expected[0], rtol=1e-4, atol=1e-5)


def test_errors_are_mean_absolute_differences(model: PredictiveModel) -> None:
    config, grid = model.config, model.grid
    contexts = tuple(range(config.tubelet_size, config.num_frames, config.tubelet_size))
    clips = windows(model, 3)
    mean = mean_tokens(model, [clips[:2], clips[2:]])
    errors = window_errors(model, clips, contexts, mean)
    targets = target_tokens(model, normalize(clips))
    torch.testing.assert_close(mean, targets.mean(0), rtol=1e-4, atol=1e-5)
    maps = np.full((len(contexts), 3, grid.tokens), np.nan)
    for column, context in enumerate(contexts):
        first = context // config.tubelet_size * grid.tokens_per_frame
        rest = targets[:, first:]
        by_token = (predicted_tokens(model, normalize(clips), context) - rest).abs().mean(-1)
        maps[column, :, first:] = by_token.numpy()
        repeated = repeated_tokens(model, normalize(clips), context)
        for row in range(3):
            assert errors.prediction[row, column] == pytest.approx(by_token[row].mean().item(), rel=1e-5)
            assert errors.repeat[row, column] == pytest.approx(
                (repeated[row] - rest[row]).abs().mean().item(), rel=1e-5
            )
            by_mean = (mean[first:] - rest[row]).abs().mean().item()
            assert errors.mean[row, column] == pytest.approx(by_mean, rel=1e-5)
            over = (by_token[row] - (repeated[row] - rest[row]).abs().mean(-1)).tolist()
            most = sorted(over)[-max(1, round(0.05 * len(over))) :]
            assert errors.excess[row, column] == pytest.approx(np.mean(most), rel=1e-4, abs=1e-6)
    shown = np.nanmean(maps[:, :, grid.tokens_per_frame :], 0)
    np.testing.assert_allclose(errors.tokens.flatten(1)[:, grid.tokens_per_frame :], shown, rtol=1e-5)
    assert errors.tokens[:, 0].isnan().all()


def test_the_last_visible_tokens_stay(nano_model: PredictiveModel) -> None:
    """With a target encoder that gives its input's pixels, the baseline is the last visible tubelet, at every later time."""
    model = load("V-JEPA 2")
    clips = normalize(windows(model, 1))
    repeated = repeated_tokens(model, clips, 4)
    seen = torch.arange(2 * model.grid.tokens_per_frame)[None]
    tokens = model.target_encoder(clips, seen)
    normed = torch.nn.functional.layer_norm(tokens, tokens.shape[-1:])[0, model.grid.tokens_per_frame :]
    torch.testing.assert_close(repeated[0], torch.cat([normed, normed]))


def test_contexts() -> None:
    sixteen = ModelConfig(arch="vit_pico", img_size=32)
    assert default_contexts(sixteen) == (2, 4, 6, 8, 10)
    assert default_contexts(NANO) == (8,)
    assert default_contexts(replace(sixteen, num_frames=64)) == (8, 16, 24, 32, 40)
    assert default_contexts(replace(sixteen, num_frames=4)) == (2,)
    assert check_contexts((8, 2, 8), sixteen) == (2, 8)
    for wrong in ((3,), (0,), (16,)):
        with pytest.raises(ConfigError, match="this model can see 2, 4, 6"):
            check_contexts(wrong, sixteen)
    with pytest.raises(ConfigError, match="at least one context"):
        check_contexts((), sixteen)


def test_models_that_expect_nothing_are_refused(tmp_path: Path) -> None:
    config = ModelConfig(arch="vit_femto", img_size=32, num_frames=4)
    jepa = JEPA(config, ObjectiveConfig())
    save_model(tmp_path / "encoder", jepa.encoder)
    with pytest.raises(ConfigError, match="the model has no predictor of masked tokens: pretrain"):
        predictive_model(load_model(tmp_path / "encoder"))
    pixels = JEPA(replace(config, num_mask_tokens=1), ObjectiveConfig(target="pixels"))
    save_model(tmp_path / "pixels", pixels.target_encoder, pixels.predictor)
    with pytest.raises(ConfigError, match=r"predicts 1536 values .* not the 96 of its own encoder"):
        predictive_model(load_model(tmp_path / "pixels"))
    b_style = load_model(V21 / "ckpt_bstyle.pt", arch=FAMILIES["V-JEPA 2.1"][1])
    with pytest.raises(ConfigError, match="its teacher's features"):
        predictive_model(b_style)
    noise = JEPA(replace(config, num_mask_tokens=0), ObjectiveConfig())
    save_model(tmp_path / "noise", noise.target_encoder, noise.predictor)
    with pytest.raises(ConfigError, match="no mask tokens"):
        predictive_model(load_model(tmp_path / "noise"))
    single = JEPA(replace(config, num_frames=2), ObjectiveConfig())
    save_model(tmp_path / "single", single.target_encoder, single.predictor)
    with pytest.raises(ConfigError, match="a single time step has nothing to predict"):
        predictive_model(load_model(tmp_path / "single"))


def test_the_online_encoder_can_encode_the_context(nano_model: PredictiveModel) -> None:
    torch.manual_seed(1)
    other = JEPA(NANO, ObjectiveConfig()).encoder.eval()
    model = replace(nano_model, encoder=other)
    clips = normalize(windows(model, 1))
    assert not torch.equal(predicted_tokens(model, clips, 8), predicted_tokens(nano_model, clips, 8))
    assert torch.equal(target_tokens(model, clips), target_tokens(nano_model, clips))
    assert torch.equal(repeated_tokens(model, clips, 8), repeated_tokens(nano_model, clips, 8))
