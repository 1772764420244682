"""A checkpoint that does not fit is refused in one line before anything of it is loaded, whatever is wrong with it."""

from __future__ import annotations

import copy
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from openvjepa.config import TrainConfig
from openvjepa.errors import CheckpointError, OpenVJEPAError
from openvjepa.train.checkpoint import list_checkpoints, load_checkpoint, load_newest

STEPS = 12
State = dict[str, Any]


def settings(**changes: Any) -> TrainConfig:
    values = {"steps": STEPS, "batch_size": 8, "device": "cpu", "precision": "fp32", "threads": 1, "save_every": 5}
    return TrainConfig(**values | {"monitor_every": 0} | changes)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory, tiny: ModuleType) -> Path:
    """A run that stands at step 10."""
    run_dir = tmp_path_factory.mktemp("half") / "run"
    tiny.run(run_dir, settings())
    list_checkpoints(run_dir / "checkpoints")[-1].unlink()
    return run_dir


def write(run_dir: Path, state: Any) -> None:
    (run_dir / "checkpoints").mkdir(parents=True)
    torch.save(state, run_dir / "checkpoints/step-00000010.pt")


def moments(state: State, number: int = 0) -> State:
    return state["optimizer"]["state"][number]


def put(*keys: Any) -> Callable[[State, Any], None]:
    """Sets what lies under some keys."""

    def change(state: State, value: Any) -> None:
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return change


WEIGHT, FIRST = "encoder.0.weight", ("optimizer", "state", 0)
WRONG: dict[str, tuple[Callable[[State, Any], None], list[Any]]] = {
    "step": (put("step"), [10**12, -1, 10.0, "10", None, True, torch.tensor(10), torch.ones(3), 11]),
    "model": (put("model"), [None, [], {}, {"a": 1}, torch.ones(2)]),
    "weight": (
        put("model", WEIGHT),
        [None, 3, torch.ones(2), torch.ones(8, 4).double(), torch.full((8, 4), torch.nan), torch.ones(8, 4).to_sparse()],
    ),
    "optimizer": (put("optimizer"), [None, 3, {}, {"state": {}}, {"state": [], "param_groups": []}]),
    "groups": (put("optimizer", "param_groups"), [None, [], [{}] * 4, [3] * 4, [{"params": [0, 1]}] * 4]),
    "moments": (put(*FIRST), [None, {}, {"step": torch.tensor(1.0)}, [1, 2]]),
    "exp_avg": (
        put(*FIRST, "exp_avg"),
        [None, 1.0, torch.ones(1), torch.ones(4, 8), torch.zeros(0), torch.ones(8, 4).half(), torch.full((8, 4), torch.inf)],
    ),
    "exp_avg_sq": (put(*FIRST, "exp_avg_sq"), [torch.ones(10**6), -torch.ones(8, 4), torch.ones(8, 4, dtype=torch.int32)]),
    "count": (
        put(*FIRST, "step"),
        [None, "1", -1.0, torch.tensor(torch.nan), torch.ones(3), torch.tensor(torch.inf), torch.ones(1, dtype=torch.cfloat)],
    ),
    "number": (put("optimizer", "state", 99), [{}]),
    "name": (put("optimizer", "state", "a"), [{}]),
    "rng": (put("rng"), [None, {}, {"torch": None}, {"torch": torch.ones(5)}, {"torch": torch.ones(9, dtype=torch.uint8)}]),
    "config": (put("config"), [None, [], {"optim": torch.ones(2)}, {"train": {"steps": torch.ones(3)}}]),
    "scaler": (put("scaler"), [3, {}, {"scale": -1.0}]),
}  # fmt: skip
CASES = [(name, change, value) for name, (change, values) in WRONG.items() for value in values]


@pytest.mark.parametrize(("name", "change", "value"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_what_does_not_fit_is_one_line(
    tmp_path: Path, tiny: ModuleType, half: Path, name: str, change: Callable[[State, Any], None], value: Any
) -> None:
    state = load_newest(half / "checkpoints")
    change(state, value)
    write(tmp_path, state)
    with pytest.raises(CheckpointError) as caught:
        tiny.run(tmp_path, settings(resume=True))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    after = torch.get_rng_state()
    tiny.TinyTask()  # which sets the seed
    assert torch.equal(after, torch.get_rng_state())  # nothing of the checkpoint has been loaded


@pytest.mark.parametrize("part", ["model", "optimizer", "rng", "config", "step"])
def test_a_part_that_is_missing(tmp_path: Path, tiny: ModuleType, half: Path, part: str) -> None:
    state = load_newest(half / "checkpoints")
    del state[part]
    write(tmp_path, state)
    with pytest.raises(CheckpointError):
        tiny.run(tmp_path, settings(resume=True))


def test_weights_under_other_names(tmp_path: Path, tiny: ModuleType, half: Path) -> None:
    state = load_newest(half / "checkpoints")
    state["model"]["other"] = state["model"].pop(WEIGHT)
    write(tmp_path, state)
    with pytest.raises(CheckpointError, match=r"does not fit this model \(missing: encoder.0.weight"):
        tiny.run(tmp_path, settings(resume=True))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where anything lies in a state."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [leaf for key, item in items for leaf in leaves(item, (*path, key))]


def mutated(value: Any, draw: random.Random) -> Any:
    """Something else than it was."""
    if isinstance(value, torch.Tensor) and draw.random() < 0.7:
        return draw.choice([
            lambda: value.flatten()[:-1] if value.numel() else value,
            lambda: value.unsqueeze(0).expand(2, *value.shape),
            lambda: value.double() if value.is_floating_point() else value.float(),
            lambda: value * torch.nan if value.is_floating_point() else value.new_zeros(0),
            lambda: torch.cat([value.flatten()] * 1000),
            lambda: value.to(torch.cfloat),
        ])()  # fmt: skip
    return draw.choice(
        [None, -1, 10**30, float("nan"), "x", [], {}, [1, 2], {"a": 1}, torch.ones(3), {1: {}}, b"x", 1j]
    )


def test_random_mutations_are_refused_or_harmless(tmp_path: Path, tiny: ModuleType, half: Path) -> None:
    """Whatever is put anywhere: a clear line, or (a setting that nothing reads) the run ends as it would have."""
    whole, draw = load_newest(half / "checkpoints"), random.Random(0)
    tiny.run(tmp_path / "expected", settings())
    expected = load_newest(tmp_path / "expected/checkpoints")["model"]
    places, refused = leaves(whole)[1:], []
    for number in range(150):
        state = copy.deepcopy(whole)
        place = draw.choice(places)
        inner = state
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = mutated(inner[place[-1]], draw)
        run_dir = tmp_path / str(number)
        write(run_dir, state)
        try:
            tiny.run(run_dir, settings(resume=True))
        except OpenVJEPAError as error:
            refused.append(str(error))
        else:
            ended = load_newest(run_dir / "checkpoints")["model"]
            assert all(torch.equal(value, expected[name]) for name, value in ended.items()), place
    assert len(refused) > 75
    assert not any("\n" in line for line in refused)


def test_a_compressed_archive_is_refused(tmp_path: Path, half: Path) -> None:
    """torch maps the members of an archive as they are: deflated ones would load as noise."""
    source, packed = list_checkpoints(half / "checkpoints")[-1], tmp_path / "step-00000010.pt"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.namelist():
            new.writestr(item, old.read(item))
    with pytest.raises(CheckpointError, match=r"damaged or not a checkpoint .*is compressed"):
        load_checkpoint(packed)


def test_moments_do_not_share_memory_with_what_was_read(tmp_path: Path, tiny: ModuleType, half: Path) -> None:
    """A tensor stored once for both moments, with a stride of 0, must train as two of its values would."""
    state = load_newest(half / "checkpoints")
    one = torch.tensor([0.25]).expand(8, 4)
    moments(state)["exp_avg"], moments(state)["exp_avg_sq"] = one, one
    write(tmp_path / "shared", state)
    moments(state)["exp_avg"], moments(state)["exp_avg_sq"] = one.clone(), one.clone()
    write(tmp_path / "apart", state)
    ends = []
    for name in ("shared", "apart"):
        tiny.run(tmp_path / name, settings(resume=True))
        ends.append(load_newest(tmp_path / name / "checkpoints")["model"])
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
