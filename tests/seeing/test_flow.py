"""Flow decoding against the flow of Gaussians, which is known in closed form."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from openvjepa.data.transforms import normalize
from openvjepa.errors import ConfigError, OpenVJEPAError
from openvjepa.interrupts import RaisedSignals
from openvjepa.seeing.decode import Decoded, Tally, decode, psnr, tubelet_pixels
from openvjepa.seeing.flow import (
    FlowDecoder,
    FlowSettings,
    FlowTraining,
    PixelEstimator,
    fit_flow,
    flow_loss,
    integrate,
    train_flow,
)
from openvjepa.seeing.surprise.error import PredictiveModel, load_predictive, mean_tokens, target_tokens


@pytest.fixture(scope="module")
def model(predictive: Path) -> PredictiveModel:
    return load_predictive(str(predictive))


def windows(count: int = 12) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 8, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def gaussian_slope(t: float, std: float) -> float:
    """The flow from N(0, 1) to N(m, std^2) has the velocity m + slope (x - t m), from cov(x_1 - x_0, x_t) / var(x_t)."""
    return (t * std**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * std**2)


@pytest.mark.parametrize("steps", [1, 7, 400])
def test_euler_integrates_the_flow_of_a_gaussian(steps: int) -> None:
    mean, std = torch.tensor([[[2.0, -1.0]]]), 0.3
    noise = torch.randn(50, 1, 2, generator=torch.Generator().manual_seed(0))

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        slope = torch.tensor([gaussian_slope(float(time), std) for time in t])[:, None, None]
        return mean + slope * (x - t[:, None, None] * mean)

    found = integrate(velocity, noise, steps)
    # x - t m is multiplied by 1 + slope / steps in each step, and m is added in all of them together.
    factor = np.prod([1 + gaussian_slope(k / steps, std) / steps for k in range(steps)])
    torch.testing.assert_close(found, mean + float(factor) * noise, atol=1e-4, rtol=1e-4)
    if steps == 400:
        assert factor == pytest.approx(std, rel=0.02)


def test_loss_is_that_of_the_velocity() -> None:
    pixels, tokens = torch.randn(2000, 3, 4), torch.zeros(2000, 3, 2)

    class Clean(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
            return pixels

    class Half(torch.nn.Module):
        """Estimates pixels + (1 - t) / 2: a velocity that is wrong by 1/2 where 1 - t is above 0.05, and by less below."""

        def forward(self, x: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
            self.seen = x, t, tokens
            return pixels + (1 - t)[:, None, None] / 2

    draws, half = torch.Generator().manual_seed(0), Half()
    assert float(flow_loss(Clean(), tokens, pixels, draws, 0.0)) == 0
    assert float(flow_loss(half, tokens, pixels, draws, 0.8)) == pytest.approx(0.25 * (0.95 + 0.05 / 3), rel=0.02)
    x, t, given = half.seen
    noise = (x - t[:, None, None] * pixels) / (1 - t)[:, None, None]
    assert noise.mean().item() == pytest.approx(0, abs=0.03)
    assert noise.std().item() == pytest.approx(1, abs=0.03)
    assert given.square().mean().item() == pytest.approx(0.8**2, rel=0.15)  # second moment of the half-normal strength
    assert given.flatten(1).square().mean(1).std() > 0.3  # one strength for each clip


def test_trained_flow_samples_a_linear_gaussian() -> None:
    """Pixels = matrix @ token + 0.4 noise: the samples' mean and standard deviation are known for each token."""
    matrix, std = torch.tensor([[1.0, -0.5], [0.3, 0.8]]), 0.4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        estimator = PixelEstimator(2, 2, None, width=32, depth=1, heads=1)

    def draw(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = torch.randn(256, 1, 2, generator=generator)
        return tokens, tokens @ matrix.T + std * torch.randn(256, 1, 2, generator=generator)

    settings = FlowSettings(steps=300, samples=1500, sampling_steps=20)
    training = train_flow(estimator, draw, settings, token_noise=0.0)
    assert training.steps == 300
    decoder = FlowDecoder(estimator, torch.zeros(2), 1.0, 0, settings, training)
    tokens = torch.tensor([[[1.0, 0.5]], [[-1.0, 1.0]], [[0.0, 0.0]]])
    samples = decoder(tokens, 0)
    assert samples.shape == (1500, 3, 1, 2)
    torch.testing.assert_close(samples.mean(0), tokens @ matrix.T, atol=0.06, rtol=0)
    # Euler's method with the exact field; the loss that is left is the variance of the pixels given x_t over (1 - t)^2.
    factor = np.prod([1 + gaussian_slope(k / 20, std) / 20 for k in range(20)])
    torch.testing.assert_close(samples.std(0), torch.full((3, 1, 2), float(factor)), atol=0, rtol=0.1)
    times = np.linspace(0, 1, 2001)
    least = np.where(times < 0.95, 1, (1 - times) ** 2 / 0.05**2) * std**2 / ((1 - times) ** 2 + times**2 * std**2)
    assert np.mean(training.losses[-50:]) == pytest.approx(least.mean(), rel=0.05)


def test_decoder_of_a_model(model: PredictiveModel) -> None:
    clips, settings = windows(), FlowSettings(steps=3, samples=2, sampling_steps=2, seed=1)
    first, again = (fit_flow(model, clips.split(size), 4, settings) for size in (5, 12))
    tokens = target_tokens(model, normalize(clips))[:, 8:]
    samples = first(tokens, 8)
    assert samples.shape == (2, 12, 8, 3 * 2 * 16 * 16)
    torch.testing.assert_close(again(tokens, 8), samples, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(first(tokens[3:4], 8), samples[:, 3:4], atol=1e-5, rtol=1e-5)  # whatever the batch is
    pixels = tubelet_pixels(model, clips)[:, 8:].flatten(0, 1)
    torch.testing.assert_close(first.pixel_mean, pixels.mean(0))
    assert first.pixel_std == pytest.approx(float((pixels - pixels.mean(0)).square().mean().sqrt()), rel=1e-4)
    with pytest.raises(ConfigError, match="trained on tokens from 8 on"):
        first(tokens, 4)
    found = decode(model, first, clips, 4, mean_tokens(model, [clips]))
    assert found.predicted_tokens.shape == (2, 12, 3, 4, 32, 32)
    with pytest.raises(ConfigError, match="no windows"):
        fit_flow(model, [], 4, settings)


def test_tally_of_samples() -> None:
    draws = torch.Generator().manual_seed(0)
    truth = torch.rand(4, 3, 2, 8, 8, generator=draws)
    panels = [(truth + std * torch.randn(3, *truth.shape, generator=draws)).clamp(0, 1) for std in (0.1, 0.2, 0.0)]
    found = Decoded(truth, *panels, 6)
    whole, parts = Tally.of(found), Tally.of(found.part([0]), found.part([1, 2, 3]))
    assert parts.psnr() == pytest.approx(whole.psnr())
    errors = [10 ** (-psnr(sample, truth) / 10) for sample in found.true_tokens]
    assert whole.psnr()["true"] == pytest.approx(-10 * np.log10(np.mean(errors)))
    assert whole.psnr_of_mean()["true"] == pytest.approx(psnr(found.true_tokens.mean(0), truth))
    assert whole.psnr_of_mean()["true"] > whole.psnr()["true"] + 2
    assert whole.spread()["predicted"] == pytest.approx(found.predicted_tokens.var(0).mean().sqrt().item(), rel=1e-4)
    assert whole.spread()["mean"] == 0
    assert whole.psnr()["mean"] > 100


def tiny() -> PixelEstimator:
    return PixelEstimator(2, 2, torch.zeros(1, 8), width=8, depth=1, heads=1)


def test_training_ends_with_the_time_a_signal_or_a_wrong_loss() -> None:
    def draw(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(4, 1, 2), torch.randn(4, 1, 2, generator=generator)

    timed = train_flow(tiny(), draw, FlowSettings(steps=10**6, minutes=0.01))
    assert timed.seconds < 10
    assert 0 < timed.steps == len(timed.losses) < 10**6
    steps: list[int] = []

    def stopped(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return draw(generator)

    with RaisedSignals(lambda text: None):
        ended: FlowTraining = train_flow(tiny(), stopped, FlowSettings(steps=50))
    assert (ended.steps, ended.signal) == (3, signal.SIGINT)
    with pytest.raises(OpenVJEPAError, match="not finite at step 1: use --precision fp32"):
        train_flow(tiny(), lambda generator: (torch.zeros(4, 1, 2), torch.full((4, 1, 2), torch.nan)), FlowSettings())
