"""Tokens back to pixels by ridge regression, in closed form (V-JEPA paper, section on decoding, for what is shown).

One pass over the tokens sums the Gram matrix; lambda minimizes the generalized cross-validation error (Golub, Heath and
Wahba 1979). Encoder and predictor are frozen. Shapes: n tokens of C channels, P values of a tubelet's pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    """Windows decoded after a context of `context` frames; frames float [B, 3, T - context, H, W], 0..1."""

    truth: Tensor
    true_tokens: Tensor
    predicted_tokens: Tensor
    mean_tokens: Tensor
    context: int

    def psnr(self) -> dict[str, float]:
        """Peak signal-to-noise ratio of each decoded panel over all its pixels, dB."""
        panels = {"true": self.true_tokens, "predicted": self.predicted_tokens, "mean": self.mean_tokens}
        return {name: psnr(panel, self.truth) for name, panel in panels.items()}


def psnr(frames: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio of frames in 0..1, clipped to it, dB."""
    error = (frames.clamp(0, 1) - truth).double().square().mean()
    return float(-10 * torch.log10(error.clamp(min=1e-12)))


def decode(
    model: PredictiveModel,
    decoder: RidgeDecoder,
    windows: Tensor,
    context: int,
    mean: Tensor,
    runtime: Runtime | None = None,
) -> Decoded:
    """Decode true, predicted and mean tokens of what follows the context.

    Args:
        model: of `predictive_model`.
        decoder: of `fit_ridge`.
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
    a, b, c = (pixels_to_frames(decoder(tokens, first), model) for tokens in (true, expected, usual))
    return Decoded(windows[:, :, context:].float() / 255, a, b, c, context)
