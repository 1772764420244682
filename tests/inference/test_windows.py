"""Long videos: windows and clips against closed forms, answers on a video whose scenes are known, files read back."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gray_videos import FPS, render

from openvjepa.cli.render import predict as shown_by
from openvjepa.commands.predict import predict
from openvjepa.config import ClipConfig, PredictConfig
from openvjepa.data.clips import ClipSpec
from openvjepa.data.media.video import Video, open_video
from openvjepa.data.transforms import eval_views
from openvjepa.errors import ConfigError, VideoError
from openvjepa.features.sampling import ClipPlan
from openvjepa.inference.ensemble import load_members
from openvjepa.inference.predictions import Prediction
from openvjepa.inference.timeline import Scene, Timeline
from openvjepa.inference.windows import clip_starts, window_clips, window_spans
from openvjepa.reports.video import caption, main_colors


def say(run: Path, *videos: object, **settings: Any) -> list[Prediction]:
    config = PredictConfig(tuple(map(str, videos)), (str(run),), window=1.0, stride=0.5, workers=0)
    return predict(replace(config, **settings))


def test_windows_cover_the_video() -> None:
    assert window_spans(5, 2, 1) == [(0, 2), (1, 3), (2, 4), (3, 5)]
    assert window_spans(5.5, 2, 1) == [(0, 2), (1, 3), (2, 4), (3, 5), (3.5, 5.5)]
    assert window_spans(1.5, 2, 1) == [(0, 1.5)]
    assert window_spans(2, 2, 1) == [(0, 2)]
    assert window_spans(10, 2, 4) == [(0, 2), (4, 6), (8, 10)]
    assert len(window_spans(0.1 * 30, 0.1, 0.1)) == 30


def plan(frames: int = 4, step: int = 2, **more: Any) -> ClipPlan:
    return ClipPlan(ClipSpec(frames, step, None), (32, 32), **more)


def test_clips_lie_in_their_window(long: Path) -> None:
    video = open_video(long)  # frames of 0.1 s; a clip lasts 0.7 s: three steps of two frames, and the last frame
    assert clip_starts(video, plan(), (2, 3)) == pytest.approx([2.15])
    assert clip_starts(video, plan(segments=3, placement="ends"), (2, 3)) == pytest.approx([2, 2.15, 2.3])
    assert clip_starts(video, plan(segments=3), (2, 3)) == pytest.approx([2.05, 2.15, 2.25])
    assert clip_starts(video, plan(), (2, 2.2)) == pytest.approx([1.75]), "longer than the window: around its middle"
    assert clip_starts(video, plan(segments=2), (2, 2.2)) == pytest.approx([1.75, 1.75])
    assert clip_starts(video, plan(), (0, 0.2)) == [0]
    assert clip_starts(video, plan(), (5.9, 6)) == pytest.approx([5.3]), "ends with the video"


def test_clips_read_together_are_those_read_alone(long: Path) -> None:
    video, chosen = open_video(long), plan(segments=2, views=2, placement="ends")
    spans = window_spans(video.duration, 1, 0.2)
    batches = list(window_clips(video, chosen, spans))
    assert [len(batch) for batch in batches] == [8, 8, 8, 2], "32 clips at a time"
    found = [clips for batch in batches for clips in batch]
    for clips, span in zip(found, spans, strict=True):
        truth = []
        for first in (round(span[0] * FPS), round(span[0] * FPS) + 3):  # the last clip ends with the window
            frames = open_video(long).frames([first, first + 2, first + 4, first + 6]).frames
            truth += eval_views(frames, (32, 32), 2)
        assert isinstance(clips, torch.Tensor)
        assert torch.equal(clips, torch.stack(truth))


def test_a_window_as_long_as_the_video_has_the_clips_of_the_video(long: Path) -> None:
    video = open_video(long)
    for segments in (1, 3):
        chosen = plan(segments=segments)
        truth = chosen.spec.segment_starts(video, segments)
        assert clip_starts(video, chosen, (0, video.duration)) == pytest.approx(truth)


def test_scenes_are_found_where_they_are(run: Path, long: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    (found,) = say(run, long)
    timeline = found.timeline
    assert timeline is not None
    assert len(timeline.spans) == 11
    names = [timeline.classes[label or 0] for label in timeline.labels]
    assert names == ["dark"] * 5 + [names[5]] + ["bright"] * 3 + [names[9], "dark"]
    scenes = [scene for scene in timeline.scenes() if scene.windows > 1]
    assert timeline.scenes()[0].start == 0
    assert timeline.scenes()[-1].end == pytest.approx(6)
    assert [timeline.classes[scene.label or 0] for scene in scenes[:2]] == ["dark", "bright"]
    assert scenes[1].start == pytest.approx(3, abs=0.3)
    assert scenes[1].end == pytest.approx(5, abs=0.6)
    np.testing.assert_allclose(timeline.probabilities.sum(1), 1, atol=1e-6)
    assert dict(found.top)["dark"] == pytest.approx(float(timeline.probabilities[:, 1].mean()))
    shown_by.predict([found], PredictConfig())
    shown = capsys.readouterr().out
    assert "11 windows" in shown
    assert "0:06.0" in shown


def test_a_window_is_answered_like_a_video(run: Path, long: Path, tmp_path: Path) -> None:
    (whole,) = say(run, long)
    assert whole.timeline is not None
    start, levels = 1.0, [50] * 10  # the third window shows 10 dark frames
    alone = render(tmp_path / "alone.mp4", levels, size=(73, 96))
    (short,) = say(run, alone, window=None, stride=None, segments=1)
    number = [span[0] for span in whole.timeline.spans].index(start)
    np.testing.assert_allclose(
        [dict(short.top)[name] for name in whole.timeline.classes], whole.timeline.probabilities[number], atol=0.02
    )


def test_several_runs_follow_together(run: Path, long: Path) -> None:
    (one,) = say(run, long)
    (both,) = say(run, long, model=(str(run), str(run)))
    assert one.timeline is not None
    assert both.timeline is not None
    np.testing.assert_allclose(both.timeline.probabilities, one.timeline.probabilities, atol=1e-9)
    assert both.answers[0].runs == (str(run), str(run))


def test_a_csv_has_a_line_for_each_window(run: Path, long: Path, tmp_path: Path) -> None:
    found = say(run, long, tmp_path / "no.mp4", windows_csv=str(tmp_path / "out.csv"))
    assert found[1].error == "no such file"
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    timeline = found[0].timeline
    assert timeline is not None
    assert [(float(row["start"]), float(row["end"])) for row in rows] == [pytest.approx(s) for s in timeline.spans]
    for row, shares in zip(rows, timeline.probabilities, strict=True):
        assert row["path"] == str(long)
        assert [float(row["p(bright)"]), float(row["p(dark)"])] == pytest.approx(list(shares), abs=1e-6)
        assert row["class"] == ("bright", "dark")[int(shares.argmax())]
        assert float(row["probability"]) == pytest.approx(shares.max(), abs=1e-6)


def test_json_holds_the_windows(run: Path, long: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    (found,) = say(run, long, top=1)
    shown_by.predict([found], PredictConfig(json=True))
    (value,) = json.loads(capsys.readouterr().out)
    assert found.timeline is not None
    assert [window["start"] for window in value["windows"]] == [start for start, _ in found.timeline.spans]
    assert value["windows"][0]["top"] == [
        {"class": "dark", "probability": pytest.approx(found.timeline.probabilities[0, 1])}
    ]


def test_a_copy_shows_the_answers(run: Path, tmp_path: Path) -> None:
    times = [0, 4, 13, 20, 35, 40, 52, 60, 71, 80, 96, 100, 117, 120, 135, 140, 150, 166, 170, 180]  # 1/100 s, uneven
    source = render(tmp_path / "in.mp4", [50] * 10 + [200] * 10, size=(121, 200), times=times)
    (found,) = say(run, source, annotate=str(tmp_path / "out.mp4"), timeline=str(tmp_path / "out.png"))
    timeline, before, after = found.timeline, open_video(source), open_video(tmp_path / "out.mp4")
    assert timeline is not None
    np.testing.assert_allclose(after.times, before.times, atol=1e-6)
    old, new = before.all_frames().frames, after.all_frames().frames
    assert new.shape == (20, 120, 200, 3), "an odd row is left out"
    assert np.abs(old[:, :80, :120].astype(int).mean((1, 2, 3)) - new[:, :80, :120].mean((1, 2, 3))).max() < 4
    colors = main_colors(timeline)
    for time, frame in zip(after.times, new, strict=True):
        label = timeline.labels[timeline.at(float(time))]
        assert label is not None
        bar = [int(colors[label][i : i + 2], 16) for i in (1, 3, 5)]
        np.testing.assert_allclose(frame[108:118, 0:2].mean((0, 1)), bar, atol=45)
    picture = (tmp_path / "out.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.part"))


def test_a_caption_fits_into_any_frame() -> None:
    blank = np.full((64, 96, 3), 128, np.uint8)
    short, long = caption(blank, "ab 9 %", "#ff0000"), caption(blank, "a very long name of a class  99 %", "#ff0000")
    assert np.array_equal(short[:40], blank[:40])
    assert np.array_equal(short[:, 80:], blank[:, 80:])
    assert (short[50:] == 255).any(), "white letters"
    assert np.array_equal(long[:40], blank[:40])
    assert (long[50:, :90] == 255).any()
    assert (long[:, 93:] < 200).all(), "no letter is cut off"
    assert (blank == 128).all()


def line(labels: list[int | None]) -> Timeline:
    shares = np.array([[0.0, 0, 0] if i is None else np.eye(3)[i] * 0.6 + 0.1 for i in labels])
    spans = tuple((float(i), float(i + 2)) for i in range(len(labels)))
    skipped = {i: "damaged" for i, label in enumerate(labels) if label is None}
    return Timeline("v.mp4", len(labels) + 1.0, ("a", "b", "c"), spans, shares, skipped)


def test_scenes_join_windows_of_one_class() -> None:
    timeline = line([0, 0, 1, None, 1])
    assert timeline.borders() == [0, 1.5, 2.5, 3.5, 4.5, 6]
    assert timeline.scenes() == [
        Scene(0, 2.5, 0, pytest.approx(0.7), 2),
        Scene(2.5, 3.5, 1, pytest.approx(0.7), 1),
        Scene(3.5, 4.5, None, 0, 1),
        Scene(4.5, 6, 1, pytest.approx(0.7), 1),
    ]
    assert [timeline.at(t) for t in (0, 1.4, 1.6, 3, 5.9, 7)] == [0, 0, 1, 2, 4, 4]
    np.testing.assert_allclose(timeline.mean, [0.4, 0.4, 0.1], atol=1e-9)
    assert list(main_colors(timeline)) == [0, 1, 2]


def test_damage_costs_the_windows_that_it_is_in(
    run: Path, long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Video.frames

    def damaged(self: Video, indices: Any, **names: Any) -> Any:
        if any(20 <= i < 30 for i in indices):
            raise VideoError(self.path, "broken here")
        return plain(self, indices, **names)

    monkeypatch.setattr(Video, "frames", damaged)
    settings = {
        "windows_csv": str(tmp_path / "x.csv"),
        "timeline": str(tmp_path / "x.png"),
        "annotate": str(tmp_path / "x.mp4"),
    }
    (found,) = say(run, long, **settings)
    timeline = found.timeline
    assert timeline is not None
    assert timeline.skipped == dict.fromkeys((3, 4, 5), "broken here"), (
        "windows at 1.5, 2 and 2.5 s; clips of 0.6 s inside"
    )
    assert [window["error"] for window in found.to_dict()["windows"]][2:7] == [None, *["broken here"] * 3, None]
    rows = list(csv.DictReader((tmp_path / "x.csv").open()))
    assert [row["class"] == "" for row in rows] == [i in (3, 4, 5) for i in range(11)]
    monkeypatch.undo()
    assert open_video(tmp_path / "x.mp4").frame_count == 60
    assert found.top[0][0] == "dark"


def test_what_cannot_be_followed_is_named(run: Path, long: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    bad, good = say(run, empty, long)
    assert (bad.error, good.error) == ("the file is empty", None)
    with pytest.raises(ConfigError, match="annotate needs a single video, but 2 are given"):
        say(run, long, long, annotate=str(tmp_path / "x.mp4"))
    with pytest.raises(ConfigError, match=r"annotate .*: is an input or another output"):
        say(run, long, annotate=str(long))
    with pytest.raises(ConfigError, match=r"x\.avi: the file name must end with \.mp4"):
        say(run, long, annotate="x.avi")
    with pytest.raises(ConfigError, match="annotate needs window"):
        PredictConfig((str(long),), (str(run),), annotate="x.mp4")
    with pytest.raises(ConfigError, match="window 0: give a number from"):
        PredictConfig((str(long),), (str(run),), window=0)
    with pytest.raises(ConfigError, match="is a file: pass a folder"):
        say(run, long, csv=str(empty / "x.csv"))


def test_short_videos_and_pictures_are_one_window(run: Path, tmp_path: Path) -> None:
    (found,) = say(run, render(tmp_path / "short.mp4", [200] * 3), window=5.0)
    assert found.timeline is not None
    assert found.timeline.spans == ((0.0, pytest.approx(0.3)),)
    assert found.top[0][0] == "bright"


def test_members_are_asked_once_about_each_clip(run: Path) -> None:
    (member,) = load_members([str(run)], clips=ClipConfig(segments=1))
    assert member.classifier.plan.clips == 1
