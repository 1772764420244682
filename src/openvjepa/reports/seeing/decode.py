"""Panels of decoded tokens: the video, what was visible, and what true, predicted and mean tokens decode to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from openvjepa.reports.seeing.pictures import Panel, Pictures, Row
from openvjepa.seeing.decode import Decoded, psnr


def decoded_panels(found: Decoded, windows: Tensor, names: Sequence[str], places: Sequence[int]) -> list[Panel]:
    """Five rows for each video, each decoded one with its PSNR.

    Args:
        found: of `decode`.
        windows: uint8 [n, 3, T, H, W], the whole windows.
        names: of the videos.
        places: which of them.
    """
    panels = []
    for place in places:
        seen = windows[place, :, : found.context].float() / 255
        gray = torch.full_like(found.truth[place], 0.5)
        rows = [Row("video", _pictures(windows[place].float() / 255))]
        rows.append(Row(f"visible: {found.context} frames", _pictures(torch.cat([seen, gray], 1))))
        for name in ("true", "predicted", "mean"):
            decoded = getattr(found, f"{name}_tokens")[place]
            ratio = psnr(decoded, found.truth[place])
            rows.append(Row(f"{name} tokens, decoded: {ratio:.2f} dB", _pictures(torch.cat([seen, decoded], 1))))
        panels.append(Panel(names[place], tuple(rows)))
    return panels


def _pictures(frames: Tensor) -> Pictures:
    """Floats [3, T, H, W] in 0..1 as uint8 [T, H, W, 3]."""
    pixels = (255 * frames.clamp(0, 1)).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(1, 2, 3, 0).numpy())
