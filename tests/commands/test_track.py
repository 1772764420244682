"""`vjepa track`: masks, points and data sets in the layout of DAVIS; nothing half-written."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from openvjepa.cli import main
from openvjepa.commands.track import TrackResult, track
from openvjepa.config import TrackConfig
from openvjepa.data.media.video import open_video
from openvjepa.errors import CheckpointError, ConfigError, DataError, VideoError
from openvjepa.reports.seeing.track import paint_mask, palette, write_mask
from openvjepa.reports.video import write_video

FRAMES = 6


def movie() -> tuple[np.ndarray, np.ndarray]:
    """A bright square on a dark ground that moves 4 px a frame: frames [T, H, W, 3] and masks [T, H, W] of object 2."""
    rng = np.random.default_rng(0)
    video = np.repeat(rng.integers(0, 60, (1, 64, 96, 3)), FRAMES, 0)
    masks = np.zeros((FRAMES, 64, 96), np.uint8)
    square = rng.integers(150, 255, (32, 32, 3))
    for t in range(FRAMES):
        video[t, 16:48, 16 + 4 * t : 48 + 4 * t], masks[t, 16:48, 16 + 4 * t : 48 + 4 * t] = square, 2
    return video.astype(np.uint8), masks


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """v.mp4, first.png, and truth/ with all masks."""
    video, masks = movie()
    write_video(tmp_path / "v.mp4", iter(video), np.arange(FRAMES) / 10)
    write_mask(tmp_path / "first.png", masks[0])
    for number, mask in enumerate(masks):
        write_mask(tmp_path / "truth" / f"{number:05d}.png", mask)
    return tmp_path


def run(data: Path, model: Path, **settings: Any) -> TrackResult:
    options = {"video": str(data / "v.mp4"), "mask": str(data / "first.png"), "device": "cpu", "out": str(data / "out")}
    return track(TrackConfig(model=str(model), **{**options, **settings}))


def test_masks_of_a_video(data: Path, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data / "out"
    line = ["track", str(data / "v.mp4"), "--model", str(saved), "--mask", str(data / "first.png"), "--out", str(out)]
    assert main([*line, "--truth", str(data / "truth"), "--short-side", "64"]) == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == ["masks", "scores.csv", "scores.json", "track.mp4", "track.png"]
    files = sorted((out / "masks").iterdir())
    assert [path.name for path in files] == [f"{number:05d}.png" for number in range(FRAMES)]
    with Image.open(files[0]) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), movie()[1][0])
        np.testing.assert_array_equal(np.asarray(image.convert("RGB"))[20, 20], palette()[2])
    with Image.open(files[3]) as image:
        assert set(np.unique(np.asarray(image))) <= {0, 2}
    scores = json.loads((out / "scores.json").read_text())
    assert scores["objects"] == 1
    assert scores["j_and_f"] == pytest.approx((scores["j_mean"] + scores["f_mean"]) / 2, abs=1e-4)
    rows = list(csv.DictReader((out / "scores.csv").open()))
    assert float(rows[0]["j_mean"]) == pytest.approx(scores["j_mean"], abs=1e-4)
    assert f"J&F {100 * scores['j_and_f']:.1f}" in capsys.readouterr().out
    with Image.open(out / "track.png") as image:
        assert f"{saved}, layer -1, each frame alone" in image.text["Model"]
        assert "1 object of the first frame, from it and the last 7 frames" in image.text["Tracked"]
    video = open_video(out / "track.mp4")
    assert video.frame_count == FRAMES
    frame = video.frames([0]).frames[0][:64, :96]
    truth = paint_mask(movie()[0][0], movie()[1][0])
    assert np.abs(frame.astype(int) - truth).mean() < 12


def test_points_of_a_video(data: Path, saved: Path) -> None:
    result = run(data, saved, mask=None, points=("30,30", "80.5,50"))
    assert [path.name for path in result.files] == ["points.csv", "track.mp4", "track.png"]
    rows = list(csv.DictReader(result.files[0].open()))
    assert len(rows) == 2 * FRAMES
    assert (rows[1]["x"], rows[1]["y"], rows[1]["confidence"]) == ("80.50", "50.00", "1.0000")
    assert rows[3]["time"] == "0.1000"
    with pytest.raises(ConfigError, match="write each as x,y"):
        run(data, saved, mask=None, points=("30",), overwrite=True)
    with pytest.raises(DataError, match="inside the frame of 96 x 64"):
        run(data, saved, mask=None, points=("96,3",), overwrite=True)


def davis(root: Path) -> Path:
    video, masks = movie()
    for name in ("bear", "cow"):
        for number in range(FRAMES):
            frame = root / "JPEGImages" / "480p" / name / f"{number:05d}.jpg"
            frame.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(video[number]).save(frame)
            write_mask(root / "Annotations" / "480p" / name / f"{number:05d}.png", masks[number])
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("bear\ncow\n")
    return root


def test_the_layout_of_davis(data: Path, saved: Path) -> None:
    root = davis(data / "davis")
    result = run(data, saved, video="", mask=None, davis=str(root), frames="clip")
    assert [(score.sequence, score.object, len(score.j)) for score in result.scores] == [("bear", 2, 4), ("cow", 2, 4)]
    assert len(list((data / "out" / "masks" / "cow").iterdir())) == FRAMES
    assert json.loads((data / "out" / "scores.json").read_text())["objects"] == 2
    write_mask(root / "Annotations" / "480p" / "bear" / "00000.png", np.zeros((64, 96), np.uint8))
    partly = run(data, saved, video="", mask=None, davis=str(root), out=str(data / "partly"))
    assert [score.sequence for score in partly.scores] == ["cow"]
    assert "no object" in partly.skipped["bear"]
    assert sorted(path.name for path in (data / "partly" / "masks").iterdir()) == ["cow"]


def test_what_is_refused(data: Path, saved: Path) -> None:
    for settings in ({"mask": None}, {"points": ("1,1",)}):
        with pytest.raises(ConfigError, match="give --mask"):
            run(data, saved, **settings)
    with pytest.raises(ConfigError, match="a video or --davis"):
        run(data, saved, davis="x")
    with pytest.raises(ConfigError, match="uses the masks of the dataset"):
        run(data, saved, video="", davis="x")
    with pytest.raises(ConfigError, match="--truth works with --mask"):
        run(data, saved, mask=None, points=("1,1",), truth="x")
    with pytest.raises(VideoError, match="no such file"):
        run(data, saved, video=str(data / "none.mp4"))
    write_mask(data / "wide.png", np.ones((10, 40), np.uint8))
    with pytest.raises(DataError, match="40 x 10 px for a video of 96 x 64 px"):
        run(data, saved, mask=str(data / "wide.png"))
    write_mask(data / "empty.png", np.zeros((64, 96), np.uint8))
    with pytest.raises(DataError, match="has no objects"):
        run(data, saved, mask=str(data / "empty.png"))
    (data / "truth" / "00003.png").unlink()
    with pytest.raises(DataError, match="5 masks for the 6 frames"):
        run(data, saved, truth=str(data / "truth"))
    assert not (data / "out").exists() or not list((data / "out").iterdir())
    run(data, saved)
    with pytest.raises(ConfigError, match="already holds masks"):
        run(data, saved)
    run(data, saved, overwrite=True)


def test_a_mask_of_half_the_size_is_enlarged(data: Path, saved: Path) -> None:
    write_mask(data / "half.png", movie()[1][0][::2, ::2])
    run(data, saved, mask=str(data / "half.png"))
    with Image.open(data / "out" / "masks" / "00000.png") as image:
        np.testing.assert_array_equal(np.asarray(image), movie()[1][0])


def test_a_full_disk_leaves_no_part_of_the_masks(data: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = Image.Image.save, []

    def full(self: Image.Image, *args: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        save(self, *args, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(CheckpointError, match="No space left"):
        run(data, saved)
    assert len(calls) == 4
    assert not (data / "out").exists()


def test_a_still_image_is_a_video_of_one_frame(data: Path, saved: Path) -> None:
    Image.fromarray(movie()[0][0]).save(data / "one.png")
    result = run(data, saved, video=str(data / "one.png"))
    assert len(list((data / "out" / "masks").iterdir())) == 1
    assert open_video(result.files[1]).frame_count == 1
