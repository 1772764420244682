"""Surprise over a video: windows, curves, heat maps and files are what their definitions say; bad files are counted."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from openvjepa.data.clips import ClipSpec
from openvjepa.data.media.video import open_video
from openvjepa.data.transforms import eval_views
from openvjepa.errors import DataError, VideoError
from openvjepa.seeing.surprise.error import PredictiveModel, load_predictive, window_errors
from openvjepa.seeing.surprise.following import FollowSettings, follow, follow_all, reference_mean, write_csv
from openvjepa.seeing.surprise.windows import plan_windows, read_frames, read_windows


@pytest.fixture(scope="module")
def model(predictive: Path) -> PredictiveModel:
    return load_predictive(str(predictive))


@pytest.fixture
def video(physics: Path) -> str:
    return str(physics / "videos" / "test_00003_jump_impossible.mp4")


def settings(stride: int = 2, **rate: float) -> FollowSettings:
    spec = ClipSpec(8, None if rate else 1, rate.get("fps"))
    return FollowSettings(spec, (2, 4, 6), stride, batch_size=2)


def test_windows_are_the_clips_that_evaluation_cuts(video: str) -> None:
    opened = open_video(video)
    for spec, count in ((ClipSpec(4, 1, None), 12), (ClipSpec(4, 2, None), 6), (ClipSpec(4, None, 4.0), 6)):
        plan = plan_windows(opened, spec, 2)
        assert len(plan.numbers) == count
        assert plan.starts.tolist() == list(range(0, count - 3, 2))
        for numbers, clips, bad in read_windows(opened, plan, (16, 16), batch_size=2):
            assert not bad
            for number, clip in zip(numbers, clips, strict=True):
                start = plan.times[plan.starts[number]]
                expected = opened.frames([int(i) for i in spec.indices(opened, float(start))]).frames
                assert torch.equal(clip, eval_views(expected, (16, 16), 1)[0])


def test_the_last_window_ends_with_the_video(video: str) -> None:
    plan = plan_windows(open_video(video), ClipSpec(8, 1, None), 3)
    assert plan.starts.tolist() == [0, 3, 4]
    assert plan.span(2) == (pytest.approx(4 / 8), pytest.approx(11 / 8))
    frames = read_frames(open_video(video), plan, (32, 32))
    assert (frames == open_video(video).all_frames().frames).all()


def test_curves_are_the_errors_of_each_window(model: PredictiveModel, video: str) -> None:
    how = settings()
    mean = reference_mean(model, [video], how)
    found = follow(model, video, how, mean)
    frames = torch.from_numpy(open_video(video).all_frames().frames).permute(3, 0, 1, 2)
    windows = torch.stack([frames[:, start : start + 8] for start in (0, 2, 4)])
    errors = window_errors(model, windows, (2, 4, 6), mean)
    np.testing.assert_allclose(found.curve(), errors.prediction.mean(1), rtol=1e-4)
    np.testing.assert_allclose(found.curve("repeat"), errors.repeat.mean(1), rtol=1e-4)
    score = found.score("mean")
    assert score.ratio == pytest.approx(errors.prediction.mean().item() / errors.repeat.mean().item(), rel=1e-4)
    top = found.score("max")
    assert top.surprise == pytest.approx(errors.prediction.mean(1).max().item(), rel=1e-4)
    assert top.ratio == pytest.approx((errors.prediction.mean(1) / errors.repeat.mean(1)).max().item(), rel=1e-4)
    heat, maps = found.heat(), errors.tokens.double().numpy()
    assert heat.shape == (12, 2, 2)
    assert np.isnan(heat[:2]).all()  # no window predicts them
    # Frame 5 is in tubelet 2 of the first window, 1 of the second and 0, which all contexts show, of the third.
    np.testing.assert_allclose(heat[5], (maps[0, 2] + maps[1, 1]) / 2, rtol=1e-4)
    np.testing.assert_allclose(heat[11], maps[2, 3], rtol=1e-4)


def test_short_videos_and_images_stand_still(model: PredictiveModel, video: str, tmp_path: Path) -> None:
    frames = open_video(video).all_frames().frames
    folder = tmp_path / "five"
    folder.mkdir()
    for number in range(5):
        Image.fromarray(frames[number]).save(folder / f"{number}.png")
    Image.fromarray(frames[0]).save(tmp_path / "one.png")
    mean = reference_mean(model, [video], settings())
    short = follow(model, str(folder), settings(), mean)
    assert short.notes == ("3 frames shorter than a window of 8: its last frame is repeated",)
    assert len(short.windows) == 1
    assert len(short.heat()) == 5
    still = follow(model, str(tmp_path / "one.png"), settings(), mean)
    assert still.notes == ("a still image, shown as a video that stands still",)
    assert np.isfinite(still.score("max").surprise)
    assert np.isnan(still.heat()).all()  # the only frame is in the context


def test_bad_files_are_counted(model: PredictiveModel, video: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    paths = [str(empty), video, str(tmp_path / "missing.mp4")]
    mean = reference_mean(model, paths, settings())
    found = list(follow_all(model, paths, settings(), mean))
    assert [isinstance(item, VideoError) for item in found] == [True, False, True]
    write_csv(tmp_path / "out.csv", found)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["error"] for row in rows] == ["the file is empty", "", "", "", "no such file"]
    curve = follow(model, video, settings(), mean).curve()
    assert [float(row["surprise"]) for row in rows[1:4]] == pytest.approx(curve.tolist(), abs=1e-6)
    with pytest.raises(DataError, match="none of 1 videos"):
        reference_mean(model, [str(empty)], settings())


def test_windows_over_damage_are_left_out(model: PredictiveModel, tmp_path: Path) -> None:
    """Frames in the middle that cannot be read cost the windows that show them, and no other."""
    folder = tmp_path / "frames"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    good = follow(model, str(folder), settings(4), reference_mean(model, [str(folder)], settings(4)))
    copy = tmp_path / "damaged"
    shutil.copytree(folder, copy)
    (copy / "13.png").write_bytes(b"nothing")
    mean = reference_mean(model, [str(folder)], settings(4))
    found = follow(model, str(copy), settings(4), mean)
    assert sorted(found.skipped) == [2, 3]  # of the windows from 0, 4, 8, 12 and 16
    assert found.windows == (0, 1, 4)
    np.testing.assert_allclose(found.curve(), good.curve()[[0, 1, 4]], rtol=1e-5)
    assert "2 of 5 windows cannot be read" in found.notes[0]
