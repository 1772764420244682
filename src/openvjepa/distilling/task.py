"""What `vjepa distill` trains: a student that predicts its teacher's features, as the trainer sees it.

Shapes: B clips, N tokens of the student, M of the teacher, D and E their channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvjepa.data.transforms import normalize
from openvjepa.grid import TokenGrid
from openvjepa.model.encoder import Encoder
from openvjepa.train.trainer import Task

_LEAST_STD = 1e-6


def regrid(features: Tensor, own: TokenGrid, wanted: TokenGrid) -> Tensor:
    """Features of one grid of tokens at the places of another: [B, M, E] -> [B, N, E].

    Axes that become shorter are averaged (area), those that become longer are interpolated linearly.
    """
    if own == wanted:
        return features
    x = features.transpose(1, 2).unflatten(2, own.shape)
    lowest = (min(own.t, wanted.t), min(own.h, wanted.h), min(own.w, wanted.w))
    if lowest != own.shape:
        x = F.adaptive_avg_pool3d(x, lowest)
    if lowest != wanted.shape:
        x = F.interpolate(x, size=wanted.shape, mode="trilinear", align_corners=False)
    return x.flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each channel of the targets, [E], over all clips (and tokens)."""

    token_mean: Tensor
    token_std: Tensor
    pooled_mean: Tensor
    pooled_std: Tensor

    @classmethod
    def of(cls, parts: Iterable[Tensor]) -> Statistics:
        """Of targets [B, N, E] in parts, with sums in float64."""
        tokens, pooled = _Moments(), _Moments()
        for part in parts:
            tokens.add(part.double().flatten(0, 1))
            pooled.add(part.double().mean(1))
        return cls(*tokens.result(), *pooled.result())


class _Moments:
    """Sums of rows [n, E] and of their squares."""

    def __init__(self) -> None:
        self.count, self.sum, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, rows: Tensor) -> None:
        self.count, self.sum, self.squares = (
            self.count + len(rows),
            self.sum + rows.sum(0),
            self.squares + rows.square().sum(0),
        )

    def result(self) -> tuple[Tensor, Tensor]:
        mean = self.sum / self.count
        std = (self.squares / self.count - mean.square()).clamp(min=0).sqrt()
        return mean.float(), std.clamp(min=_LEAST_STD).float()


def match(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(mean absolute error, mean of 1 - cosine over vectors) of vectors along the last axis."""
    return (predicted - target).abs().mean(), 1 - F.cosine_similarity(predicted, target, dim=-1).mean()


class DistillTask(Task):
    """L1 and cosine distance of a linear image of the student's tokens, and of its mean token, to the teacher's.

    Targets are brought to the student's grid and standardized channel by channel: a few channels with large values would
    rule both distances otherwise.

    Args:
        student: is trained.
        width: E.
        grids: token grids of the teacher's clips and the student's.
        statistics: of the targets on the student's grid.
        token_coeff, pooled_coeff: weights of the two losses.
    """

    def __init__(
        self,
        student: Encoder,
        width: int,
        grids: tuple[TokenGrid, TokenGrid],
        statistics: Statistics,
        *,
        token_coeff: float,
        pooled_coeff: float,
    ) -> None:
        super().__init__()
        self.student = student.requires_grad_(True)
        if student.config.positions == "sincos":
            student.pos_embed.requires_grad_(False)
        self.grids, self.coeffs = grids, (token_coeff, pooled_coeff)
        self.token_head = nn.Linear(student.embed_dim, width) if token_coeff else None
        self.pooled_head = nn.Linear(student.embed_dim, width) if pooled_coeff else None
        for name, value in vars(statistics).items():
            self.register_buffer(name, value)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Losses of clips uint8 [B, 3, T, H, W] with the teacher's features [B, M, E]; the cosines are logged, too."""
        tokens = self.student(normalize(batch["clips"])).float()
        targets = regrid(batch["features"].float(), *self.grids)
        found: dict[str, Tensor] = {}
        loss = torch.zeros((), device=tokens.device)
        heads = (("tokens", self.token_head), ("pooled", self.pooled_head))
        for (name, head), weight in zip(heads, self.coeffs, strict=True):
            if head is None:
                continue
            x, y = (tokens, targets) if name == "tokens" else (tokens.mean(1), targets.mean(1))
            mean, std = self._statistics(name)
            distance, angle = match(head(x).float(), (y - mean) / std)
            found |= {f"l1_{name}": distance, f"cosine_{name}": 1 - angle.detach()}
            loss = loss + weight * (distance + angle)
        return {"loss": loss, **found}

    def _statistics(self, name: str) -> tuple[Tensor, Tensor]:
        kind = "token" if name == "tokens" else "pooled"
        return self.get_buffer(f"{kind}_mean"), self.get_buffer(f"{kind}_std")

    def param_groups(self) -> list[dict[str, Any]]:
        """Student and projectors, with and without weight decay."""
        groups = []
        for decay in (True, False):
            for name in ("student", "token_head", "pooled_head"):
                module: nn.Module | None = getattr(self, name)
                params = [
                    parameter
                    for key, parameter in (module.named_parameters() if module is not None else ())
                    if parameter.requires_grad and (parameter.ndim > 1 and "bias" not in key) == decay
                ]
                if params:
                    groups.append({"params": params, "decay": decay, "module": name})
        return groups
