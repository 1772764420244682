"""Rows of a list with start and end are shown, measured and decoded from those seconds alone, as a cut file would be."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from openvjepa.commands.decode import decode_videos
from openvjepa.commands.show import show
from openvjepa.commands.surprise import surprise
from openvjepa.data.clips import ClipSpec
from openvjepa.data.lists.index import VideoRecord
from openvjepa.data.media.video import open_video
from openvjepa.seeing.clip_map import embed_clips
from openvjepa.seeing.tokens import ClipChoice, see
from openvjepa.weights.hub import load_model


@pytest.fixture
def jump(physics: Path) -> Path:
    """12 frames, 8 a second."""
    return physics / "videos" / "test_00003_jump_impossible.mp4"


def listed(folder: Path, *rows: tuple[Path, str, str]) -> str:
    with (folder / "parts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "start", "end", "label"), *((*row, "a") for row in rows)])
    return str(folder / "parts.csv")


def test_clips_lie_in_their_part(saved: Path, jump: Path) -> None:
    part = VideoRecord(str(jump), start=0.5, end=1.25)  # frames 4 to 9
    assert open_video(jump, start=0.5, end=1.25).offset == 0.5
    (clips,) = see([load_model(saved)], [part], ClipChoice(ClipSpec(4, 1, None), clips=None)).clips
    frames = open_video(jump).all_frames().frames
    shown = [[4, 5, 6, 7], [8, 9, 9, 9]]
    for clip, numbers in zip(clips, shown, strict=True):
        np.testing.assert_array_equal(clip.frames, frames[numbers])
        np.testing.assert_allclose(clip.times, np.array(numbers) / 8)
    (mapped, _), skipped = embed_clips(load_model(saved), [(part, "a")], ClipChoice(ClipSpec(4, 1, None), clips=None))
    assert not skipped
    assert (mapped.start, mapped.end) == (0.5, 1.0)
    np.testing.assert_allclose(mapped.features, clips[0].tokens.reshape(-1, 24).mean(0), atol=1e-5)


def test_show_and_its_map_take_parts_from_a_list(saved: Path, jump: Path, tmp_path: Path) -> None:
    source = listed(tmp_path, (jump, "0", "0.5"), (jump, "0.5", "1"), (jump, "7", "8"))
    found = show(source, model=str(saved), out=str(tmp_path / "out"), what=("pca", "map"), frame_step=1, device="cpu")
    assert found.skipped == {f"{jump} [7-8 s]": "has no part from 7 to 8 s: it lasts 1.50 s"}
    page = (tmp_path / "out" / "pca.html").read_text()
    assert "0.00-0.38 s" in page
    assert "0.50-0.88 s" in page


def test_surprise_of_a_part_is_that_of_a_cut_file(predictive: Path, jump: Path, tmp_path: Path) -> None:
    parts = listed(tmp_path, (jump, "0.5", "1.5"), (jump, "3", "4"))
    found = surprise(parts, model=str(predictive), out=str(tmp_path / "out"), annotate=True, contexts=(4,), threads=1)
    (video,) = found.videos
    frames = tmp_path / "cut"  # the same frames as pictures
    frames.mkdir()
    from PIL import Image

    for number, frame in enumerate(open_video(jump).all_frames().frames[4:]):
        Image.fromarray(frame).save(frames / f"{number:02}.png")
    (tmp_path / "cut.csv").write_text(f"path\n{frames}\n")
    cut = surprise(str(tmp_path / "cut.csv"), model=str(predictive), out=str(tmp_path / "o2"), contexts=(4,), threads=1)
    np.testing.assert_allclose(video.curve(), cut.videos[0].curve(), rtol=1e-5)
    with (tmp_path / "out" / "surprise.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["start"], row["end"]) for row in rows[:-1]] == [("0.500", "1.375")]
    assert rows[-1]["error"].startswith("has no part from 3 to 4 s")
    assert open_video(tmp_path / "out" / "surprise-test_00003_jump_impossible.mp4").frame_count == 8


def test_decode_takes_parts(predictive: Path, physics: Path, jump: Path, tmp_path: Path) -> None:
    fit = listed(tmp_path, *((jump, "0", "1") for _ in range(1)))
    others = [str(path) for path in sorted((physics / "videos").glob("train*"))]
    found = decode_videos(fit, model=str(predictive), fit=others, out=str(tmp_path / "out"), threads=1)
    assert found.videos == 1
    assert not found.skipped


def test_cells_of_surprise_are_safe(
    predictive: Path, jump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "=HYPERLINK(1).mp4"
    Path(name).write_bytes(jump.read_bytes())
    surprise(name, model=str(predictive), out="out", threads=1)
    with (tmp_path / "out" / "surprise.csv").open(newline="") as file:
        assert {row["path"] for row in csv.DictReader(file)} == {f"'{name}"}
