"""The predictor: a narrow ViT that fills in the representation of masked tokens (spec section 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openvjepa.config import ModelConfig
from openvjepa.model.layers import ENCODER_EPS, Block, gather_tokens, init_weights
from openvjepa.model.positions import position_codes


class Predictor(nn.Module):
    """Predicts the target encoder's features at masked positions from the context tokens.

    The sequence is [context, targets]; a target is a learned mask token, one for each mask configuration, plus its
    position. Parameters carry the names of Meta's files.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, embed_dim = config.predictor_embed_dim, config.dims.embed_dim
        self.predictor_embed = nn.Linear(embed_dim, dim)
        self.mask_tokens = nn.ParameterList(nn.Parameter(torch.zeros(1, 1, dim)) for _ in range(config.num_mask_tokens))
        self.predictor_pos_embed = nn.Parameter(position_codes(dim, config), requires_grad=False)
        self.predictor_blocks = nn.ModuleList(
            Block(dim, config.predictor_heads, 4.0) for _ in range(config.predictor_depth)
        )
        self.predictor_norm = nn.LayerNorm(dim, eps=ENCODER_EPS)
        self.predictor_proj = nn.Linear(dim, embed_dim)
        self.apply(init_weights)

    def forward(self, context: Tensor, enc_ids: Tensor, pred_ids: Tensor, mask_index: int = 0) -> Tensor:
        """Predicted features.

        Args:
            context: encoder tokens [B, Ke, D].
            enc_ids: int64 [B, Ke], where they stand in the grid of the configuration (the predictor has no other).
            pred_ids: int64 [B, Kp], which tokens to predict.
            mask_index: which mask token to use, modulo their number.

        Returns:
            [B, Kp, D].
        """
        codes = self.predictor_pos_embed.expand(len(context), -1, -1)
        mask_token = self.mask_tokens[mask_index % len(self.mask_tokens)]
        seen = self.predictor_embed(context) + gather_tokens(codes, enc_ids)
        masked = mask_token + gather_tokens(codes, pred_ids)
        x = torch.cat([seen, masked], dim=1)
        for block in self.predictor_blocks:
            x = block(x)
        return self.predictor_proj(self.predictor_norm(x[:, enc_ids.shape[1] :]))
