"""What `vjepa surprise` writes: a page, a copy of the video beside its heat map, events and accuracies as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from openvjepa.errors import VideoError
from openvjepa.reports import charts, pages
from openvjepa.reports.seeing.pictures import Panel, Row, enlarged, fit_to, heat, overlay, strip, write_side_by_side
from openvjepa.seeing.surprise.benchmarks import Separation
from openvjepa.seeing.surprise.error import PredictiveModel
from openvjepa.seeing.surprise.following import Pooling, VideoSurprise
from openvjepa.seeing.surprise.windows import read_frames

MEASURES = {
    "ratio": "surprise / repeat",
    "surprise": "surprise (predictor)",
    "repeat": "the last visible tokens stay",
    "mean": "the mean token of this place",
    "excess": "excess over repeat, top 5 % of tokens",
}
LEAD = (
    "Surprise is the mean absolute error between the predictor's expectation, from the first frames of a window alone, and "
    "the target encoder's layer-normed tokens. It grows with the amount of motion. The ratio to the baseline 'the last "
    "visible tokens stay' is therefore reported first: below 1, the model expects more than a still picture."
)
_STRIP_FRAMES = 12


@dataclass(frozen=True)
class PageFacts:
    """What the page says about the run."""

    model: str
    rows: Mapping[str, str]
    """Name -> value: clip, contexts, stride, reference of the mean tokens."""


def heat_limit(videos: Sequence[VideoSurprise]) -> float:
    """Upper end of the common color scale: the 99.5th percentile of all tokens' errors."""
    values = np.concatenate([heat_values[np.isfinite(heat_values)] for heat_values in (v.heat() for v in videos)])
    return float(np.quantile(values, 0.995)) if len(values) else 1.0


def heat_panel(video: VideoSurprise, frames: NDArray[np.uint8], high: float) -> Panel:
    """Frames, and under them each token's surprise over the gray frame; frames that nothing predicts stay gray.

    Args:
        video: its surprise.
        frames: of `read_frames`, uint8 [F, H, W, 3].
        high: upper end of the color scale, of `heat_limit`.
    """
    values = video.heat()
    known = np.isfinite(values)
    colors = fit_to(heat(np.where(known, values, 0.0), 0.0, high), frames.shape[1:3])
    shown = overlay(frames, colors)
    unknown = ~known.any((1, 2))
    shown[unknown] = overlay(frames[unknown], np.zeros_like(frames[unknown]), 0.0)
    rows = (Row("frames", frames), Row(f"surprise of each token, 0 to {high:.3g}", shown))
    return Panel(Path(video.path).name, rows)


def write_annotated(
    path: Path, video: VideoSurprise, frames: NDArray[np.uint8], high: float, caption: Sequence[str]
) -> Path:
    """Write an MP4 of the sampled frames beside the heat map, with the caption below.

    Raises:
        VideoError: it cannot be encoded.
        CheckpointError: it cannot be written.
    """
    return write_side_by_side(
        path, [heat_panel(video, frames, high)], [video.plan.times - video.plan.times[0]], caption
    )


def write_page(
    path: Path,
    facts: PageFacts,
    videos: Sequence[VideoSurprise],
    skipped: Mapping[str, str],
    model: PredictiveModel,
    *,
    pooling: Pooling,
    pictures: int,
    extra: Sequence[pages.Section] = (),
) -> Path:
    """Write the page.

    Args:
        path: the file.
        facts: of the run.
        videos: what was measured.
        skipped: path -> reason.
        model: to read the frames as it saw them.
        pooling: of the windows of a video.
        pictures: how many videos get curves and heat maps, those of the highest ratio first.
        extra: sections that come first, such as accuracies or events.

    Raises:
        CheckpointError: it cannot be written.
    """
    order = sorted(videos, key=lambda video: -np.nan_to_num(video.score(pooling).ratio, nan=-1.0))
    sections = [*extra, _table(order, pooling)]
    if order and pictures:
        high = heat_limit(order[:pictures])
        sections.append(pages.Section("Over time", Markup("").join(_figure(v, model, high) for v in order[:pictures])))
    if skipped:
        rows = [(name, reason) for name, reason in skipped.items()]
        sections.append(pages.Section("Not read", pages.plain_table(("file", "reason"), rows)))
    sections.append(pages.run_facts({"model": facts.model, **facts.rows}))
    return pages.write_report(path, "Surprise", sections, lead=LEAD)


def _table(videos: Sequence[VideoSurprise], pooling: Pooling) -> pages.Section:
    rows = []
    for video in videos:
        score = video.score(pooling)
        values = [f"{getattr(score, name):.3f}" for name in MEASURES]
        rows.append((Path(video.path).name, *values, str(len(video.windows)), "; ".join(video.notes)))
    head = ("video", *MEASURES, "windows", "notes")
    note = pages.paragraph(
        f"The {'mean' if pooling == 'mean' else 'maximum'} over the windows of each video. Ratio: surprise / repeat. Repeat: "
        "the error of 'the last visible tokens stay'. Mean: that of 'the mean token of this place'."
    )
    return pages.Section("Videos", note + pages.plain_table(head, rows))


def _figure(video: VideoSurprise, model: PredictiveModel, high: float) -> Markup:
    """Curves and heat map of a video."""
    name = Path(video.path).name
    lines = {
        MEASURES["surprise"]: video.curve(),
        MEASURES["repeat"]: video.curve("repeat"),
        MEASURES["mean"]: video.curve("mean"),
    }
    middles = video.middles()
    curves = charts.line_chart(f"{name}: error", middles, lines, x_label="middle of what is predicted, s")
    ratio = charts.line_chart(f"{name}: ratio", middles, {MEASURES["ratio"]: video.ratios()}, x_label="s")
    try:
        frames = read_frames(video.record.open(), video.plan, model.config.image_hw, antialias=model.clip.antialias)
    except VideoError:
        return pages.chart_row((curves, ratio))
    panel = heat_panel(video, frames, high)
    chosen = np.unique(np.linspace(0, len(frames) - 1, _STRIP_FRAMES).round().astype(int))
    rows = tuple(Row(row.name, enlarged(row.pictures[chosen], 80)) for row in panel.rows)
    times = f"{len(chosen)} of {len(frames)} sampled frames, {video.plan.times[0]:.2f} to {video.plan.times[-1]:.2f} s"
    picture = strip([Panel(f"{name}: {times}", rows)], [], frame_px=80)
    alt = f"{name}: frames, and the surprise of each token"
    return pages.chart_row((curves, ratio)) + pages.wide_picture(picture, alt)


def accuracies(separations: Mapping[str, Separation]) -> pages.Section:
    """How well each measure tells impossible videos from possible ones.

    Args:
        separations: measure (a key of MEASURES) -> its accuracies.
    """
    rows = [
        (MEASURES[name], str(found.relative), str(found.absolute), str(found.auroc))
        for name, found in separations.items()
    ]
    first = next(iter(separations.values()))
    groups = list(first.groups)
    by_group = [(MEASURES[n], *(f"{100 * s.groups[g]:.0f} %" for g in groups)) for n, s in separations.items()]
    note = pages.paragraph(
        f"{first.scenes} scenes of matched videos; chance level 50 %. Relative: the impossible videos of a scene have the "
        "higher mean over windows. Absolute: single videos by their maximum, on the right side of the median of all videos. "
        "In brackets: 95 % confidence interval, by resampling the scenes."
    )
    body = note + pages.plain_table(("measure", "relative", "absolute", "AUROC"), rows)
    return pages.Section("Possible and impossible", body + pages.plain_table(("relative", *groups), by_group))
