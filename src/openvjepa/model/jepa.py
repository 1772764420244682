"""JEPA: encoder, predictor and target encoder as one module (Bardes et al. 2024, figure 2)."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from openvjepa.config import ModelConfig, ObjectiveConfig
from openvjepa.errors import ConfigError
from openvjepa.model.encoder import Encoder
from openvjepa.model.layers import gather_tokens
from openvjepa.model.objective import distance_weight, normalize_targets, prediction_loss, sigreg, variance_term
from openvjepa.model.predictor import Predictor


class JEPA(nn.Module):
    """Predicts what the target encoder says of the masked tokens.

    The target encoder starts as a copy of the encoder and follows it as an exponential moving average
    (`update_target`).
    """

    def __init__(self, config: ModelConfig, objective: ObjectiveConfig) -> None:
        super().__init__()
        if config.predictor_kind != "masked":
            raise ConfigError("an action-conditioned predictor cannot be pretrained here: set predictor_kind to masked")
        if objective.context_coeff and not config.predict_context:
            raise ConfigError(
                "context_coeff needs a predictor with an output for the visible tokens: set predict_context"
            )
        if objective.target == "pixels":
            config = _predicting_pixels(config)
        self.objective = objective
        self.encoder = Encoder(config)
        self.predictor = Predictor(config)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)

    def forward(
        self,
        video: Tensor,
        masks_enc: list[Tensor],
        masks_pred: list[Tensor],
        *,
        context_coeff: float | None = None,
        length_index: int = 0,
    ) -> dict[str, Tensor]:
        """Loss of a batch, averaged over the masks.

        Args:
            video: float [B, 3, T, H, W], normalised.
            masks_enc: context ids, int64 [B, Ke] for each mask.
            masks_pred: ids to predict, int64 [B, Kp] for each mask.
            context_coeff: weight of the loss on the visible tokens at this step; None: the objective's.
            length_index: number of the clip length, which chooses the mask token of rotary models (V-JEPA 2).

        Returns:
            loss (differentiable), loss_jepa, loss_reg, and loss_sigreg and loss_context where they are used.

        Raises:
            ConfigError: the clip is not of the configured shape, which sin-cos positions are made for.
        """
        self._check_shape(video)
        config, objective, grid = self.encoder.config, self.objective, self.encoder.grid(video)
        targets = self._targets(video)
        contexts = self.encoder(video, masks_enc, num_levels=config.predictor_levels)
        predictions, losses, context_losses = [], [], []
        for number, (context, enc_ids, pred_ids) in enumerate(zip(contexts, masks_enc, masks_pred, strict=True)):
            target = gather_tokens(targets, pred_ids)
            predicted, seen = self.predictor.predict(
                context,
                enc_ids,
                pred_ids,
                number if config.positions == "sincos" else length_index,
                grid=grid,
                image=config.modality_embed and video.shape[2] == 1,
                noisy_targets=None if config.num_mask_tokens else target,
            )
            predictions.append(predicted)
            losses.append(prediction_loss(predicted, target, objective.loss_exp))
            if objective.context_coeff:
                weight = distance_weight(enc_ids, pred_ids, grid) if objective.distance_weighting else None
                truth = gather_tokens(targets, enc_ids)
                context_losses.append(prediction_loss(seen, truth, objective.loss_exp, weight))
        with torch.set_grad_enabled(torch.is_grad_enabled() and objective.reg_coeff != 0):  # else only logged
            loss_reg = variance_term(predictions)
        terms = {"loss_jepa": (1.0, torch.stack(losses).mean()), "loss_reg": (objective.reg_coeff, loss_reg)}
        if context_losses:
            weighting = objective.context_coeff if context_coeff is None else context_coeff
            terms["loss_context"] = weighting, torch.stack(context_losses).mean()
        if objective.sigreg_coeff:
            terms["loss_sigreg"] = objective.sigreg_coeff, torch.stack([sigreg(x) for x in contexts]).mean()
        loss = torch.stack([coeff * term for coeff, term in terms.values()]).sum()
        return {"loss": loss, **{name: term.detach() for name, (_, term) in terms.items()}}

    def _check_shape(self, video: Tensor) -> None:
        """Sin-cos codes are made for one shape; rotary positions take any."""
        config = self.encoder.config
        if config.positions == "sincos" and video.shape[2:] != (config.num_frames, *config.image_hw):
            raise ConfigError(
                f"the model predicts clips of [frames, height, width] {[config.num_frames, *config.image_hw]}, "
                f"not {list(video.shape[2:])}"
            )

    @torch.no_grad()
    def _targets(self, video: Tensor) -> Tensor:
        """What is to be predicted of every token, normalised: [B, N, levels * D], or [B, N, pixels of a tubelet]."""
        if self.objective.target == "pixels":
            return normalize_targets(self.encoder.patch_embed.tubelets(video))
        levels = self.encoder.config.predictor_levels
        return normalize_targets(self.target_encoder(video, num_levels=levels), levels)

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


def _predicting_pixels(config: ModelConfig) -> ModelConfig:
    """The same with a predictor that gives the pixels of a tubelet."""
    if config.modality_embed or config.predictor_levels > 1 or not config.num_mask_tokens:
        raise ConfigError("target pixels goes with the plain predictor: one level, mask tokens, no modality_embed")
    frames = 1 if config.num_frames == 1 else config.tubelet_size
    return replace(config, predictor_out_dim=3 * frames * config.patch_size**2)
