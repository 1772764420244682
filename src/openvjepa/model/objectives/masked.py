"""Masked prediction in feature space (Bardes et al. 2024, section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from openvjepa.config import ObjectiveConfig
from openvjepa.grid import TokenGrid
from openvjepa.model.blocks.layers import gather_tokens
from openvjepa.model.encoder import Encoder
from openvjepa.model.objectives.sigreg import token_sigreg
from openvjepa.model.objectives.terms import Terms
from openvjepa.model.predictor import Predictor


def masked_terms(
    encoder: Encoder,
    predictor: Predictor,
    objective: ObjectiveConfig,
    video: Tensor,
    targets: Tensor,
    masks: list[tuple[Tensor, Tensor]],
    *,
    context_coeff: float | None = None,
    length_index: int = 0,
) -> Terms:
    """Loss of predicting the targets at masked tokens from the visible ones, averaged over the masks.

    Args:
        encoder: encodes the visible tokens of each mask.
        predictor: predicts the others.
        objective: weights and exponent.
        video: float [B, 3, T, H, W], normalized.
        targets: what is predicted of every token, [B, N, levels * D].
        masks: context ids int64 [B, Ke] and ids to predict int64 [B, Kp] of each mask.
        context_coeff: weight of the loss on visible tokens at this step; None: the objective's.
        length_index: number of the clip length, which chooses the mask token of rotary models (V-JEPA 2).

    Returns:
        loss_jepa, loss_reg, and loss_context and loss_sigreg where they are used.
    """
    config, grid = encoder.config, encoder.grid(video)
    contexts = encoder.forward_masks(video, [enc_ids for enc_ids, _ in masks], num_levels=config.predictor_levels)
    predictions, losses, context_losses = list[Tensor](), list[Tensor](), list[Tensor]()
    for number, (context, (enc_ids, pred_ids)) in enumerate(zip(contexts, masks, strict=True)):
        target = gather_tokens(targets, pred_ids)
        predicted, seen = predictor(
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
    terms: Terms = {"loss_jepa": (1.0, torch.stack(losses).mean()), "loss_reg": (objective.reg_coeff, loss_reg)}
    if context_losses:
        weighting = objective.context_coeff if context_coeff is None else context_coeff
        terms["loss_context"] = weighting, torch.stack(context_losses).mean()
    if objective.sigreg_coeff:
        terms["loss_sigreg"] = objective.sigreg_coeff, torch.stack([token_sigreg(x) for x in contexts]).mean()
    return terms


def normalize_targets(features: Tensor, levels: int = 1) -> Tensor:
    """Layer norm of each level's channels without affine, eps 1e-5, in float32: [B, N, levels * D] -> the same shape."""
    split = torch.unflatten(features.float(), -1, (levels, -1))
    return F.layer_norm(split, split.shape[-1:]).flatten(-2)


def prediction_loss(prediction: Tensor, target: Tensor, loss_exp: float, weight: Tensor | None = None) -> Tensor:
    """Mean of |prediction - target| ** loss_exp / loss_exp over batch, tokens and channels; 1: L1.

    Args:
        prediction: [B, K, D].
        target: [B, K, D].
        loss_exp: exponent.
        weight: of each token, [B, K]; the mean is still over the number of tokens.
    """
    errors = (prediction.float() - target).abs() ** loss_exp
    return (errors if weight is None else errors * weight[..., None]).mean() / loss_exp


def distance_weight(visible: Tensor, predicted: Tensor, grid: TokenGrid) -> Tensor:
    """1 / sqrt(distance to the nearest predicted token) of every visible one, in tokens (V-JEPA 2.1, dense loss).

    Args:
        visible: ids int64 [B, Ke].
        predicted: ids int64 [B, Kp].
        grid: what the ids count through.

    Returns:
        [B, Ke], at most 1 for ids that are not predicted themselves.
    """
    distances = torch.cdist(_places(visible, grid), _places(predicted, grid), compute_mode=_EXACT)
    return distances.amin(dim=-1).rsqrt()


_EXACT = "donot_use_mm_for_euclid_dist"


def _places(ids: Tensor, grid: TokenGrid) -> Tensor:
    """Time, row and column of tokens [B, K] -> float [B, K, 3]."""
    return torch.stack((ids // grid.tokens_per_frame, ids % grid.tokens_per_frame // grid.w, ids % grid.w), -1).float()


def variance_term(predictions: list[Tensor]) -> Tensor:
    """How far the standard deviation over a sample's tokens falls below 1, mean over samples and channels.

    The deviation (unbiased, + 1e-4 under the root) is averaged over the masks first; a single token has none.

    Args:
        predictions: one [B, K, D] for each mask.
    """
    deviations = [(p.float().var(dim=1, correction=min(1, p.shape[1] - 1)) + 1e-4).sqrt() for p in predictions]
    return F.relu(1 - sum(deviations[1:], deviations[0]) / len(deviations)).mean()
