"""Raw pixels as features: the baseline that needs no encoder."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from openvjepa.config import PretrainConfig
from openvjepa.data.clips import ClipSpec
from openvjepa.data.lists.index import VideoIndex
from openvjepa.data.loader import EvalClips
from openvjepa.data.transforms import normalize
from openvjepa.model.encoder import cut_tubelets


def pixel_tokens(recipe: PretrainConfig, index: VideoIndex, views: int, seed: int) -> NDArray[np.float32]:
    """Pixels of each token, [n, views, N, 3 * tubelet * 4 * 4]: the plain clip first, then random ones."""
    spec = ClipSpec(recipe.model.num_frames, recipe.data.frame_step, recipe.data.fps)
    plain = EvalClips(index, spec, recipe.model.image_hw)
    random = EvalClips(index, spec, recipe.model.image_hw, augment=views - 1, seed=seed) if views > 1 else None
    pool = max(1, recipe.model.patch_size // 4)
    kernel = (recipe.model.tubelet_size, recipe.model.patch_size // pool, recipe.model.patch_size // pool)
    rows: list[NDArray[np.float32]] = []
    for i in range(len(index)):
        clips = torch.cat([plain[i][0], random[i][0]]) if random else plain[i][0]
        rows.append(cut_tubelets(F.avg_pool3d(normalize(clips), (1, pool, pool)), kernel).numpy())
    return np.stack(rows)
