"""The loss of feature prediction (Bardes et al. 2024, equation 1; spec section 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def normalize_targets(features: Tensor) -> Tensor:
    """Layer norm over the channels without affine, eps 1e-5, in float32: [B, N, D] -> [B, N, D]."""
    return F.layer_norm(features.float(), features.shape[-1:])


def prediction_loss(prediction: Tensor, target: Tensor, loss_exp: float) -> Tensor:
    """Mean of |prediction - target| ** loss_exp / loss_exp over batch, tokens and channels; 1: L1."""
    return ((prediction.float() - target).abs() ** loss_exp).mean() / loss_exp


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
