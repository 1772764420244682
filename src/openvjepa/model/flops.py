"""Floating-point operations of a model, by closed formula: a product of [n, k] and [k, m] counts 2 n k m, all else nothing."""

from __future__ import annotations

from collections.abc import Sequence

from openvjepa.config import ModelConfig
from openvjepa.model.blocks.layers import hidden_width

_TRAINED = 3  # forward once, backward twice: for the input and for the weights


def blocks_flops(tokens: int, dim: int, depth: int, mlp_ratio: float, mlp_layers: int = 2) -> int:
    """Forward pass of `depth` transformer blocks over a sequence."""
    linear = 4 * dim * dim + mlp_layers * dim * hidden_width(dim, mlp_ratio)
    attention = 2 * tokens * dim  # scores, and the mean of the values
    return depth * 2 * tokens * (linear + attention)


def encoder_flops(config: ModelConfig, tokens: int | None = None) -> int:
    """Forward pass of the encoder over one clip, or over so many of its tokens."""
    tokens = config.grid.tokens if tokens is None else tokens
    dims, mlp_layers = config.dims, 3 if config.mlp == "swiglu" else 2
    return _patches(config, tokens) + blocks_flops(tokens, dims.embed_dim, dims.depth, dims.mlp_ratio, mlp_layers)


def predictor_flops(config: ModelConfig, context: int, predicted: int) -> int:
    """Forward pass of the predictor for one clip: `context` visible tokens, and those to predict.

    For models of one level; what the second output for visible tokens costs is left out.
    """
    dim, embed_dim = config.predictor_embed_dim, config.dims.embed_dim
    ends = 2 * context * embed_dim * dim + 2 * predicted * dim * (config.predictor_out_dim or embed_dim)
    return ends + blocks_flops(context + predicted, dim, config.predictor_depth, 4.0)


def step_flops(config: ModelConfig, masks: Sequence[tuple[int, int]]) -> int:
    """One clip of a pretraining step: target encoder forward; encoder and predictor forward and backward for each mask.

    Args:
        config: of the model.
        masks: (context tokens, predicted tokens) of each mask.
    """
    total = encoder_flops(config)
    for context, predicted in masks:
        total += _TRAINED * (encoder_flops(config, context) + predictor_flops(config, context, predicted))
        total -= _patches(config, context)  # pixels need no gradient
    return total


def _patches(config: ModelConfig, tokens: int) -> int:
    tubelet = 1 if config.num_frames == 1 else config.tubelet_size
    return 2 * tokens * 3 * tubelet * config.patch_size**2 * config.dims.embed_dim
