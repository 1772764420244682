"""The attentive probe: a learned query reads the frozen tokens (spec section 6, V-JEPA 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openvjepa.model.layers import Block, CrossAttention, CrossAttentionBlock, init_weights, trunc_normal_

PROBE_EPS = 1e-5
"""LayerNorm epsilon of the probes (encoder and predictor: 1e-6)."""


class AttentivePooler(nn.Module):
    """One learned query attends to all tokens; further blocks (depth - 1) work on the query.

    complete_block=False is cross-attention alone, without residual and MLP. apply_projection=True is nano-JEPA's
    variant.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        depth: int = 1,
        complete_block: bool = True,
        apply_projection: bool = False,
    ) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, 1, embed_dim))
        if complete_block:
            self.cross_attention_block: nn.Module = CrossAttentionBlock(
                embed_dim, num_heads, 4.0, eps=PROBE_EPS, apply_projection=apply_projection
            )
        else:
            self.cross_attention_block = CrossAttention(embed_dim, num_heads, apply_projection=apply_projection)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, 4.0, eps=PROBE_EPS) for _ in range(depth - 1))
        self.apply(init_weights)
        trunc_normal_(self.query_tokens, std=0.02)
        self._rescale()

    @torch.no_grad()
    def _rescale(self) -> None:
        """Divides the output layers by sqrt(2 l), l counting the blocks from the cross-attention on."""
        block = self.cross_attention_block
        if isinstance(block, CrossAttentionBlock):
            block.xattn.proj.weight.div_(2**0.5)
            block.mlp.fc2.weight.div_(2**0.5)
        for number, block in enumerate(self.blocks, start=2):
            assert isinstance(block, Block)
            block.attn.proj.weight.div_((2 * number) ** 0.5)
            block.mlp.fc2.weight.div_((2 * number) ** 0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [B, D]."""
        query = self.cross_attention_block(self.query_tokens.expand(len(tokens), -1, -1), tokens)
        for block in self.blocks:
            query = block(query)
        return query[:, 0]


class AttentiveClassifier(nn.Module):
    """Attentive pooler and a linear layer."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_classes: int,
        *,
        depth: int = 1,
        complete_block: bool = True,
        apply_projection: bool = False,
    ) -> None:
        super().__init__()
        self.pooler = AttentivePooler(
            embed_dim, num_heads, depth=depth, complete_block=complete_block, apply_projection=apply_projection
        )
        self.linear = nn.Linear(embed_dim, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> logits [B, classes]."""
        return self.linear(self.pooler(tokens))
