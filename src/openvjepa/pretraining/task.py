"""What the trainer sees of pretraining (Bardes et al. 2024, section 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from openvjepa.config import PretrainConfig
from openvjepa.data.loader import seeded
from openvjepa.data.transforms import normalize
from openvjepa.model.blocks.layers import compile_blocks
from openvjepa.model.jepa import JEPA
from openvjepa.train.optim import context_coeff, ema_momentum
from openvjepa.train.trainer import Task

_SIGREG = 20  # tag that keeps this stream of random numbers apart from the loader's


class PretrainTask(Task):
    """What the trainer sees: normalizes the clips, runs the JEPA, moves the target encoder after each step."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.config = config
        self.jepa = JEPA(config.model, config.objective)
        for module in (self.jepa.encoder, self.jepa.predictor):
            if module is not None:
                module.checkpointing = config.train.activation_checkpointing
        if config.train.compile:
            compile_blocks(self.jepa)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of a micro batch of the loader; with images, the mean of the clips' and theirs."""
        coeff = context_coeff(batch["step"], self.config.objective, self.config.train.steps)
        parts = [batch, batch["images"]] if "images" in batch else [batch]
        views = [(normalize(view["clips"]), view.get("ids")) for view in batch.get("views", ())]
        losses = [
            self.jepa(
                normalize(part["clips"]),
                part["masks_enc"],
                part["masks_pred"],
                context_coeff=coeff,
                views=views,
                global_views=self.config.views.global_views,
                generator=seeded(self.config.train.seed, _SIGREG, batch["step"]),
            )
            for part in parts
        ]
        return {name: torch.stack([loss[name] for loss in losses]).mean() for name in losses[0]}

    def param_groups(self) -> list[dict[str, Any]]:
        """Encoder and predictor, with and without weight decay."""
        return self.jepa.param_groups()

    def after_step(self, step: int) -> None:
        """Moves the target encoder; `step` counts finished steps from 0."""
        self.jepa.update_target(ema_momentum(step, self.config.optim, self.config.train.steps))
