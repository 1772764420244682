"""`vjepa bench`: figures that fit together, written as JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from openvjepa.bench.measure import machine, measure_inference, new_encoder, product_rate, random_batch
from openvjepa.cli import main
from openvjepa.cli.render import bench as render
from openvjepa.commands import bench as task
from openvjepa.config import BenchConfig, ModelConfig
from openvjepa.errors import ConfigError
from openvjepa.model.flops import encoder_flops


def test_random_batch_has_disjoint_ascending_ids() -> None:
    batch = random_batch(ModelConfig(img_size=64, num_frames=4), 3, [(5, 20), (2, 9)])
    assert batch["clips"].shape == (3, 3, 4, 64, 64)
    for enc, pred, lengths in zip(batch["masks_enc"], batch["masks_pred"], [(5, 20), (2, 9)], strict=True):
        assert (enc.shape, pred.shape) == ((3, lengths[0]), (3, lengths[1]))
        for row in torch.cat([enc, pred], 1):
            assert len(row.unique()) == sum(lengths)
        assert (enc.diff() > 0).all()
        assert (pred.diff() > 0).all()


def test_inference_figures_follow_from_the_time() -> None:
    row = measure_inference(BenchConfig(quick=True, precision="fp32"), "vit_femto")
    assert row["gflop_per_clip"] == pytest.approx(encoder_flops(ModelConfig(arch="vit_femto")) / 1e9)
    assert row["gflops"] * row["seconds_per_clip"] == pytest.approx(row["gflop_per_clip"])
    assert row["share_of_peak"] == pytest.approx(row["gflops"] / row["peak_gflops"])
    assert row["seconds_per_clip"] <= row["median_seconds_per_clip"]


def test_new_encoder_is_of_one_number_format() -> None:
    encoder = new_encoder(ModelConfig(arch="vit_femto", img_size=32), torch.bfloat16)
    assert {p.dtype for p in encoder.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    assert encoder(torch.zeros(1, 3, 16, 32, 32, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_product_rate_is_a_plausible_number() -> None:
    assert 0.01 < product_rate(torch.float32, size=128, repeats=2) < 1e6
    assert machine()["cores"] >= 1


def test_unknown_models_and_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="vit_gigant"):
        BenchConfig(models=("vit_gigant",))
    with pytest.raises(ConfigError, match="batch_size 0: give a whole number"):
        BenchConfig(batch_size=0)


def test_what_does_not_fit_is_a_dash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(task, "_apart", lambda measure, config, *args: None)
    out = tmp_path / "bench.json"
    figures = task.benchmark(BenchConfig(models=("vit_tiny", "vit_huge"), out=str(out)))
    assert json.loads(out.read_text(encoding="utf-8")) == dataclasses.asdict(figures)
    assert figures.step == {"vit_tiny": None, "vit_huge": None}
    render.bench(figures, BenchConfig())
    assert "vit_huge" in capsys.readouterr().out


@pytest.mark.slow
def test_quick_bench_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    command = ["bench", "--quick", "--models", "vit_femto", "vit_large", "--batch-size", "1", "--threads", "1"]
    assert main([*command, "--out", str(out)]) == 0
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert list(figures["step"]) == list(figures["inference"]) == ["vit_femto"]
    assert figures["step"]["vit_femto"]["batch_size"] == 1
    assert min(figures["peak"].values()) > 0
    assert min(figures["data"].values()) > 0
    assert "Pretraining step" in capsys.readouterr().out
