"""Attention of a probe over the frames: a row for each head, or for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openvjepa.reports.seeing.pictures import Panel, Row, fit_to, heat, overlay, strip, write_png
from openvjepa.reports.seeing.show import largest, lines, shown, write_player, write_videos
from openvjepa.seeing.attention import AttentionRow
from openvjepa.seeing.pca import per_frame
from openvjepa.seeing.tokens import Sight

LEAD = (
    "The attentive probe reads all tokens of a clip through the attention of one learned query. Bright tokens are those it looks "
    "at. A row for a class shows where attention speaks for the class: attention times its gradient of the class's logit, where "
    "positive, averaged over the heads (Chefer, Gur and Wolf 2021). Every row sums to 1 over the tokens of its clip."
)

Rows = Sequence[Sequence[Sequence[AttentionRow]]]
"""Of each model, of each clip: the rows to draw."""


def attention_facts(sight: Sight) -> dict[str, str]:
    """What a picture of attention must carry."""
    facts = {}
    for number, row in enumerate(sight.clips):
        name = "Model" if len(sight.clips) == 1 else f"Model {number + 1}"
        facts[name] = f"{row[0].model}, layer {row[0].layer}, with its attentive probe"
    facts["Colors"] = "laid over the gray frames; the brightest is the largest share in the row, which its name gives"
    facts["Enlargement"] = "One square is one token; nothing is interpolated."
    facts["Frames"] = f"every frame shows the map of its tubelet ({sight.clips[0][0].tubelet} frames)"
    facts["Fit"] = "none: the probe's own weights"
    return facts


def write_attention(out: Path, sight: Sight, attention: Rows) -> list[Path]:
    """Write attention.png (a strip), attention.html and, for each video, attention-NAME.mp4.

    Raises:
        VideoError: a video cannot be encoded.
        CheckpointError: a file cannot be written.
    """
    facts, panels = attention_facts(sight), attention_panels(sight, attention)
    return [
        write_png(out / "attention.png", strip(panels, lines(facts)), facts),
        write_player(out / "attention.html", "Attention of the probe", sight, panels, facts, LEAD),
        *write_videos(out, "attention", sight, panels, lines(facts)),
    ]


def attention_panels(sight: Sight, attention: Rows) -> list[Panel]:
    """The frames of each clip, and under them each row of each model."""
    panels = []
    for number, views in enumerate(zip(*sight.clips, strict=True)):
        first = largest(views)
        rows = [Row("frames, as the encoder saw them", first.frames)]
        for view, clips in zip(views, attention, strict=True):
            model = "" if len(views) == 1 else f"{view.model}: "
            for row in clips[number]:
                rows.append(Row(f"{model}{_words(row)}", _picture(row.values, first.frames)))
        panels.append(shown(Panel(first.name, tuple(rows)), first))
    return panels


def _words(row: AttentionRow) -> str:
    return f"{row.name}; brightest {100 * row.values.max():.1f} %, uniform would be {100 / row.values.size:.1f} %"


def _picture(values: NDArray[np.float64], frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    colors = heat(per_frame(values, len(frames)), 0.0, float(values.max()))
    return overlay(frames, fit_to(colors, (frames.shape[1], frames.shape[2])))
