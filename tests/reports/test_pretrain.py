"""The report of a pretraining: a comparison with the weights before it, where labels allow one."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from openvjepa.commands.pretrain import pretrain
from openvjepa.config import TrainConfig
from openvjepa.data.lists.index import read_index
from openvjepa.reports.runs.pretrain import Comparison, compare_encoders
from openvjepa.train.distributed import make_runtime
from openvjepa.weights.hub import load_model


@pytest.fixture
def run(shapes: Path, tmp_path: Path) -> Path:
    small = {
        "arch": "vit_femto",
        "depth": 1,
        "img_size": 32,
        "num_frames": 4,
        "patch_size": 8,
        "tubelet_size": 2,
        "predictor_num_heads": 2,
    }
    fixed = {"label": "motion", "workers": 0, "threads": 1, "monitor_every": 0, "cache": True}
    pretrain([shapes], preset="demo-masked", out=tmp_path / "run", steps=2, batch_size=4, **small, **fixed)
    return tmp_path / "run"


def test_a_run_ends_with_a_report(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    page = (run / "report.html").read_text()
    assert "before pretraining" in page
    said = " ".join(record.getMessage() for record in caplog.get_records("setup"))
    assert "with the weights before pretraining" in said


def test_equal_weights_give_equal_accuracies(run: Path, shapes: Path) -> None:
    model, index = load_model(run), read_index(shapes, label="motion")
    with make_runtime(TrainConfig(device="cpu", precision="fp32", threads=1)) as runtime:
        found = compare_encoders(copy.deepcopy(model.encoder), model, [index], runtime, seconds=60, seed=0)
        assert found is not None
        assert found.before == found.after
        assert (found.train_videos, found.test_videos, found.classes) == (48, 24, 8)
        assert "No significant difference" in found.sentence
        assert compare_encoders(model.encoder, model, [index], runtime, seconds=0.0, seed=0) is None
        bare = read_index(shapes)
        assert bare.classes is None
        assert compare_encoders(model.encoder, model, [bare], runtime, seconds=60, seed=0) is None
        with torch.no_grad():
            for parameter in model.encoder.parameters():
                parameter.zero_()
        worse = compare_encoders(load_model(run).encoder, model, [index], runtime, seconds=60, seed=0)
        assert worse is not None
        assert worse.after["knn"] < 30, "constant features know nothing"


@pytest.mark.parametrize(
    ("after", "words"),
    [(80.0, "improved the features"), (20.0, "features worse"), (51.0, "No significant difference")],
)
def test_the_result_in_words(after: float, words: str) -> None:
    found = Comparison({"linear": 50.0, "knn": 50.0}, {"linear": after, "knn": after}, 300, 200, 4)
    assert words in found.sentence
    assert "chance level 25.0 %" in found.sentence
