"""SIGReg: how far vectors are from an isotropic standard normal distribution (Balestriero and LeCun 2025, section 4).

Two forms. `sigreg` is the published one, over a batch of pooled and projected vectors. `token_sigreg` is that of this
project's first recipes, over the tokens of a few clips.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from openvjepa.model.objectives.statistics import batch_mean, batch_size

KNOTS = 17
BOUND = 3.0


def random_directions(dim: int, count: int, generator: torch.Generator) -> Tensor:
    """Unit vectors as columns, [dim, count], drawn on the CPU: the same on every device and in every process."""
    return F.normalize(torch.randn(dim, count, generator=generator), dim=0)


def sigreg(x: Tensor, directions: Tensor) -> Tensor:
    """N times the Epps-Pulley statistic of x along each direction, mean over directions.

    The statistic is the integral over [-3, 3] of |f(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2), where f is the empirical
    characteristic function of N projected vectors, by the trapezoidal rule on 17 knots. The integrand is even, so that the
    knots from 0 on are enough.

    Args:
        x: [B, D] of each process, or [B, S, D]: S sets of vectors, each tested by itself; N counts all processes.
        directions: unit vectors as columns, [D, M].

    Returns:
        A scalar, the mean over sets.
    """
    count = (KNOTS + 1) // 2
    step = BOUND / (count - 1)
    knots = torch.linspace(0, BOUND, count, device=x.device)
    widths = torch.full_like(knots, 2 * step)
    widths[0] = widths[-1] = step
    normal = torch.exp(-knots.square() / 2)
    angles = (x.float() @ directions.to(x.device))[..., None] * knots  # [B, (S,) M, knots]
    real, imaginary = batch_mean(angles.cos()), batch_mean(angles.sin())
    errors = (real - normal).square() + imaginary.square()
    return (errors @ (widths * normal)).mean() * batch_size(x)


def token_sigreg(tokens: Tensor, *, directions: int = 64) -> Tensor:
    """How far the tokens of a batch are from a standard normal distribution, as a mean over nine points in (0, 3].

    It is not the published form: a mean in place of an integral times N, and on tokens in place of pooled and projected
    vectors, where position alone can satisfy it. Draws from torch's global generator.

    Args:
        tokens: [B, K, D].
        directions: number of random directions.
    """
    flat = tokens.float().flatten(0, 1)
    axes = F.normalize(torch.randn(flat.shape[1], directions, device=flat.device), dim=0)
    points = torch.linspace(0.2, 3.0, 9, device=flat.device)
    angles = (flat @ axes)[..., None] * points  # [B * K, directions, points]
    normal = torch.exp(-points.square() / 2)
    return (((angles.cos().mean(0) - normal).square() + angles.sin().mean(0).square()) * normal).mean()
