"""The action-conditioned predictor of V-JEPA 2-AC: the next frame's features from actions and states (Assran et al. 2025).

Shapes: B clips, T time steps of h * w tokens of D channels; P channels inside the predictor.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openvjepa.config import ModelConfig
from openvjepa.errors import ConfigError
from openvjepa.model.blocks.layers import ENCODER_EPS, Block, init_weights, rescale_blocks
from openvjepa.model.blocks.positions import RopeTable, make_rope

ACTION_DIM = STATE_DIM = 7
"""Of a robot arm: position, rotation, gripper."""
EXTRINSICS_DIM = 6
"""Of the camera."""


class ActionPredictor(nn.Module):
    """Predicts the features of the next time step of every time step it is shown.

    Each step is the sequence [action, state, its h * w tokens]; a token sees all tokens of its own and of earlier steps.
    Parameters carry the names of Meta's files.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.positions == "sincos":
            raise ConfigError("an action-conditioned predictor has rotary positions: set positions to rope-tiled")
        self.table: RopeTable = config.positions
        self.grid = config.grid
        dim, embed_dim = config.predictor_embed_dim, config.dims.embed_dim
        self.num_heads = config.predictor_heads
        self.predictor_embed = nn.Linear(embed_dim, dim)
        self.action_encoder = nn.Linear(ACTION_DIM, dim)
        self.state_encoder = nn.Linear(STATE_DIM, dim)
        self.extrinsics_encoder = nn.Linear(EXTRINSICS_DIM, dim)
        self.predictor_blocks = nn.ModuleList(Block(dim, self.num_heads, 4.0) for _ in range(config.predictor_depth))
        self.predictor_norm = nn.LayerNorm(dim, eps=ENCODER_EPS)
        self.predictor_proj = nn.Linear(dim, embed_dim)
        self.apply(init_weights)
        rescale_blocks(self.predictor_blocks)

    def forward(self, tokens: Tensor, actions: Tensor, states: Tensor, extrinsics: Tensor | None = None) -> Tensor:
        """Features of the following step, for every step.

        Args:
            tokens: encoder tokens [B, T * h * w, D].
            actions: [B, T, 7].
            states: [B, T, 7].
            extrinsics: [B, T, 6]; None: not given to the predictor.

        Returns:
            [B, T * h * w, D].

        Raises:
            ConfigError: the tokens are no whole number of steps, or there are not as many actions and states.
        """
        steps, rest = divmod(tokens.shape[1], self.grid.tokens_per_frame)
        conditions = [self.action_encoder(actions), self.state_encoder(states)]
        if extrinsics is not None:
            conditions.append(self.extrinsics_encoder(extrinsics))
        if rest or any(c.shape[1] != steps for c in conditions):
            raise ConfigError(
                f"{tokens.shape[1]} tokens are {tokens.shape[1] / self.grid.tokens_per_frame:g} steps of "
                f"{self.grid.tokens_per_frame} tokens, with {actions.shape[1]} actions and {states.shape[1]} states"
            )
        frames = self.predictor_embed(tokens).unflatten(1, (steps, -1))
        x = torch.cat([*(c[:, :, None] for c in conditions), frames], dim=2)  # [B, T, conditions + h * w, P]
        places = self._places(steps, len(conditions), x.device)
        rope = make_rope(places, x.shape[-1] // self.num_heads, self.table, x.dtype)
        may_see = places[0][0][:, None] >= places[0][0]
        x = x.flatten(1, 2)
        for block in self.predictor_blocks:
            x = block(x, rope, may_see)
        x = torch.unflatten(x, 1, (steps, -1))[:, :, len(conditions) :].flatten(1, 2)
        return self.predictor_proj(self.predictor_norm(x))

    def _places(self, steps: int, conditions: int, device: torch.device) -> list[Tensor]:
        """Time, row and column of the sequence, [1, K] each; actions and states stand at row 0 and column 0."""
        patch = torch.arange(self.grid.tokens_per_frame, device=device)
        at_corner = patch.new_zeros(conditions)
        row = torch.cat([at_corner, patch // self.grid.w]).repeat(steps)
        column = torch.cat([at_corner, patch % self.grid.w]).repeat(steps)
        time = torch.arange(steps, device=device).repeat_interleave(conditions + len(patch))
        return [time[None], row[None], column[None]]
