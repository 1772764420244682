"""Segments of long videos: against exhaustive search, frame-by-frame scores and hand-made lists; and through the commands."""

from __future__ import annotations

import csv
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gray_videos import render

from openvjepa.cli.render.evaluate import evaluate as shown_by
from openvjepa.commands.evaluate import evaluate
from openvjepa.commands.predict import predict
from openvjepa.config import EvaluateConfig, PredictConfig
from openvjepa.data.lists.index import VideoRecord, read_index
from openvjepa.data.media.video import open_video
from openvjepa.errors import ConfigError, DataError
from openvjepa.inference.predictions import Prediction
from openvjepa.inference.temporal.evaluation import TemporalResult
from openvjepa.inference.temporal.scores import OVERLAPS, agreement, edit_score, temporal_metrics
from openvjepa.inference.temporal.segments import refined, smoothed, without_short
from openvjepa.inference.timeline import Timeline


def say(run: Path, *videos: object, **settings: Any) -> list[Prediction]:
    config = PredictConfig(tuple(map(str, videos)), (str(run),), window=1.0, stride=0.5, workers=0)
    return predict(replace(config, **settings))


def line(shares: np.ndarray, skipped: dict[int, str] | None = None, *, window: float = 2.0) -> Timeline:
    """Windows a second apart."""
    spans = tuple((float(i), i + window) for i in range(len(shares)))
    names = tuple("abcdef"[: shares.shape[1]])
    return Timeline("v.mp4", len(shares) - 1 + window, names, spans, shares, skipped or {})


def test_minimum_length_finds_the_best_of_all_segmentations() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        count, classes = int(rng.integers(1, 8)), int(rng.integers(2, 4))
        timeline = line(rng.dirichlet(np.ones(classes), count))
        least = float(rng.choice([0.5, 1.6, 2.0, 3.5, 20]))
        lengths = np.diff(timeline.borders())
        best = -1.0
        for labels in itertools.product(range(classes), repeat=count):
            groups = [list(group) for _, group in itertools.groupby(range(count), key=labels.__getitem__)]
            if len(groups) > 1 and any(lengths[group].sum() < least - 1e-9 for group in groups):
                continue
            best = max(best, sum(lengths[i] * timeline.probabilities[i, labels[i]] for i in range(count)))
        found = without_short(timeline, least)
        chosen = [label for label in found.labels if label is not None]
        assert sum(lengths[i] * timeline.probabilities[i, chosen[i]] for i in range(count)) == pytest.approx(best)
        scenes = found.scenes()
        assert len(scenes) == 1 or min(scene.end - scene.start for scene in scenes) >= least - 1e-9


def test_a_short_flicker_goes_to_its_neighbors_and_gaps_stay() -> None:
    shares = np.eye(3)[[0, 0, 1, 0, 0, 2, 2, 2, 1]] * 0.6 + 0.1
    timeline = line(shares, {4: "damaged"})
    assert [scene.label for scene in timeline.scenes()] == [0, 1, 0, None, 2, 1]
    assert [scene.label for scene in without_short(timeline, 2).scenes()] == [
        0,
        None,
        2,
        1,
    ]  # the last lasts 1.5 + 0.5 s
    assert [scene.label for scene in without_short(timeline, 2.1).scenes()] == [0, None, 2]
    assert without_short(timeline, 1e-3).labels == timeline.labels


def test_smoothing_averages_windows_near_by() -> None:
    rng = np.random.default_rng(1)
    shares = rng.dirichlet(np.ones(3), 6)
    shares[2] = 0
    found = smoothed(line(shares, {2: "x"}), 2.0)
    for i in range(6):
        near = [j for j in range(6) if abs(i - j) <= 1 and j != 2]
        truth = np.zeros(3) if i == 2 else shares[near].mean(0)
        np.testing.assert_allclose(found.probabilities[i], truth, atol=1e-12)
    assert refined(line(shares)).probabilities is shares
    np.testing.assert_allclose(smoothed(line(shares), 0.5).probabilities, shares)


def by_frames(labels: list[int | None]) -> list[tuple[int, int, int]]:
    """Segments of frames, None being no segment."""
    found, start = [], 0
    for label, group in itertools.groupby(labels):
        count = len(list(group))
        if label is not None:
            found.append((start, start + count, label))
        start += count
    return found


def frame_scores(
    predicted: list[int], truth: list[int | None]
) -> tuple[float, dict[float, tuple[int, int, int]], float]:
    """Accuracy, (true positives, predicted, labeled) at each overlap and edit score, from sets of frames."""
    labeled = [i for i, label in enumerate(truth) if label is not None]
    right = sum(predicted[i] == truth[i] for i in labeled) / len(labeled)
    ours = by_frames([predicted[i] if truth[i] is not None else None for i in range(len(truth))])
    theirs = by_frames(truth)
    counts = {}
    for overlap in OVERLAPS:
        used: set[int] = set()
        for start, end, label in ours:
            best, best_share = -1, -1.0
            for number, (a, b, other) in enumerate(theirs):
                one, two = set(range(start, end)), set(range(a, b))
                share = len(one & two) / len(one | two) if label == other else 0.0
                if share > best_share:
                    best, best_share = number, share
            if best_share >= overlap and best not in used:
                used.add(best)
        counts[overlap] = (len(used), len(ours), len(theirs))

    def distance(a: tuple[int, ...], b: tuple[int, ...]) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))

    one, two = tuple(label for *_, label in ours), tuple(label for *_, label in theirs)
    return right, counts, 100 * (1 - distance(one, two) / max(len(one), len(two)))


def random_labels(rng: np.random.Generator, count: int, *, gaps: bool) -> list[Any]:
    labels: list[Any] = []
    while len(labels) < count:
        value = rng.integers(-1 if gaps else 0, 3)
        labels += [None if value < 0 else int(value)] * int(rng.integers(1, 7))
    return labels[:count]


def test_scores_are_those_of_counted_frames() -> None:
    rng = np.random.default_rng(0)
    found, expected = [], []
    for _ in range(60):
        count = int(rng.integers(8, 25))
        predicted, truth = random_labels(rng, count, gaps=False), random_labels(rng, count, gaps=True)
        if all(label is None for label in truth):
            continue
        right, counts, edit = frame_scores(predicted, truth)
        pieces = [[(float(a), float(b), label) for a, b, label in by_frames(labels)] for labels in (predicted, truth)]
        one = agreement(*pieces)
        assert one.right / one.labeled == pytest.approx(right)
        assert [(hit, one.predicted, one.segments) for hit in one.hits] == [counts[overlap] for overlap in OVERLAPS]
        assert one.edit == pytest.approx(edit)
        found.append(one)
        expected.append((right, counts, sum(label is not None for label in truth)))
    metrics = temporal_metrics(found, "abc")
    weights = np.array([labeled for *_, labeled in expected])
    assert metrics.accuracy == pytest.approx(100 * np.average([right for right, *_ in expected], weights=weights))
    for overlap in OVERLAPS:
        hits, ours, theirs = np.array([counts[overlap] for _, counts, _ in expected]).sum(0)
        assert metrics.f1[f"{overlap:g}"] == pytest.approx(200 * hits / (ours + theirs))
    assert metrics.accuracy_interval.low < metrics.accuracy < metrics.accuracy_interval.high


def test_edges_of_the_scores() -> None:
    truth = [(0.0, 2.0, 0), (2.0, 4.0, 1)]
    perfect = agreement(truth, truth)
    assert (perfect.hits, perfect.edit, perfect.right) == ((2, 2, 2), 100, 4)
    none = agreement([], truth)
    assert (none.hits, none.edit, none.right, none.predicted) == ((0, 0, 0), 0, 0, 0)
    split = agreement([(0.0, 0.9, 0), (0.9, 1.0, 1), (1.0, 2.0, 0), (2.0, 4.0, 1)], truth)
    assert split.hits == (2, 2, 2), "the second half of a segment is a false one"
    assert split.predicted == 4
    assert agreement([(0.0, 1.0, 0), (1.0, 4.0, 0)], truth).predicted == 1, "neighbors of one class are one"
    assert edit_score([0, 1, 0], [0, 1]) == pytest.approx(200 / 3)
    assert temporal_metrics([perfect], "ab").accuracy_interval.low == 0, "one video says nothing about others"


def test_predicted_segments_are_a_list_of_videos(run: Path, long: Path, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere" / "out.csv"
    out.parent.mkdir()
    (found,) = say(run, long, csv=str(out), smooth=1.0, min_length=0.9)
    assert found.timeline is not None
    scenes = found.timeline.scenes()
    assert out.read_text().startswith("path,start,end,label,probability\n")
    index = read_index(out)
    assert [(r.start, r.end) for r in index.records] == [pytest.approx((s.start, s.end), abs=1e-5) for s in scenes]
    assert [index.classes[r.label or 0] for r in index.records if index.classes] == ["dark", "bright", "dark"]
    assert {r.path for r in index.records} == {str(long)}
    count = sum(r.open().frame_count for r in index.records)
    assert 60 <= count <= 62, "none is left out; a frame that is on screen at a border is in both segments"
    assert found.to_dict()["segments"][1]["label"] == "bright"


def test_parts_are_followed_in_the_time_of_the_file(run: Path, long: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"path,start,end\n{long},2.5,5.5\n{long},0,1\n")
    target = str(tmp_path / "out.csv")
    first, second = say(run, tmp_path / "list.csv", csv=target, windows_csv=str(tmp_path / "w.csv"))
    assert first.timeline is not None
    assert second.timeline is not None
    assert first.path.endswith("[2.5-5.5 s]")
    assert first.timeline.duration == pytest.approx(3.0)
    assert first.to_dict()["windows"][0]["start"] == pytest.approx(2.5)
    with Path(target).open() as file:
        rows = [(row["label"], float(row["start"]), float(row["end"])) for row in csv.DictReader(file)]
    assert [label for label, *_ in rows] == ["dark", "bright", "dark", "dark"]
    assert rows[0][1] == pytest.approx(2.5)
    assert rows[1][1] == pytest.approx(3, abs=0.4)
    assert rows[-1][1:] == pytest.approx((0, 1))
    assert ",2.500,3.500," in (tmp_path / "w.csv").read_text().splitlines()[1]
    (tmp_path / "one.csv").write_text(f"path,start,end\n{long},2.5,5.5\n")
    say(run, tmp_path / "one.csv", annotate=str(tmp_path / "a.mp4"), timeline=str(tmp_path / "a.png"))
    assert open_video(tmp_path / "a.mp4").frame_count == 30


def test_evaluate_follows_long_videos(
    run: Path,
    long: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = render(tmp_path / "other.mp4", [200] * 30 + [50] * 30)
    (tmp_path / "truth.csv").write_text(
        f"path,start,end,label\n{long},0,3,dark\n{long},3,5,bright\n{long},5,,dark\n{other},0,3,bright\n{other},3,6,bright\n"
    )
    config = EvaluateConfig(model=(str(run),), source=str(tmp_path / "truth.csv"), out=str(tmp_path / "e"), workers=0)
    found = evaluate(replace(config, window=1.0, stride=0.2, smooth=0.4, min_length=0.5))
    assert isinstance(found, TemporalResult)
    (metrics,) = found.metrics.values()
    assert found.seconds == pytest.approx(12)
    assert metrics.accuracy == pytest.approx(75, abs=6), "3 of 12 s are labeled wrongly"
    assert (metrics.segments, metrics.predicted) == (4, 5)
    assert metrics.f1["0.25"] == pytest.approx(200 * 4 / 9), "half of a segment is found, beside a false one"
    stored = json.loads((tmp_path / "e" / "results.json").read_text())
    assert stored["results"][0]["accuracy"] == pytest.approx(metrics.accuracy)
    assert "<rect" in (tmp_path / "e" / "report.html").read_text()
    assert len(read_index(tmp_path / "e" / "predictions.csv")) == 5
    capsys.readouterr()
    shown_by(found, config)
    assert "F1@0.25" in capsys.readouterr().out
    both = evaluate(replace(config, model=(str(run), str(run)), window=1.0, out=str(tmp_path / "b")))
    assert isinstance(both, TemporalResult)
    assert len(both.metrics) == 3
    assert len({m.accuracy for m in both.metrics.values()}) == 1


def test_time_without_a_label_counts_only_as_background(run: Path, long: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"path,start,end,label\n{long},3,5,bright\n")
    config = EvaluateConfig(model=(str(run),), source=str(tmp_path / "t.csv"), out=str(tmp_path / "e"), workers=0)
    config = replace(config, window=0.8, stride=0.2, min_length=0.5, overwrite=True)
    alone, filled = evaluate(config), evaluate(replace(config, background="dark"))
    assert isinstance(alone, TemporalResult)
    assert isinstance(filled, TemporalResult)
    assert (alone.seconds, filled.seconds) == (pytest.approx(2), pytest.approx(6))
    assert [piece[2] for piece in filled.videos[0].truth] == [1, 0, 1]
    assert next(iter(filled.metrics.values())).f1["0.5"] == 100
    with pytest.raises(DataError, match="background 'no' is not a class"):
        evaluate(replace(config, background="no"))
    with pytest.raises(ConfigError, match="background needs window"):
        EvaluateConfig(background="dark")
    (tmp_path / "t.csv").write_text(f"path,start,end,label\n{long},3,5,bright\n{long},4,6,dark\n")
    with pytest.raises(DataError, match="segments overlap at 4 s"):
        evaluate(config)


def test_a_segment_after_the_end_of_its_video_is_no_negative_time(run: Path, long: Path, tmp_path: Path) -> None:
    other = render(tmp_path / "other.mp4", [200] * 30)
    rows = f"path,start,end,label\n{long},0,3,dark\n{long},10,12,bright\n{other},0,3,bright\n"
    (tmp_path / "t.csv").write_text(rows)
    config = EvaluateConfig(model=(str(run),), source=str(tmp_path / "t.csv"), out=str(tmp_path / "e"), workers=0)
    found = evaluate(replace(config, window=0.8, stride=0.2))
    assert isinstance(found, TemporalResult)
    assert found.skipped == {str(long): "a labeled segment starts at 10 s, and the video lasts 6 s"}
    (metrics,) = found.metrics.values()
    assert (found.seconds, metrics.accuracy) == (pytest.approx(3), 100)


def test_two_labels_without_times_are_refused(tmp_path: Path) -> None:
    def read(*rows: str) -> int:
        (tmp_path / "l.csv").write_text("\n".join(["path,start,end,label", *rows]) + "\n")
        return len(read_index(tmp_path / "l.csv"))

    assert read("a.mp4,0,1,x", "a.mp4,1,2,y") == 2
    assert read("a.mp4,,,x", "a.mp4,1,2,x") == 2
    for rows in (("a.mp4,,,x", "a.mp4,,,y"), ("a.mp4,,,x", "./a.mp4,,,y"), ("a.mp4,,,x", f"{tmp_path}/b/../a.mp4,,,y")):
        with pytest.raises(DataError, match="give columns start and end where its parts differ"):
            read(*rows)
    with pytest.raises(DataError, match="give columns start and end"):
        read("a.mp4,1,2,x", "a.mp4,,,y")
    with pytest.raises(DataError, match="has the labels 'x' and 'y'"):
        read("a.mp4,1,2,x", "a.mp4,1.0,2,y")


def test_the_offset_of_a_part_is_the_start_of_its_first_frame(long: Path) -> None:
    video = VideoRecord(str(long), start=2.55, end=4).open()
    assert video.offset == pytest.approx(2.5)
    assert open_video(long).offset == 0
