"""`vjepa decode` from the command line to its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openvjepa.cli.main import main
from openvjepa.commands.decode import decode_videos
from openvjepa.errors import ConfigError


def test_files(physics: Path, predictive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = physics / "videos"
    fit = tmp_path / "fit.csv"
    rows = [str(path) for path in sorted(videos.iterdir()) if "train" in path.name or "_possible" in path.name]
    fit.write_text("path\n" + "\n".join(rows) + "\n")
    shown = [str(path) for path in sorted(videos.iterdir()) if "_impossible" in path.name][:2]
    arguments = ["decode", *shown, str(tmp_path / "missing.mp4"), "--model", str(predictive), "--fit", str(fit)]
    out = tmp_path / "out"
    assert main([*arguments, "--out", str(out), "--json", "--threads", "1"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert set(values["psnr"]) == {"true", "predicted", "mean"}
    assert values["psnr"]["true"] > values["psnr"]["predicted"]
    assert values["videos"] == 2
    assert list(values["skipped"].values()) == ["no such file"]
    assert {path.name for path in out.iterdir()} == {"decode.png", "decode.html"}
    page = (out / "decode.html").read_text()
    assert "the mean tokens of each place" in page
    with pytest.raises(ConfigError, match=r"already holds decode\.(png|html)"):
        decode_videos(shown, model=str(predictive), fit=str(fit), out=str(out))
    with pytest.raises(ConfigError, match="--fit with other videos"):
        decode_videos(shown, model=str(predictive), out=str(tmp_path / "other"))


def test_flow(physics: Path, predictive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = [str(path) for path in sorted((physics / "videos").iterdir())]
    arguments = ["decode", *videos[-3:], "--model", str(predictive), "--fit", *videos[:8], "--decoder", "flow"]
    arguments += ["--steps", "4", "--samples", "2", "--sampling-steps", "2", "--threads", "1", "--batch-size", "2"]
    assert main([*arguments, "--out", str(tmp_path / "a"), "--json", "--pictures", "2"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["steps"] == 4
    for name in ("true", "predicted", "mean"):
        assert values["psnr_of_mean"][name] >= values["psnr"][name]
        assert values["spread"][name] >= 0
    page = (tmp_path / "a" / "decode.html").read_text()
    assert "4 of at most 4 training steps" in page
    assert "PSNR of the mean of 2 samples" in page
    assert "Loss of the flow decoder" in page
    assert main([*arguments, "--out", str(tmp_path / "b")]) == 0
    assert "mean of samples" in capsys.readouterr().out
    assert (tmp_path / "a" / "decode.png").exists()
