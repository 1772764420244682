"""`vjepa surprise --normal` from the command line to its files."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import TINY

from openvjepa.cli.main import main
from openvjepa.commands.surprise import surprise
from openvjepa.data.rendered.synthetic import write_video
from openvjepa.errors import ConfigError
from openvjepa.model.encoder import create_model
from openvjepa.weights.hub import save_model


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Normal videos of a dark still scene, and a list of two more of these and two with bright noise in the second half."""
    rng = np.random.default_rng(0)
    rows = ["path,label"]
    for name in ("n0", "n1", "n2", "n3", "n4", "n5", "same0", "same1", "odd0", "odd1"):
        video = 40 + rng.integers(0, 8, (24, 32, 32, 3), dtype=np.uint8)
        if name.startswith("odd"):
            video[12:] = rng.integers(0, 255, (12, 32, 32, 3), dtype=np.uint8)
        folder = tmp_path / ("normal" if name.startswith("n") else "others")
        folder.mkdir(exist_ok=True)
        write_video(folder / f"{name}.mp4", video, fps=8)
        if folder.name == "others":
            rows.append(f"others/{name}.mp4,{'normal' if name.startswith('same') else 'strange'}")
    (tmp_path / "others" / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "list.csv").write_text("\n".join([*rows, "others/broken.mp4,strange"]) + "\n", "utf-8")
    return tmp_path


def test_events_files_and_accuracies(scenes: Path, predictive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = scenes / "out"
    words = ["surprise", str(scenes / "list.csv"), "--model", str(predictive), "--normal", str(scenes / "normal")]
    assert main([*words, "--out", str(out), "--threads", "1", "--scores", "distance", "surprise", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    odd = {str(scenes / "others" / f"odd{i}.mp4") for i in range(2)}
    assert {event["path"] for event in values["events"]} == odd
    first = next(event for event in values["events"] if event["score"] == "distance")
    assert 0.5 <= first["start"] <= 1.5  # windows of 8 of 24 frames at 8 a second; the noise begins at 1.5 s
    assert first["peak"] > first["threshold"] == values["thresholds"]["distance"]
    detection = values["detection"]
    assert (detection["anomalous"], detection["normal"]) == (2, 2)
    assert list(detection["scores"]) == ["distance", "tokens", "ratio", "surprise"]
    assert detection["scores"]["distance"]["auroc"]["value"] == 1.0
    assert detection["scores"]["distance"]["recall"] == 1.0
    assert [error["path"] for error in values["errors"]] == [str(scenes / "others" / "broken.mp4")]
    assert any("too few for the quantile 0.99" in note for note in values["notes"])
    with (out / "events.csv").open(newline="") as file:
        events = list(csv.DictReader(file))
    assert [(row["path"], float(row["peak"])) for row in events] == [(e["path"], e["peak"]) for e in values["events"]]
    with (out / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 9
    page = (out / "anomalies.html").read_text("utf-8")
    assert all(link.startswith(("#", "data:")) for link in re.findall(r'(?:src|href)="([^"]*)', page))
    assert "odd1.mp4" in page
    with pytest.raises(ConfigError, match=r"already holds anomalies\.html"):
        surprise(str(scenes / "list.csv"), model=str(predictive), normal=(str(scenes / "normal"),), out=str(out))


def test_without_predictor_the_features_remain(scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = scenes / "encoder", scenes / "out"
    save_model(model, create_model(TINY))
    words = ["surprise", str(scenes / "others"), str(scenes / "normal" / "n0.mp4"), "--model", str(model)]
    words += ["--normal", str(scenes / "normal"), "--out", str(out), "--threads", "1", "--frame-step", "2"]
    assert main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "scores by features only, no ratio or surprise" in said
    assert "1 videos are among the normal ones and are left out" in said
    with (out / "scores.csv").open(newline="") as file:
        assert csv.DictReader(file).fieldnames == ["path", "start", "end", "distance", "tokens"]
    with pytest.raises(ConfigError, match="the score ratio needs a predictor"):
        surprise(str(scenes / "others"), model=str(model), normal=(str(scenes / "normal"),), scores=("ratio",),
                 out=str(scenes / "b"))  # fmt: skip
    with pytest.raises(ConfigError, match="scores needs normal"):
        surprise(str(scenes / "others"), model=str(model), scores=("ratio",))


def test_labels_of_one_kind_are_not_evaluated(scenes: Path, predictive: Path) -> None:
    result = surprise(str(scenes / "list.csv"), model=str(predictive), normal=(str(scenes / "normal"),), threads=1,
                      normal_label="usual", out=str(scenes / "o"))  # fmt: skip
    assert result.detection is None
    assert "all anomalous (labels: normal, strange)" in result.notes[-1]
