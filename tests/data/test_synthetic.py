"""The rendered shapes: labels that are true, independent, and in the motion's case not to be read from one frame."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from openvjepa.config import ShapesConfig
from openvjepa.data.lists.index import read_index
from openvjepa.data.media.video import open_video
from openvjepa.data.rendered.synthetic import MOTIONS, SHAPES, make_shapes, render_shape
from openvjepa.errors import ConfigError, DataError


def bright(frames: np.ndarray) -> np.ndarray:
    """Pixels of the shape, which is lighter than any background."""
    return frames.max(-1) > 110


def center(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask).mean(0)


def test_motions_are_what_their_names_say() -> None:
    for motion, (right, down, turns, growth) in MOTIONS.items():
        video = bright(render_shape(motion, "circle", size=96, frames=9, rng=np.random.default_rng(3)))
        middle = video[3:6]  # all of the shape is in view
        shift = center(middle[-1]) - center(middle[0])
        assert np.sign(np.rint(shift)).tolist() == [np.sign(down), np.sign(right)], motion
        change = middle[-1].sum() / middle[0].sum()
        assert (change > 1.1, change < 0.9) == (growth > 0, growth < 0), motion
        assert (turns != 0) == (motion in ("clockwise", "counterclockwise"))


def test_rotation_is_visible_in_every_shape() -> None:
    for shape in SHAPES:
        video = render_shape("clockwise", shape, size=64, frames=8, rng=np.random.default_rng(0)).astype(int)
        assert np.abs(video[0] - video[3]).max() > 40, shape


def test_opposite_motions_show_the_same_frames_in_reverse() -> None:
    for one, other in (("left", "right"), ("up", "down"), ("clockwise", "counterclockwise"), ("grow", "shrink")):
        first = render_shape(one, "star", size=48, frames=7, rng=np.random.default_rng(1))
        second = render_shape(other, "star", size=48, frames=7, rng=np.random.default_rng(1))
        np.testing.assert_array_equal(first, second[::-1])


def test_labels_are_balanced_and_independent(tmp_path: Path) -> None:
    make_shapes(ShapesConfig(out=str(tmp_path / "set"), train=96, val=0, test=48, size=16, frames=2), workers=1)
    with (tmp_path / "set" / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    pairs = Counter((row["split"], row["motion"], row["appearance"]) for row in rows)
    assert {count for (split, _, _), count in pairs.items() if split == "train"} == {2}
    assert {count for (split, _, _), count in pairs.items() if split == "test"} == {1}
    assert len(pairs) == 2 * 48
    index = read_index(tmp_path / "set", label="appearance")
    assert index.classes == tuple(sorted(SHAPES))
    assert open_video(index.records[0].path).frame_count == 2


def test_videos_follow_from_the_seed(tmp_path: Path) -> None:
    def files(name: str, seed: int, workers: int) -> list[bytes]:
        config = ShapesConfig(out=str(tmp_path / name), train=24, val=0, test=0, size=64, seed=seed)
        make_shapes(config, workers=workers)
        return [Path(record.path).read_bytes() for record in read_index(tmp_path / name).records]

    first = files("a", 0, 1)
    assert files("b", 0, 2) == first
    assert all(one != other for one, other in zip(files("c", 1, 1), first, strict=True))


def test_texture_and_clutter_make_it_harder() -> None:
    plain, textured, cluttered = (
        render_shape("left", "ring", size=64, frames=2, rng=np.random.default_rng(0), **options)
        for options in ({}, {"texture": 0.5}, {"clutter": 8})
    )
    assert (
        np.abs(np.diff(textured[0].astype(int), axis=0)).mean()
        > 2 * np.abs(np.diff(plain[0].astype(int), axis=0)).mean()
    )
    assert bright(cluttered)[0].sum() > bright(plain)[0].sum()


@pytest.mark.parametrize(
    "wrong", [{"size": 15}, {"size": 33}, {"train": -1}, {"texture": 2.0}, {"train": 0, "val": 0, "test": 0}]
)
def test_impossible_settings(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        ShapesConfig(**wrong)


def test_a_data_set_is_not_written_over(tmp_path: Path) -> None:
    config = ShapesConfig(out=str(tmp_path), train=1, val=0, test=0, size=16, frames=2)
    make_shapes(config, workers=1)
    with pytest.raises(DataError, match="already holds a dataset"):
        make_shapes(config, workers=1)
