"""Lists with splits and folds: nothing that belongs together is divided, whatever the order of the list."""

from __future__ import annotations

import csv
import random
import shutil
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from openvjepa.config import DivideConfig, PrepareConfig, SplitConfig
from openvjepa.data.copies.prepare import prepare
from openvjepa.data.lists.index import read_index
from openvjepa.data.lists.records import VideoRecord
from openvjepa.data.lists.splits import read_splits
from openvjepa.data.splitting.divide import MANY, divide, folds_for
from openvjepa.data.splitting.listed import split_list
from openvjepa.data.splitting.units import FLAT, find_units, similar_pairs
from openvjepa.errors import ConfigError, DataError


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def listed(shapes: Path) -> list[dict[str, str]]:
    """Rows of the rendered videos with absolute paths, and four people."""
    rows = rows_of(shapes / "index.csv")
    return [{**row, "path": str(shapes / row["path"]), "person": f"p{i % 7}"} for i, row in enumerate(rows)]


def test_the_same_split_from_any_order(shapes: Path, tmp_path: Path) -> None:
    rows = listed(shapes)
    shuffled = random.Random(1).sample(rows, len(rows))
    found = []
    for name, order in (("a", rows), ("b", shuffled)):
        source = write(tmp_path / f"{name}.csv", order)
        out = tmp_path / f"{name}-split.csv"
        split_list(DivideConfig(source=str(source), out=str(out), label="motion", near_duplicates=False, seed=3))
        written = rows_of(out)
        assert [row["path"] for row in written] == [row["path"] for row in order], "the order of the source"
        found.append({row["path"]: row["split"] for row in written})
    assert found[0] == found[1]
    tally = Counter((row["motion"], found[0][row["path"]]) for row in rows)
    for motion, count in Counter(row["motion"] for row in rows).items():
        assert tally[motion, "test"] == round(0.2 * count)
        assert tally[motion, "val"] == round(0.1 / 0.8 * (count - round(0.2 * count)))
    other = tmp_path / "c.csv"
    split_list(
        DivideConfig(source=str(tmp_path / "a.csv"), out=str(other), label="motion", near_duplicates=False, seed=4)
    )
    assert {row["path"]: row["split"] for row in rows_of(other)} != found[0], "another seed"


def test_groups_stay_whole_and_classes_alike(shapes: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a.csv", listed(shapes))
    config = DivideConfig(
        source=str(source), out=str(tmp_path / "b.csv"), label="motion", group="person", near_duplicates=False
    )
    report = split_list(config)
    people = defaultdict(set)
    for row in rows_of(report.out):
        people[row["person"]].add(row["split"])
    assert all(len(splits) == 1 for splits in people.values())
    assert {split for splits in people.values() for split in splits} == {"train", "val", "test"}
    assert sum(sum(row.values()) for row in report.counts.values()) == report.total == 88
    assert report.units == 7
    folded = split_list(replace(config, out=str(tmp_path / "c.csv"), folds=3))
    index = read_index(folded.out, label="motion", group="person")
    by_person = defaultdict(set)
    for record in index.records:
        by_person[record.group].add(record.fold)
    assert all(len(folds) == 1 for folds in by_person.values())
    assert {record.fold for record in index.records} == {"1", "2", "3"}
    assert read_index(folded.out).columns == ("motion", "appearance", "person"), "a fold is no label"


def test_copies_and_near_duplicates_lie_on_one_side(shapes: Path, tmp_path: Path) -> None:
    for i, path in enumerate(sorted((shapes / "videos").glob("*.mp4"))[:40]):
        target = tmp_path / "videos" / "ab"[i % 2] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    original = sorted((tmp_path / "videos/a").glob("*.mp4"))
    shutil.copy(original[0], tmp_path / "videos/b/copy.mp4")
    prepare(PrepareConfig(source=str(original[1].parent), out=str(tmp_path / "small"), short_side=32, crf=28))
    small = sorted((tmp_path / "small").rglob("*.mp4"))[1]
    shutil.copy(small, tmp_path / "videos/a/again.mp4")
    for seed in range(3):
        out = tmp_path / f"{seed}.csv"
        report = split_list(DivideConfig(source=str(tmp_path / "videos"), out=str(out), seed=seed))
        splits = {row["path"]: row["split"] for row in rows_of(out)}
        name = original[0].name
        assert splits["videos/b/copy.mp4"] == splits[f"videos/a/{name}"], "paths count from the list"
        assert splits["videos/a/again.mp4"] == splits[f"videos/a/{original[1].name}"]
        assert any("copies" in note for note in report.notes)
        assert any("two labels" in note for note in report.notes), "a copy in another class folder"
        assert any("near-duplicates" in note and "1 pairs" in note for note in report.notes), "and no others"
        assert report.units == 40


def test_frames_without_contrast_are_like_no_other() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.uniform(0, 255, size=(6, 3, 768)).astype(np.float32)
    pictures[3] = 0.6 * pictures[1] + 20  # darker
    pictures[4:] = 8 + FLAT / 4 * rng.normal(size=(2, 3, 768))  # black, with noise
    pictures[5] = pictures[4]
    assert similar_pairs(pictures) == [(1, 3)]
    pictures[3, 2] = pictures[2, 2]
    assert similar_pairs(pictures) == [], "one frame of three differs"


def test_parts_of_a_file_stay_together_unless_asked(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a.mp4", "a.mp4", "a.mp4", "b.mp4")]
    times = [(0.0, 2.0), (1.5, 3.0), (3.0, 4.0), (None, None)]
    records = [VideoRecord(path, start=start, end=end) for path, (start, end) in zip(paths, times, strict=True)]
    together = find_units(records, near=False).numbers
    apart = find_units(records, near=False, whole_files=False).numbers
    assert len(set(together)) == 2
    assert together[0] == together[1] == together[2] != together[3]
    assert apart[0] == apart[1] != apart[2]
    assert len(set(apart)) == 3


@pytest.mark.parametrize("size", [1, 3])
def test_every_class_keeps_something_to_train_on(size: int) -> None:
    rng = np.random.default_rng(0)
    classes = np.array([0] * 60 + [1] * 30 + [2] * 9 + [3] * 3)
    units = np.arange(len(classes)) // size
    for seed in range(10):
        found = np.array(divide(classes.tolist(), units, {"test": 0.2, "val": 0.1}, seed))
        for unit in np.unique(units):
            assert len(set(found[units == unit])) == 1
        assert set(classes[found == "train"]) == {0, 1, 2, 3}
        assert 0.15 <= (found == "test").mean() <= 0.25
        assert 0.05 <= (found == "val").mean() <= 0.15
    if size == 3:
        assert set(found[classes == 3]) == {"train"}, "its only unit"
    with pytest.raises(DataError, match="held out"):
        divide([0, 0, 1, 1], np.array([0, 0, 1, 1]), {"test": 0.5}, 0)
    many = rng.integers(4, size=2 * MANY + 200)
    folds = folds_for(many.tolist(), np.arange(len(many)) // 2, 5, 0)
    assert (folds[::2] == folds[1::2]).all()
    shares = np.array([np.bincount(many[folds == k]) / np.bincount(many) for k in range(1, 6)])
    assert np.abs(shares - 0.2).max() < 0.05


def test_no_list_is_overwritten_silently(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    config = DivideConfig(source=str(shapes), out=str(out), label="motion", near_duplicates=False)
    split_list(config)
    before = out.read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        split_list(replace(config, seed=1))
    assert out.read_bytes() == before
    split_list(replace(config, seed=1, overwrite=True))
    assert out.read_bytes() != before
    with pytest.raises(ConfigError, match=r"\.csv"):
        replace(config, out="list.txt")
    with pytest.raises(ConfigError, match="take the place"):
        replace(config, folds=3, test=20.0)
    rows = [{**row, "person": "x" if i else ""} for i, row in enumerate(listed(shapes))]
    source = write(tmp_path / "holes.csv", rows)
    with pytest.raises(DataError, match="have no person"):
        split_list(replace(config, source=str(source), out=str(tmp_path / "d.csv"), group="person"))
    with pytest.raises(DataError, match="100 folds"):
        split_list(replace(config, out=str(tmp_path / "d.csv"), folds=100))


def test_videos_without_a_group_are_not_one_group(tmp_path: Path) -> None:
    rows = [f"{i}.mp4,{'ab'[i % 2]},{f'p{i}' if i < 10 else ''}" for i in range(40)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,person", *rows]))
    with pytest.raises(DataError, match=r"30 videos have no person, such as .*10\.mp4"):
        read_splits(SplitConfig(source=str(tmp_path / "list.csv"), label="label", group="person"))


def test_a_test_that_also_chooses_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train", "val", "test"):
        rows = [f"{name}{i}.mp4,{'ab'[i % 2]}" for i in range(4)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["path,label", *rows, *(["val0.mp4,a"] * (name == "test"))]))
    train, val, test = (str(tmp_path / f"{name}.csv") for name in ("train", "val", "test"))
    read_splits(SplitConfig(source=train, val_source=val, test_source=test))
    assert "1 video is in val and in test, such as" in caplog.text
    assert "overestimated" in caplog.text
