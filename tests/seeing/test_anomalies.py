"""Anomalies: distances, thresholds, events and accuracies are what their definitions say, by brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from openvjepa.commands.anomalies import anomaly_model
from openvjepa.data.clips import ClipSpec
from openvjepa.data.media.video import open_video
from openvjepa.errors import DataError
from openvjepa.seeing.surprise.anomalies import (
    AnomalySettings,
    Bank,
    Sample,
    VideoScores,
    find_events,
    fit_detector,
    peak_of_runs,
)
from openvjepa.seeing.surprise.detection import evaluate_detection
from openvjepa.seeing.surprise.error import load_with_predictor, predictive_model
from openvjepa.seeing.surprise.following import FollowSettings, follow, reference_mean


def scores_of(values: list[float], numbers: list[int] | None = None, path: str = "a.mp4") -> VideoScores:
    places = np.array(range(len(values)) if numbers is None else numbers)
    spans = tuple((float(i), float(i) + 1.5) for i in places)
    return VideoScores(path, places, spans, {"distance": np.array(values, float)}, {})


def test_distances_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(0)
    bank, asked = rng.normal(3, 2, (30, 7)).astype(np.float32), rng.normal(3, 4, (5, 7)).astype(np.float32)
    scaled = [(part - bank.mean(0)) / bank.std(0) for part in (bank, asked)]
    every = np.sqrt(((scaled[1][:, None] - scaled[0][None]) ** 2).mean(2))
    np.testing.assert_allclose(Bank(bank, 3).distances(asked), np.sort(every, 1)[:, :3].mean(1), rtol=1e-4)
    assert Bank(bank[:2], 5).distances(bank[:1]).shape == (1,)  # fewer than the neighbors


def test_samples_are_uniform_and_bounded() -> None:
    """Every row is kept equally often, wherever it comes."""
    counts = np.zeros(40)
    for seed in range(2000):
        sample = Sample(8, np.random.default_rng(seed))
        for part in np.split(np.arange(40, dtype=np.float32)[:, None], [1, 15, 16, 30]):
            sample.add(part)
        assert len(sample.rows()) == 8
        counts[sample.rows()[:, 0].astype(int)] += 1
    assert np.abs(counts - 400).max() < 5 * np.sqrt(400 * 0.8)


def test_events_are_runs_of_consecutive_windows() -> None:
    video = scores_of([0, 5, 0, 5, 7, 6, 0, 5, 5], [0, 1, 2, 3, 4, 5, 6, 7, 9])
    found = find_events(video, "distance", 1.0, 2)
    assert [(e.start, e.end, e.peak, e.windows) for e in found] == [(3.0, 6.5, 7.0, 3)]  # 7 and 9 do not touch
    assert len(find_events(video, "distance", 1.0, 1)) == 4
    assert not find_events(video, "distance", 7.0, 1)
    assert len(find_events(scores_of([3.0]), "distance", 1.0, 4)) == 1  # a video of a single window
    assert not find_events(scores_of([np.nan, np.nan]), "distance", 1.0, 1)


@pytest.mark.parametrize("run", [1, 2, 3])
def test_a_peak_is_the_highest_threshold_of_an_event(run: int) -> None:
    rng = np.random.default_rng(run)
    for _ in range(20):
        video = scores_of(rng.normal(size=8).tolist(), sorted(rng.choice(12, 8, replace=False).tolist()))
        peak = peak_of_runs(video, "distance", run)
        candidates = [v - 1e-9 for v in video.values["distance"] if find_events(video, "distance", v - 1e-9, run)]
        assert peak == pytest.approx(max(candidates), abs=1e-6) if candidates else np.isnan(peak)


def test_accuracies_and_verdict() -> None:
    rng = np.random.default_rng(0)
    odd = np.arange(40) % 2 == 0
    videos = []
    for number, strange in enumerate(odd):
        values = {"distance": rng.normal(3.0 * strange, 1.0, 4), "tokens": rng.normal(size=4)}
        videos.append(VideoScores(f"{number}.mp4", np.arange(4), ((0.0, 1.0),) * 4, values, {}))
    events = [e for v in videos for e in find_events(v, "distance", 2.0, 2)]
    found = evaluate_detection(videos, odd, events, 2)
    singles = [max(min(v.values["distance"][i : i + 2]) for i in range(3)) for v in videos]
    quality = found.scores["distance"]
    assert quality.auroc.value == pytest.approx(roc_auc_score(odd, singles))
    assert quality.auroc.low <= quality.auroc.value <= quality.auroc.high
    assert quality.recall == pytest.approx(np.mean(np.array(singles)[odd] > 2.0))
    assert quality.false_alarms == pytest.approx(np.mean(np.array(singles)[~odd] > 2.0))
    assert found.verdict.startswith("distance is the better score")
    noise = [VideoScores(v.path, v.numbers, v.spans, {n: rng.normal(size=4) for n in v.values}, {}) for v in videos]
    assert evaluate_detection(noise, odd, [], 2).verdict.startswith("no score is above chance level")


def test_a_detector_fits_on_normal_videos(physics: Path, predictive: Path) -> None:
    model = anomaly_model(load_with_predictor(str(predictive)))
    paths = [str(physics / "videos" / f"train_0000{i}.mp4") for i in range(6)]
    how = FollowSettings(ClipSpec(8, 1, None), (2, 4), 2, batch_size=3)
    detector = fit_detector(model, paths, how, AnomalySettings(quantile=0.5, held_out=0.34))
    assert len(detector.fitted) == 4
    assert len(detector.held_out) == 2
    assert {*detector.fitted, *(video.path for video in detector.held_out)} == set(paths)
    for name, threshold in detector.thresholds.items():
        held = np.concatenate([video.values[name] for video in detector.held_out])
        assert np.sum(held <= threshold) >= len(held) / 2 > np.sum(held < threshold)  # the median, of the scores
    # Windows in the bank are near to themselves; the prediction errors are those of `vjepa surprise`.
    seen = detector.follow_video(detector.fitted[0])
    assert seen.values["tokens"].max() < 1e-3
    plain = predictive_model(model.loaded)
    found = follow(plain, paths[0], how, reference_mean(plain, paths[:1], how))
    again = detector.follow_video(paths[0])
    np.testing.assert_allclose(again.values["surprise"], found.curve(), rtol=1e-5)
    np.testing.assert_allclose(again.values["ratio"], found.ratios(), rtol=1e-5)
    assert again.spans == tuple(found.plan.span(i) for i in range(3))
    assert open_video(paths[0]).frame_count == 12
    same = fit_detector(model, paths, how, AnomalySettings(quantile=0.5, held_out=0.34))
    assert same.thresholds == detector.thresholds
    with pytest.raises(DataError, match="at least two normal videos"):
        fit_detector(model, [*paths[:1], *paths[:1]], how, AnomalySettings())
