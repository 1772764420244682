"""The page of `vjepa surprise --normal`: events, scores over time, accuracies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from openvjepa.reports import charts, pages
from openvjepa.seeing.surprise.anomalies import AnomalyEvent, ScoreName, VideoScores
from openvjepa.seeing.surprise.detection import Detection

MEANING: dict[ScoreName, str] = {
    "distance": "distance of the mean token to normal windows",
    "tokens": "distance of the most unusual tokens to normal tokens",
    "ratio": "prediction error / that of repeated tokens",
    "surprise": "prediction error",
}
_TINY = 1e-12
_LEAD = (
    "Windows that are unlike normal videos. The detector has seen normal videos only; the threshold of each score comes from "
    "normal videos that were held out."
)


def write_page(
    path: Path,
    facts: Mapping[str, str],
    videos: Sequence[VideoScores],
    events: Sequence[AnomalyEvent],
    thresholds: Mapping[ScoreName, float],
    chosen: Sequence[ScoreName],
    detection: Detection | None,
    notes: Sequence[str],
    skipped: Mapping[str, str],
    *,
    pictures: int,
) -> Path:
    """Write the page.

    Args:
        path: the file.
        facts: of the run: name -> value.
        videos: their scores.
        events: of the chosen scores.
        thresholds: of every score.
        chosen: scores that make events.
        detection: how well the scores do, where there are labels.
        notes: what a reader must know.
        skipped: path -> reason.
        pictures: videos whose scores are drawn, those with the highest score over its threshold first.

    Raises:
        CheckpointError: it cannot be written.
    """
    sections = [pages.Section("Events", _events(events, videos, notes))]
    if detection is not None:
        sections.append(accuracies(detection))
    rows = [
        (name, MEANING[name], f"{value:.4g}", "yes" if name in chosen else "") for name, value in thresholds.items()
    ]
    table = pages.plain_table(("score", "meaning", "threshold", "makes events"), rows)
    sections.append(pages.Section("Scores", table))
    if pictures:
        order = sorted(videos, key=lambda video: -_height(video, thresholds, chosen))
        drawn = [_curve(video, thresholds, chosen) for video in order[:pictures]]
        note = pages.paragraph("Scores over their thresholds: above 1 is unlike the normal videos.")
        sections.append(pages.Section("Over time", note + pages.chart_row(drawn)))
    if skipped:
        sections.append(pages.Section("Not read", pages.plain_table(("file", "reason"), list(skipped.items()))))
    sections.append(pages.run_facts(facts))
    return pages.write_report(path, "Anomalies", sections, lead=_LEAD)


def _events(events: Sequence[AnomalyEvent], videos: Sequence[VideoScores], notes: Sequence[str]) -> Markup:
    rows = [
        (e.path, f"{e.start:.2f}", f"{e.end:.2f}", e.score, f"{e.peak:.4g}", f"{e.peak / max(e.threshold, _TINY):.3g}")
        for e in events
    ]
    count = len({event.path for event in events})
    body = pages.paragraph(f"{len(events)} events in {count} of {len(videos)} videos.")
    for note in notes:
        body += pages.paragraph(f"Note: {note}.")
    head = ("video", "start, s", "end, s", "score", "peak", "peak / threshold")
    return body + pages.plain_table(head, rows) if rows else body


def _height(video: VideoScores, thresholds: Mapping[ScoreName, float], chosen: Sequence[ScoreName]) -> float:
    found = [video.values[name] / max(thresholds[name], _TINY) for name in chosen]
    return max(float(np.max(part[np.isfinite(part)], initial=0.0)) for part in found)


def _curve(video: VideoScores, thresholds: Mapping[ScoreName, float], chosen: Sequence[ScoreName]) -> Markup:
    middles = [(start + end) / 2 for start, end in video.spans]
    lines = {f"{name} / threshold": video.values[name] / max(thresholds[name], _TINY) for name in chosen}
    return charts.line_chart(Path(video.path).name, middles, lines, x_label="middle of the window, s")


def accuracies(detection: Detection) -> pages.Section:
    """How well each score tells the labeled videos apart."""
    rows = [
        (name, str(q.auroc), str(q.auprc), f"{100 * q.recall:.0f} %", f"{100 * q.false_alarms:.0f} %")
        for name, q in detection.scores.items()
    ]
    total = detection.anomalous + detection.normal
    note = pages.paragraph(
        f"{detection.anomalous} anomalous and {detection.normal} normal videos, by their labels. Chance level: AUROC 50 %, "
        f"AUPRC {100 * detection.anomalous / total:.1f} %. In brackets: 95 % confidence interval, by resampling videos. Recall "
        f"and false alarms: videos with an event. {detection.verdict.capitalize()}."
    )
    head = ("score", "AUROC", "AUPRC", "recall", "false alarms")
    return pages.Section("Anomalous and normal videos", note + pages.plain_table(head, rows))
