"""Statistics over the batch of all processes, and the projector whose batch norm uses them.

The batch of these statistics is the clips of one pass times the processes: with gradient accumulation it is a micro-batch,
not the batch of the optimizer step. B rows a process, D channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

BATCH_NORM_EPS = 1e-5


def processes() -> int:
    """Number of processes that share a batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _MeanOverProcesses(torch.autograd.Function):
    """Mean of a tensor over the processes; so is its gradient, which is what the sum of all processes' losses asks for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()


def batch_mean(x: Tensor) -> Tensor:
    """Mean over the first axis and over all processes, which hold equally many rows: [B, ...] -> [...].

    Differentiable. With gradients averaged over the processes, as DistributedDataParallel does, a loss of such means has
    the gradient of one process that holds all rows.
    """
    mean = x.mean(0)
    return mean if processes() == 1 else _MeanOverProcesses.apply(mean)  # pyright: ignore[reportReturnType]


def batch_size(x: Tensor) -> int:
    """Rows of x over all processes."""
    return len(x) * processes()


def batch_std(x: Tensor) -> Tensor:
    """Standard deviation over the first axis and all processes (biased, 1e-6 under the root): [B, ...] -> [...]."""
    return (batch_mean((x - batch_mean(x)).square()) + 1e-6).sqrt()


class BatchNorm(nn.Module):
    """Batch norm over rows of all processes, without running statistics: projectors are used in training alone.

    Args:
        dim: D.
        affine: learn a scale and a shift.
    """

    def __init__(self, dim: int, *, affine: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim)) if affine else None
        self.bias = nn.Parameter(torch.zeros(dim)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, D] -> float32 [B, D]."""
        x = x.float()
        if processes() == 1:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=BATCH_NORM_EPS)
        centered = x - batch_mean(x)
        normed = centered * (batch_mean(centered.square()) + BATCH_NORM_EPS).rsqrt()
        return normed if self.weight is None or self.bias is None else normed * self.weight + self.bias


class Projector(nn.Sequential):
    """Linear, batch norm, GELU, Linear and, with `final_norm`, batch norm without scale: [B, D] -> [B, out].

    Args:
        dim: D.
        hidden: width between the layers.
        out: width of the result.
        final_norm: every channel of the result has mean 0 and variance 1 over the batch (LeWorldModel).
    """

    def __init__(self, dim: int, hidden: int, out: int, *, final_norm: bool) -> None:
        layers: list[nn.Module] = [nn.Linear(dim, hidden), BatchNorm(hidden), nn.GELU(), nn.Linear(hidden, out)]
        super().__init__(*layers, *([BatchNorm(out, affine=False)] if final_norm else []))
