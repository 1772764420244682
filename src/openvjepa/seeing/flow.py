"""Tokens back to pixels by flow matching: a small transformer that samples pixels given tokens.

Rectified flow (Lipman et al. 2023; Liu et al. 2023): x_t = (1 - t) noise + t pixels, whose velocity is pixels - noise. The
network estimates the pixels, and the velocity follows from them (Li and He 2025, "Back to basics"). Noise of random strength is
added to the tokens in training, as in RAE (Zheng et al. 2025), so that predicted tokens can be decoded, too.

Shapes: B clips, K tokens of C channels (those after the context), P values of a tubelet's pixels, S samples.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from openvjepa.data.transforms import normalize
from openvjepa.errors import ConfigError, OpenVJEPAError
from openvjepa.interrupts import StopSignals
from openvjepa.model.blocks.layers import ENCODER_EPS, Block, init_weights
from openvjepa.model.blocks.positions import sincos_1d, sincos_3d
from openvjepa.progress import Meter
from openvjepa.seeing.surprise.error import PredictiveModel, target_tokens
from openvjepa.train.distributed import Runtime

logger = logging.getLogger("openvjepa")

WIDTH, DEPTH, HEADS = 192, 3, 4
TOKEN_NOISE = 0.8
"""Scale of the half-normal distribution of the noise's standard deviation, for layer-normed tokens (RAE)."""
_LEAST_LEFT = 0.05  # of 1 - t in the loss, which divides by it
_BATCH = 16  # windows of a step
_LR, _WARMUP, _DECAY, _CLIP = 2e-3, 0.05, 0.01, 1.0
_TIME_CODES = 64

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x [S, K, P], t [S]) -> velocity [S, K, P]."""
Draw = Callable[[torch.Generator], tuple[Tensor, Tensor]]
"""Tokens [B, K, C] and standardized pixels [B, K, P] of a training step."""


class PixelEstimator(nn.Module):
    """Estimates clean pixels from noisy ones, the time and the tokens.

    The estimate is an offset plus a gain for each value of the noisy pixels: the form of the posterior mean of Gaussian pixels,
    which no width of the transformer limits.

    Args:
        channels: C.
        values: P.
        codes: position codes [K, width]; None: the decoder does not know where a token is.
        width: channels of the transformer.
        depth: its blocks.
        heads: its attention heads.
    """

    def __init__(
        self,
        channels: int,
        values: int,
        codes: Tensor | None,
        *,
        width: int = WIDTH,
        depth: int = DEPTH,
        heads: int = HEADS,
    ) -> None:
        super().__init__()
        self.tokens, self.pixels = nn.Linear(channels, width), nn.Linear(values, width)
        self.time = nn.Sequential(nn.Linear(_TIME_CODES, width), nn.GELU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(width, heads, 4.0) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=ENCODER_EPS)
        self.head = nn.Linear(width, 2 * values)
        self.register_buffer("codes", None if codes is None else codes.clone())
        self.codes: Tensor | None
        self.apply(init_weights)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """[B, K, P], [B], [B, K, C] -> [B, K, P]."""
        codes = sincos_1d(_TIME_CODES, 1000 * t.cpu()).float()
        moment = self.time(codes.to(x.device))
        hidden = self.tokens(tokens) + self.pixels(x) + moment[:, None]
        if self.codes is not None:
            hidden = hidden + self.codes
        for block in self.blocks:
            hidden = block(hidden)
        offset, gain = self.head(self.norm(hidden)).chunk(2, -1)
        return offset + gain * x


def flow_loss(
    estimator: nn.Module, tokens: Tensor, pixels: Tensor, generator: torch.Generator, token_noise: float
) -> Tensor:
    """Mean squared error of the velocity at a random time of each clip.

    Args:
        estimator: of `PixelEstimator`'s signature.
        tokens: [B, K, C].
        pixels: standardized, [B, K, P].
        generator: of the CPU; draws time and noise.
        token_noise: scale of the noise that is added to the tokens; 0: none.
    """
    device = pixels.device
    t = torch.rand(len(pixels), generator=generator).to(device)
    noise = torch.randn(pixels.shape, generator=generator).to(device)
    if token_noise:
        strength = token_noise * torch.randn(len(tokens), 1, 1, generator=generator).abs()
        tokens = tokens + (strength * torch.randn(tokens.shape, generator=generator)).to(device)
    x = (1 - t)[:, None, None] * noise + t[:, None, None] * pixels
    error = estimator(x, t, tokens).float() - pixels
    # Both velocities are (estimate - x) / (1 - t), of which x is the same.
    return (error / (1 - t).clamp(min=_LEAST_LEFT)[:, None, None]).square().mean()


def integrate(velocity: Velocity, noise: Tensor, steps: int) -> Tensor:
    """Euler's method from t = 0 to 1 in equal steps: noise [S, K, P] -> samples [S, K, P]."""
    x, size = noise, 1 / steps
    for step in range(steps):
        x = x + size * velocity(x, torch.full((len(x),), step * size, device=x.device))
    return x


@dataclass(frozen=True)
class FlowSettings:
    """How long a flow decoder is trained, and how it samples."""

    steps: int = 1000
    """Training steps of 16 windows, at least 1."""
    minutes: float | None = None
    """Training time, at most; None: no limit."""
    samples: int = 4
    """Samples of each clip, at least 1."""
    sampling_steps: int = 10
    """Euler steps of a sample, at least 1."""
    seed: int = 0
    """Random seed of weights, batches and noise."""


@dataclass(frozen=True)
class FlowTraining:
    """How the training of a flow decoder ended."""

    steps: int
    """Finished steps."""
    losses: tuple[float, ...]
    """Of each step."""
    seconds: float
    signal: int = 0
    """Number of the signal that stopped the training early; 0: none."""


def train_flow(
    estimator: PixelEstimator,
    draw: Draw,
    settings: FlowSettings,
    *,
    token_noise: float = TOKEN_NOISE,
    runtime: Runtime | None = None,
) -> FlowTraining:
    """Train until settings.steps or settings.minutes, whichever comes first, or until a stop signal.

    The learning rate falls to 0 as a cosine over whichever of the two is further.

    Args:
        estimator: is trained in place, on its device.
        draw: makes the batches.
        settings: steps, minutes, seed.
        token_noise: see `flow_loss`.
        runtime: autocast to use; None: float32.

    Raises:
        OpenVJEPAError: the loss is not finite.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.AdamW(estimator.parameters(), lr=_LR, weight_decay=_DECAY)
    losses: list[float] = []
    started = time.monotonic()
    estimator.train()
    with StopSignals() as signals, Meter("training the flow decoder", settings.steps, unit="steps") as meter:
        while len(losses) < settings.steps and not signals.number:
            share = len(losses) / settings.steps
            if settings.minutes is not None:
                share = max(share, (time.monotonic() - started) / (60 * settings.minutes))
            if share >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = (
                    _LR * min(1.0, (share + 1 / settings.steps) / _WARMUP) * 0.5 * (1 + math.cos(math.pi * share))
                )
            tokens, pixels = draw(generator)
            with runtime.autocast() if runtime else torch.autocast("cpu", enabled=False):
                loss = flow_loss(estimator, tokens, pixels, generator, token_noise)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(estimator.parameters(), _CLIP)
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise OpenVJEPAError(
                    f"flow decoder: the loss is not finite at step {len(losses)}: use --precision fp32 or --decoder ridge"
                )
            optimizer.step()
            meter.show(len(losses), figures=f"loss {losses[-1]:.3f}")
    estimator.eval()
    return FlowTraining(len(losses), tuple(losses), time.monotonic() - started, signals.number)


@dataclass(frozen=True, eq=False)
class FlowDecoder:
    """Samples pixels given the tokens after a context."""

    estimator: PixelEstimator
    pixel_mean: Tensor
    """[P]"""
    pixel_std: float
    first: int
    """Id of the first token that it was trained on; the others follow up to the end of the grid."""
    settings: FlowSettings
    training: FlowTraining

    @torch.no_grad()
    def __call__(self, tokens: Tensor, first: int) -> Tensor:
        """Samples of pixels; sample s starts from the same noise for all clips and tokens.

        Args:
            tokens: [B, K, C], of the ids `first` and on.
            first: must be that of the training.

        Returns:
            float32 [S, B, K, P] on the CPU, in the units of the pixels.

        Raises:
            ConfigError: it was trained on other tokens.
        """
        if first != self.first:
            raise ConfigError(f"this decoder was trained on tokens from {self.first} on, not from {first} on")
        settings, device = self.settings, self.pixel_mean.device
        generator = torch.Generator().manual_seed(settings.seed)
        shape = (settings.samples, tokens.shape[1], len(self.pixel_mean))
        noise = torch.randn(shape, generator=generator).to(device)
        clips: list[Tensor] = []
        for clip in tokens.to(device):
            given = clip.expand(settings.samples, -1, -1)
            x = integrate(lambda x, t, given=given: self.velocity(x, t, given), noise, settings.sampling_steps)
            clips.append(self.pixel_mean + self.pixel_std * x)
        return torch.stack(clips, 1).cpu()

    def velocity(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Velocity of standardized pixels [S, K, P] at times [S], below 1."""
        return (self.estimator(x, t, tokens) - x) / (1 - t)[:, None, None]


def fit_flow(
    model: PredictiveModel,
    batches: Sequence[Tensor],
    context: int,
    settings: FlowSettings,
    *,
    place: bool = True,
    runtime: Runtime | None = None,
) -> FlowDecoder:
    """Train a flow decoder from the layer-normed target tokens after a context to their tubelets' pixels.

    The tokens of all windows are computed once and kept in float16.

    Args:
        model: of `predictive_model`.
        batches: uint8 windows [B, 3, T, H, W] each.
        context: visible frames, whole tubelets, which are not decoded.
        settings: duration, sampling, seed.
        place: the decoder knows each token's place in the grid.
        runtime: autocast to use; None: float32.

    Raises:
        ConfigError: there are no windows.
        OpenVJEPAError: the training diverged.
    """
    if not batches:
        raise ConfigError("no windows to fit a decoder on: pass more videos to --fit")
    grid, first = model.grid, context // model.config.tubelet_size * model.grid.tokens_per_frame
    parts = [target_tokens(model, normalize(batch.to(model.device)), runtime)[:, first:] for batch in batches]
    tokens = torch.cat([part.half().cpu() for part in parts])
    logger.info("flow decoder: %d windows, tokens take %.0f MB", len(tokens), tokens.numel() * 2 / 1e6)
    windows = torch.cat(list(batches))
    mean, std = _pixel_statistics(model, batches, first)
    mean = mean.to(model.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        codes = sincos_3d(WIDTH, grid, uniform_power=True)[first:] if place else None
        estimator = PixelEstimator(tokens.shape[-1], len(mean), codes).to(model.device)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(windows), (min(_BATCH, len(windows)),), generator=generator)
        pixels = _pixels(model, windows[rows], first).to(model.device)
        return tokens[rows].float().to(model.device), (pixels - mean) / std

    training = train_flow(estimator, draw, settings, runtime=runtime)
    return FlowDecoder(estimator, mean, std, first, settings, training)


def _pixels(model: PredictiveModel, windows: Tensor, first: int) -> Tensor:
    return model.encoder.patch_embed.tubelets(windows.float() / 255)[:, first:]


def _pixel_statistics(model: PredictiveModel, batches: Iterable[Tensor], first: int) -> tuple[Tensor, float]:
    """Mean of each of the P values, and the standard deviation around it over all of them (1 where nothing varies)."""
    count, total, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for batch in batches:
        pixels = _pixels(model, batch, first).double().flatten(0, 1)
        count, total, squares = count + len(pixels), total + pixels.sum(0), squares + pixels.square().sum(0)
    mean = total / count
    variance = float((squares / count - mean.square()).clamp(min=0).mean())
    return mean.float(), variance**0.5 if variance > 1e-12 else 1.0
