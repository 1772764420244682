"""Every list of videos that people bring: folders of any depth, CSV files of any dialect, plain lists, odd names."""

from __future__ import annotations

import csv
import io
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from openvjepa.cli.render.data import check_tables
from openvjepa.config import ProbeConfig
from openvjepa.data.clips import read_clip
from openvjepa.data.lists.cells import csv_text, plain_cell, safe_cell
from openvjepa.data.lists.check import check_index
from openvjepa.data.lists.index import VideoIndex, VideoRecord, read_index
from openvjepa.data.lists.splits import read_splits
from openvjepa.data.media.images import read_image
from openvjepa.data.media.video import open_video, probe
from openvjepa.data.rendered.dataset import write_video
from openvjepa.errors import DataError, VideoError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(index: VideoIndex, folder: Path) -> dict[str, str | None]:
    """Path from the folder -> class name."""
    names = [*(index.classes or ()), None]
    labels = zip(index.records, index.labels, strict=True)
    return {Path(record.path).relative_to(folder).as_posix(): names[label] for record, label in labels}


def test_loose_videos_stay_beside_a_folder_with_a_picture(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "sub/thumb.jpg")
    assert found(read_index(tmp_path), tmp_path) == {"a.mp4": None, "b.mp4": None, "sub/thumb.jpg": "sub"}
    assert "2 of 3 files lie in no class folder" in caplog.text


def test_labels_are_the_top_folders_however_deep_the_files_lie(tmp_path: Path) -> None:
    touch(
        tmp_path / "run/2024/may/a.mp4", tmp_path / "run/b.mp4", tmp_path / "jump/x/c.mp4", tmp_path / "jump/.t/d.mp4"
    )
    index = read_index(tmp_path)
    assert found(index, tmp_path) == {"run/2024/may/a.mp4": "run", "run/b.mp4": "run", "jump/x/c.mp4": "jump"}
    assert index.labels_from == "names of the folders directly in the source"


def test_splits_of_deep_class_folders(tmp_path: Path) -> None:
    touch(tmp_path / "train/run/day 1/a.mp4", tmp_path / "val/run/b.mp4", tmp_path / "test/c.mp4")
    index = read_index(tmp_path)
    assert found(index, tmp_path) == {"train/run/day 1/a.mp4": "run", "val/run/b.mp4": "run", "test/c.mp4": None}
    assert [record.split for record in index.records] == ["test", "train", "val"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_folder_that_links_to_itself_is_read_once(tmp_path: Path) -> None:
    touch(tmp_path / "run/a.mp4")
    (tmp_path / "run/again").symlink_to(tmp_path / "run", target_is_directory=True)
    assert list(found(read_index(tmp_path), tmp_path)) == ["run/a.mp4"]


@pytest.mark.parametrize("name", ["index.csv", "labels.csv", "metadata.csv", "anything.csv"])
def test_a_csv_in_the_folder_is_seen(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "clips/a.mp4", tmp_path / "clips/b.mp4")
    (tmp_path / name).write_text("file,what\nclips/a.mp4,x\nclips/b.mp4,y\n")
    assert found(read_index(tmp_path), tmp_path) == {"clips/a.mp4": "x", "clips/b.mp4": "y"}
    assert read_index(tmp_path).labels_from == "column what"


def test_a_csv_of_something_else_does_not_hide_the_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path / "run/a.mp4")
    (tmp_path / "metadata.csv").write_text("camera,lens\nleft,50\n")
    assert found(read_index(tmp_path), tmp_path) == {"run/a.mp4": "run"}
    assert "metadata.csv not read as a list of videos" in caplog.text


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("path;label\na.mp4;x\nb.mp4;y\n", ["x", "y"]),
        ("path\tlabel\na.mp4\tx\nb.mp4\ty\n", ["x", "y"]),
        ("label,filename\nx,a.mp4\ny,b.mp4\n", ["x", "y"]),
        ("Video;label\na.mp4;x\nb.mp4;y\n", ["x", "y"]),
        ("label,VIDEO_PATH\nx,a.mp4\ny,b.mp4\n", ["x", "y"]),
        ("a.mp4;0\nb.mp4;1\n", ["0", "1"]),
        ("a.mp4\t0\nb.mp4\t1\n", ["0", "1"]),
        ("a.mp4,x\nb.mp4,y\n", ["x", "y"]),
        ("a.mp4 0\nb.mp4 1\n", ["0", "1"]),
        ("a.mp4\nb.mp4\n", [None, None]),
        ('"a.mp4"\n"b.mp4"\n', [None, None]),
        ("path\na.mp4\nb.mp4\n", [None, None]),
    ],
)
def test_any_usual_separator(tmp_path: Path, text: str, labels: list[str | None]) -> None:
    (tmp_path / "list.txt").write_text(text)
    index = read_index(tmp_path / "list.txt")
    assert list(found(index, tmp_path).items()) == list(zip(("a.mp4", "b.mp4"), labels, strict=True))


def test_paths_with_blanks_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("my first clip.mp4\nclip 2.mov\n")
    assert list(found(read_index(tmp_path / "list.txt"), tmp_path)) == ["my first clip.mp4", "clip 2.mov"]


def test_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    touch(tmp_path / "videos/a.mp4")
    assert len(read_index("~/videos")) == 1
    assert len(read_index(Path("~/videos"))) == 1
    (tmp_path / "list.csv").write_text("path\n~/videos/a.mp4\n")
    assert read_index("~/list.csv").records[0].path == str(tmp_path / "videos/a.mp4")


@pytest.mark.parametrize("header", ["Name,Classes", "Name;Classes", "Name\tClasses"])
def test_a_csv_without_paths_names_its_columns(tmp_path: Path, header: str) -> None:
    (tmp_path / "list.csv").write_text(f"{header}\na.mp4,x\n")
    with pytest.raises(
        DataError, match=r"line 1: .*columns are Name, Classes; .* path, file, filename, video, video_path"
    ):
        read_index(tmp_path / "list.csv")


def test_lists_with_and_without_labels_are_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.mp4\nb.mp4 1\n")
    with pytest.raises(DataError, match=r"line 2: .* unlike the first line"):
        read_index(tmp_path / "list.txt")


def test_missing_labels_name_the_columns_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,angle,camera\na.mp4,1,left\n")
    with pytest.raises(DataError, match="no labels: its columns are angle, camera: choose one with --label"):
        read_splits(ProbeConfig(source=str(tmp_path / "list.csv")))


@pytest.mark.parametrize(
    "text", ["=1+1", "+a", "-clip.mp4", "@x", "'=1", "''+x", "\tx", "plain", "'quoted'", "-0.5", "+1e3", ""]
)
def test_cells_are_safe_and_read_back_as_they_were(text: str) -> None:
    cell = str(safe_cell(text))
    assert plain_cell(cell) == text
    number = text in ("-0.5", "+1e3")
    assert number or not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert cell == text or not number


def test_a_written_table_is_read_back(tmp_path: Path) -> None:
    rows = [{"path": "-a.mp4", "label": "=cmd()"}, {"path": "'=b.mp4", "label": "@x"}, {"path": "c.mp4", "label": "-1"}]
    (tmp_path / "index.csv").write_text(csv_text(["path", "label"], rows))
    with (tmp_path / "index.csv").open(newline="") as file:
        assert not [cell for row in csv.reader(file) for cell in row if cell[:1] in tuple("=+@")]
    index = read_index(tmp_path)
    assert found(index, tmp_path) == {"-a.mp4": "=cmd()", "'=b.mp4": "@x", "c.mp4": "-1"}


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    os.mkfifo(tmp_path / "pipe.mp4")
    return tmp_path / "pipe.mp4"


@pytest.mark.timeout(20)
def test_pipes_are_refused_wherever_a_file_is_named(tmp_path: Path, pipe: Path) -> None:
    with pytest.raises(DataError, match="not a regular file, but a pipe"):
        read_index(pipe)
    for name, suffix in (("list", ".csv"), ("picture", ".png")):
        os.mkfifo(tmp_path / f"{name}{suffix}")
    with pytest.raises(DataError, match="a pipe"):
        read_index(tmp_path / "list.csv")
    for refuse in (open_video, probe, read_clip):
        with pytest.raises(VideoError, match="a pipe"):
            refuse(pipe)
        with pytest.raises(VideoError, match="a pipe"):
            refuse(tmp_path / "picture.png")
    with pytest.raises(VideoError, match="a pipe"):
        read_image(tmp_path / "picture.png")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom", "/dev/stdin"])
def test_devices_are_refused(device: str) -> None:
    if not Path(device).exists():
        pytest.skip("not on this system")
    if Path(device).is_file() or Path(device).is_dir():
        pytest.skip("redirected from a file")
    with pytest.raises(DataError, match="not a regular file"):
        read_index(device)
    with pytest.raises(VideoError, match="not a regular file"):
        open_video(device)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no such sockets here")
def test_sockets_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.mp4")
        with pytest.raises(VideoError, match="a socket"):
            open_video("s.mp4")


@pytest.mark.skipif(os.name == "nt", reason="no colons in names there")
def test_a_colon_in_a_bare_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(Path("12:30:05.mp4"), np.zeros((4, 32, 32, 3), np.uint8), fps=10)
    assert open_video("12:30:05.mp4").frame_count == 4
    assert probe("12:30:05.mp4").frames == 4


def test_a_time_that_is_no_number(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", np.zeros((4, 32, 32, 3), np.uint8), fps=10)
    for time in (float("nan"), float("inf"), -1.0):
        with pytest.raises(VideoError, match="asked for the frame at"):
            open_video(tmp_path / "a.mp4").frames_at([0.0, time])


def test_a_file_that_many_rows_name_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4", np.zeros((4, 32, 32, 3), np.uint8), fps=10)
    (tmp_path / "list.csv").write_text("path,label\n" + "a.mp4,x\n" * 30)
    report = check_index(tmp_path / "list.csv", workers=1_000_000)
    assert len(report.good) == 1
    assert (report.to_dict()["videos"], report.to_dict()["rows"], report.to_dict()["frames"]) == (1, 30, 4)
    assert report.to_dict()["classes"] == {"x": 30}


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_markup_and_escapes_in_names_are_shown_as_text(tmp_path: Path) -> None:
    touch(tmp_path / "[/b]/a\x1b[31m.mp4", tmp_path / "[red]x/b.mp4")
    report = check_index(tmp_path, workers=1)
    console = Console(width=300, record=True, file=io.StringIO(), force_terminal=False)
    console.print(check_tables(report))
    text = console.export_text()
    assert "[ (1), [red]x (1)" in text
    assert "\x1b" not in text
    assert "[/b]/a\\x1b[31m.mp4" in text
    with pytest.raises(VideoError) as caught:
        open_video(tmp_path / "no\x1b[31m.mp4")
    assert "\x1b" not in str(caught.value)


def test_a_path_object_is_a_path(tmp_path: Path) -> None:
    assert VideoRecord(tmp_path / "a.mp4").path == str(tmp_path / "a.mp4")  # type: ignore[arg-type]
