"""`vjepa train` on rendered shapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openvjepa.cli.main import main
from openvjepa.commands.evaluate import evaluate
from openvjepa.commands.train import train_classifier
from openvjepa.config import EvaluateConfig
from openvjepa.data.lists.index import read_index
from openvjepa.errors import ConfigError, DataError
from openvjepa.inference.classifier import load_classifier


def test_the_best_candidate_is_trained_tested_and_saved(
    saved: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["train", str(shapes), "--label", "motion", "--model", str(saved), "--kinds", "grid", "linear"]
    assert main([*arguments, "--folds", "3", "--out", str(out), "--workers", "0"]) == 0
    said = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    rows = {row["kind"]: row["accuracy"] for row in results["candidates"]}
    assert set(rows) == {"grid", "linear"}
    assert rows[results["chosen"]["kind"]] == max(rows.values())
    assert f"{results['metrics']['top1']:.1f} % of 24 test videos" in said
    assert set(results["learning_curve"]) == {"0.25", "0.5", "1"}
    assert load_classifier(out).classes == tuple(results["classes"])
    judged = evaluate(
        EvaluateConfig(model=(str(out),), source=str(shapes), out=str(tmp_path / "judged"), label="motion", workers=0)
    )
    assert judged.evaluations[0].metrics.top1 == pytest.approx(results["metrics"]["top1"])
    page = (out / "report.html").read_text()
    assert "How many labels are enough?" in page
    assert "Can its probabilities be trusted?" in page
    assert judged.evaluations[0].unlike == results["unlike_training"]
    header = (tmp_path / "judged" / "predictions.csv").read_text().splitlines()[0]
    assert header.endswith("distance (run)")
    first = {row["kind"]: row["seconds"] for row in results["candidates"]}
    assert main([*arguments, "--folds", "3", "--out", str(out), "--workers", "0", "--overwrite"]) == 0
    again = json.loads((out / "results.json").read_text())
    assert {row["kind"]: row["seconds"] for row in again["candidates"]} == first  # read, not compared again
    with pytest.raises(ConfigError, match="holds a finished run"):
        train_classifier(str(shapes), label="motion", model=[str(saved)], out=out)


def test_a_video_unlike_the_training_videos_is_marked(
    saved: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, noise = tmp_path / "run", tmp_path / "noise.png"
    train_classifier(str(shapes), label="motion", model=[str(saved)], kinds=["linear"], folds=3, out=out, workers=0)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(noise)
    alike = read_index(shapes, label="motion").records[0].path
    capsys.readouterr()
    assert main(["predict", str(noise), str(alike), "--model", str(out), "--json"]) == 0
    odd, usual = json.loads(capsys.readouterr().out)
    assert odd["unlike_training"]
    assert odd["distance"] > 1
    assert usual["distance"] < odd["distance"]
    assert main(["predict", str(noise), "--model", str(out)]) == 0
    assert "unlike the training videos" in capsys.readouterr().out


def test_a_folder_with_a_model_is_left_alone(saved: Path, shapes: Path) -> None:
    before = (saved / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="holds a model that is not from a run"):
        train_classifier(str(shapes), label="motion", model=[str(saved)], out=saved, overwrite=True)
    assert (saved / "model.safetensors").read_bytes() == before


def test_too_little_time_is_an_error(saved: Path, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not enough to encode"):
        train_classifier(
            str(shapes), label="motion", model=[str(saved)], out=tmp_path / "run", minutes=0.05, train_views=1000
        )
