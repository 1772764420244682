"""Predictions of a saved probe: the same as in memory, and bad files do not stop the others."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from openvjepa.cli.render import predict as render
from openvjepa.commands.predict import Prediction, predict
from openvjepa.commands.probe import ProbeResult, probe
from openvjepa.config import PredictConfig, ProbeConfig
from openvjepa.data.clips import ClipSpec
from openvjepa.data.lists.index import read_index
from openvjepa.data.loader import EvalClips
from openvjepa.data.transforms import normalize
from openvjepa.errors import CheckpointError, ConfigError
from openvjepa.inference.classifier import load_classifier
from openvjepa.weights.files import read_tensors, write_tensors
from openvjepa.weights.hub import WEIGHTS


@pytest.fixture
def probed(saved: Path, shapes: Path, tmp_path: Path) -> ProbeResult:
    """A run whose probabilities differ from clip to clip: 2 segments x 2 views, and a high learning rate."""
    return probe(
        ProbeConfig(
            model=str(saved),
            source=str(shapes),
            label="motion",
            out=str(tmp_path / "probe"),
            kinds=("linear", "attentive"),
            frame_step=1,
            segments=2,
            views=2,
            epochs=5,
            lrs=(1e-2,),
            workers=0,
        )
    )


def run(probed: ProbeResult, *videos: object, **settings: object) -> list[Prediction]:
    config = PredictConfig(model=(str(probed.out),), videos=tuple(map(str, videos)), top=8, workers=0)
    return predict(replace(config, **settings))


def test_predictions_are_those_of_the_evaluation(probed: ProbeResult, shapes: Path) -> None:
    test = read_index(shapes, label="motion").select("test")
    found = run(probed, *(record.path for record in test.records))
    assert [prediction.path for prediction in found] == [record.path for record in test.records]
    for prediction, truth in zip(found, probed.outcomes[probed.kind].probabilities, strict=True):
        shares = dict(prediction.top)
        np.testing.assert_allclose([shares[name] for name in probed.classes], truth, atol=1e-5)
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)


def test_a_saved_linear_probe_predicts_too(probed: ProbeResult, saved: Path, shapes: Path, tmp_path: Path) -> None:
    config = ProbeConfig(model=str(saved), source=str(shapes), label="motion", kinds=("knn", "linear"), workers=0)
    result = probe(replace(config, out=str(tmp_path / "linear"), frame_step=1))
    test = read_index(shapes, label="motion").select("test").records
    for prediction, truth in zip(
        run(result, *(r.path for r in test)), result.outcomes["linear"].probabilities, strict=True
    ):
        np.testing.assert_allclose([dict(prediction.top)[name] for name in result.classes], truth, atol=1e-5)


def test_the_softmax_of_all_clips_is_averaged(probed: ProbeResult, shapes: Path) -> None:
    index = read_index(shapes, label="motion").select("test")
    classifier = load_classifier(probed.out)
    for segments, views in ((1, 1), (3, 2)):
        clips, _, _ = EvalClips(index, ClipSpec(4, 1, None), (32, 32), segments=segments, views=views)[5]
        with torch.no_grad():
            logits = torch.stack(
                [classifier.probe(classifier.encoder(normalize(clip[None])))[0] for clip in clips]
            ).numpy()
        by_hand = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).mean(0)
        (found,) = run(probed, index.records[5].path, segments=segments, views=views)
        np.testing.assert_allclose([dict(found.top)[name] for name in probed.classes], by_hand, atol=1e-5)


def test_bad_files_do_not_stop_the_others(
    probed: ProbeResult, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = sorted((shapes / "videos").iterdir())[:2]
    empty = tmp_path / "[empty].mp4"
    empty.write_bytes(b"")
    broken = tmp_path / "broken.csv"
    broken.write_text("name\nx\n")
    capsys.readouterr()
    found = run(probed, good[0], empty, tmp_path / "missing.mp4", broken, tmp_path / "none.txt", good[1], top=1)
    assert [prediction.error is None for prediction in found] == [True, False, False, False, False, True]
    assert [len(prediction.top) for prediction in found] == [1, 0, 0, 0, 0, 1]
    assert found[0].top == run(probed, good[0], top=1)[0].top
    assert capsys.readouterr().out == "", "the library does not print"
    render.predict(found, PredictConfig())
    shown = capsys.readouterr().out
    assert "[empty].mp4" in shown
    assert "cannot be read" in shown


def test_json_is_all_that_programs_get(
    probed: ProbeResult, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    found = run(probed, sorted((shapes / "videos").iterdir())[0], tmp_path / "missing.mp4", top=2)
    render.predict(found, PredictConfig(json=True))
    values = json.loads(capsys.readouterr().out)
    assert values == [prediction.to_dict() for prediction in found]
    assert [set(value) for value in values] == [{"path", "top", "error"}] * 2
    assert values[0]["top"][0] == {"class": found[0].top[0][0], "probability": found[0].top[0][1]}
    assert values[1]["error"]


def test_folders_and_lists_are_expanded(probed: ProbeResult, shapes: Path, tmp_path: Path) -> None:
    videos = sorted((shapes / "videos").iterdir())[:3]
    folder = tmp_path / "folder"
    folder.mkdir()
    for video in videos[:2]:
        shutil.copy(video, folder)
    listed = tmp_path / "list.csv"
    listed.write_text(f"path\n{videos[2]}\nfolder/{videos[0].name}\n")
    found = run(probed, folder, listed)
    assert [Path(prediction.path).name for prediction in found] == [videos[i].name for i in (0, 1, 2, 0)]
    assert found[0].top == found[3].top


def test_a_run_is_self_contained(probed: ProbeResult, saved: Path, shapes: Path, tmp_path: Path) -> None:
    video = sorted((shapes / "videos").iterdir())[0]
    (before,) = run(probed, video)
    shutil.rmtree(saved)
    shutil.rmtree(probed.out / "features")
    moved = probed.out.rename(tmp_path / "elsewhere")
    (after,) = run(replace(probed, out=moved), video)
    assert after.top == before.top


def test_runs_without_a_classifier_are_errors(probed: ProbeResult, saved: Path, shapes: Path, tmp_path: Path) -> None:
    video = sorted((shapes / "videos").iterdir())[0]
    with pytest.raises(ConfigError, match="no videos given"):
        run(probed)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        predict(PredictConfig(model=(str(tmp_path / "nothing"),), videos=(str(video),)))
    with pytest.raises(CheckpointError, match="an encoder without a classifier: run `vjepa probe"):
        predict(PredictConfig(model=(str(saved),), videos=(str(video),)))
    knn = ProbeConfig(model=str(saved), source=str(shapes), label="motion", out=str(tmp_path / "knn"), kinds=("knn",))
    probe(replace(knn, workers=0))
    with pytest.raises(CheckpointError, match="holds no classifier"):
        predict(PredictConfig(model=(str(tmp_path / "knn"),), videos=(str(video),)))
    tensors, metadata = read_tensors(probed.out / WEIGHTS)
    metadata["classifier"]["plan"]["segments"] = "many"
    write_tensors(probed.out / WEIGHTS, tensors, metadata)
    with pytest.raises(CheckpointError, match="its classifier cannot be read"):
        run(probed, video)
    with pytest.raises(ConfigError, match="top 0: give a whole number from 1"):
        PredictConfig(top=0)
