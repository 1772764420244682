"""Features without learning: pixels, and histograms of oriented gradients in space and time."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from openvjepa.config import ModelConfig
from openvjepa.data.transforms import normalize
from openvjepa.model.encoder import cut_tubelets

Floats = NDArray[np.float32]
SIDE, CELLS, ANGLES, DIRECTIONS = 48, 4, 9, 8


def pixel_tokens(clips: Tensor, model: ModelConfig) -> Floats:
    """Pixels of each token at a quarter of the patch's resolution: uint8 [B, 3, T, H, W] -> [B, N, 3 * tubelet * 16]."""
    pool = max(1, model.patch_size // 4)
    small = F.avg_pool3d(normalize(clips), (1, pool, pool))
    return cut_tubelets(small, (model.tubelet_size, model.patch_size // pool, model.patch_size // pool)).numpy()


def gradient_histograms(clips: Tensor) -> Floats:
    """HOG of the middle frame, and of each half of the clip a histogram of the directions of motion.

    Gray frames of 48 px in 4 x 4 cells. Gradients in space have 9 unsigned orientations (Dalal and Triggs 2005). Where the
    brightness changes in time, the normal flow -I_t grad I / |grad I|^2 has one of 8 directions and counts with |I_t|: gradient
    energy over time, as in HOG3D and HOF. Histograms have unit length cell by cell; a still image has zeros for motion.

    Args:
        clips: uint8 [B, 3, T, H, W].

    Returns:
        float32 [B, 1, 4 * 4 * (9 + 2 * 8)].
    """
    frames = F.interpolate(
        clips.float().mean(1), size=(SIDE, SIDE), mode="bilinear", antialias=True
    ).numpy()  # [B, T, h, w]
    return np.stack([_of_clip(clip) for clip in frames])[:, None].astype(np.float32)


def _of_clip(clip: Floats) -> NDArray[np.float64]:
    down, right = np.gradient(clip, axis=1), np.gradient(clip, axis=2)
    middle = len(clip) // 2
    length = np.hypot(down, right)
    parts = [_histogram(np.arctan2(down, right)[middle] % np.pi / np.pi, length[middle], ANGLES)]
    change = np.gradient(clip, axis=0) if len(clip) > 1 else np.zeros_like(clip)
    direction = np.arctan2(-change * down, -change * right) % (2 * np.pi) / (2 * np.pi)
    energy = np.where(length > 1.0, np.abs(change), 0.0)
    parts += [_histogram(direction[half], energy[half], DIRECTIONS) for half in (slice(0, middle), slice(middle, None))]
    return np.concatenate(parts)


def _histogram(place: NDArray[np.floating], weight: NDArray[np.floating], bins: int) -> NDArray[np.float64]:
    """Weighted histograms of places in 0..1, cell by cell: [..., h, w] -> [cells * cells * bins]."""
    rows, columns = np.indices(place.shape[-2:]) * CELLS // SIDE
    number = np.minimum((place * bins).astype(int), bins - 1) + bins * (rows * CELLS + columns)
    counts = np.bincount(number.ravel(), weight.ravel(), CELLS * CELLS * bins).reshape(-1, bins)
    return (counts / (np.linalg.norm(counts, axis=1, keepdims=True) + 1e-3)).ravel()


def grid_pooled(tokens: Floats, grid: tuple[int, int, int], *, steps: int = 2, side: int = 4) -> Floats:
    """Tokens pooled to at most steps x side x side places, side by side: [..., N, D] -> [..., 1, places * D]."""
    t, h, w = grid
    cube = torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.float32)).reshape(-1, t, h, w, tokens.shape[-1])
    pooled = F.adaptive_avg_pool3d(cube.permute(0, 4, 1, 2, 3), (min(t, steps), min(h, side), min(w, side)))
    return pooled.flatten(1).numpy().reshape(*tokens.shape[:-2], 1, -1)
