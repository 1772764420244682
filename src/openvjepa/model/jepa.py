"""JEPA: encoder, predictor and target encoder as one module (Bardes et al. 2024, figure 2)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from openvjepa.config import ModelConfig, ObjectiveConfig
from openvjepa.errors import ConfigError
from openvjepa.model.encoder import Encoder
from openvjepa.model.layers import gather_tokens
from openvjepa.model.objective import normalize_targets, prediction_loss, sigreg, variance_term
from openvjepa.model.predictor import Predictor


class JEPA(nn.Module):
    """Predicts what the target encoder says of the masked tokens.

    The target encoder starts as a copy of the encoder and follows it as an exponential moving average
    (`update_target`).
    """

    def __init__(self, config: ModelConfig, objective: ObjectiveConfig) -> None:
        super().__init__()
        self.objective = objective
        self.encoder = Encoder(config)
        self.predictor = Predictor(config)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)

    def forward(self, video: Tensor, masks_enc: list[Tensor], masks_pred: list[Tensor]) -> dict[str, Tensor]:
        """Loss of a batch, averaged over the masks.

        Args:
            video: float [B, 3, T, H, W], normalised.
            masks_enc: context ids, int64 [B, Ke] for each mask.
            masks_pred: ids to predict, int64 [B, Kp] for each mask.

        Returns:
            loss (differentiable), loss_jepa, loss_reg, and loss_sigreg where it is used.

        Raises:
            ConfigError: the clip is not of the configured shape, which the predictor's positions are made for.
        """
        config = self.encoder.config
        if video.shape[2:] != (config.num_frames, *config.image_hw):
            raise ConfigError(
                f"the model predicts clips of [frames, height, width] {[config.num_frames, *config.image_hw]}, "
                f"not {list(video.shape[2:])}"
            )
        with torch.no_grad():
            targets = normalize_targets(self.target_encoder(video))
        contexts = self.encoder(video, masks_enc)
        predictions = [
            self.predictor(context, enc_ids, pred_ids, mask_index)
            for mask_index, (context, enc_ids, pred_ids) in enumerate(zip(contexts, masks_enc, masks_pred, strict=True))
        ]
        losses = [
            prediction_loss(prediction, gather_tokens(targets, pred_ids), self.objective.loss_exp)
            for prediction, pred_ids in zip(predictions, masks_pred, strict=True)
        ]
        loss_jepa = torch.stack(losses).mean()
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.objective.reg_coeff != 0):  # else only logged
            loss_reg = variance_term(predictions)
        loss = loss_jepa + self.objective.reg_coeff * loss_reg
        out = {"loss_jepa": loss_jepa.detach(), "loss_reg": loss_reg.detach()}
        if self.objective.sigreg_coeff:
            loss_sigreg = torch.stack([sigreg(context) for context in contexts]).mean()
            loss = loss + self.objective.sigreg_coeff * loss_sigreg
            out["loss_sigreg"] = loss_sigreg.detach()
        return {"loss": loss, **out}

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """target <- momentum * target + (1 - momentum) * encoder, for all parameters.

        As a linear interpolation, which leaves equal values (the position codes) exactly as they are.
        """
        target: list[Tensor] = list(self.target_encoder.parameters())
        online: list[Tensor] = list(self.encoder.parameters())
        torch._foreach_lerp_(target, online, 1 - momentum)  # pyright: ignore[reportPrivateImportUsage]

    def param_groups(self) -> list[dict[str, Any]]:
        """Encoder decay, predictor decay, encoder no-decay, predictor no-decay; biases and 1-D parameters do not decay.

        Each group says which `module` it belongs to and whether it is to `decay`. Frozen position codes are left out.
        """
        groups = []
        for decay in (True, False):
            for name in ("encoder", "predictor"):
                params = [
                    parameter
                    for key, parameter in self.get_submodule(name).named_parameters()
                    if parameter.requires_grad and (parameter.ndim > 1 and "bias" not in key) == decay
                ]
                groups.append({"params": params, "decay": decay, "module": name})
        return groups
