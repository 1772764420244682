"""The attentive probe: a learned query reads the frozen tokens (spec section 6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openvjepa.config import ModelConfig
from openvjepa.model.layers import (
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
