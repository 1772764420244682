"""Benchmarks: the layouts on disk, and accuracies by brute force."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from openvjepa.errors import DataError
from openvjepa.seeing.surprise.benchmarks import Trial, read_benchmark, separation


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def test_pairs(physics: Path) -> None:
    trials = read_benchmark(physics, "pairs", split="test")
    assert len(trials) == 14
    assert {trial.group for trial in trials} == {"vanish", "shape", "color", "jump", "stop", "turn", "gravity"}
    for trial in trials:
        assert trial.possible == ("_possible" in trial.path)
        assert Path(trial.path).is_file()
    with pytest.raises(DataError, match="no matched possible and impossible videos"):
        read_benchmark(physics, "pairs", split="train")


def test_intphys(tmp_path: Path) -> None:
    for block, run in itertools.product(("O1", "O3"), range(1, 5)):
        touch(tmp_path / "dev" / block / "07" / str(run) / "scene" / "scene_001.png")
        status = {"header": {"is_possible": run in (2, 3)}, "frames": []}
        (tmp_path / "dev" / block / "07" / str(run) / "status.json").write_text(json.dumps(status))
    trials = read_benchmark(tmp_path, "intphys")
    assert trials == read_benchmark(tmp_path / "dev", "intphys")
    assert [(t.scene, t.group, t.possible) for t in trials[:4]] == [
        ("O1/07", "O1", possible) for possible in (False, True, True, False)
    ]
    assert trials[0].path.endswith("O1/07/1/scene")
    (tmp_path / "dev" / "O1" / "07" / "1" / "status.json").write_text("{}")
    with pytest.raises(DataError, match="no header with is_possible"):
        read_benchmark(tmp_path, "intphys")


def test_grasp(tmp_path: Path) -> None:
    for prefix, number in itertools.product(("P_", "IP_"), range(2)):
        touch(tmp_path / "level2" / f"{prefix}Continuity" / f"{number:03d}.mp4")
    touch(tmp_path / "level2" / "P_Gravity" / "000.mp4")  # without its impossible video
    trials = read_benchmark(tmp_path, "grasp")
    assert sorted((t.scene, t.possible) for t in trials) == [
        (f"Continuity/00{number}", possible) for number in range(2) for possible in (False, True)
    ]


def test_inflevel(tmp_path: Path) -> None:
    for kind, way in itertools.product(("vv", "ii", "iv", "vi"), ("LR", "RL")):
        touch(tmp_path / "continuity" / f"center__continuity__greencup__bluestar__{kind}__{way}.mp4")
    for kind in ("ui", "cv", "uv", "ci"):
        touch(tmp_path / "gravity" / f"left__gravity__greencup__pen__{kind}.mp4")
    touch(tmp_path / "gravity" / "notes__gravity.mp4")
    trials = read_benchmark(tmp_path, "inflevel")
    assert len(trials) == 12
    assert len({t.scene for t in trials}) == 3
    for trial in trials:
        kind = Path(trial.path).stem.split("__")[4]
        assert trial.possible == (kind in ("vv", "ii", "ui", "cv"))


def test_missing_folders(tmp_path: Path) -> None:
    for layout in ("pairs", "intphys", "grasp", "inflevel"):
        with pytest.raises(DataError):
            read_benchmark(tmp_path, layout)
        with pytest.raises(DataError, match="no such file or folder"):
            read_benchmark(tmp_path / "none", layout)


def test_accuracies_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    trials = [Trial("", bool(i % 2), str(i // 4), "ab"[i // 4 % 2]) for i in range(80)]
    possible = np.array([trial.possible for trial in trials])
    paired, single = (rng.normal(size=80) + 0.7 * ~possible for _ in range(2))
    single[:6] = single[6]  # ties
    found = separation(trials, paired, single)
    wins = [paired[i : i + 4][[0, 2]].sum() > paired[i : i + 4][[1, 3]].sum() for i in range(0, 80, 4)]
    assert found.relative.value == pytest.approx(np.mean(wins))
    assert found.groups["a"] == pytest.approx(np.mean(wins[::2]))
    above = [(a > b) + 0.5 * (a == b) for a in single[~possible] for b in single[possible]]
    assert found.auroc.value == pytest.approx(np.mean(above))
    assert found.scenes == 20
    for part in (found.relative, found.absolute, found.auroc):
        assert part.low <= part.value <= part.high
        assert part.low < part.high
    # The interval of a share of independent scenes is close to the binomial one.
    share = found.relative.value
    half = 1.96 * np.sqrt(share * (1 - share) / 20)
    assert found.relative.high - found.relative.low == pytest.approx(2 * half, rel=0.3)
    assert separation(trials, paired, single) == found
    perfect = separation(trials, (~possible).astype(float), (~possible).astype(float))
    assert (perfect.relative.value, perfect.absolute.value, perfect.auroc.value) == (1, 1, 1)
    nothing = separation(trials, np.zeros(80), np.zeros(80))
    assert (nothing.relative.value, nothing.absolute.value, nothing.auroc.value) == (0.5, 0.5, 0.5)
