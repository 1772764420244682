"""What `vjepa show` draws of clips: PCA maps, similarity, attention; strips, videos and pages.

Every function takes what `openvjepa.seeing` computed, and writes files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openvjepa.reports.seeing.page import data_bytes, data_image, lookup_table, write_page
from openvjepa.reports.seeing.pictures import (
    Enlarge,
    Panel,
    Row,
    fit_to,
    strip,
    write_png,
    write_side_by_side,
)
from openvjepa.seeing.pca import PcaFit, per_frame
from openvjepa.seeing.similarity import PackedClip, PackedTokens
from openvjepa.seeing.tokens import ClipTokens, Sight

NEAREST = "One square is one token; nothing is interpolated."
BILINEAR = "Colors are interpolated between tokens (bilinear): finer than what the model computes."


def pca_facts(sight: Sight, fits: Sequence[PcaFit], how: Enlarge) -> dict[str, str]:
    """What a picture of PCA maps must carry: model, layer, set of the fit, scale."""
    facts = {}
    for number, fit in enumerate(fits):
        clip = sight.clips[number][0]
        name = "Model" if len(fits) == 1 else f"Model {number + 1}"
        facts[name] = f"{clip.model}, layer {clip.layer}"
        shares = " + ".join(f"{100 * share:.0f}" for share in fit.explained[:3])
        masked = "; background (black) masked by the first component" if fit.foreground is not None else ""
        notes = "".join(f"; {note}" for note in fit.notes)
        facts[f"{name}: colors"] = (
            f"components 1-3 as red, green, blue ({shares} % of the variance), fitted jointly on {fit.facts}, "
            f"{fit.facts.tokens} tokens{masked}{notes}"
        )
    facts["Enlargement"] = NEAREST if how == "nearest" else BILINEAR
    facts["Frames"] = f"every frame shows the map of its tubelet ({sight.clips[0][0].tubelet} frames)"
    return facts


def pca_panels(sight: Sight, fits: Sequence[PcaFit], how: Enlarge = "nearest") -> list[Panel]:
    """The frames of each clip, and under them the map of each model."""
    panels = []
    for views in zip(*sight.clips, strict=True):
        first = largest(views)
        rows = [Row("frames, as the encoder saw them", first.frames)]
        for view, fit in zip(views, fits, strict=True):
            colors = per_frame(fit.colors(view.tokens), len(first.frames))
            rows.append(Row(f"{view.model}, layer {view.layer}", fit_to(colors, first.frames.shape[1:3], how)))
        panels.append(shown(Panel(first.name, tuple(rows)), first))
    return panels


def largest(views: Sequence[ClipTokens]) -> ClipTokens:
    """Of the same clip seen by several models, the one with the largest frames."""
    return max(views, key=lambda view: view.frames.shape[1] * view.frames.shape[2])


def shown(panel: Panel, clip: ClipTokens) -> Panel:
    """The panel; of a still image only one picture for each tubelet."""
    if not clip.is_still:
        return panel
    return Panel(panel.title, tuple(Row(row.name, row.pictures[:: clip.tubelet]) for row in panel.rows))


def write_pca(out: Path, sight: Sight, fits: Sequence[PcaFit], *, how: Enlarge = "nearest") -> list[Path]:
    """Write pca.png (a strip), pca.html and, for each video, pca-NAME.mp4.

    Args:
        out: folder.
        sight: the clips.
        fits: of each model.
        how: how maps are enlarged.

    Raises:
        VideoError: a video cannot be encoded.
        CheckpointError: a file cannot be written.
    """
    facts, panels = pca_facts(sight, fits, how), pca_panels(sight, fits, how)
    return [
        write_png(out / "pca.png", strip(panels, lines(facts)), facts),
        write_player(out / "pca.html", "Features as colors", sight, panels, facts, PCA_LEAD),
        *write_videos(out, "pca", sight, panels, lines(facts)),
    ]


PCA_LEAD = (
    "Each square is a token. Its color is its position along the three directions in which the features vary most: tokens "
    "of the same color have similar features. The fit is the same for all clips, so colors can be compared between clips "
    "of one model; colors of two models cannot."
)


def lines(facts: Mapping[str, str]) -> list[str]:
    """Facts as lines of a caption."""
    return [f"{name}: {value}" for name, value in facts.items()]


def free_name(path: Path, written: Collection[Path]) -> Path:
    """The path, or PATH-2, PATH-3, ..., whichever has not been written yet."""
    names = (path, *(path.with_stem(f"{path.stem}-{number}") for number in range(2, len(written) + 2)))
    return next(name for name in names if name not in written)


def write_videos(out: Path, kind: str, sight: Sight, panels: Sequence[Panel], caption: Sequence[str]) -> list[Path]:
    """An MP4 for each video: KIND-NAME.mp4; of several with one name, KIND-NAME-2.mp4. Still images have none."""
    groups: dict[str, list[int]] = {}
    for number, clip in enumerate(sight.clips[0]):
        if not clip.is_still:
            groups.setdefault(clip.path, []).append(number)
    written: list[Path] = []
    for path, numbers in groups.items():
        target = free_name(out / f"{kind}-{Path(path).stem}.mp4", written)
        times = [sight.clips[0][number].times for number in numbers]
        written.append(write_side_by_side(target, [panels[number] for number in numbers], times, caption))
    return written


def write_player(
    path: Path, title: str, sight: Sight, panels: Sequence[Panel], facts: Mapping[str, str], lead: str
) -> Path:
    """A page with every panel as a strip and as a player of its frames.

    Raises:
        CheckpointError: it cannot be written.
    """
    clips = []
    for panel, clip in zip(panels, sight.clips[0], strict=True):
        rows = [
            {"name": row.name, "image": data_image(np.concatenate(list(row.pictures), 1), lossless=number > 0)}
            for number, row in enumerate(panel.rows)
        ]
        height, width = panel.rows[0].pictures.shape[1:3]
        times = clip.times[:: clip.tubelet] if clip.is_still else clip.times
        clips.append({"title": panel.title, "rows": rows, "times": times.tolist(), "size": [width, height]})
    data = {"clips": [{key: clip[key] for key in ("times", "size")} for clip in clips]}
    return write_page(path, "player", title, data, facts, sight.skipped, {"clips": clips, "lead": lead})


def similarity_facts(sight: Sight, packed: Sequence[PackedTokens]) -> dict[str, str]:
    """What the page of similarity must carry: model, layer, set of the fit, error."""
    facts = {}
    for number, part in enumerate(packed):
        clip = sight.clips[number][0]
        name = "Model" if len(packed) == 1 else f"Model {number + 1}"
        facts[name] = f"{clip.model}, layer {clip.layer}"
        facts[f"{name}: precision"] = (
            f"{part.dimensions} principal components in int8, fitted jointly on the {len(part.clips)} clips of this page, keep "
            f"{100 * part.kept:.1f} % of the variance; the similarity is off by {part.mean_error:.3f} in the mean and "
            f"{part.largest_error:.3f} at most over {part.pairs} random pairs of tokens"
        )
    return facts


def write_similarity(out: Path, sight: Sight, packed: Sequence[PackedTokens]) -> list[Path]:
    """Write similarity.html: choose a patch, and all frames are colored by cosine similarity to it.

    Raises:
        CheckpointError: it cannot be written.
    """
    clips = []
    for number, views in enumerate(zip(*sight.clips, strict=True)):
        clip = largest(views)
        models = [_packed_clip(part.clips[number]) for part in packed]
        frames = clip.frames[:: clip.tubelet] if clip.is_still else clip.frames
        times = clip.times[:: clip.tubelet] if clip.is_still else clip.times
        clips.append(
            {
                "title": clip.name,
                "frames": data_image(np.concatenate(list(frames), 1)),
                "times": times.tolist(),
                "size": [frames.shape[2], frames.shape[1]],
                "models": models,
            }
        )
    names = [f"{row[0].model}, layer {row[0].layer}" for row in sight.clips]
    models = [
        {"name": name, "dimensions": part.dimensions, "meanSquare": part.mean_square}
        for name, part in zip(names, packed, strict=True)
    ]
    data = {"clips": clips, "models": models, "colors": data_bytes(lookup_table())}
    values: dict[str, Any] = {"titles": [clip["title"] for clip in clips], "names": names}
    facts = similarity_facts(sight, packed)
    return [write_page(out / "similarity.html", "similarity", "Similarity", data, facts, sight.skipped, values)]


def _packed_clip(clip: PackedClip) -> dict[str, Any]:
    numbers = np.stack([clip.scale, clip.along_mean, clip.length], 1).astype(np.float32)
    return {"grid": list(clip.grid), "values": data_bytes(clip.values), "numbers": data_bytes(numbers)}
