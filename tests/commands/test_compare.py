"""Comparison of runs against the files that they wrote."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from openvjepa.cli.main import main
from openvjepa.commands.compare import compare
from openvjepa.commands.probe import probe
from openvjepa.config import ProbeConfig
from openvjepa.errors import DataError
from openvjepa.reports.runs.compare import mean_and_spread, read_run, repetitions


@pytest.fixture
def runs(saved: Path, shapes: Path, tmp_path: Path) -> list[Path]:
    """A probe with two seeds, and one of another label."""
    base = ProbeConfig(
        model=str(saved), source=str(shapes), label="motion", kinds=("linear", "knn"), workers=0, train_views=1
    )
    settings = [replace(base, seed=0), replace(base, seed=1), replace(base, label="appearance")]
    folders = [tmp_path / f"run{i}" for i in range(3)]
    for config, folder in zip(settings, folders, strict=True):
        probe(replace(config, out=str(folder)))
    return folders


def test_runs_are_summarized_and_seeds_averaged(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    found = compare([*runs], out=tmp_path / "page.html")
    stored = [json.loads((run / "results.json").read_text()) for run in runs]
    for summary, results in zip(found, stored, strict=True):
        assert summary.kind == "probe"
        assert summary.metrics == {name: o["test_top1"] for name, o in results["probes"].items()}
        assert summary.intervals == {n: tuple(o["test_top1_interval"]) for n, o in results["probes"].items()}
    (group,) = repetitions(found)
    assert [run.path for run in group] == [str(runs[0]), str(runs[1])]
    values = [results["probes"]["linear"]["test_top1"] for results in stored[:2]]
    assert mean_and_spread(group)["linear"] == pytest.approx((statistics.fmean(values), statistics.stdev(values)))
    page = (tmp_path / "page.html").read_text()
    assert "mean of 2 seeds" in page
    low, high = stored[0]["probes"]["linear"]["test_top1_interval"]
    assert f"{stored[0]['probes']['linear']['test_top1']:.4g} ({low:.0f} - {high:.0f})" in page
    assert "://" not in page.replace("http://www.w3.org", "")
    assert main(["compare", *map(str, runs), "--out", str(tmp_path / "again.html"), "--json"]) == 0
    assert [row["metrics"] for row in json.loads(capsys.readouterr().out)] == [run.metrics for run in found]


def test_pretraining_runs(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("sources: [videos]\nmodel: {arch: vit_pico}\ntrain: {seed: 3}\n")
    rows = [
        {"step": 10, "loss": 2.0, "seconds_per_step": 0.5, "rankme": 9.0},
        {"step": 20, "loss": 1.0, "seconds_per_step": 0.25},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_run(tmp_path)
    assert (found.kind, found.model, found.data, found.seed) == ("pretrain", "vit_pico", "videos", 3)
    assert found.metrics == {"loss": 1.0, "rankme": 9.0}
    assert found.seconds == 10 * 0.5 + 10 * 0.25
    assert found.curve == ((10, 2.0), (20, 1.0))


@pytest.mark.parametrize("content", [None, "[]", "{", '{"probes": {"linear": {}}}'])
def test_what_is_no_run_is_an_error(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(DataError, match=str(tmp_path)):
        read_run(tmp_path)
