"""Lists of videos: every layout that is read, every mistake that is named."""

from __future__ import annotations

import io
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from rich.console import Console

from openvjepa.cli.render.data import check_tables
from openvjepa.config import ShapesConfig
from openvjepa.data.lists.check import check_index
from openvjepa.data.lists.index import VideoIndex, VideoRecord, read_index, stratified_split
from openvjepa.data.lists.records import sorted_classes
from openvjepa.data.rendered.synthetic import make_shapes
from openvjepa.errors import DataError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_class_folders(tmp_path: Path) -> None:
    touch(
        tmp_path / "run/b.mp4",
        tmp_path / "run/a.MKV",
        tmp_path / "jump/c.jpg",
        tmp_path / "jump/notes.txt",
        tmp_path / ".x/d.mp4",
    )
    index = read_index(tmp_path)
    assert index.classes == ("jump", "run")
    assert [(Path(r.path).name, r.label, r.split) for r in index.records] == [
        ("c.jpg", 0, None),
        ("a.MKV", 1, None),
        ("b.mp4", 1, None),
    ]


def test_split_folders(tmp_path: Path) -> None:
    touch(tmp_path / "train/x/1.mp4", tmp_path / "test/x/2.mp4", tmp_path / "test/y/3.mp4")
    index = read_index(tmp_path)
    assert index.classes == ("x", "y")
    assert index.select("test").labels == [0, 1]
    assert len(index.select("train")) == 1


def test_flat_folder_and_single_file(tmp_path: Path) -> None:
    touch(tmp_path / "1.mp4", tmp_path / "2.avi")
    assert read_index(tmp_path).classes is None
    assert read_index(tmp_path).labels == [-1, -1]
    assert len(read_index(tmp_path / "1.mp4")) == 1


def test_metas_list(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("a dir/v 1.mp4 10\n/abs/w.mp4 2\n\nz.mp4 10\n")
    index = read_index(tmp_path / "list.csv")
    assert index.classes == ("2", "10")
    assert index.labels == [1, 0, 1]
    assert index.records[0].path == str(tmp_path / "a dir/v 1.mp4")
    assert Path(index.records[1].path) == Path(tmp_path / "/abs/w.mp4")
    (tmp_path / "other.txt").write_text("a b.mp4::3\n")
    assert read_index(tmp_path / "other.txt").classes == ("3",)


def test_csv_with_several_labels(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text('path,motion,shape,split\n"a,1.mp4",left,star,train\nb.mp4,up,star,test\n')
    assert read_index(tmp_path, label="motion").classes == ("left", "up")
    assert read_index(tmp_path, label="shape").labels == [0, 0]
    assert read_index(tmp_path).classes is None
    assert read_index(tmp_path).records[0].path == str(tmp_path / "a,1.mp4")
    with pytest.raises(DataError, match="choose one of motion, shape"):
        read_index(tmp_path, label="color")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("path,label\n", "no rows"),
        ("path,label\na.mp4\n", "line 2: 1 fields, the header has 2"),
        ("path,label\na.mp4,x\n\n,y\n", "line 4: the path is empty"),
        ("path,label,split\na.mp4,x,dev\n", "line 2: split 'dev'"),
        ("a.mp4 1\nb.mp4\n", "line 2: expected 'path label'"),
        ("a.mp4 1\nb.mp4 dog\n", "line 2: the label 'dog' is not a whole number"),
        ("name,label\na.mp4,x\n", "line 1"),
    ],
)
def test_wrong_lists_are_named_by_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_index(tmp_path / "list.csv")
    assert "list.csv" in str(caught.value)


def test_missing_empty_and_binary_sources(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        read_index(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no videos or images in this folder"):
        read_index(tmp_path / "empty")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81" * 10)
    with pytest.raises(DataError, match="not a text list"):
        read_index(tmp_path / "binary.csv")


def test_stratified_split(tmp_path: Path) -> None:
    for label, count in (("a", 40), ("b", 10), ("c", 3), ("d", 2), ("e", 1)):
        touch(*(tmp_path / label / f"{i}.mp4" for i in range(count)))
    index = read_index(tmp_path)
    split = stratified_split(index, val=0.1, test=0.2, seed=0)
    counts = Counter((index.classes[r.label], r.split) for r in split.records)  # type: ignore[index]
    assert (counts[("a", "test")], counts[("a", "val")]) == (8, 4)
    assert [counts[("b", s)] for s in ("train", "val", "test")] == [7, 1, 2]
    assert [counts[("c", s)] for s in ("train", "val", "test")] == [1, 1, 1]
    assert [counts[("d", s)] for s in ("train", "val", "test")] == [1, 0, 1]
    assert [counts[("e", s)] for s in ("train", "val", "test")] == [1, 0, 0]
    assert split == stratified_split(index, val=0.1, test=0.2, seed=0)
    assert split != stratified_split(index, val=0.1, test=0.2, seed=1)


def test_check_reports_what_is_there(tmp_path: Path) -> None:
    make_shapes(ShapesConfig(out=str(tmp_path), train=5, val=0, test=0, size=32, frames=6), workers=1)
    (tmp_path / "videos" / "zz_empty.mp4").touch()
    report = check_index(tmp_path / "videos", workers=1).to_dict()
    assert report["videos"] == 6
    assert report["frames"] == 30
    assert report["sizes"] == {"32x32": 5}
    assert report["codecs"] == {"h264": 5}
    assert report["bad"] == {str(tmp_path / "videos" / "zz_empty.mp4"): "the file is empty"}


def test_what_a_csv_says_about_its_videos(tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("path,frames,fps,duration,label\na.mp4,250,25,10.0,x\nb.mp4,,,,y\n")
    first, second = read_index(table).records
    assert (first.frames, first.fps, first.duration) == (250, 25.0, 10.0)
    assert (second.frames, second.fps, second.duration) == (None, None, None)
    table.write_text("path,frames\na.mp4,250\nb.mp4,many\n")
    with pytest.raises(DataError, match="line 3: not a number"):
        read_index(table)


def test_a_stray_folder_does_not_hide_the_videos_beside_it(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "thumbnails" / "notes.txt")
    index = read_index(tmp_path)
    assert [Path(record.path).name for record in index.records] == ["a.mp4"]
    assert index.classes is None


def test_a_label_that_only_looks_like_a_number(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.mp4 --5\n")
    with pytest.raises(DataError, match="line 1: the label '--5'"):
        read_index(tmp_path / "list.txt")


def test_check_names_bad_damaged_and_missing_files(tmp_path: Path) -> None:
    make_shapes(ShapesConfig(out=str(tmp_path), train=3, val=0, test=0, size=32, frames=24), workers=1)
    first, second, third = sorted((tmp_path / "videos").iterdir())
    data = bytearray(first.read_bytes())
    with av.open(str(first)) as container:
        packet = next(p for p in list(container.demux(video=0))[5:] if p.size > 20)
    assert packet.pos is not None
    data[packet.pos + 4 : packet.pos + packet.size] = bytes(packet.size - 4)
    first.write_bytes(data)
    second.write_text("not a video")
    table = tmp_path / "list.csv"
    table.write_text(
        "".join(
            f"{line}\n"
            for line in ("path,label", *(f"videos/{p.name},a" for p in (first, second, third)), "gone.mp4,b")
        )
    )
    report = check_index(table, workers=2)
    assert report.bad == {str(second): report.bad[str(second)], str(tmp_path / "gone.mp4"): "no such file"}
    assert "invalid data" in report.bad[str(second)]
    assert report.damaged == {str(first): 1}
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(check_tables(report))
    text = console.export_text()
    assert "2 unreadable, 1 damaged" in text
    assert "1 packets cannot be decoded" in text
    assert "a (3), b (1)" in text


def test_splits_of_many_classes_take_no_time() -> None:
    """10,000 classes of 3 videos; going through all videos for each class took 16 s."""
    records = tuple(VideoRecord(f"{i}.mp4", label=i % 10_000) for i in range(30_000))
    index = VideoIndex(records, tuple(map(str, range(10_000))), "test")
    started = time.process_time()
    split = stratified_split(index, val=0.1, test=0.2, seed=0)
    assert time.process_time() - started < 3
    assert Counter(record.split for record in split.records) == {"train": 10_000, "val": 10_000, "test": 10_000}


def test_labels_are_computed_once(tmp_path: Path) -> None:
    index = VideoIndex(tuple(VideoRecord(f"{i}.mp4", label=i % 7) for i in range(20_000)), None, "list")
    started = time.process_time()
    assert [index.labels[i] for i in range(len(index))] == [i % 7 for i in range(len(index))]
    assert time.process_time() - started < 1, "4.5 s where each access builds the list"


def test_class_names_of_one_number_have_one_order() -> None:
    names = [str(number).zfill(width) for number in range(5) for width in range(1, 6)]
    expected = sorted_classes(names)
    assert expected[:6] == ("0", "00", "000", "0000", "00000", "00001")
    for seed in range(5):
        assert sorted_classes(np.random.default_rng(seed).permutation(names).tolist()) == expected
