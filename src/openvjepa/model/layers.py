"""The layers that encoder, predictor and probes share (spec section 1.2).

Shapes: B clips, N tokens, D channels, h heads.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ENCODER_EPS = 1e-6
"""LayerNorm epsilon of encoder and predictor (probes: 1e-5)."""


def gather_tokens(x: Tensor, ids: Tensor) -> Tensor:
    """Tokens [B, N, D] at int64 ids [B, K] -> [B, K, D]."""
    return x.gather(1, ids[..., None].expand(-1, -1, x.shape[-1]))


def heads_first(x: Tensor, num_heads: int) -> Tensor:
    """[B, N, D] -> [B, h, N, D / h]."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


class Mlp(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, dim: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(round(dim * mlp_ratio, 6))  # a ratio read off a file, hidden / dim, gives hidden again
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        return self.fc2(F.gelu(self.fc1(x)))


class Attention(nn.Module):
    """Multi-head self-attention; the output of `qkv` is all queries, then all keys, then all values."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        q, k, v = (heads_first(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, *, eps: float = ENCODER_EPS) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CrossAttention(nn.Module):
    """Queries [B, Q, D] read tokens [B, N, D].

    V-JEPA 1 has an output projection in its files that its forward pass skips, and the published probes were trained
    so; nano-JEPA applies it. `apply_projection` says which (spec section 6).
    """

    def __init__(self, dim: int, num_heads: int, *, apply_projection: bool = False) -> None:
        super().__init__()
        self.num_heads, self.apply_projection = num_heads, apply_projection
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """[B, Q, D], [B, N, D] -> [B, Q, D]."""
        q = heads_first(self.q(queries), self.num_heads)
        k, v = (heads_first(part, self.num_heads) for part in self.kv(tokens).chunk(2, dim=-1))
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.proj(out) if self.apply_projection else out


class CrossAttentionBlock(nn.Module):
    """Cross-attention and MLP around a residual stream of queries, which are not normalised before the attention."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, *, eps: float, apply_projection: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.xattn = CrossAttention(dim, num_heads, apply_projection=apply_projection)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, mlp_ratio)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """[B, Q, D], [B, N, D] -> [B, Q, D]."""
        queries = queries + self.xattn(queries, self.norm1(tokens))
        return queries + self.mlp(self.norm2(queries))


@torch.no_grad()
def trunc_normal_(tensor: Tensor, std: float, bound: float = 2.0) -> Tensor:
    """Fill with draws of N(0, std^2), cut at the absolute values -bound and bound, by the inverse of its distribution.

    The reference's method (spec 1.3), written out because torch's own has changed: a seed gives the same weights with
    every version. Draws from torch's global generator.
    """
    edge = math.erf(bound / (std * math.sqrt(2)))
    inside = 1 - 2**-24  # the inverse of exactly -1 is infinite: a weight of -bound, drawn once in 2 ** 24
    tensor.uniform_(-edge, edge).clamp_(-inside, inside)
    return tensor.erfinv_().mul_(std * math.sqrt(2)).clamp_(-bound, bound)


def init_weights(module: nn.Module) -> None:
    """Truncated normal of 0.02 for linear layers and convolutions, zero biases (use with `Module.apply`).

    V-JEPA 1 re-initialises its linear layers after construction, so its depth rescaling has no effect (spec 1.3).
    """
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
