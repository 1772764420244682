"""A classifier as an object: files, frames and lists give what the command gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from openvjepa.commands.predict import predict
from openvjepa.commands.probe import probe
from openvjepa.config import PredictConfig, ProbeConfig
from openvjepa.data.clips import read_clip
from openvjepa.data.lists.index import read_index
from openvjepa.errors import CheckpointError, ConfigError, DataError
from openvjepa.inference.classifier import VideoClassifier, load_classifier


@pytest.fixture
def run(saved: Path, shapes: Path, tmp_path: Path) -> Path:
    out = tmp_path / "probe"
    probe(ProbeConfig(model=str(saved), source=str(shapes), label="motion", out=str(out), kinds=("linear",), workers=0))
    return out


@pytest.fixture
def classifier(run: Path) -> VideoClassifier:
    return load_classifier(run)


def test_files_are_predicted_as_by_the_command(run: Path, classifier: VideoClassifier, shapes: Path) -> None:
    files = [record.path for record in read_index(shapes, label="motion").select("test").records[:3]]
    expected = predict(PredictConfig(model=(str(run),), videos=tuple(files), workers=0))
    found = classifier.predict(files)
    for ours, theirs in zip(found, expected, strict=True):
        assert [name for name, _ in ours.top] == [name for name, _ in theirs.top]
        np.testing.assert_allclose([p for _, p in ours.top], [p for _, p in theirs.top], atol=1e-6)
    assert classifier.predict(files[0]).top == found[0].top


def test_frames_of_a_clip_are_predicted_like_its_file(classifier: VideoClassifier, shapes: Path) -> None:
    path = read_index(shapes, label="motion").records[0].path
    frames = read_clip(path, num_frames=4, frame_step=1)
    one = classifier.predict(np.asarray(frames), top=2)
    assert len(one.top) == 2
    assert classifier.predict(frames, top=2) == one, "a tensor is frames, not a list of files"
    assert classifier.predict([frames], top=2) == [one]
    assert sum(p for _, p in classifier.predict(np.asarray(frames), top=8).top) == pytest.approx(1)
    repeated = np.repeat(np.asarray(frames), 3, axis=0)  # of 12 frames, 4 at equal distances
    assert classifier.predict([repeated[[0, 3, 6, 9]]])[0].top == classifier.predict(np.asarray(frames)).top


def test_what_cannot_be_predicted(classifier: VideoClassifier, tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"nothing")
    found = classifier.predict([tmp_path / "no.mp4"])
    assert found[0].error
    assert found[0].top == ()
    with pytest.raises(DataError, match=r"float64 and shape \[4, 32, 32, 3\]: give uint8"):
        classifier.predict(np.zeros((4, 32, 32, 3)))
    with pytest.raises(DataError, match="shape"):
        classifier.predict(np.zeros((4, 32, 32), np.uint8))
    with pytest.raises(ConfigError, match="top 0"):
        classifier.predict(tmp_path / "no.mp4", top=0)


def test_weights_that_are_not_finite_are_an_error(classifier: VideoClassifier) -> None:
    with torch.no_grad():
        classifier.probe.linear.weight[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="not finite"):
        classifier.predict(np.zeros((4, 32, 32, 3), np.uint8))
