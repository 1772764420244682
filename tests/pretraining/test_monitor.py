"""The collapse warning, and the videos that the monitor looks at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from openvjepa.config import PretrainConfig
from openvjepa.data.loader import PretrainBatches
from openvjepa.metrics import knn_accuracy
from openvjepa.pretraining.monitor import MONITOR_CLIPS, collapse_warning, halves, monitor_index


def test_collapse_is_said_in_words() -> None:
    first = {"feature_std": 0.8, "rankme": 60.0}
    assert collapse_warning({"feature_std": 0.5, "rankme": 40.0}, first) is None
    alike = collapse_warning({"feature_std": 0.02, "rankme": 40.0}, first)
    assert alike is not None
    assert "collapsing" in alike
    assert "0.020" in alike
    few = collapse_warning({"feature_std": 0.5, "rankme": 1.7}, first)
    assert few is not None
    assert "1.7 dimensions" in few


@pytest.mark.parametrize("order", ["sorted", "in turn"])
def test_neighbors_are_of_all_classes_in_any_order_of_the_list(tmp_path: Path, order: str) -> None:
    count = 4 * MONITOR_CLIPS
    labels = [i * 4 // count if order == "sorted" else i % 4 for i in range(count)]
    lines = [f"{i}.mp4,{label},{'test' if label == 3 else 'train'}" for i, label in enumerate(labels)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *lines]))
    recipe = PretrainConfig(sources=(str(tmp_path / "list.csv"),))
    batches = PretrainBatches(recipe.sources, recipe.data, recipe.model, recipe.masking, seed=0, micro_batch=1)
    index = monitor_index(batches)
    found = torch.tensor(index.labels)
    assert len(index) == MONITOR_CLIPS
    assert set(index.labels) == {0, 1, 2}, "test videos are not looked at"
    known, asked = halves(found)
    assert sorted([*known.tolist(), *asked.tolist()]) == list(range(MONITOR_CLIPS))
    for label in range(3):
        assert abs(int((found[known] == label).sum()) - int((found[asked] == label).sum())) <= 1
    x = torch.nn.functional.one_hot(found).float() + 0.01 * torch.randn(len(found), 3, generator=torch.manual_seed(0))
    assert knn_accuracy(x[known], found[known], x[asked], found[asked]) == 100
