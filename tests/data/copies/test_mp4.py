"""MP4 files: every frame at its time, read back; names and sizes that do not do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from openvjepa.data.copies.mp4 import write_mp4
from openvjepa.data.media.video import open_video
from openvjepa.errors import VideoError

OPTIONS = {"preset": "veryfast", "crf": "10"}
BASE = Fraction(1, 90_000)


def images(*sizes: tuple[int, int]) -> Iterator[av.VideoFrame]:
    """Gray frames of (height, width) px, each 40 levels brighter than the one before."""
    for number, (height, width) in enumerate(sizes):
        yield av.VideoFrame.from_ndarray(np.full((height, width, 3), 40 * number, np.uint8), format="rgb24")


def test_frames_are_shown_at_their_times(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.15, 0.5, 1.25]
    write_mp4(tmp_path / "a.mp4", images(*[(32, 48)] * 5), times, fps=4, base=BASE, options=OPTIONS, comment="hello")
    video = open_video(tmp_path / "a.mp4")
    np.testing.assert_allclose(video.times, times, atol=1e-6)
    assert np.abs(video.all_frames().frames.mean((1, 2, 3)) - 40 * np.arange(5)).max() < 3
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.metadata["comment"] == "hello"


@pytest.mark.skipif(os.name == "nt", reason="no colons in names there")
def test_a_name_with_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_mp4(Path("12:30.mp4"), images((32, 32)), [0.0], fps=1, base=BASE, options=OPTIONS)
    assert open_video("12:30.mp4").frame_count == 1


def test_sizes_that_change_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"original.avi: the size of the frames changes"):
        write_mp4(
            tmp_path / "a.mp4",
            images((32, 32), (32, 48)),
            [0.0, 0.1],
            fps=10,
            base=BASE,
            options=OPTIONS,
            source="original.avi",
        )


def test_odd_sizes_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="cannot be encoded"):
        write_mp4(tmp_path / "a.mp4", images((33, 31)), [0.0], fps=10, base=BASE, options=OPTIONS)
