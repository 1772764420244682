"""`vjepa surprise` from the command line to its files."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from openvjepa.cli.main import main
from openvjepa.commands.surprise import surprise
from openvjepa.data.media.video import open_video
from openvjepa.errors import ConfigError, DataError


def test_files(physics: Path, predictive: Path, tmp_path: Path) -> None:
    videos = [
        str(physics / "videos" / f"test_0000{i}_{kind}_impossible.mp4") for i, kind in ((0, "vanish"), (4, "stop"))
    ]
    out = tmp_path / "out"
    result = surprise(videos, model=str(predictive), out=str(out), annotate=True, threads=1)
    assert {path.name for path in result.files} == {path.name for path in out.iterdir()}
    page = (out / "surprise.html").read_text()
    assert all(link.startswith(("#", "data:")) for link in re.findall(r'(?:src|href)="([^"]*)', page))
    assert "every 2 of them" in page
    with (out / "surprise.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [path for path in videos for _ in range(3)]
    copy = open_video(out / "surprise-test_00000_vanish_impossible.mp4")
    assert copy.frame_count == 12
    with pytest.raises(ConfigError, match=r"already holds surprise\.csv"):
        surprise(videos, model=str(predictive), out=str(out))
    assert surprise(videos, model=str(predictive), out=str(out), overwrite=True, threads=1).videos


def test_benchmark_as_json(physics: Path, predictive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["surprise", str(physics), "--model", str(predictive), "--benchmark", "pairs", "--split", "test"]
    assert main([*arguments, "--json", "--out", str(tmp_path), "--pictures", "1", "--threads", "1"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert len(values["videos"]) == 14
    assert list(values["benchmark"]) == ["ratio", "surprise", "repeat", "mean", "excess"]
    scores = {video["path"]: video["mean"]["ratio"] for video in values["videos"]}
    wins = [scores[path.replace("_possible", "_impossible")] > scores[path] for path in scores if "_possible" in path]
    assert values["benchmark"]["ratio"]["relative"]["value"] == pytest.approx(sum(wins) / 7)
    assert values["benchmark"]["ratio"]["scenes"] == 7


def test_wrong_orders(physics: Path, predictive: Path, tmp_path: Path) -> None:
    video = str(physics / "videos" / "test_00000_vanish_possible.mp4")
    with pytest.raises(ConfigError, match="give videos"):
        surprise(video)
    with pytest.raises(DataError, match="none of 1 videos can be read"):
        surprise(str(tmp_path / "missing.mp4"), model=str(predictive), out=str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="a context of 3 frames: this model can see 2, 4, 6 of a window of 8"):
        surprise(video, model=str(predictive), contexts=(3,), out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_untrained_models_have_random_weights(physics: Path, predictive: Path, tmp_path: Path) -> None:
    video = str(physics / "videos" / "test_00000_vanish_possible.mp4")
    scores = [
        surprise(video, model=model, out=str(tmp_path / str(i)), seed=seed, threads=1).videos[0].score("mean").surprise
        for i, (model, seed) in enumerate(
            [
                (str(predictive), 0),
                (f"untrained:{predictive}", 0),
                (f"untrained:{predictive}", 0),
                (f"untrained:{predictive}", 1),
            ]
        )
    ]
    assert scores[1] == scores[2]
    assert len(set(scores)) == 3
