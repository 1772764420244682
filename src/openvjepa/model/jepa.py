"""JEPA: encoder, target encoder and what the objectives need, as one module (Bardes et al. 2024, figure 2)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openvjepa.config import ModelConfig, ObjectiveConfig, Tune
from openvjepa.errors import ConfigError
from openvjepa.model.adapters import merged_parameters, set_trainable
from openvjepa.model.encoder import Encoder
from openvjepa.model.objectives.masked import masked_terms, normalize_targets
from openvjepa.model.objectives.next_latent import NextLatent
from openvjepa.model.objectives.pixels import pixel_targets, predicting_pixels
from openvjepa.model.objectives.terms import Terms, total
from openvjepa.model.objectives.views import ViewAgreement
from openvjepa.model.predictor import Predictor

View = tuple[Tensor, Tensor | None]
"""A view of the clips of a batch, float [B, 3, T, h, w], and the tokens to encode, int64 [B, K]; None: all."""


class JEPA(nn.Module):
    """Adds up the objectives that have a weight: masked prediction, prediction of the next latent, agreement of views.

    The target encoder starts as a copy of the encoder and follows it as an exponential moving average
    (`update_target`). It gives the targets of masked prediction, and it is the encoder that is saved. The predictor of masked
    tokens, and the projectors of the other objectives, exist where their objective has a weight.
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
            config = predicting_pixels(config)
        self.objective = objective
        self.encoder = Encoder(config)
        self.predictor = Predictor(config) if objective.masked_coeff else None
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.next_latent = NextLatent(config, objective) if objective.uses_next_latent else None
        self.view_agreement = ViewAgreement(config, objective) if objective.views_coeff else None

    def adapt(self, tune: Tune, *, last_blocks: int, lora_rank: int) -> None:
        """Train only a part of the encoder, see `set_trainable`; the target encoder stays a plain one, adapters merged.

        Raises:
            ConfigError: the encoder has fewer blocks, or peft is not installed.
        """
        set_trainable(self.encoder, tune, last_blocks=last_blocks, lora_rank=lora_rank)

    def forward(
        self,
        video: Tensor,
        masks_enc: list[Tensor],
        masks_pred: list[Tensor],
        *,
        context_coeff: float | None = None,
        length_index: int = 0,
        views: Sequence[View] = (),
        global_views: int = 0,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            video: float [B, 3, T, H, W], normalized.
            masks_enc: context ids, int64 [B, Ke] for each mask.
            masks_pred: ids to predict, int64 [B, Kp] for each mask.
            context_coeff: weight of the loss on the visible tokens at this step; None: the objective's.
            length_index: number of the clip length, which chooses the mask token of rotary models (V-JEPA 2).
            views: of the same clips, global ones first. With views, the next latent is predicted in the global ones, each a
                clip of its own; without, in `video`.
            global_views: how many of the views are global.
            generator: draws the directions of SIGReg for the next latent and the views; the same in all processes.

        Returns:
            loss (differentiable) and every term by name, among them loss_jepa and loss_reg of masked prediction.

        Raises:
            ConfigError: the clip is not of the configured shape, which sin-cos positions are made for, or an objective
                lacks its views or generator.
        """
        terms: Terms = {}
        if self.predictor is not None:
            self._check_shape(video)
            found = masked_terms(
                self.encoder,
                self.predictor,
                self.objective,
                video,
                self._targets(video),
                list(zip(masks_enc, masks_pred, strict=True)),
                context_coeff=context_coeff,
                length_index=length_index,
            )
            scale = self.objective.masked_coeff
            terms |= {name: (scale * weight, term) for name, (weight, term) in found.items()}
        if self.next_latent is not None or self.view_agreement is not None:
            if generator is None:
                raise ConfigError("SIGReg over a batch needs a generator for its directions")
            terms |= self._pooled_terms(video, views, global_views, generator)
        return total(terms)

    def _pooled_terms(
        self, video: Tensor, views: Sequence[View], global_views: int, generator: torch.Generator
    ) -> Terms:
        """Terms of the objectives on pooled tokens, which share the passes of the encoder over the views."""
        steps = self.encoder.grid(views[0][0] if views else video).t
        tokens = [self._tokens(clip, ids) for clip, ids in views]
        terms: Terms = {}
        if self.next_latent is not None:
            shown = torch.cat(tokens[:global_views]) if views else self._tokens(video, None)
            terms |= self.next_latent(shown.unflatten(1, (steps, -1)), generator)
        if self.view_agreement is not None:
            if not 1 <= global_views <= len(views) or len(views) < 2:
                raise ConfigError("views_coeff needs at least two views, one of them global: set global_views")
            terms |= self.view_agreement(tokens, global_views, generator)
        return terms

    def _tokens(self, video: Tensor, ids: Tensor | None) -> Tensor:
        """[B, N, D], or [B, K, D] with ids; without codes at the output, which would tell a latent its time."""
        return self.encoder(video, ids, output_positions=False)

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
        """What is to be predicted of every token, normalized: [B, N, levels * D], or [B, N, pixels of a tubelet]."""
        if self.objective.target == "pixels":
            return pixel_targets(self.encoder, video)
        levels = self.encoder.config.predictor_levels
        return normalize_targets(self.target_encoder(video, num_levels=levels), levels)

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """target <- momentum * target + (1 - momentum) * encoder, for all parameters.

        As a linear interpolation, which leaves equal values (the position codes) exactly as they are.
        """
        target: list[Tensor] = list(self.target_encoder.parameters())
        online: list[Tensor] = list(self.encoder.parameters())
        if len(online) != len(target):  # adapters
            merged = merged_parameters(self.encoder)
            online = [merged[name] for name, _ in self.target_encoder.named_parameters()]
        torch._foreach_lerp_(target, online, 1 - momentum)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage] (it has no public name)

    def param_groups(self) -> list[dict[str, Any]]:
        """Each trained module with decay, then each without; biases and 1-D parameters do not decay.

        Each group says which `module` it belongs to and whether it is to `decay`. Frozen position codes are left out.
        """
        groups: list[dict[str, Any]] = []
        for decay in (True, False):
            for name in ("encoder", "predictor", "next_latent", "view_agreement"):
                module = getattr(self, name)
                if module is None:
                    continue
                params = [
                    parameter
                    for key, parameter in module.named_parameters()
                    if parameter.requires_grad and (parameter.ndim > 1 and "bias" not in key) == decay
                ]
                if params:
                    groups.append({"params": params, "decay": decay, "module": name})
        return groups
