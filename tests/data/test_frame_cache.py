"""Kept frames: the same clips, less memory, a true estimate, and a disk where the memory is too small."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from openvjepa.data import frame_cache
from openvjepa.data.clips import ClipSpec
from openvjepa.data.frame_cache import FrameReader, estimate, kept_short_side
from openvjepa.data.lists.index import VideoRecord, read_index
from openvjepa.data.transforms import channels_first, resize
from openvjepa.errors import DataError
from openvjepa.machine import available_memory


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """20 frames of 320 x 240."""
    path, rng = tmp_path / "large.mp4", np.random.default_rng(0)
    small = rng.integers(0, 256, (20, 6, 8, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for pixels in small.repeat(40, axis=1).repeat(40, axis=2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())
    return path


def clip(reader: FrameReader, path: str) -> np.ndarray:
    record = VideoRecord(path)
    return reader.frames(record, ClipSpec(4, 2), 0.4, reader.video(record))


def test_small_videos_are_kept_as_they_are(shapes: Path) -> None:
    record = read_index(shapes, label="motion").records[0]
    plain, kept = FrameReader(), FrameReader(32, [record])
    for _ in range(2):
        assert np.array_equal(clip(kept, record.path), clip(plain, record.path))
    assert record.path in kept.kept
    assert not plain.kept


def test_large_videos_are_kept_small(large: Path) -> None:
    reader, record = FrameReader(60, [VideoRecord(str(large))]), str(large)
    found, whole = clip(reader, record), clip(FrameReader(), record)
    assert found.shape == (4, 60, 80, 3)
    expected = resize(channels_first(whole), (60, 80)).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(found, expected)
    kept = reader.kept[record]
    assert kept is not None
    assert estimate([VideoRecord(record)] * 7, 60) == pytest.approx(7 * kept.nbytes, rel=0.01)


def test_a_crop_keeps_its_pixels() -> None:
    assert kept_short_side((48, 48), (0.8, 1.0)) == 63
    assert kept_short_side((224, 224), (0.25, 1.0)) == 448


def test_the_disk_stands_in_for_memory(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = clip(FrameReader(60, [VideoRecord(str(large))]), str(large))
    monkeypatch.setattr(frame_cache, "available_memory", lambda: 1000)
    reader = FrameReader(60, [VideoRecord(str(large))])
    assert reader.folder is not None
    assert np.array_equal(clip(reader, str(large)), expected)
    assert np.array_equal(clip(reader, str(large)), expected)
    assert list(Path(reader.folder.name).glob("*.npy"))
    usage = frame_cache.shutil.disk_usage("/")
    monkeypatch.setattr(frame_cache.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DataError, match="leave out --cache, or write small copies"):
        FrameReader(60, [VideoRecord(str(large))])


def test_workers_do_not_share_files_on_disk(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.mp4"
    with av.open(str(other), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for _ in range(20):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.full((240, 320, 3), 200, np.uint8), format="rgb24"))
            )
        container.mux(stream.encode())
    monkeypatch.setattr(frame_cache, "available_memory", lambda: 1000)
    reader = FrameReader(60, [VideoRecord(str(large)), VideoRecord(str(other))])
    forked = copy.copy(reader)  # as in a forked worker: the folder is shared, what is kept is not
    forked.kept = {}
    expected = clip(reader, str(large)).copy()
    monkeypatch.setattr(frame_cache.os, "getpid", lambda: 1)
    clip(forked, str(other))
    assert np.array_equal(clip(reader, str(large)), expected)


def test_damaged_and_missing_videos_are_not_kept(tmp_path: Path) -> None:
    assert estimate([VideoRecord(str(tmp_path / "none.mp4"))], 60) == 0
    assert FrameReader(60, [VideoRecord(str(tmp_path / "none.mp4"))]).kept == {}


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_a_limit_of_the_process_is_seen() -> None:
    code = (
        "import resource; from openvjepa.machine import available_memory; "
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); print(available_memory())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(found.stdout) < 1 << 30
    free = available_memory()
    assert free is None or free > 1 << 20
