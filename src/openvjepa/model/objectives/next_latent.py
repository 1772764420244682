"""Prediction of the next latent (LeWorldModel, arXiv 2603.19312), with a term for the variance within a clip.

Each time step of a clip has one latent: the mean of its tokens, projected. A small causal predictor gives the latent of the
next step from those so far; the loss is the mean squared error, and the gradient flows into both sides. SIGReg at each time
step keeps the latents from collapsing to a point. It does not keep them from collapsing *within* a clip to what never
changes in it (color, background), which is easy to predict and normal over a batch: the slow-feature trap (Sobal et al. 2022,
arXiv 2211.10831). The term `within` closes it: what is left of the latents without the clip's mean must be normal over the
batch, too, at the first and the last step, and must keep a standard deviation of 0.5 at each.

Shapes: B clips, t time steps, P tokens of a step, D channels, d channels of a latent.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvjepa.config import ModelConfig, ObjectiveConfig
from openvjepa.errors import ConfigError
from openvjepa.model.blocks.layers import Block
from openvjepa.model.objectives.sigreg import random_directions, sigreg
from openvjepa.model.objectives.statistics import Projector, batch_std
from openvjepa.model.objectives.terms import Terms

LEAST_STD = 0.5
"""Standard deviation that the latents should keep around the mean of their clip."""


class LatentPredictor(nn.Module):
    """Causal transformer over the latents of a clip.

    Args:
        dim: d.
        steps: largest t.
        width: channels inside, in heads of 32.
        depth: number of blocks.
    """

    def __init__(self, dim: int, steps: int, *, width: int = 128, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(dim, width)
        self.time_embed = nn.Parameter(torch.zeros(steps, width))
        self.blocks = nn.ModuleList(Block(width, max(1, width // 32), 2.0) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, dim)

    def forward(self, latents: Tensor) -> Tensor:
        """[B, t, d] -> [B, t, d]: at each step, the prediction of the next one."""
        count = latents.shape[1]
        causal = torch.ones(count, count, dtype=torch.bool, device=latents.device).tril()
        x = self.embed(latents) + self.time_embed[:count]
        for block in self.blocks:
            x = block(x, None, causal)
        return self.out(self.norm(x))


class NextLatent(nn.Module):
    """Projector, causal predictor and the loss.

    Raises:
        ConfigError: a clip of the model has a single time step.
    """

    def __init__(self, config: ModelConfig, objective: ObjectiveConfig) -> None:
        super().__init__()
        if config.grid.t < 2:
            raise ConfigError("prediction of the next latent needs clips of at least two tubelets: raise num_frames")
        self.objective = objective
        width = objective.projector_dim
        self.projector = Projector(config.dims.embed_dim, objective.projector_hidden, width, final_norm=True)
        self.predictor = LatentPredictor(width, config.grid.t)

    def forward(self, tokens: Tensor, generator: torch.Generator) -> Terms:
        """Terms of the loss of a batch.

        Args:
            tokens: [B, t, P, D].
            generator: draws SIGReg's directions.

        Returns:
            loss_next, loss_step_sigreg, and loss_within where it is used.
        """
        objective = self.objective
        latents = self.projector(tokens.float().mean(2).flatten(0, 1)).unflatten(0, tokens.shape[:2])  # [B, t, d]
        directions = random_directions(latents.shape[-1], objective.directions, generator)
        predicted = self.predictor(latents[:, :-1]).float()
        terms: Terms = {
            "loss_next": (objective.next_coeff, F.mse_loss(predicted, latents[:, 1:])),
            "loss_step_sigreg": (objective.step_sigreg_coeff, sigreg(latents, directions)),
        }
        if objective.within_coeff:
            spread, short = within_clip(latents, directions)
            terms["loss_within_sigreg"] = objective.within_coeff * objective.step_sigreg_coeff, spread
            terms["loss_within_std"] = objective.within_coeff, short
        return terms


def within_clip(latents: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """How far the latents are from varying freely around the mean of their clip.

    Args:
        latents: [B, t, d].
        directions: of SIGReg, [d, M].

    Returns:
        SIGReg of the first and of the last latent (mean of the two), each without the clip's mean and scaled by one common
        factor to a mean standard deviation of 1; and how far the standard deviations over the batch, step by step and
        channel by channel, fall short of 0.5 on average.
    """
    rest = latents - latents.mean(1, keepdim=True)
    std = batch_std(rest)  # [t, d]
    scaled = rest[:, [0, -1]] / (std.mean().detach() + 1e-3)
    return sigreg(scaled, directions), F.relu(LEAST_STD - std).mean()
