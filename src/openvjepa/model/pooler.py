"""The attentive probe: a learned query reads the frozen tokens (Meta's jepa, src/models/attentive_pooler.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvjepa.config import ModelConfig
from openvjepa.errors import ConfigError
from openvjepa.model.blocks.layers import (
    ENCODER_EPS,
    Block,
    CrossAttention,
    CrossAttentionBlock,
    ProbeStyle,
    init_weights,
    rescale_blocks,
    trunc_normal_,
)

PROBE_EPS = 1e-5
"""LayerNorm epsilon of Meta's probes (encoder, predictor and Hugging Face's probes: 1e-6)."""


def probe_eps(config: ModelConfig) -> float:
    """LayerNorm epsilon of a new probe: Meta's, or that of transformers for encoders that transformers runs."""
    return ENCODER_EPS if config.positions == "rope-tiled" else PROBE_EPS


class AttentivePooler(nn.Module):
    """One learned query attends to all tokens; depth - 1 further blocks work on the query, or on the tokens before.

    Args:
        embed_dim: D.
        num_heads: V-JEPA 1 and Hugging Face: those of the encoder; V-JEPA 2: always 16.
        depth: blocks in all.
        complete_block: False is cross-attention alone, without residual and MLP.
        style: see ProbeStyle.
        eps: of the layer norms.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        depth: int = 1,
        complete_block: bool = True,
        style: ProbeStyle = "v1",
        eps: float = PROBE_EPS,
    ) -> None:
        super().__init__()
        self.style: ProbeStyle = style
        self.eps = eps
        self.query_tokens = nn.Parameter(torch.zeros(1, 1, embed_dim))
        if complete_block:
            self.cross_attention_block: nn.Module = CrossAttentionBlock(embed_dim, num_heads, 4.0, eps=eps, style=style)
        else:
            self.cross_attention_block = CrossAttention(embed_dim, num_heads, style=style)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, 4.0, eps=eps) for _ in range(depth - 1))
        self.apply(init_weights)
        trunc_normal_(self.query_tokens, std=0.02)
        self._rescale()

    @torch.no_grad()
    def _rescale(self) -> None:
        """Divides the layers that end block number l by sqrt(2 l); V-JEPA 1 counts from the cross-attention on, 2 from the
        first block on the tokens, with the cross-attention numbered as the last of these."""
        block, depth = self.cross_attention_block, 1 + len(self.blocks)
        number = 1 if self.style != "v2" else max(1, depth - 1)
        if isinstance(block, CrossAttentionBlock):
            if block.xattn.proj is not None:
                block.xattn.proj.weight.div_((2 * number) ** 0.5)
            block.mlp.fc2.weight.div_((2 * number) ** 0.5)
        rescale_blocks(self.blocks, first=1 if self.style == "v2" else 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [B, D]."""
        if self.style == "v2":
            for block in self.blocks:
                tokens = block(tokens)
        query = self.cross_attention_block(self.query_tokens.expand(len(tokens), -1, -1), tokens)
        if self.style != "v2":
            for block in self.blocks:
                query = block(query)
        return query[:, 0]


class AttentiveClassifier(nn.Module):
    """Attentive pooler and a linear layer; arguments as for the pooler."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_classes: int,
        *,
        depth: int = 1,
        complete_block: bool = True,
        style: ProbeStyle = "v1",
        eps: float = PROBE_EPS,
    ) -> None:
        super().__init__()
        self.pooler = AttentivePooler(
            embed_dim, num_heads, depth=depth, complete_block=complete_block, style=style, eps=eps
        )
        self.linear = nn.Linear(embed_dim, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> logits [B, classes]."""
        return self.linear(self.pooler(tokens))


class LinearClassifier(nn.Module):
    """A linear layer on the mean of the tokens."""

    def __init__(self, embed_dim: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embed_dim, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> logits [B, classes]."""
        return self.linear(tokens.mean(1))


class GridClassifier(nn.Module):
    """A linear layer on tokens that are averaged within the cells of a coarse grid: where and when something is, counts.

    Args:
        embed_dim: D.
        num_classes: C.
        tokens: (t, h, w) of the token grid.
        cells: (t, h, w) of the coarse grid; each at most that of the tokens.
    """

    pooling: Tensor

    def __init__(self, embed_dim: int, num_classes: int, *, tokens: Sequence[int], cells: Sequence[int]) -> None:
        super().__init__()
        self.tokens, self.cells = tuple(tokens), tuple(cells)
        self.register_buffer("pooling", cell_means(self.tokens, self.cells), persistent=False)
        self.linear = nn.Linear(embed_dim * math.prod(cells), num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> logits [B, classes].

        Raises:
            ConfigError: the tokens are not those of the grid that the classifier was trained on.
        """
        if tokens.shape[1] != self.pooling.shape[1]:
            t, h, w = self.tokens
            raise ConfigError(
                f"a grid classifier of {t} x {h} x {w} tokens cannot read {tokens.shape[1]}: show it clips of the length and "
                "size that it was trained on"
            )
        return self.linear((self.pooling.to(tokens.dtype) @ tokens).flatten(1))


def cell_means(tokens: Sequence[int], cells: Sequence[int]) -> Tensor:
    """Matrix that averages the tokens of a grid (t, h, w) within the cells of a coarser one: float32 [cells, N].

    Cells that do not divide the grid overlap by a token, as in adaptive average pooling.

    Raises:
        ConfigError: there are more cells than tokens along an axis.
    """
    if len(tokens) != 3 or len(cells) != 3 or any(not 1 <= c <= n for n, c in zip(tokens, cells, strict=True)):
        raise ConfigError(f"a token grid of {tuple(tokens)} cannot be pooled to {tuple(cells)} cells")
    matrix = torch.ones(1, 1)
    for count, parts in zip(tokens, cells, strict=True):
        axis = torch.zeros(parts, count)
        for cell in range(parts):
            first, end = cell * count // parts, -((-(cell + 1) * count) // parts)
            axis[cell, first:end] = 1 / (end - first)
        matrix = torch.kron(matrix, axis)
    return matrix


def average_softmax(logits: Tensor, clips: int) -> Tensor:
    """Logits of clips [..., n * clips, C], the clips of a video one after the other -> probabilities [..., n, C]."""
    return torch.unflatten(logits.softmax(-1), -2, (-1, clips)).mean(-2)


def attentive_logits(heads: Sequence[AttentiveClassifier], tokens: Tensor) -> Tensor:
    """Logits of many attentive probes of depth 1 on the same tokens: [B, N, D] -> [K, B, C].

    The same function as calling each probe, reordered. A probe has one query, so its keys and values need not be made
    for every token: q . (W_k x + b) = (W_k' q) . x + const, where softmax ignores the constant, and
    sum a (W_v x + b) = W_v (sum a x) + b. The weights of the normalization before them fold in likewise. What is left
    for each token is one scalar product per attention head, D / h times cheaper than keys and values.
    """
    blocks: list[Any] = [head.pooler.cross_attention_block for head in heads]
    num_heads = blocks[0].xattn.num_heads
    x = F.layer_norm(tokens, tokens.shape[-1:], eps=heads[0].pooler.eps)

    def stack(pick: Callable[[Any], Tensor]) -> Tensor:
        return torch.stack([pick(block) for block in blocks])

    scale, shift = stack(lambda b: b.norm1.weight), stack(lambda b: b.norm1.bias)  # [K, D]
    query = torch.stack([head.pooler.query_tokens[0, 0] for head in heads])  # [K, D]
    q = torch.baddbmm(stack(lambda b: b.xattn.q.bias)[..., None], stack(lambda b: b.xattn.q.weight), query[..., None])
    key, value = stack(lambda b: b.xattn.kv.weight).chunk(2, dim=1)  # [K, D, D] each
    value_bias = stack(lambda b: b.xattn.kv.bias).chunk(2, dim=1)[1]
    q, key, value = (torch.unflatten(part, 1, (num_heads, -1)) for part in (q[..., 0], key, value))  # [K, h, d(, D)]
    folded = torch.einsum("khd,khdc->khc", q, key) * scale[:, None] / math.sqrt(q.shape[-1])
    attention = (x @ folded.flatten(0, 1).T).softmax(1)  # [B, N, K h]
    pooled = torch.unflatten(attention.transpose(1, 2) @ x, 1, (len(heads), num_heads))  # [B, K, h, D]
    pooled = pooled * scale[:, None] + shift[:, None]
    read = torch.einsum("bkhc,khdc->kbhd", pooled, value).flatten(2) + value_bias[:, None]  # [K, B, D]
    return torch.stack([_after_attention(*parts) for parts in zip(heads, blocks, query, read, strict=True)])


def _after_attention(head: AttentiveClassifier, block: Any, query: Tensor, read: Tensor) -> Tensor:
    """Residual stream, MLP and linear layer of one probe; read [B, D] -> logits [B, C]."""
    state = query + read
    return head.linear(state + block.mlp(block.norm2(state)))
