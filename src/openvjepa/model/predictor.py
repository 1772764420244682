"""The predictor: a narrow ViT that fills in the representation of masked tokens (Bardes et al. 2024, section 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvjepa.config import ModelConfig
from openvjepa.grid import TokenGrid
from openvjepa.model.blocks.layers import (
    ENCODER_EPS,
    Block,
    gather_tokens,
    init_weights,
    modality_embeddings,
    rescale_blocks,
    run_block,
)
from openvjepa.model.blocks.positions import Rope, position_codes, rope_of


class TokenPredictions(NamedTuple):
    """What a predictor says of the tokens of a clip."""

    masked: Tensor
    """Of the tokens to predict, [B, Kp, out_dim]."""
    visible: Tensor
    """Of the context tokens, [B, Ke, out_dim]; from a projection of its own if the model has one (`predict_context`)."""


class Predictor(nn.Module):
    """Predicts the target encoder's features at masked positions from the context tokens.

    The sequence is the context and, for every target, a learned mask token in its place. V-JEPA 1 adds position codes and
    V-JEPA 2 rotates queries and keys, with the tokens sorted by place. V-JEPA 2.1 can read and predict several levels of the
    encoder at once, tells images from videos, and has a second output for the context. Parameters carry the names of
    Meta's files.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim, embed_dim = config.predictor_embed_dim, config.dims.embed_dim
        levels = config.predictor_levels
        out_dim = config.predictor_out_dim or levels * embed_dim
        self.checkpointing = False
        self.predictor_embed: nn.Module = nn.Linear(embed_dim, dim)
        if levels > 1:
            self.predictor_embed = nn.Sequential(
                nn.Linear(levels * embed_dim, embed_dim), nn.GELU(), nn.Linear(embed_dim, dim)
            )
        self.mask_tokens = nn.ParameterList(nn.Parameter(torch.zeros(1, 1, dim)) for _ in range(config.num_mask_tokens))
        if config.positions == "sincos":
            self.predictor_pos_embed = nn.Parameter(position_codes(dim, config), requires_grad=False)
        if config.modality_embed:
            self.img_mod_embed, self.video_mod_embed = modality_embeddings(dim)
        self.predictor_blocks = nn.ModuleList(
            Block(dim, config.predictor_heads, 4.0) for _ in range(config.predictor_depth)
        )
        self.predictor_norm = nn.LayerNorm(dim, eps=ENCODER_EPS)
        self.predictor_proj = nn.Linear(dim, out_dim)
        if config.predict_context:
            self.predictor_proj_context = nn.Linear(dim, out_dim)
        self.apply(init_weights)
        if config.positions != "sincos":
            rescale_blocks(self.predictor_blocks)

    def forward(
        self,
        context: Tensor,
        enc_ids: Tensor,
        pred_ids: Tensor,
        mask_index: int = 0,
        *,
        grid: TokenGrid | None = None,
        image: bool = False,
        noisy_targets: Tensor | None = None,
    ) -> TokenPredictions:
        """Predicted features.

        Args:
            context: encoder tokens [B, Ke, levels * D].
            enc_ids: int64 [B, Ke], where they stand in the grid.
            pred_ids: int64 [B, Kp], which tokens to predict.
            mask_index: which mask token to use, modulo their number.
            grid: what the ids count through; None: the grid of the configuration, the only one that sin-cos codes have.
            image: the tokens are those of an image (V-JEPA 2.1).
            noisy_targets: target features [B, Kp, D] in place of mask tokens, which are made noisy here, where the model
                has no mask tokens (V-JEPA 1's diffusion option).

        Returns:
            Features of the masked tokens [B, Kp, out_dim] and of the visible ones [B, Ke, out_dim].
        """
        seen = self.predictor_embed(context)
        if noisy_targets is None:
            masked = self.mask_tokens[mask_index % len(self.mask_tokens)].expand(*pred_ids.shape, -1)
        else:
            masked = diffuse(self.predictor_embed(noisy_targets))
        x, ids = torch.cat([seen, masked.to(seen.dtype)], dim=1), torch.cat([enc_ids, pred_ids], dim=1)
        if self.config.positions == "sincos":
            x = x + gather_tokens(self.predictor_pos_embed.expand(len(x), -1, -1), ids)
            x = self._blocks(x, None)
        else:
            order = ids.argsort(dim=1)
            x = self._blocks(gather_tokens(x, order), self._rope(ids.gather(1, order), grid, x), image=image)
            x = gather_tokens(x, order.argsort(dim=1))
        x = self.predictor_norm(x)
        seen, masked = x[:, : enc_ids.shape[1]], x[:, enc_ids.shape[1] :]
        of_context = self.predictor_proj_context if self.config.predict_context else self.predictor_proj
        return TokenPredictions(self.predictor_proj(masked), of_context(seen))

    def _rope(self, ids: Tensor, grid: TokenGrid | None, x: Tensor) -> Rope | None:
        interpolate = self.config.predictor_interpolate_rope
        return rope_of(
            self.config, ids, grid or self.config.grid, self.config.predictor_heads, x, interpolate=interpolate
        )

    def _blocks(self, x: Tensor, rope: Rope | None, *, image: bool = False) -> Tensor:
        if self.config.modality_embed:
            x = x + (self.img_mod_embed if image else self.video_mod_embed)
        for block in self.predictor_blocks:
            x = run_block(block, x, rope, checkpointing=self.checkpointing)
        return x


def diffuse(targets: Tensor) -> Tensor:
    """Embedded targets [B, K, P], normalized and mixed with noise of a random strength for each sample (an option of V-JEPA 1).

    Draws from torch's global generator: the strength, then the noise.
    """
    beta = 0.5 + torch.arange(1000) * (0.5 / 1000)
    strength = (1 - beta).cumprod(0)[torch.randint(0, 1000, (len(targets),))].to(targets.device)[:, None, None]
    noise = torch.randn(targets.shape).to(targets)
    return strength.sqrt() * F.layer_norm(targets, targets.shape[-1:]) + (1 - strength).sqrt() * noise
