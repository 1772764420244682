"""Agreement of views (LeJEPA, arXiv 2511.08544; LeVJEPA, arXiv 2608.27395): no target encoder, no predictor.

All views of a clip, crops that differ in place, size and color, should have the vector that its global views have on average;
SIGReg of each view over the batch keeps the vectors from collapsing.

Shapes: V views, B clips, N tokens, D channels, d channels of a vector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openvjepa.config import ModelConfig, ObjectiveConfig
from openvjepa.model.objectives.sigreg import random_directions, sigreg
from openvjepa.model.objectives.statistics import Projector
from openvjepa.model.objectives.terms import Terms


class ViewAgreement(nn.Module):
    """Projector and loss: (1 - l) * mean |z - mean of the clip's global z|^2 + l * SIGReg, l being views_sigreg."""

    def __init__(self, config: ModelConfig, objective: ObjectiveConfig) -> None:
        super().__init__()
        self.objective = objective
        dim, hidden, out = config.dims.embed_dim, objective.projector_hidden, objective.projector_dim
        self.projector = Projector(dim, hidden, out, final_norm=False)

    def forward(self, tokens: list[Tensor], global_views: int, generator: torch.Generator) -> Terms:
        """Terms of the loss of a batch.

        Args:
            tokens: of each view, global ones first, [B, N, D]; N may differ.
            global_views: how many of the views are global.
            generator: draws SIGReg's directions.

        Returns:
            loss_views and loss_views_sigreg.
        """
        pooled = torch.cat([view.float().mean(1) for view in tokens])
        vectors = self.projector(pooled).float().unflatten(0, (len(tokens), -1))  # [V, B, d]
        directions = random_directions(vectors.shape[-1], self.objective.directions, generator)
        share, weight = self.objective.views_sigreg, self.objective.views_coeff
        return {
            "loss_views": (weight * (1 - share), disagreement(vectors, global_views)),
            "loss_views_sigreg": (weight * share, sigreg(vectors.transpose(0, 1), directions)),
        }


def disagreement(vectors: Tensor, global_views: int) -> Tensor:
    """Mean squared distance, over channels, of every view from the mean of its clip's global views; vectors [V, B, d]."""
    return (vectors - vectors[:global_views].mean(0)).square().mean()
