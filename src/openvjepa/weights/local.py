"""What this computer has: free memory, and published models that are downloaded already."""

from __future__ import annotations

from pathlib import Path

from openvjepa.config import ModelConfig
from openvjepa.machine import available_memory
from openvjepa.weights.download import cached_hf, cached_url
from openvjepa.weights.registry import ModelInfo

PROCESS_GB = 0.35
"""Python, torch and a clip's pixels."""
SLACK = 1.6
"""Measured activations over those of the widest moment: attention's copies, and memory not given back at once."""


def memory_gb(config: ModelConfig) -> float:
    """Memory that an encoder needs for one clip in float32, GB: an estimate.

    PROCESS_GB + 4 bytes x (weights + SLACK x N x 2 (D + M)): the widest moment of a block is in its MLP, where each of the N
    tokens has the residual stream and its normalized copy (D each), and the hidden layer before and after the GELU (M
    each). No attention matrix is kept. `benchmarks/checkpoints.py` measures it.
    """
    dims = config.dims
    hidden = int(dims.embed_dim * dims.mlp_ratio)
    weights = dims.depth * (4 * dims.embed_dim**2 + 2 * dims.embed_dim * hidden)
    activations = config.grid.tokens * 2 * (dims.embed_dim + hidden)
    return PROCESS_GB + 4e-9 * (weights + SLACK * activations)


def free_memory_gb() -> float | None:
    """Memory that this process can still allocate, GB; None: unknown."""
    free = available_memory()
    return None if free is None else free / 1e9


def downloaded(info: ModelInfo) -> Path | None:
    """Where a model is on this computer, from either source; None: nowhere."""
    if info.folder is not None:
        return info.folder
    path = cached_url(info.url) if info.url else None
    return cached_hf(info.hf_id) if path is None and info.hf_id else path
