"""The loss of feature prediction (Bardes et al. 2024, equation 1; spec section 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from openvjepa.grid import TokenGrid


def normalize_targets(features: Tensor, levels: int = 1) -> Tensor:
    """Layer norm of each level's channels without affine, eps 1e-5, in float32: [B, N, levels * D] -> the same shape."""
    split = features.float().unflatten(-1, (levels, -1))
    return F.layer_norm(split, split.shape[-1:]).flatten(-2)


def prediction_loss(prediction: Tensor, target: Tensor, loss_exp: float, weight: Tensor | None = None) -> Tensor:
    """Mean of |prediction - target| ** loss_exp / loss_exp over batch, tokens and channels; 1: L1.

    Args:
        prediction: [B, K, D].
        target: [B, K, D].
        loss_exp: exponent.
        weight: of each token, [B, K]; the mean is still over the number of tokens.
    """
    errors = (prediction.float() - target).abs() ** loss_exp
    return (errors if weight is None else errors * weight[..., None]).mean() / loss_exp


def distance_weight(visible: Tensor, predicted: Tensor, grid: TokenGrid) -> Tensor:
    """1 / sqrt(distance to the nearest predicted token) of every visible one, in tokens (spec vjepa21, section 4).

    Args:
        visible: ids int64 [B, Ke].
        predicted: ids int64 [B, Kp].
        grid: what the ids count through.

    Returns:
        [B, Ke], at most 1 for ids that are not predicted themselves.
    """
    distances = torch.cdist(_places(visible, grid), _places(predicted, grid), compute_mode=_EXACT)
    return distances.amin(dim=-1).rsqrt()


_EXACT = "donot_use_mm_for_euclid_dist"


def _places(ids: Tensor, grid: TokenGrid) -> Tensor:
    """Time, row and column of tokens [B, K] -> float [B, K, 3]."""
    return torch.stack((ids // grid.tokens_per_frame, ids % grid.tokens_per_frame // grid.w, ids % grid.w), -1).float()


def variance_term(predictions: list[Tensor]) -> Tensor:
    """How far the standard deviation over a sample's tokens falls below 1, mean over samples and channels.

    The deviation (unbiased, + 1e-4 under the root) is averaged over the masks first; a single token has none.

    Args:
        predictions: one [B, K, D] for each mask.
    """
    deviations = [(p.float().var(dim=1, correction=min(1, p.shape[1] - 1)) + 1e-4).sqrt() for p in predictions]
    return F.relu(1 - sum(deviations[1:], deviations[0]) / len(deviations)).mean()


def sigreg(tokens: Tensor, *, directions: int = 64) -> Tensor:
    """How far the tokens are from an isotropic standard normal distribution (SIGReg, Balestriero and LeCun 2025).

    Along random directions the empirical characteristic function is compared with that of N(0, 1) at nine points,
    weighted by it (Epps-Pulley). Draws from torch's global generator.

    Args:
        tokens: [B, K, D].
    """
    flat = tokens.float().flatten(0, 1)
    axes = F.normalize(torch.randn(flat.shape[1], directions, device=flat.device), dim=0)
    points = torch.linspace(0.2, 3.0, 9, device=flat.device)
    angles = (flat @ axes)[..., None] * points  # [B * K, directions, points]
    normal = torch.exp(-points.square() / 2)
    return (((angles.cos().mean(0) - normal).square() + angles.sin().mean(0).square()) * normal).mean()
