"""Surprise on streams: the windows and scores of the same video as a file; gaps and slow models cost windows, not truth."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from openvjepa.cli.render.surprise import surprise as shown
from openvjepa.commands.surprise import surprise
from openvjepa.config import SurpriseConfig
from openvjepa.data.clips import ClipSpec
from openvjepa.data.media.stream import FrameSource
from openvjepa.errors import ConfigError
from openvjepa.inference.temporal.live import LiveStream
from openvjepa.reports.video import write_video
from openvjepa.seeing.surprise.live import StreamSettings, score_live, source_for
from remux import remuxed


def noise(frames: int, *, times: list[float] | None = None, path: Path) -> Path:
    """Numbered frames: frame i is gray of level 5 i."""
    video = np.full((frames, 32, 32, 3), 0, np.uint8) + (5 * np.arange(frames, dtype=np.uint8))[:, None, None, None]
    return write_video(path, iter(video), np.array(times) if times else np.arange(frames) / 10)


def test_a_pipe_has_the_scores_of_the_file(
    physics: Path, predictive: Path, tmp_path: Path, piped: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file = physics / "videos" / "test_00003_jump_impossible.mp4"
    whole = surprise(str(file), model=str(predictive), out=str(tmp_path / "out"), threads=1).videos[0]
    copy = remuxed(file, tmp_path / "copy.mkv", form="matroska")
    config = SurpriseConfig(videos=(piped(copy),), model=str(predictive), threads=1, json=True)
    live = surprise(config)
    assert isinstance(live, LiveStream)
    shown(live, config)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["start"], line["end"]) for line in lines] == [
        pytest.approx(whole.plan.span(number), abs=2e-3) for number in range(3)
    ]
    np.testing.assert_allclose([line["surprise"] for line in lines], whole.curve(), rtol=1e-4)
    np.testing.assert_allclose([line["ratio"] for line in lines], whole.ratios(), rtol=1e-4)
    assert all(line["latency"] >= 0 and line["dropped_frames"] == 0 for line in lines)
    assert live.answers == 3
    assert not (tmp_path / "runs").exists()


def seen_by(source: FrameSource, settings: StreamSettings, pause: float = 0.0) -> tuple[list[Any], list[list[int]]]:
    """Windows, and the numbers of the frames that each shows."""
    shows: list[list[int]] = []

    def score(clips: Tensor) -> dict[str, Any]:
        time.sleep(pause)
        shows.append([round(float(level) / 5) for level in clips[0].float().mean((0, 2, 3))])
        return {"level": np.array([float(clips.float().mean())])}

    with source:
        return list(score_live(source, score, settings, {"level": -1.0})), shows


def test_frames_are_sampled_at_the_rate_of_the_model(tmp_path: Path, piped: Any) -> None:
    copy = remuxed(noise(40, path=tmp_path / "a.mp4"), tmp_path / "a.mkv", form="matroska")
    for spec in (ClipSpec(4, 3, None), ClipSpec(4, None, 10 / 3)):
        settings = StreamSettings(spec, (32, 32), 2)
        windows, shows = seen_by(source_for(piped(copy), settings), settings)
        assert shows == [[first + 3 * i for i in range(4)] for first in range(0, 31, 6)]
        assert [window.alarms for window in windows] == [(), *[("level",)] * 5]  # from the second consecutive one on


def test_windows_with_a_gap_are_left_out(tmp_path: Path, piped: Any) -> None:
    times = [i / 10 + (2.0 if i >= 15 else 0.0) for i in range(30)]
    copy = remuxed(noise(30, times=times, path=tmp_path / "b.mp4"), tmp_path / "b.mkv", form="matroska")
    settings = StreamSettings(ClipSpec(4, 1, None), (32, 32), 2)
    windows, shows = seen_by(source_for(piped(copy), settings), settings)
    assert shows == [[i, i + 1, i + 2, i + 3] for i in (*range(0, 11, 2), *range(15, 26, 2))]
    assert [bool(window.alarms) for window in windows] == [False, *[True] * 5, False, *[True] * 5]


def test_a_slow_model_skips_windows_and_stays_close(tmp_path: Path, piped: Any) -> None:
    copy = remuxed(noise(50, path=tmp_path / "c.mp4"), tmp_path / "c.mkv", form="matroska")
    settings = StreamSettings(ClipSpec(4, 1, None), (32, 32), 1)
    source = source_for(piped(copy), settings, drop=True)
    source.live = True  # a recording that is sent faster than it was made
    windows, shows = seen_by(source, settings, pause=0.05)
    assert windows[-1].skipped > 0
    assert len(windows) + windows[-1].skipped <= 47
    assert all(np.diff(numbers).tolist() == [1, 1, 1] for numbers in shows)
    assert source.waiting() == 0


def test_a_growing_folder_and_alarms(physics: Path, predictive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "broken.mp4").write_bytes(b"no video")
    odd = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), dtype=np.uint8)
    write_video(folder / "odd.mp4", iter(odd), np.arange(12) / 8)
    normal = tuple(str(physics / "videos" / f"train_0000{i}.mp4") for i in range(5))
    live = surprise(str(folder), model=str(predictive), normal=normal, stream=True, idle=0.5, threads=1)
    answers = {Path(answer.path).name: answer for answer in live}
    assert answers["broken.mp4"].error
    assert "distance" in answers["odd.mp4"].alarms
    assert set(answers["odd.mp4"].values) == {"distance", "tokens", "ratio", "surprise"}
    plain = surprise(str(folder), model=str(predictive), stream=True, idle=0.5, threads=1)
    (one,) = [answer for answer in plain if answer.error is None]
    assert set(one.values) == {"ratio", "surprise", "repeat"}
    assert one.values["surprise"] == pytest.approx(answers["odd.mp4"].values["surprise"], rel=0.5)


def test_wrong_orders(physics: Path, predictive: Path) -> None:
    file = str(physics / "videos" / "train_00000.mp4")
    with pytest.raises(ConfigError, match="leave out stream for a file"):
        surprise(file, model=str(predictive), stream=True)
    with pytest.raises(ConfigError, match="idle needs stream"):
        SurpriseConfig(videos=(file,), idle=1.0)
    with pytest.raises(ConfigError, match="annotate needs whole videos"):
        surprise("0", model=str(predictive), annotate=True)
