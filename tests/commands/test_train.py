"""`vjepa train` on rendered shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openvjepa.cli.main import main
from openvjepa.commands.evaluate import evaluate
from openvjepa.commands.train import train_classifier
from openvjepa.config import EvaluateConfig
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
    with pytest.raises(ConfigError, match="holds a finished run"):
        train_classifier(str(shapes), label="motion", model=[str(saved)], out=out)


def test_too_little_time_is_an_error(saved: Path, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not enough to encode"):
        train_classifier(
            str(shapes), label="motion", model=[str(saved)], out=tmp_path / "run", minutes=0.05, train_views=1000
        )
