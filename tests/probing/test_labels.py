"""Several labels in one run: one split, features encoded once, a classifier for each, all of them in predictions."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from openvjepa.cli.render import probe as render
from openvjepa.commands.evaluate import evaluate
from openvjepa.commands.predict import predict
from openvjepa.commands.probe import probe
from openvjepa.config import EvaluateConfig, PredictConfig, ProbeConfig
from openvjepa.data.splitting.several import splits_of_labels
from openvjepa.errors import CheckpointError, ConfigError, DataError
from openvjepa.inference.classifier import load_classifier


@pytest.fixture
def config(shapes: Path, tmp_path: Path) -> ProbeConfig:
    """The rendered videos without splits; `same` has the classes of `motion` the other way round."""
    with (shapes / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["motion"] for row in rows})
    other = dict(zip(names, reversed(names), strict=True))
    with (tmp_path / "list.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "motion", "appearance", "same"])
        writer.writeheader()
        for row in rows:
            path = str(shapes / row["path"])
            entry = {
                "path": path,
                "motion": row["motion"],
                "appearance": row["appearance"],
                "same": other[row["motion"]],
            }
            writer.writerow(entry)
    return ProbeConfig(
        model="pixels",
        source=str(tmp_path / "list.csv"),
        labels=("motion", "appearance", "same"),
        out=str(tmp_path / "probe"),
        kinds=("linear",),
        train_views=1,
        segments=1,
        frame_step=1,
        workers=0,
    )


def test_labels_share_split_and_features_and_are_predicted_together(
    config: ProbeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = probe(config)
    out = Path(config.out)
    assert list(result.by_label) == ["motion", "appearance", "same"]
    splits = []
    for label in config.labels:
        with (out / label / "splits.csv").open(newline="") as file:
            splits.append({row["path"]: row["split"] for row in csv.DictReader(file)})
        stored = json.loads((out / label / "results.json").read_text())
        assert stored["probes"]["linear"]["test_top1"] == result.by_label[label].outcomes["linear"].test_top1
        assert not (out / label / "features").exists()
    assert splits[0] == splits[1] == splits[2]
    assert len([folder for folder in (out / "features").iterdir() if folder.is_dir()]) == 3, "train, val and test, once"
    alone = probe(replace(config, labels=(), label="motion", out=str(tmp_path / "alone")))
    first = result.by_label["motion"].outcomes["linear"]
    np.testing.assert_array_equal(first.probabilities, alone.outcomes["linear"].probabilities)
    video = next(iter(splits[0]))
    (found,) = predict(PredictConfig(videos=(video,), model=(str(out),), workers=0))
    assert [answer.runs for answer in found.answers] == [(str(out / label),) for label in config.labels]
    for label, answer in zip(config.labels, found.answers, strict=True):
        truth = load_classifier(out / label).predict(video)
        assert [name for name, _ in answer.top] == [name for name, _ in truth.top]
    assert found.answers[0].top != found.answers[2].top, "equal class names of two labels are not mixed"
    tested = evaluate(
        EvaluateConfig(model=(str(out),), source=config.source, label="appearance", out=str(tmp_path / "e"), workers=0)
    )
    assert tested.evaluations[0].metrics.top1 == pytest.approx(
        result.by_label["appearance"].outcomes["linear"].test_top1
    )
    with pytest.raises(ConfigError, match="choose one of them with --label"):
        evaluate(EvaluateConfig(model=(str(out),), source=config.source, out=str(tmp_path / "f"), workers=0))
    with pytest.raises(CheckpointError, match="name one of its folders"):
        load_classifier(out)
    render.probe(result, config)
    assert capsys.readouterr().out.count("chosen on validation") == 3


def test_labels_that_cannot_be_are_errors(config: ProbeConfig) -> None:
    for labels in (("a", "a"), ("a/b",), ("..",), ("features",)):
        with pytest.raises(ConfigError, match="names of folders"):
            replace(config, labels=labels)
    with pytest.raises(ConfigError, match="take the place of label"):
        replace(config, label="motion")
    with pytest.raises(ConfigError, match="allow no folds"):
        replace(config, folds=3)
    with pytest.raises(DataError, match="no label column 'speed'"):
        splits_of_labels(config, ("motion", "speed"))
