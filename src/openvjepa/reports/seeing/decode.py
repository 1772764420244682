"""Panels of decoded tokens: the video, what was visible, and what true, predicted and mean tokens decode to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from openvjepa.reports.seeing.pictures import Panel, Pictures, Row, heat
from openvjepa.seeing.decode import Decoded, psnr

_SHOWN = 10  # frames of a row: as many as fit on a page


def decoded_panels(found: Decoded, windows: Tensor, names: Sequence[str]) -> list[Panel]:
    """Rows for each video: each decoded one with its PSNR; of several samples also their mean and standard deviation.

    Args:
        found: of `decode`, n windows.
        windows: uint8 [n, 3, T, H, W], the whole windows.
        names: of the videos.
    """
    panels: list[Panel] = []
    for place, name in enumerate(names):
        truth, context = found.truth[place], found.context
        kept = min(context, max(2, _SHOWN - truth.shape[1]))
        seen = windows[place, :, context - kept : context].float() / 255
        rows = [Row("video", _pictures(torch.cat([seen, truth], 1)))]
        last = "" if kept == context else f", the last {kept} shown"
        rows.append(
            Row(f"visible: {context} frames{last}", _pictures(torch.cat([seen, torch.full_like(truth, 0.5)], 1)))
        )
        for kind, samples in found.panels.items():
            for text, decoded in _drawn(kind, samples[:, place]):
                label = f"{text}: {psnr(decoded, truth):.2f} dB"
                rows.append(Row(label, _pictures(torch.cat([seen, decoded], 1))))
        panels.append(Panel(name, (*rows, *_spread_rows(found, place, kept))))
    return panels


def _drawn(kind: str, samples: Tensor) -> list[tuple[str, Tensor]]:
    """What is drawn of the samples [S, 3, T, H, W] of a panel: all those of predicted tokens, one of the others."""
    if len(samples) == 1:
        return [(f"{kind} tokens, decoded", samples[0])]
    if kind != "predicted":
        return [(f"{kind} tokens, decoded, a sample", samples[0])]
    drawn = [(f"predicted tokens, decoded, sample {number}", sample) for number, sample in enumerate(samples, 1)]
    return [*drawn, (f"predicted tokens, decoded, mean of {len(samples)} samples", samples.clamp(0, 1).mean(0))]


def _spread_rows(found: Decoded, place: int, kept: int) -> list[Row]:
    """Standard deviation over the samples of true and predicted tokens, mean over colors, in one scale of color.

    `kept` visible frames stand before them, gray.
    """
    if len(found.true_tokens) == 1:
        return []
    maps = {kind: found.panels[kind][:, place].clamp(0, 1).std(0).mean(0) for kind in ("true", "predicted")}
    top = float(np.quantile(torch.stack(list(maps.values())).numpy(), 0.995))
    rows: list[Row] = []
    for kind, values in maps.items():
        colors = heat(values.numpy(), 0, top)
        gray = np.full((kept, *colors.shape[1:]), 128, np.uint8)
        text = f"standard deviation over samples, {kind} tokens: mean {float(values.mean()):.3f}; black 0, yellow {top:.3f}"
        rows.append(Row(text, np.concatenate([gray, colors])))
    return rows


def _pictures(frames: Tensor) -> Pictures:
    """Floats [3, T, H, W] in 0..1 as uint8 [T, H, W, 3]."""
    pixels = (255 * frames.clamp(0, 1)).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(1, 2, 3, 0).numpy())
