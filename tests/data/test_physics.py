"""Rendered physics: pairs are equal up to the event, the possible motion obeys its equations, files follow from the seed."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from openvjepa.config import PhysicsConfig
from openvjepa.data.lists.index import read_index
from openvjepa.data.media.video import open_video
from openvjepa.data.rendered.physics import COLUMNS, KINDS, _throw, make_physics, render_physics
from openvjepa.errors import ConfigError, DataError


def pair(kind: str, number: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Possible and impossible video, and the event."""
    possible, event = render_physics(kind, possible=True, size=64, frames=24, rng=np.random.default_rng(number))
    impossible, same = render_physics(kind, possible=False, size=64, frames=24, rng=np.random.default_rng(number))
    assert event == same
    return possible, impossible, event


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_part_at_the_event(kind: str) -> None:
    for number in range(20):
        possible, impossible, event = pair(kind, number)
        assert possible.shape == impossible.shape == (24, 64, 64, 3)
        assert possible.dtype == np.uint8
        different = [i for i in range(24) if (possible[i] != impossible[i]).any()]
        assert different, number
        assert 8 <= event <= different[0], number
        # What happened is seen: dozens of pixels in some frame, and long enough for a window of 16 frames.
        assert (possible != impossible).any(-1).sum((1, 2)).max() > 40, number
        assert different[0] <= 20


def test_behind_the_screen_nothing_is_seen() -> None:
    """Whatever happens there, the frame of the event is the same as if nothing did (a jump ends in the open)."""
    for kind in ("vanish", "shape", "color"):
        for number in range(20):
            possible, impossible, event = pair(kind, number)
            assert (possible[event] == impossible[event]).all()


def test_possible_flights_are_parabolas() -> None:
    """Away from the floor: constant speed to the side, constant acceleration down."""
    path = _throw(np.array([0.2, 0.3]), np.array([0.02, -0.02]), 0.1, 24, 12, None)
    in_flight = path[path[:, 1] < 0.7][:8]
    np.testing.assert_allclose(np.diff(in_flight[:, 0]), 0.02, rtol=1e-9)
    np.testing.assert_allclose(np.diff(in_flight[:, 1], 2), 3.6 / 24**2, rtol=1e-9)
    assert path[:, 1].max() <= 0.85 - 0.1 + 1e-9  # the floor
    turned = _throw(np.array([0.2, 0.3]), np.array([0.02, -0.02]), 0.1, 24, 12, "turn")
    np.testing.assert_allclose(turned[11:, 0] - turned[11, 0], path[11, 0] - path[11:, 0], rtol=1e-9)
    np.testing.assert_array_equal(turned[:, 1], path[:, 1])
    lifted = _throw(np.array([0.2, 0.3]), np.array([0.02, -0.02]), 0.1, 24, 5, "gravity")
    np.testing.assert_allclose(np.diff(lifted[5:, 1], 2), -3.6 / 24**2, rtol=1e-9)
    stopped = _throw(np.array([0.2, 0.3]), np.array([0.02, -0.02]), 0.1, 24, 5, "stop")
    np.testing.assert_array_equal(stopped[4:], np.broadcast_to(path[4], (20, 2)))


def test_files_and_index(tmp_path: Path) -> None:
    config = PhysicsConfig(out=str(tmp_path / "a"), train=4, val=1, test=7, size=32, frames=12)
    index = make_physics(config, workers=1)
    with index.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 4 + 2 + 14
    assert {row["split"] for row in rows if row["possible"] == "0"} == {"val", "test"}
    assert [row["pair"] for row in rows if row["split"] == "train"] == [""] * 4
    for number in range(8):
        pair = [row for row in rows if row["pair"] == str(number)]
        assert [row["possible"] for row in pair] == ["1", "0"]
        assert pair[0]["kind"] == pair[1]["kind"]
        assert pair[0]["scene"] == KINDS[pair[0]["kind"]]
    assert {row["kind"] for row in rows if row["split"] == "test"} == set(KINDS)
    # Pretraining reads it as it is, and sees possible videos alone.
    read = read_index(tmp_path / "a")
    assert read.classes is None
    assert len(read.without("val", "test")) == 4
    video = open_video(read.records[0].path)
    assert (video.frame_count, video.fps) == (12, 8)
    other = make_physics(PhysicsConfig(out=str(tmp_path / "b"), train=4, val=1, test=7, size=32, frames=12), workers=2)
    for row in rows:
        assert (index.parent / row["path"]).read_bytes() == (other.parent / row["path"]).read_bytes()


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    for wrong in (
        {"size": 63},
        {"size": 16},
        {"frames": 8},
        {"train": 0, "val": 0, "test": 0},
        {"test": -1},
        {"fps": 0},
    ):
        with pytest.raises(ConfigError):
            PhysicsConfig(**wrong)
    (tmp_path / "index.csv").write_text("path\n")
    with pytest.raises(DataError, match="already holds a dataset"):
        make_physics(PhysicsConfig(out=str(tmp_path)))
