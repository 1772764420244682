"""The demo, small: everything it promises is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openvjepa.cli.render.demo import demo as render
from openvjepa.commands.demo import demo
from openvjepa.config import DemoConfig
from openvjepa.errors import ConfigError


@pytest.mark.slow
def test_small_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = DemoConfig(out=str(tmp_path / "demo"), steps=6, videos=96, train=96, few=48, val=48, test=48, threads=1)
    render(demo(config), config)
    found = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert found["results"].keys() == {"motion", "appearance", "motion, 48 videos", "appearance, 48 videos"}
    for features in found["results"].values():
        assert features.keys() == {"pretrained", "untrained", "pixels"}
        for probes in features.values():
            assert probes.keys() == {"grid", "linear", "attentive", "knn"}
            assert all(0 <= top1 <= 100 for top1 in probes.values())
    assert found["chance"]["motion, 48 videos"] == found["chance"]["motion"] == 12.5
    assert found["chance"]["appearance"] == pytest.approx(100 / 6)
    assert found["seed"] == 0
    assert found["seconds"]["total"] > 0
    assert "torch" in found["versions"]
    page = (tmp_path / "demo" / "report.html").read_text()
    for part in ("Accuracy", "Predictions", "Features over a clip", "Confusion matrices", "Training", "The run"):
        assert f">{part}</h2>" in page
    said = capsys.readouterr().out
    assert "pretrained" in said
    assert "Report: " in said
    with pytest.raises(ConfigError, match="few must not exceed train"):
        demo(DemoConfig(out=str(tmp_path / "demo"), train=10))
    with pytest.raises(ConfigError, match="is not a demo"):
        demo(DemoConfig(out=str(tmp_path)))
