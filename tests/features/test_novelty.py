"""Videos that are unlike the training videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from openvjepa.errors import CheckpointError
from openvjepa.features.novelty import FILE, Novelty, load_novelty


def test_distances_are_those_of_a_brute_force_search() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(3, 2, (200, 8)), rng.normal(3, 2, (300, 8))
    novelty = Novelty.of(train)
    assert novelty is not None
    rows, seen = ((x - train.mean(0)) / train.std(0) for x in (test, train))
    brute = np.sort(np.linalg.norm(rows[:, None] - seen[None], axis=2), axis=1)[:, :5].mean(1)
    own = NearestNeighbors(n_neighbors=5).fit(seen).kneighbors()[0].mean(1)
    assert np.allclose(novelty(test), brute / np.quantile(own, 0.95), rtol=1e-4)
    assert 0.01 < (novelty(test) > 1).mean() < 0.12  # 5 % by construction
    assert (novelty(test + 12) > 1).all()


def test_videos_of_the_same_person_do_not_count_as_near() -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(rng.normal(0, 1, (12, 6)), 10, axis=0)
    train = people + rng.normal(0, 0.01, people.shape)
    names = [str(i // 10) for i in range(120)]
    strangers = rng.normal(0, 1, (200, 6))
    alone, apart = Novelty.of(train), Novelty.of(train, names)
    assert alone is not None
    assert apart is not None
    assert (alone(strangers) > 1).mean() > 0.9 > 0.5 > (apart(strangers) > 1).mean()


def test_it_is_kept_beside_the_classifier(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    novelty = Novelty.of(rng.normal(size=(50, 4)))
    assert novelty is not None
    novelty.save(tmp_path)
    again, rows = load_novelty(tmp_path, 4), rng.normal(size=(5, 4))
    assert again is not None
    assert np.array_equal(again(rows), novelty(rows))
    with pytest.raises(CheckpointError, match="does not belong"):
        load_novelty(tmp_path, 5)
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_novelty(tmp_path, 4)
    assert load_novelty(tmp_path / "elsewhere", 4) is None


@pytest.mark.parametrize("rows", [np.ones((30, 3)), np.arange(12.0).reshape(4, 3)])
def test_nothing_is_said_of_too_few_or_equal_videos(rows: np.ndarray) -> None:
    assert Novelty.of(rows) is None
