"""splits.csv: written, read back, and what counts as seen."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from openvjepa.data.lists import seen as subject
from openvjepa.data.lists.index import VideoIndex, VideoRecord, read_index
from openvjepa.data.lists.seen import SPLITS_FILE, content_key, read_seen, splits_csv


def files(folder: Path, count: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i}.mp4").write_bytes(bytes([i]) * 100)
    return [str(folder / f"{i}.mp4") for i in range(count)]


def splits_of(paths: list[str]) -> dict[str, VideoIndex]:
    names = ("train", "train", "val", "test")
    return {
        name: VideoIndex(
            tuple(VideoRecord(p, i % 2) for i, p in enumerate(paths) if names[i] == name), ("a", "b"), "list"
        )
        for name in ("train", "val", "test")
    }


def test_a_list_of_splits_is_a_list_of_videos(tmp_path: Path) -> None:
    paths = files(tmp_path / "videos", 4)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / SPLITS_FILE).write_bytes(splits_csv(splits_of(paths)))
    index = read_index(tmp_path / "run" / SPLITS_FILE)
    assert [(record.path, record.label, record.split) for record in index.records] == [
        (path, i % 2, ("train", "train", "val", "test")[i]) for i, path in enumerate(paths)
    ]
    assert index.classes == ("a", "b")


def test_seen_by_path_and_by_content(tmp_path: Path) -> None:
    paths = files(tmp_path / "videos", 4)
    (tmp_path / SPLITS_FILE).write_bytes(splits_csv(splits_of(paths)))
    known = read_seen(tmp_path / SPLITS_FILE)
    assert [VideoRecord(path) in known for path in paths] == [True, True, True, False]
    copies = [shutil.copy(path, tmp_path / f"copy{i}.mp4") for i, path in enumerate(paths)]
    assert [VideoRecord(path) in known for path in copies] == [True, True, True, False]
    Path(copies[0]).write_bytes(bytes([9]) * 100)  # as large, but another
    known = read_seen(tmp_path / SPLITS_FILE)
    assert VideoRecord(copies[0]) not in known
    assert VideoRecord(str(tmp_path / "gone.mp4")) not in known


def test_content_is_the_hash_of_the_file(tmp_path: Path) -> None:
    path = Path(files(tmp_path, 1)[0])
    assert content_key(path) == f"100-{hashlib.sha256(bytes(100)).hexdigest()}"
    assert content_key(tmp_path / "gone.mp4") == ""
    (tmp_path / "frames").mkdir()
    for i in range(3):
        (tmp_path / "frames" / f"{i}.png").write_bytes(bytes([i]))
    first = content_key(tmp_path / "frames")
    assert first.startswith("3-")
    (tmp_path / "frames" / "1.png").write_bytes(b"x")
    assert content_key(tmp_path / "frames") != first


def test_large_files_are_read_in_part(tmp_path: Path) -> None:
    block, large = subject._BLOCK, subject._LARGE
    assert [list(subject._block_starts(n)) for n in (0, 1, block, block + 1)] == [[], [0], [0], [0, block]]
    starts = list(subject._block_starts(large + 7))
    assert (starts[0], starts[-1], len(starts)) == (0, large + 7 - block, 16)
