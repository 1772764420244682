"""Ridge decoding: scikit-learn's ridge and leave-one-out by brute force agree; pixels and frames are inverse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from openvjepa.data.transforms import normalize
from openvjepa.errors import ConfigError
from openvjepa.seeing.decode import Moments, decode, fit_ridge, pixels_to_frames, psnr, solve, tubelet_pixels
from openvjepa.seeing.surprise.error import (
    PredictiveModel,
    load_predictive,
    mean_tokens,
    predicted_tokens,
    target_tokens,
)


@pytest.fixture(scope="module")
def model(predictive: Path) -> PredictiveModel:
    return load_predictive(str(predictive))


def windows(count: int = 12) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 8, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_it_is_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 20, 7)) + 3
    y = x @ rng.normal(size=(7, 4)) + rng.normal(size=(5, 20, 4)) * 2
    moments = Moments(None)
    for part in range(5):
        moments.add(torch.from_numpy(x[part : part + 1]), torch.from_numpy(y[part : part + 1]))
    found = solve(moments)
    ridge = Ridge(alpha=found.strength).fit(x.reshape(-1, 7), y.reshape(-1, 4))
    np.testing.assert_allclose(found.weight.T, ridge.coef_, rtol=1e-4, atol=1e-5)
    expected = ridge.predict(x.reshape(-1, 7)).reshape(y.shape)
    np.testing.assert_allclose(found(torch.from_numpy(x).float()), expected, rtol=1e-4, atol=1e-4)
    # GCV by its definition, from the hat matrix (the mean counts as a parameter).
    flat = x.reshape(-1, 7) - x.reshape(-1, 7).mean(0)
    hat = flat @ np.linalg.solve(flat.T @ flat + found.strength * np.eye(7), flat.T) + 1 / 100
    residual = y.reshape(-1, 4) - hat @ y.reshape(-1, 4)
    gcv = (residual**2).mean() / (1 - np.trace(hat) / 100) ** 2
    assert found.gcv == pytest.approx(gcv, rel=1e-6)


def test_with_places_each_has_its_own_mean() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 6, 5)) + rng.normal(size=(1, 6, 5)) * 4
    y = x @ rng.normal(size=(5, 3)) + rng.normal(size=(1, 6, 3)) * 9 + 0.1 * rng.normal(size=(30, 6, 3))
    moments = Moments(6)
    moments.add(torch.from_numpy(x), torch.from_numpy(y))
    found = solve(moments)
    design = np.concatenate([x.reshape(-1, 5), np.tile(np.eye(6), (30, 1))], 1)
    centered = x - x.mean(0)
    ridge = Ridge(alpha=found.strength, fit_intercept=False).fit(
        centered.reshape(-1, 5), (y - y.mean(0)).reshape(-1, 3)
    )
    np.testing.assert_allclose(found.weight.T, ridge.coef_, rtol=1e-4, atol=1e-5)
    plain = np.linalg.lstsq(design, y.reshape(-1, 3), rcond=None)[0]  # lambda is small here
    np.testing.assert_allclose(found.weight, plain[:5], atol=0.05)
    part = torch.from_numpy(x[:, 2:5]).float()
    whole = found(torch.from_numpy(x).float())
    torch.testing.assert_close(found(part, first=2), whole[:, 2:5])


def test_pixels_and_frames_are_inverse(model: PredictiveModel) -> None:
    clips = windows(2)
    pixels = tubelet_pixels(model, clips)
    assert pixels.shape == (2, 16, 3 * 2 * 16 * 16)
    torch.testing.assert_close(pixels_to_frames(pixels, model), clips.float() / 255)
    torch.testing.assert_close(pixels_to_frames(pixels[:, 4:], model), clips[:, :, 2:].float() / 255)


@pytest.mark.parametrize("place", [True, False])
def test_panels(model: PredictiveModel, place: bool) -> None:
    clips = windows()
    decoder = fit_ridge(model, clips.split(5), place=place)
    mean = mean_tokens(model, [clips])
    found = decode(model, decoder, clips[:2], 4, mean)
    tokens = target_tokens(model, normalize(clips[:2]))
    torch.testing.assert_close(found.true_tokens[0], pixels_to_frames(decoder(tokens), model)[:, :, 4:])
    expected = pixels_to_frames(decoder(predicted_tokens(model, normalize(clips[:2]), 4), 8), model)
    torch.testing.assert_close(found.predicted_tokens[0], expected)
    if place:  # the mean token of a place decodes to the mean pixels of that place
        usual = (clips.float() / 255).mean(0)[:, 4:]
        torch.testing.assert_close(found.mean_tokens[0, 0], usual, atol=1e-4, rtol=1e-3)
    ratios = found.psnr()
    error = ((found.true_tokens[0].clamp(0, 1) - found.truth) ** 2).mean().item()
    assert ratios["true"] == pytest.approx(-10 * np.log10(error), rel=1e-5)
    assert ratios["true"] > ratios["mean"]
    assert psnr(found.truth, found.truth) > 100


def test_too_few_windows(model: PredictiveModel) -> None:
    with pytest.raises(ConfigError, match="too few to fit a decoder"):
        fit_ridge(model, [windows(1)], place=True)
    with pytest.raises(ConfigError, match="too few to fit a decoder"):
        fit_ridge(model, [], place=True)
