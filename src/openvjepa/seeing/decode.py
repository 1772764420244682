"""Tokens back to pixels by ridge regression, in closed form (V-JEPA paper, section on decoding, for what is shown).

One pass over the tokens sums the Gram matrix; lambda minimizes the generalized cross-validation error (Golub, Heath and
Wahba 1979). Encoder and predictor are frozen. Shapes: n tokens of C channels, P values of a tubelet's pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openvjepa.data.transforms import normalize
from openvjepa.errors import ConfigError
from openvjepa.grid import TokenGrid
from openvjepa.seeing.surprise.error import PredictiveModel, predicted_tokens, target_tokens
from openvjepa.train.distributed import Runtime

_LAMBDAS = torch.logspace(-8, 4, 49, dtype=torch.float64)  # over the mean eigenvalue of the Gram matrix


class Moments:
    """Sums of centered products of tokens and pixels, added up batch by batch in float64.

    With `places`, each place of the grid has means of its own: the decoder then knows where a token stands.
    """

    def __init__(self, places: int | None) -> None:
        self.places = places
        self.count = 0
        self.xx = self.xy = self.yy = torch.zeros((), dtype=torch.float64)
        self.x = self.y = torch.zeros((), dtype=torch.float64)

    def add(self, tokens: Tensor, pixels: Tensor) -> None:
        """Add tokens [B, N, C] and their pixels [B, N, P]."""
        x, y = tokens.double(), pixels.double()
        self.xx = self.xx + torch.einsum("bnc,bnd->cd", x, x)
        self.xy = self.xy + torch.einsum("bnc,bnp->cp", x, y)
        self.yy = self.yy + y.square().sum()
        if self.places is None:
            self.x, self.y = self.x + x.sum((0, 1))[None], self.y + y.sum((0, 1))[None]
            self.count += x.shape[0] * x.shape[1]
        else:
            self.x, self.y = self.x + x.sum(0), self.y + y.sum(0)
            self.count += x.shape[0]


@dataclass(frozen=True, eq=False)
class RidgeDecoder:
    """Pixels = (token - mean token) @ weight + mean pixels, with one mean for all places or one for each."""

    weight: Tensor
    """[C, P]"""
    token_mean: Tensor
    """[1 or N, C]"""
    pixel_mean: Tensor
    """[1 or N, P]"""
    strength: float
    """lambda, in units of the Gram matrix."""
    gcv: float
    """Generalized cross-validation error: an estimate of the mean squared error of a pixel on other clips."""

    def __call__(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Pixels of tokens.

        Args:
            tokens: [B, K, C], consecutive tokens of the grid.
            first: id of the first of them.

        Returns:
            [B, K, P], in the units that it was fitted in.
        """
        where = slice(first, first + tokens.shape[1]) if len(self.token_mean) > 1 else slice(None)
        return (tokens - self.token_mean[where]) @ self.weight + self.pixel_mean[where]


def solve(moments: Moments) -> RidgeDecoder:
    """Ridge regression with the lambda that generalized cross-validation chooses.

    Raises:
        ConfigError: there are no more tokens than parameters of the means.
    """
    n, means = moments.count, moments.x.shape[0] if moments.count else 0
    samples = n * (moments.places or 1)
    if samples <= means:
        raise ConfigError(f"{samples} tokens are too few to fit a decoder: pass more videos to --fit")
    x_mean, y_mean = moments.x / n, moments.y / n
    gram = moments.xx - n * x_mean.T @ x_mean
    cross = moments.xy - n * x_mean.T @ y_mean
    total = float(moments.yy - n * y_mean.square().sum())
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp(min=0)
    rotated = vectors.T @ cross  # [C, P]
    power = rotated.square().sum(1)
    outputs = cross.shape[1]
    scale = max(float(values.mean()), 1e-30)
    best: tuple[float, float] | None = None
    for strength in (_LAMBDAS * scale).tolist():
        shrink = values + strength
        residual = total - float((power * (2 / shrink - values / shrink.square())).sum())
        freedom = float((values / shrink).sum()) + means
        if freedom >= samples:
            continue
        gcv = max(residual, 0.0) / (samples * outputs) / (1 - freedom / samples) ** 2
        best = (gcv, strength) if best is None or gcv < best[0] else best
    if best is None:
        raise ConfigError(f"{samples} tokens are too few to fit a decoder: pass more videos to --fit")
    gcv, strength = best
    weight = vectors @ (rotated / (values + strength)[:, None])
    return RidgeDecoder(weight.float(), x_mean.float(), y_mean.float(), strength, gcv)


def tubelet_pixels(model: PredictiveModel, windows: Tensor) -> Tensor:
    """Pixels of each token of uint8 windows [B, 3, T, H, W], 0..1: [B, N, P]."""
    return model.encoder.patch_embed.tubelets(windows.float() / 255)


def pixels_to_frames(pixels: Tensor, model: PredictiveModel) -> Tensor:
    """The inverse of `tubelet_pixels`: [B, N, P] -> [B, 3, T, H, W]; N may be the last time steps of the grid."""
    grid, config = model.grid, model.config
    steps = pixels.shape[1] // grid.tokens_per_frame
    size, patch = config.tubelet_size, config.patch_size
    parts = pixels.reshape(len(pixels), steps, grid.h, grid.w, 3, size, patch, patch)
    return parts.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(len(pixels), 3, steps * size, grid.h * patch, grid.w * patch)


def fit_ridge(
    model: PredictiveModel, batches: Iterable[Tensor], *, place: bool = True, runtime: Runtime | None = None
) -> RidgeDecoder:
    """Fit a decoder from layer-normed target tokens to their tubelets' pixels, in one pass.

    Args:
        model: of `predictive_model`.
        batches: uint8 windows [B, 3, T, H, W] each.
        place: the decoder knows each token's place in the grid.
        runtime: autocast to use; None: float32.

    Raises:
        ConfigError: too few windows.
    """
    grid: TokenGrid = model.grid
    moments = Moments(grid.tokens if place else None)
    for batch in batches:
        tokens = target_tokens(model, normalize(batch.to(model.device)), runtime).cpu()
        moments.add(tokens, tubelet_pixels(model, batch))
    return solve(moments)


@dataclass(frozen=True, eq=False)
class Decoded:
    """Windows decoded after a context of `context` frames, by a decoder that gives S samples (ridge: one).

    Frames are floats in 0..1, samples may exceed it.
    """

    truth: Tensor
    """[B, 3, T - context, H, W]"""
    true_tokens: Tensor
    """[S, B, 3, T - context, H, W], as the others."""
    predicted_tokens: Tensor
    mean_tokens: Tensor
    context: int

    @property
    def panels(self) -> dict[str, Tensor]:
        """true, predicted, mean."""
        return {"true": self.true_tokens, "predicted": self.predicted_tokens, "mean": self.mean_tokens}

    def psnr(self) -> dict[str, float]:
        """Peak signal-to-noise ratio of each panel over all pixels of single samples, dB."""
        return Tally.of(self).psnr()

    def part(self, rows: Sequence[int]) -> Decoded:
        """Some of the windows."""
        chosen = list(rows)
        true, predicted, mean = (panel[:, chosen] for panel in self.panels.values())
        return Decoded(self.truth[chosen], true, predicted, mean, self.context)


class Tally:
    """Sums of squares over decoded windows, added up batch by batch."""

    def __init__(self) -> None:
        self.pixels = self.samples = 0
        self.single: dict[str, float] = {}
        """Panel -> squared errors of its samples, averaged over them and summed over the pixels."""
        self.mean: dict[str, float] = {}
        """Panel -> squared errors of the mean of its samples, summed over the pixels."""
        self.variance: dict[str, float] = {}
        """Panel -> unbiased variance over the samples, summed over the pixels; 0 for a single sample."""

    @classmethod
    def of(cls, *parts: Decoded) -> Tally:
        """The sums of these."""
        tally = cls()
        for part in parts:
            tally.add(part)
        return tally

    def add(self, found: Decoded) -> None:
        """Add windows that were decoded with the same number of samples."""
        self.pixels += found.truth.numel()
        for name, panel in found.panels.items():
            self.samples, seen = len(panel), panel.clamp(0, 1).double()
            single = (seen - found.truth).square().mean(0).sum()
            mean = (seen.mean(0) - found.truth).square().sum()
            variance = seen.var(0).sum() if len(panel) > 1 else torch.zeros(())
            for sums, value in ((self.single, single), (self.mean, mean), (self.variance, variance)):
                sums[name] = sums.get(name, 0.0) + float(value)

    def psnr(self) -> dict[str, float]:
        """Peak signal-to-noise ratio of single samples of each panel, dB."""
        return {name: _decibels(value / self.pixels) for name, value in self.single.items()}

    def psnr_of_mean(self) -> dict[str, float]:
        """Peak signal-to-noise ratio of the mean of all samples of each panel, dB."""
        return {name: _decibels(value / self.pixels) for name, value in self.mean.items()}

    def spread(self) -> dict[str, float]:
        """Standard deviation over the samples of each panel: root of the mean variance of a pixel, in 0..1."""
        return {name: (value / self.pixels) ** 0.5 for name, value in self.variance.items()}


def psnr(frames: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio of frames in 0..1, clipped to it, dB."""
    return _decibels(float((frames.clamp(0, 1) - truth).double().square().mean()))


def _decibels(error: float) -> float:
    return -10 * math.log10(max(error, 1e-12))


Decoder = Callable[[Tensor, int], Tensor]
"""(tokens [B, K, C], id of the first) -> pixels [B, K, P], or samples of them [S, B, K, P]."""


def decode(
    model: PredictiveModel,
    decoder: Decoder,
    windows: Tensor,
    context: int,
    mean: Tensor,
    runtime: Runtime | None = None,
) -> Decoded:
    """Decode true, predicted and mean tokens of what follows the context.

    Args:
        model: of `predictive_model`.
        decoder: of `fit_ridge` or `fit_flow`.
        windows: uint8 [B, 3, T, H, W].
        context: visible frames, whole tubelets.
        mean: of `mean_tokens`, [N, C].
        runtime: autocast to use; None: float32.
    """
    clips = normalize(windows.to(model.device))
    first = context // model.config.tubelet_size * model.grid.tokens_per_frame
    true = target_tokens(model, clips, runtime)[:, first:].cpu()
    expected = predicted_tokens(model, clips, context, runtime).cpu()
    usual = mean[first:].expand(len(clips), -1, -1)

    def frames(tokens: Tensor) -> Tensor:
        pixels = decoder(tokens, first)
        samples = pixels if pixels.ndim == 4 else pixels[None]
        return torch.stack([pixels_to_frames(sample, model) for sample in samples])

    truth = windows[:, :, context:].float() / 255
    return Decoded(truth, frames(true), frames(expected), frames(usual), context)
