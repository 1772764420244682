"""How much cheaper copies make reading: the prediction against copies that are really made, and against what cannot gain."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import fmean

import av
import numpy as np
import pytest
from PIL import Image

from openvjepa.cli.render.data import check as shown
from openvjepa.config import CheckConfig, PrepareConfig
from openvjepa.data.clips import ClipSpec
from openvjepa.data.copies.gain import PrepareGain, prepare_gain
from openvjepa.data.copies.prepare import prepare
from openvjepa.data.lists.check import check_index
from openvjepa.data.lists.index import VideoRecord, read_index


def render(path: Path, *, height: int, gop: int, frames: int = 70) -> Path:
    """A moving pattern that costs bits; key frames every `gop`."""
    width = height * 16 // 9 // 2 * 2
    rng = np.random.default_rng(0)
    base = rng.integers(0, 255, (height // 32, width // 32 + frames, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": str(gop), "preset": "ultrafast", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(frames):
            pixels = np.ascontiguousarray(base[:height, 4 * i : 4 * i + width])
            pixels = np.pad(pixels, ((0, height - len(pixels)), (0, 0), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def cost(records: tuple[VideoRecord, ...], spec: ClipSpec) -> float:
    """CPU seconds of the middle clip of each, read for a second time."""
    costs = []
    for record in records:
        video = record.open()
        indices = [int(i) for i in spec.indices(video, spec.segment_starts(video, 1)[0])]
        found = []
        for _ in range(3):
            start = time.process_time()
            video.frames(indices)
            found.append(time.process_time() - start)
        costs.append(min(found))
    return fmean(costs)


def test_the_gain_is_that_of_copies_that_are_made(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for number, height in enumerate((720, 540)):
        render(tmp_path / "videos" / f"{number}.mp4", height=height, gop=250)
    spec, index = ClipSpec(8, 4), read_index(tmp_path / "videos")
    gain = prepare_gain(index.records, spec, short_side=128)
    report = prepare(PrepareConfig(str(tmp_path / "videos"), str(tmp_path / "small"), short_side=128, workers=1))
    truth = cost(index.records, spec) / cost(read_index(report.index).records, spec)
    assert gain is not None
    assert gain.files == 2
    assert truth > 2
    assert gain.factor == pytest.approx(truth, rel=0.5), "times on a busy machine"
    assert gain.worth
    assert "times cheaper" in str(gain)


def test_copies_of_small_files_gain_little(tmp_path: Path) -> None:
    render(tmp_path / "a.mp4", height=96, gop=12)
    gain = prepare_gain((VideoRecord(str(tmp_path / "a.mp4")),))
    assert gain is not None
    assert gain.factor < 4
    assert "not make reading much cheaper" in str(PrepareGain(0.003, 0.0025, 1, 256))
    assert "about 12 times cheaper (58 ms a clip now, 5 ms" in str(PrepareGain(0.058, 0.005, 1, 256))


def test_pictures_and_unreadable_files_count_as_they_are(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (1500, 2000, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "large.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"no")
    records = tuple(VideoRecord(str(tmp_path / name)) for name in ("large.jpg", "bad.jpg"))
    gain = prepare_gain(records)
    assert gain is not None
    assert gain.files == 1
    assert gain.factor > 5, "43 times fewer pixels"
    assert prepare_gain(records[1:]) is None
    assert prepare_gain(()) is None


def test_check_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    render(tmp_path / "a.mp4", height=720, gop=250, frames=64)
    report = check_index(tmp_path, workers=1)
    assert report.gain is not None
    assert report.to_dict()["prepare"]["times_cheaper"] > 2  # type: ignore[index]
    capsys.readouterr()
    shown(report, CheckConfig(str(tmp_path)))
    assert "times cheaper" in capsys.readouterr().out
