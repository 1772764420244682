"""Baselines: pixels against a plain mean, one reading of the videos for all; groups that splits do not divide; doubts."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from openvjepa.commands.evaluate import evaluate
from openvjepa.commands.probe import probe
from openvjepa.config import EvaluateConfig, ProbeConfig, SplitConfig
from openvjepa.config.presets import PRESETS
from openvjepa.data.lists.index import read_index
from openvjepa.data.lists.splits import read_splits
from openvjepa.errors import DataError
from openvjepa.features.encode import PlannedClips
from openvjepa.metrics import difference
from openvjepa.model.pixels import PixelEncoder, pixel_config, untrained
from openvjepa.probing.doubts import differ, near_duplicates
from openvjepa.weights.hub import load_model


def test_pixels_are_means_of_tubelets() -> None:
    encoder = PixelEncoder(pixel_config(4, (32, 48)))
    config = encoder.config
    assert (config.patch_size, config.tubelet_size, config.grid.shape) == (4, 1, (4, 8, 12))
    video = torch.randn(2, 3, 4, 32, 48, generator=torch.Generator().manual_seed(0))
    tokens = encoder(video)
    assert tokens.shape == (2, 4 * 8 * 12, 3)
    truth = video[1, :, 2, 8:12, 20:24].mean((1, 2))  # t 2, row 2, column 5
    torch.testing.assert_close(tokens[1, 2 * 96 + 2 * 12 + 5], truth, rtol=1e-5, atol=1e-6)
    assert pixel_config(16, (224, 224)).grid.shape == (4, 16, 16)


def test_baselines_have_names(saved: Path) -> None:
    first, again = load_model(f"untrained:{saved}"), load_model(f"untrained:{saved}")
    trained = load_model(saved)
    pairs = zip(first.encoder.parameters(), again.encoder.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert first.config == trained.config
    assert first.clip == trained.clip
    assert not torch.equal(first.encoder.patch_embed.proj.weight, trained.encoder.patch_embed.proj.weight)
    assert load_model("untrained:nano").config == PRESETS["nano"]().model
    assert isinstance(load_model("pixels").encoder, PixelEncoder)


def settings(saved: object, shapes: Path, out: Path, **more: Any) -> ProbeConfig:
    plain: dict[str, Any] = {"label": "appearance", "kinds": ("grid",), "train_views": 1, "workers": 0, "segments": 1}
    return ProbeConfig(model=str(saved), source=str(shapes), out=str(out), **(plain | more))


def test_a_run_compares_itself_with_baselines(
    saved: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    plain = PlannedClips.__getitem__

    def counted(self: PlannedClips, item: int) -> Any:
        read.append(item)
        return plain(self, item)

    monkeypatch.setattr(PlannedClips, "__getitem__", counted)
    result = probe(settings(saved, shapes, tmp_path / "run"))
    assert len(read) == 88, "every video is read once for three encoders"
    assert list(result.probed.baselines) == ["pixels", "untrained encoder"]
    stored = json.loads((tmp_path / "run" / "results.json").read_text())
    labels, ours = result.outcomes["grid"].labels, result.outcomes["grid"].probabilities.argmax(1)
    for name, outcome in result.probed.baselines.items():
        truth = difference(ours == labels, outcome.probabilities.argmax(1) == labels)
        assert result.probed.differences[name] == truth
        assert stored["differences"][name]["mean"] == pytest.approx(truth.mean)
    low, high = stored["probes"]["grid"]["test_top1_interval"]
    assert low <= result.outcomes["grid"].test_top1 <= high
    assert "pixels (grid)" in (tmp_path / "run" / "report.html").read_text()
    again = probe(settings(f"untrained:{saved}", shapes, tmp_path / "random", baselines=False))
    assert not again.probed.baselines
    np.testing.assert_allclose(
        again.outcomes["grid"].probabilities, result.probed.baselines["untrained encoder"].probabilities, atol=1e-5
    )


def test_pixels_are_probed_saved_and_evaluated(shapes: Path, tmp_path: Path) -> None:
    result = probe(settings("pixels", shapes, tmp_path / "run", kinds=("grid", "linear", "knn")))
    assert isinstance(load_model(result.out).encoder, PixelEncoder)
    config = EvaluateConfig(
        source=str(shapes), model=(str(result.out),), label="appearance", out=str(tmp_path / "e"), workers=0
    )
    found = evaluate(config).evaluations[0]
    np.testing.assert_allclose(found.probabilities, result.outcomes[result.kind].probabilities, atol=1e-5)


def grouped(shapes: Path, path: Path) -> Path:
    index = read_index(shapes, label="appearance")
    names = index.classes or ()
    with path.open("w", newline="") as file:
        rows = [(r.path, names[r.label or 0], f"person{i % 11}") for i, r in enumerate(index.records)]
        csv.writer(file).writerows([("path", "label", "person"), *rows])
    return path


def test_people_are_never_divided(saved: Path, shapes: Path, tmp_path: Path) -> None:
    data = grouped(shapes, tmp_path / "people.csv")
    for seed in range(5):
        splits = read_splits(SplitConfig(source=str(data), group="person", seed=seed))
        people = {name: {record.group for record in index.records} for name, index in splits.items()}
        assert not people["train"] & people["test"]
        assert not people["train"] & people["val"]
        assert not people["val"] & people["test"]
        assert sum(map(len, splits.values())) == 88
    result = probe(settings(saved, data, tmp_path / "run", label=None, group="person"))
    rows = list(csv.DictReader((tmp_path / "run" / "splits.csv").open()))
    assert {row["group"] for row in rows} == {f"person{i}" for i in range(11)}
    interval = result.outcomes["grid"].metrics.top1_interval
    assert interval.high - interval.low > 30, "few people"
    with pytest.raises(DataError, match="no column 'camera' for --group"):
        read_splits(SplitConfig(source=str(data), group="camera"))


def test_given_splits_that_divide_people_are_an_error(shapes: Path, tmp_path: Path) -> None:
    rows = list(csv.reader(grouped(shapes, tmp_path / "people.csv").open()))
    with (tmp_path / "split.csv").open("w", newline="") as file:
        splits = ["split", *(("train", "val", "test")[i % 3] for i in range(88))]
        csv.writer(file).writerows([[*row, split] for row, split in zip(rows, splits, strict=True)])
    with pytest.raises(DataError, match="groups are in train and in val"):
        read_splits(SplitConfig(source=str(tmp_path / "split.csv"), group="person"))


def test_doubts() -> None:
    sure, poor = np.arange(60) < 55, np.arange(60) < 20
    assert "by more than chance" in (differ(sure, poor) or "")
    assert differ(sure, np.arange(60) < 50) is None
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(100, 20)), rng.normal(size=(30, 20))
    assert (near_duplicates(train, test) == -1).all()
    test[4] = train[7] + 0.01 * rng.normal(size=20)
    assert np.flatnonzero(near_duplicates(train, test) >= 0).tolist() == [4]
    assert near_duplicates(train, test)[4] == 7


def test_untrained_weights_follow_from_the_seed() -> None:
    config = pixel_config(4, (32, 32))
    first, again, other = (untrained(config, seed).patch_embed.proj.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
