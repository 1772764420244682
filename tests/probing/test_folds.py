"""Cross-validation of probes: no video, and no person, is tested by what was trained on it; classes that are left out."""

from __future__ import annotations

import csv
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from openvjepa.cli.render import probe as render
from openvjepa.commands.evaluate import evaluate
from openvjepa.commands.probe import probe
from openvjepa.config import EvaluateConfig, ProbeConfig, SplitConfig
from openvjepa.data.lists.splits import read_splits
from openvjepa.errors import ConfigError, DataError
from openvjepa.inference.classifier import load_classifier
from openvjepa.metrics import accuracy_interval, resampled_difference
from openvjepa.probing.folds.pool import read_pool


@pytest.fixture
def rows(shapes: Path) -> list[dict[str, str]]:
    """The rendered videos without splits, of 12 people; the label `noise` has nothing to do with the pictures."""
    with (shapes / "index.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    rng = random.Random(0)
    return [
        {
            "path": str(shapes / row["path"]),
            "look": row["appearance"],
            "noise": rng.choice("ab"),
            "person": f"p{i % 12}",
        }
        for i, row in enumerate(found)
    ]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def config(rows: list[dict[str, str]], tmp_path: Path) -> ProbeConfig:
    return ProbeConfig(
        model="pixels",
        source=str(write(tmp_path / "list.csv", rows)),
        label="look",
        out=str(tmp_path / "probe"),
        kinds=("grid", "knn"),
        train_views=2,
        segments=1,
        frame_step=1,
        workers=0,
        folds=4,
    )


@pytest.mark.parametrize("group", [None, "person"])
def test_parts_of_a_fold_share_no_video_and_no_person(config: ProbeConfig, group: str | None) -> None:
    pool = read_pool(replace(config, group=group))
    assert pool is not None
    labels, units = np.array(pool.videos.labels), pool.units(pool.videos)
    assert len(np.unique(units)) == (len(labels) if group is None else 12)
    seen = []
    for seed in (0, 1):
        folds = pool.folds(pool.videos, seed)
        assert sorted(np.unique(folds)) == [0, 1, 2, 3]
        seen.append(folds)
        for fold in range(4):
            train, val = pool.validation(pool.videos, np.flatnonzero(folds != fold), 0.15, seed)
            parts = [train, val, np.flatnonzero(folds == fold)]
            assert sorted(np.concatenate(parts)) == list(range(len(labels)))
            assert not any(
                set(units[a]) & set(units[b])
                for a, b in ((parts[0], parts[1]), (parts[0], parts[2]), (parts[1], parts[2]))
            )
            assert set(labels[train]) == set(labels)
            assert 0.05 < len(val) / (len(train) + len(val)) < 0.3
    assert not np.array_equal(*seen), "another seed, other folds"


def test_labels_without_meaning_are_at_chance(config: ProbeConfig) -> None:
    result = probe(replace(config, label="noise", seeds=3, kinds=("linear", "knn"), baselines=False))
    folded = result.probed.folds
    assert folded is not None
    for held in folded.kinds.values():
        assert held.probabilities.shape == (3, 88, 2)
        np.testing.assert_allclose(
            held.probabilities.sum(2), 1, atol=1e-6, err_msg="every video is tested with every seed"
        )
        assert 30 < held.top1(folded.labels) < 70
    assert folded.interval(folded.kinds["knn"]).low < 50 < folded.interval(folded.kinds["knn"]).high


def test_a_cross_validation_says_what_it_found(
    config: ProbeConfig, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = probe(replace(config, folds=2, seeds=2, group="person", model=str(saved)))
    folded = result.probed.folds
    assert folded is not None
    stored = json.loads((result.out / "results.json").read_text())
    found = stored["cross_validation"]
    assert (found["folds"], found["seeds"], found["videos"]) == (2, 2, 88)
    assert found["classifiers"].keys() == {"grid", "knn", "pixels", "untrained encoder"}
    assert found["saved"] == stored["saved"] == "grid", "kNN cannot be saved"
    grid = folded.kinds["grid"]
    right = grid.probabilities.argmax(2) == folded.labels
    assert stored["probes"]["grid"]["test_top1"] == pytest.approx(100 * right.mean())
    interval = accuracy_interval(right.mean(0), folded.groups)
    assert stored["probes"]["grid"]["test_top1_interval"] == pytest.approx([interval.low, interval.high])
    folds = np.array(found["classifiers"]["grid"]["folds"])
    assert folds.shape == (2, 2)
    assert found["classifiers"]["grid"]["std_folds"] == pytest.approx(np.std(folds, ddof=1))
    assert found["classifiers"]["grid"]["std_seeds"] == pytest.approx(np.std(folds.mean(1), ddof=1))
    lead = folds - np.array(found["classifiers"]["pixels"]["folds"])
    assert found["differences"]["pixels"]["mean"] == pytest.approx(lead.mean())
    render.probe(result, config)
    text = " ".join(capsys.readouterr().out.split())
    assert "std of seeds" in text
    assert "chosen by cross-validation" in text
    assert "Nadeau" in (result.out / "report.html").read_text()
    classifier = load_classifier(result.out)
    assert classifier.classes == tuple(stored["classes"])
    with (result.out / "splits.csv").open(newline="") as file:
        used = [row["split"] for row in csv.DictReader(file)]
    assert {split: used.count(split) for split in set(used)} == found["saved_trained_on"] == stored["videos"]
    assert len(used) == 88, "the saved classifier learns from all videos"
    caches = [folder for folder in (result.out / "features").iterdir() if folder.is_dir()]
    assert len(caches) == 6, "three encoders, each once to train on and once to test on"
    for folder in caches:
        rows = np.load(folder / "features.npy", mmap_mode="r")
        assert len(rows) in (88, 2 * 88)


def test_folds_and_test_videos_of_the_list_are_used_as_they_are(
    config: ProbeConfig, rows: list[dict[str, str]], tmp_path: Path
) -> None:
    marked = [{**row, "fold": f"part {i % 3}"} for i, row in enumerate(rows)]
    given = replace(config, source=str(write(tmp_path / "folds.csv", marked)), folds=None)
    pool = read_pool(given)
    assert pool is not None
    assert pool.count == 3
    assert [f"part {fold}" for fold in pool.folds(pool.videos, 0)] == [record.fold for record in pool.videos.records]
    with pytest.raises(ConfigError, match="has 3 folds, not 5"):
        read_pool(replace(given, folds=5))
    split = [{**row, "fold": str(i % 3), "split": "test" if i % 4 == 0 else "train"} for i, row in enumerate(rows)]
    both = replace(config, source=str(write(tmp_path / "both.csv", split)), folds=None)
    assert read_pool(both) is None, "a list with splits is split by them unless folds are asked for"
    result = probe(replace(both, folds=3, kinds=("linear",)))
    stored = json.loads((result.out / "results.json").read_text())
    assert stored["videos"]["test"] == 22
    assert stored["cross_validation"]["videos"] == 66
    tested = evaluate(
        EvaluateConfig(
            model=(str(result.out),), source=both.source, label="look", split="test", out=str(tmp_path / "e"), workers=0
        )
    )
    assert tested.evaluations[0].metrics.top1 == pytest.approx(stored["kept_apart"]["test_top1"])
    single = [{**row, "fold": "1" if row["look"] == rows[0]["look"] else str(i % 3)} for i, row in enumerate(rows)]
    alone = read_pool(replace(config, source=str(write(tmp_path / "single.csv", single)), folds=None))
    assert alone is not None
    with pytest.raises(DataError, match="leaves none to train on"):
        alone.folds(alone.videos, 0)
    with pytest.raises(ConfigError, match="give folds"):
        read_pool(replace(config, folds=None, seeds=2))


def test_classes_are_left_out_and_counted(
    rows: list[dict[str, str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = sorted({row["look"] for row in rows})
    rare = [row for row in rows if row["look"] != names[0]] + [row for row in rows if row["look"] == names[0]][:3]
    source = str(write(tmp_path / "rare.csv", rare))
    splits = read_splits(SplitConfig(source=source, label="look", min_videos=4, exclude=(names[1],)))
    assert splits["train"].classes == tuple(names[2:])
    left = sum(row["look"] in names[2:] for row in rare)
    assert sum(len(index) for index in splits.values()) == left
    assert f"{names[0]} (3)" in caplog.text
    assert f"excluded: {names[1]}, {sum(row['look'] == names[1] for row in rare)} videos" in caplog.text
    with pytest.raises(DataError, match="no class 'cat' to exclude"):
        read_splits(SplitConfig(source=source, label="look", exclude=("cat",)))
    with pytest.raises(DataError, match="no class is left"):
        read_splits(SplitConfig(source=source, label="look", min_videos=1000))


def test_differences_of_folds_by_hand_and_by_simulation() -> None:
    ours, theirs = np.array([80.0, 90, 70, 60]), np.array([70.0, 85, 75, 50])
    found = resampled_difference(ours, theirs, 0.25)
    gains = np.array([10.0, 5, -5, 10])
    error = math.sqrt((1 / 4 + 1 / 3) * gains.var(ddof=1))
    half = stats.t.ppf(0.975, 3) * error
    assert (found.mean, found.interval.low, found.interval.high) == pytest.approx((5, 5 - half, 5 + half))
    assert found.p_value == pytest.approx(2 * stats.t.sf(5 / error, 3))
    same = resampled_difference(ours, ours, 0.25)
    assert (same.mean, same.p_value, same.is_clear) == (0, 1, False)
    rng, inside, narrow = np.random.default_rng(0), 0, 0
    truth = 100 * (
        stats.norm.cdf(math.hypot(0.8, 0.6)) - stats.norm.cdf(0.8)
    )  # of the best rules, nearly reached by 80 videos
    for _ in range(1000):
        y = rng.permutation(np.repeat([-1, 1], 50))
        x = y[:, None] * np.array([0.8, 0.6]) + rng.normal(size=(100, 2))
        folds = rng.permutation(100) % 5
        both, one = np.zeros(5), np.zeros(5)
        for k in range(5):
            train, test = folds != k, folds == k
            mean = (y[train, None] * x[train]).mean(0)
            both[k] = 100 * (np.sign(x[test] @ mean) == y[test]).mean()
            one[k] = 100 * (np.sign(x[test, 0] * mean[0]) == y[test]).mean()
        interval = resampled_difference(both, one, 0.2).interval
        inside += interval.low <= truth <= interval.high
        gains = both - one
        narrow += abs(gains.mean() - truth) <= stats.t.ppf(0.975, 4) * gains.std(ddof=1) / math.sqrt(5)
    assert 0.93 <= inside / 1000 <= 1, inside
    assert inside > narrow, "the plain t test is too sure"
