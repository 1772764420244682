"""Intuitive-physics benchmarks read from disk, and how well a measure of surprise tells possible videos from impossible ones.

Layouts: an index.csv of `vjepa data make-physics`; IntPhys (dev: O1/<scene>/<1..4>/scene/*.png with status.json), GRASP
(level2: P_<concept>/<number>.mp4 and IP_<concept>/<number>.mp4), InfLevel (<concept>/*.mp4, whose names say what happens).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from openvjepa.data.media.video import VIDEO_EXTENSIONS
from openvjepa.errors import DataError

Layout = Literal["pairs", "intphys", "grasp", "inflevel"]

RESAMPLES = 1000
# InfLevel's event types that obey the rules: what is (v)isible or (i)nvisible before and after, (c)overed or (u)ncovered.
_INFLEVEL_POSSIBLE = {"continuity": ("vv", "ii"), "solidity": ("ui", "cv"), "gravity": ("ui", "cv")}
_INFLEVEL_TYPES = {"continuity": ("vv", "ii", "iv", "vi"), "solidity": ("ui", "cv", "uv", "ci")}
_INFLEVEL_TYPES["gravity"] = _INFLEVEL_TYPES["solidity"]


@dataclass(frozen=True)
class Trial:
    """One video of a benchmark."""

    path: str
    possible: bool
    scene: str
    """Videos of one scene are matched: only what happens at the event differs."""
    group: str
    """Kind of event, block or concept."""


def read_benchmark(folder: str | Path, layout: Layout, *, split: str | None = None) -> tuple[Trial, ...]:
    """The videos of a benchmark that lies on disk; scenes without both possible and impossible videos are left out.

    Args:
        folder: with index.csv ("pairs"); with O1, O2, O3 ("intphys"); with P_ and IP_ folders, or level2 with them
            ("grasp"); with continuity, solidity or gravity ("inflevel").
        layout: how it is laid out.
        split: only this split of an index.csv; None: all rows that belong to a pair.

    Raises:
        DataError: no such folder, or nothing of that layout in it.
    """
    path = Path(folder)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    readers: dict[str, Callable[[], Iterable[Trial]]] = {
        "pairs": lambda: _pairs(path, split),
        "intphys": lambda: _intphys(path),
        "grasp": lambda: _grasp(path),
        "inflevel": lambda: _inflevel(path),
    }
    trials = list(readers[layout]())
    sides: dict[str, set[bool]] = {}
    for trial in trials:
        sides.setdefault(trial.scene, set()).add(trial.possible)
    matched = tuple(trial for trial in trials if len(sides[trial.scene]) == 2)
    if not matched:
        expected = {
            "pairs": "rows of index.csv with pair and possible",
            "intphys": "O1/<scene>/<1..4>/status.json beside scene/",
            "grasp": "P_<concept>/<number>.mp4 and IP_<concept>/<number>.mp4",
            "inflevel": "continuity, solidity or gravity with <camera>__<concept>__<cover>__<object>__<type>.mp4",
        }[layout]
        raise DataError(f"{path}: no matched possible and impossible videos of the layout {layout} ({expected})")
    return matched


def _pairs(path: Path, split: str | None) -> Iterable[Trial]:
    file = path / "index.csv" if path.is_dir() else path
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read as a CSV file ({error})") from None
    if not rows or not {"path", "pair", "possible"} <= rows[0].keys():
        raise DataError(f"{file}: no columns path, pair and possible: make such a set with `vjepa data make-physics`")
    for number, row in enumerate(rows, start=2):
        if not row["pair"] or (split is not None and row.get("split") != split):
            continue
        if row["possible"] not in ("0", "1"):
            raise DataError(f"{file}, line {number}: possible is {row['possible']!r}, not 0 or 1")
        yield Trial(str(file.parent / row["path"]), row["possible"] == "1", row["pair"], row.get("kind") or "")


def _intphys(path: Path) -> Iterable[Trial]:
    root = path / "dev" if (path / "dev").is_dir() else path
    for block in sorted(root.glob("O[0-9]*")):
        for scene in sorted(folder for folder in block.iterdir() if folder.is_dir()):
            for run in sorted(folder for folder in scene.iterdir() if (folder / "status.json").is_file()):
                status = run / "status.json"
                try:
                    possible = json.loads(status.read_text(encoding="utf-8"))["header"]["is_possible"]
                except (OSError, ValueError, KeyError, TypeError) as error:
                    raise DataError(f"{status}: no header with is_possible ({type(error).__name__})") from None
                yield Trial(str(run / "scene"), bool(possible), f"{block.name}/{scene.name}", block.name)


def _grasp(path: Path) -> Iterable[Trial]:
    root = next((path / name for name in ("level2", "videos/level2") if (path / name).is_dir()), path)
    for folder in sorted(root.iterdir() if root.is_dir() else ()):
        for prefix, possible in (("P_", True), ("IP_", False)):
            if folder.is_dir() and folder.name.startswith(prefix):
                concept = folder.name.removeprefix(prefix)
                for file in _videos(folder):
                    yield Trial(str(file), possible, f"{concept}/{file.stem}", concept)


def _inflevel(path: Path) -> Iterable[Trial]:
    for concept, types in _INFLEVEL_TYPES.items():
        for file in _videos(path / concept) if (path / concept).is_dir() else ():
            parts = file.stem.split("__")
            kinds = [part for part in parts[4:] if part in types]
            if len(parts) < 5 or len(kinds) != 1:
                continue
            scene = "/".join([concept, *(part for part in parts if part not in (concept, kinds[0]))])
            yield Trial(str(file), kinds[0] in _INFLEVEL_POSSIBLE[concept], scene, concept)


def _videos(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in VIDEO_EXTENSIONS)


@dataclass(frozen=True)
class Accuracy:
    """A share in 0..1 with its 95 % confidence interval, by resampling the scenes."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class Separation:
    """How well one measure tells impossible videos from possible ones."""

    relative: Accuracy
    """Share of scenes whose impossible videos have the higher mean (ties count half); chance level 0.5."""
    absolute: Accuracy
    """Share of single videos on the right side of the median of all; chance level 0.5."""
    auroc: Accuracy
    """Of single videos; chance level 0.5."""
    groups: dict[str, float]
    """relative, for each kind of event."""
    scenes: int


def separation(
    trials: Sequence[Trial], paired: NDArray[np.float64], single: NDArray[np.float64], *, seed: int = 0
) -> Separation:
    """Evaluate a measure of surprise on matched videos.

    Args:
        trials: the videos.
        paired: measure for matched comparisons, one for each video (mean over windows).
        single: measure for single videos (maximum over windows); nan counts as the lowest.
        seed: of the bootstrap.
    """
    paired, single = (np.nan_to_num(np.asarray(values, float), nan=-np.inf) for values in (paired, single))
    possible = np.array([trial.possible for trial in trials])
    scenes: dict[str, list[int]] = {}
    for place, trial in enumerate(trials):
        scenes.setdefault(trial.scene, []).append(place)
    members = [np.array(places) for places in scenes.values()]
    wins = np.array([_win(paired[places], possible[places]) for places in members])
    median = np.median(single[np.isfinite(single)]) if np.isfinite(single).any() else 0.0
    right = np.where(single == median, 0.5, (single > median) == ~possible)
    rng = np.random.default_rng(seed)
    relative, absolute, auroc = [], [], []
    for _ in range(RESAMPLES):
        chosen = rng.integers(len(members), size=len(members))
        places = np.concatenate([members[i] for i in chosen])
        relative.append(wins[chosen].mean())
        absolute.append(right[places].mean())
        auroc.append(_auroc(single[places], possible[places]))
    groups = {}
    for name in dict.fromkeys(trial.group for trial in trials):
        own = [win for win, places in zip(wins, members, strict=True) if trials[places[0]].group == name]
        groups[name] = float(np.mean(own))
    values = (wins.mean(), right.mean(), _auroc(single, possible))
    first, second, third = (
        Accuracy(float(value), *map(float, np.quantile(samples, (0.025, 0.975))))
        for value, samples in zip(values, (relative, absolute, auroc), strict=True)
    )
    return Separation(first, second, third, groups, len(members))


def _win(values: NDArray[np.float64], possible: NDArray[np.bool_]) -> float:
    """1 if the impossible videos of a scene have the higher mean, 0.5 for a tie."""
    usual, odd = values[possible].mean(), values[~possible].mean()
    return 0.5 if usual == odd else float(odd > usual)


def _auroc(values: NDArray[np.float64], possible: NDArray[np.bool_]) -> float:
    finite = np.where(np.isfinite(values), values, np.finfo(float).min / 4)
    return float(roc_auc_score(~possible, finite))
