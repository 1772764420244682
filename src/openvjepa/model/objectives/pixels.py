"""Pixels as the targets of masked prediction: the baseline of Bardes et al. 2024, section 4.1."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from openvjepa.config import ModelConfig
from openvjepa.errors import ConfigError
from openvjepa.model.encoder import Encoder
from openvjepa.model.objectives.masked import normalize_targets


def pixel_targets(encoder: Encoder, video: Tensor) -> Tensor:
    """Pixels of every token, normalized token by token: [B, 3, T, H, W] -> [B, N, 3 * tubelet * patch * patch]."""
    return normalize_targets(encoder.patch_embed.tubelets(video))


def predicting_pixels(config: ModelConfig) -> ModelConfig:
    """The same with a predictor that gives the pixels of a tubelet.

    Raises:
        ConfigError: the predictor is not a plain one.
    """
    if config.modality_embed or config.predictor_levels > 1 or not config.num_mask_tokens:
        raise ConfigError("target pixels goes with the plain predictor: one level, mask tokens, no modality_embed")
    frames = 1 if config.num_frames == 1 else config.tubelet_size
    return replace(config, predictor_out_dim=3 * frames * config.patch_size**2)
