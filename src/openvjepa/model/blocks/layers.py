"""The layers that encoder, predictor and probes share (Meta's jepa and vjepa2, src/models/utils/modules.py).

Shapes: B clips, N tokens, D channels, h heads.
"""

from __future__ import annotations

import math
import shutil
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from openvjepa.errors import ConfigError
from openvjepa.model.blocks.kernels import attention
from openvjepa.model.blocks.positions import Rope

ENCODER_EPS = 1e-6
"""LayerNorm epsilon of encoder and predictor (probes: 1e-5)."""


def gather_tokens(x: Tensor, ids: Tensor) -> Tensor:
    """Tokens [B, N, D] at int64 ids [B, K] -> [B, K, D]."""
    return x.gather(1, ids[..., None].expand(-1, -1, x.shape[-1]))


def heads_first(x: Tensor, num_heads: int) -> Tensor:
    """[B, N, D] -> [B, h, N, D / h]."""
    return torch.unflatten(x, -1, (num_heads, -1)).transpose(1, 2)


def hidden_width(dim: int, mlp_ratio: float) -> int:
    """Hidden width of an MLP; a ratio read off a file, hidden / dim, gives hidden again."""
    return int(round(dim * mlp_ratio, 6))


class Mlp(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, dim: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = hidden_width(dim, mlp_ratio)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """fc3(SiLU(fc1 x) * fc2 x): V-JEPA 2's option use_silu, which no released model uses."""

    def __init__(self, dim: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = hidden_width(dim, mlp_ratio)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(dim, hidden)
        self.fc3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        return self.fc3(F.silu(self.fc1(x)) * self.fc2(x))


class Attention(nn.Module):
    """Multi-head self-attention; the output of `qkv` is all queries, then all keys, then all values."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: Rope | None = None, mask: Tensor | None = None) -> Tensor:
        """[B, N, D] -> [B, N, D]; `rope` rotates queries and keys; bool `mask`, [N, N] or
        [B, 1, N, N], says who may look at whom."""
        q, k, v = (heads_first(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        if rope is not None:  # its tables may be of higher precision
            q, k = rope(q).to(v.dtype), rope(k).to(v.dtype)
        return self.proj(attention(q, k, v, mask).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, *, eps: float = ENCODER_EPS, swiglu: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = (SwiGLU if swiglu else Mlp)(dim, mlp_ratio)

    def forward(self, x: Tensor, rope: Rope | None = None, mask: Tensor | None = None) -> Tensor:
        """[B, N, D] -> [B, N, D]; `rope` and `mask` as for Attention."""
        x = x + self.attn(self.norm1(x), rope, mask)
        return x + self.mlp(self.norm2(x))


def run_block(
    block: nn.Module, x: Tensor, rope: Rope | None, mask: Tensor | None = None, *, checkpointing: bool
) -> Tensor:
    """[B, N, D] -> [B, N, D]. With checkpointing, the inside of the block is forgotten and computed again for the gradient:
    less memory, same numbers."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(block, x, rope, mask, use_reentrant=False, preserve_rng_state=False)
    return block(x, rope, mask)


COMPILERS = ("g++", "clang++", "c++", "gcc", "clang", "cl")
"""Of which torch.compile needs one, on GPUs too."""


def compile_blocks(model: nn.Module) -> None:
    """Compiles the transformer blocks of a model in place, for any number of tokens; its state stays as it is.

    Raises:
        ConfigError: this computer has no compiler.
    """
    if not any(shutil.which(name) for name in COMPILERS):
        raise ConfigError("torch.compile needs a C++ compiler (g++, clang++ or cl): install one, or leave compile out")
    for block in model.modules():
        if isinstance(block, Block):
            block.compile(dynamic=True)


ProbeStyle = Literal["v1", "nano", "v2"]
"""How an attentive probe is built. v1: the cross-attention has an output projection in the file that the
forward pass skips, and further blocks work on the query. nano: as v1, projection applied (nano-JEPA). v2: no projection, and
further blocks work on the tokens, before the cross-attention (V-JEPA 2, Hugging Face)."""


class CrossAttention(nn.Module):
    """Queries [B, Q, D] read tokens [B, N, D]; `style` says what becomes of the output projection."""

    def __init__(self, dim: int, num_heads: int, *, style: ProbeStyle = "v1") -> None:
        super().__init__()
        self.num_heads, self.style = num_heads, style
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim) if style != "v2" else None

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """[B, Q, D], [B, N, D] -> [B, Q, D]."""
        q = heads_first(self.q(queries), self.num_heads)
        k, v = (heads_first(part, self.num_heads) for part in self.kv(tokens).chunk(2, dim=-1))
        out = attention(q, k, v).transpose(1, 2).flatten(2)
        return self.proj(out) if self.style == "nano" and self.proj is not None else out


class CrossAttentionBlock(nn.Module):
    """Cross-attention and MLP around a residual stream of queries, which are not normalized before the attention."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, *, eps: float, style: ProbeStyle) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.xattn = CrossAttention(dim, num_heads, style=style)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, mlp_ratio)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """[B, Q, D], [B, N, D] -> [B, Q, D]."""
        queries = queries + self.xattn(queries, self.norm1(tokens))
        return queries + self.mlp(self.norm2(queries))


@torch.no_grad()
def trunc_normal_(tensor: Tensor, std: float, bound: float = 2.0) -> Tensor:
    """Fill with draws of N(0, std^2), cut at the absolute values -bound and bound, by the inverse of its distribution.

    The reference's method, written out because torch's own has changed: a seed gives the same weights with
    every version. Draws from torch's global generator.
    """
    if tensor.is_meta:  # a model about to be loaded
        return tensor
    edge = math.erf(bound / (std * math.sqrt(2)))
    inside = 1 - 2**-24  # the inverse of exactly -1 is infinite: a weight of -bound, drawn once in 2 ** 24
    tensor.uniform_(-edge, edge).clamp_(-inside, inside)
    return tensor.erfinv_().mul_(std * math.sqrt(2)).clamp_(-bound, bound)


def init_weights(module: nn.Module) -> None:
    """Truncated normal of 0.02 for linear layers and convolutions, zero biases (use with `Module.apply`)."""
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def modality_embeddings(dim: int) -> tuple[nn.Parameter, nn.Parameter]:
    """What is added to all tokens of an image, and of a video: [1, 1, dim] each (V-JEPA 2.1)."""
    return nn.Parameter(1e-6 * torch.randn(1, 1, dim)), nn.Parameter(1e-6 * torch.randn(1, 1, dim))


@torch.no_grad()
def rescale_blocks(blocks: nn.ModuleList, first: int = 1) -> None:
    """Divides the layers that end block number l, counted from `first`, by sqrt(2 l).

    V-JEPA 2 starts so. V-JEPA 1 initializes its linear layers again afterwards, so that it has no effect there. Of a
    SwiGLU it is the second input projection, as in the reference.
    """
    for number, block in enumerate(blocks, start=first):
        assert isinstance(block, Block)
        block.attn.proj.weight.div_((2 * number) ** 0.5)
        block.mlp.fc2.weight.div_((2 * number) ** 0.5)
