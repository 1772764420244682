"""A run goes back to its newest checkpoint: the main process reads and checks it, and the others get it from there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openvjepa.errors import CheckpointError, ConfigError
from openvjepa.train.checkpoint import checkpoint_path, list_checkpoints, load_newest
from openvjepa.train.distributed import Runtime

# Settings that a resumed run may change: they do not alter what it computes (micro_batch: not beyond its masks).
FREE_ON_RESUME = ("out", "train", "data.workers", "data.cache", "data.max_bad")
# The same for tasks that train on encoded features, by the names in their own configurations.
FREE_WITH_FEATURES = (
    *("out", "resume", "overwrite", "cache_dir", "device", "precision", "threads", "workers", "eval_batch", "max_bad"),
)
STEPS = "train.steps"  # may become more: the run is lengthened
FIXED_ON_RESUME = (STEPS, "train.batch_size", "train.seed")
_MOMENTS = ("exp_avg", "exp_avg_sq")
_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on: finished steps, and the state of torch's generators."""

    step: int
    rng: dict[str, Any]
    planned: int | None = None
    """Steps of the run when the checkpoint was written, where its settings have them."""


def resume(
    folder: Path,
    task: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    config: dict[str, Any],
    runtime: Runtime,
    scaler: torch.amp.GradScaler | None = None,
) -> Resumed | None:
    """Load the newest readable checkpoint into the task and the optimizer of every process; None: there is no checkpoint.

    Only the main process reads the folder: the processes need no common file system.

    Raises:
        CheckpointError: no checkpoint can be read, or the newest one does not fit; nothing has been loaded then.
        ConfigError: the run was started with other settings.
    """

    def read() -> dict[str, Any] | None:
        if not list_checkpoints(folder):
            return None
        state = load_newest(folder)
        where = str(checkpoint_path(folder, state["step"]))
        check_settings(state.get("config"), config, where)
        check_state(state, task, optimizer, steps=steps, where=where)
        load_weights(task, state["model"], where)
        load_moments(optimizer, state["optimizer"])
        return {
            "step": state["step"],
            "planned": _flatten(state["config"]).get(STEPS),
            "rng": state["rng"],
            "scaler": state.get("scaler"),
            "extra": {name: value for name, value in state["model"].items() if not isinstance(value, Tensor)},
            "counts": {number: float(own["step"]) for number, own in state["optimizer"]["state"].items()},
        }

    found = runtime.on_main(read)
    if found is None:
        return None
    if runtime.world_size > 1:
        _share(task, optimizer, found, runtime)
    if scaler is not None and found["scaler"]:
        scaler.load_state_dict(found["scaler"])
    return Resumed(found["step"], found["rng"], found["planned"])


def _share(task: nn.Module, optimizer: torch.optim.Optimizer, found: dict[str, Any], runtime: Runtime) -> None:
    """Give the main process's weights and moments to the others."""
    parameters = _parameters(optimizer)
    if not runtime.is_main:
        task.load_state_dict(task.state_dict() | found["extra"])
        empty = {
            number: {"step": torch.tensor(count), **{name: torch.zeros_like(parameters[number]) for name in _MOMENTS}}
            for number, count in found["counts"].items()
        }
        load_moments(optimizer, {"state": empty})
    for value in task.state_dict().values():
        if isinstance(value, Tensor):
            runtime.broadcast(value)
    for number in found["counts"]:
        for name in _MOMENTS:
            runtime.broadcast(optimizer.state[parameters[number]][name])


def load_weights(task: nn.Module, weights: Mapping[str, Any], where: str) -> None:
    """Put checked weights into a task.

    Raises:
        CheckpointError: the task does not take what it has stored besides tensors.
    """
    try:
        task.load_state_dict(weights)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _unfit(where, str(error) or type(error).__name__) from None


def load_moments(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Put checked moments into AdamW; its settings stay those of the configuration."""
    parameters = _parameters(optimizer)
    state: dict[int, dict[str, Tensor]] = {}
    for number, own in saved["state"].items():
        copies = {name: torch.empty_like(parameters[number]).copy_(own[name]) for name in _MOMENTS}
        state[number] = {"step": torch.tensor(float(own["step"])), **copies}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def check_state(
    state: Mapping[str, Any], task: nn.Module, optimizer: torch.optim.Optimizer, *, steps: int, where: str
) -> None:
    """Refuse a checkpoint that does not fit a run in every name, shape, type and range, before anything is loaded.

    Args:
        state: of a checkpoint.
        task: the module that is trained.
        optimizer: its AdamW.
        steps: optimizer steps of the run.
        where: what to call the checkpoint in an error.

    Raises:
        CheckpointError: with the first thing that does not fit.
    """
    step = state.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= steps:
        raise _unfit(where, f"its step is {_short(step)}, the run has {steps}")
    check_weights(state.get("model"), task, where)
    check_moments(state.get("optimizer"), optimizer, where)
    _check_rng(state.get("rng"), where)
    if "scaler" in state:
        _check_scaler(state["scaler"], where)


def check_weights(weights: Any, task: nn.Module, where: str) -> None:
    """Compare the names, shapes and types of stored weights with a task's.

    Raises:
        CheckpointError: they differ, or a parameter is not finite.
    """
    if not isinstance(weights, Mapping):
        raise _unfit(where, "it holds no weights")
    own = task.state_dict()
    for names, fault in ((own.keys() - weights.keys(), "missing"), (weights.keys() - own.keys(), "unexpected")):
        if names:
            rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise _unfit(where, f"{fault}: {min(map(str, names))}{rest}")
    trained = {name for name, _ in task.named_parameters()}
    for name, value in own.items():
        if isinstance(value, Tensor):
            _check_tensor(weights[name], value, name, where, finite=name in trained)
        elif type(weights[name]) is not type(value):
            raise _unfit(where, f"{name} is not of the type {type(value).__name__}")


def check_moments(saved: Any, optimizer: torch.optim.Optimizer, where: str) -> None:
    """Compare AdamW's stored moments with its parameters: a fused kernel would read past a tensor of another shape.

    Raises:
        CheckpointError: they differ, or a value is impossible.
    """
    groups = optimizer.state_dict()["param_groups"]
    if not isinstance(saved, Mapping) or not isinstance(saved.get("state"), Mapping):
        raise _unfit(where, "it holds no optimizer state")
    stored = saved.get("param_groups")
    if not isinstance(stored, list) or [_numbers(group) for group in stored] != [_numbers(group) for group in groups]:
        raise _unfit(where, "the optimizer's groups of parameters are others")
    parameters = _parameters(optimizer)
    for number, own in saved["state"].items():
        if type(number) is not int or not 0 <= number < len(parameters):
            raise _unfit(where, f"the optimizer has no parameter {_short(number)}")
        if not isinstance(own, Mapping) or set(own) != {"step", *_MOMENTS}:
            raise _unfit(where, f"the optimizer state of parameter {number} does not hold step, {', '.join(_MOMENTS)}")
        count = own["step"]
        count = count.item() if isinstance(count, Tensor) and count.numel() == 1 and not count.is_complex() else count
        if not isinstance(count, (int, float)) or not 0 <= count < math.inf:
            raise _unfit(where, f"the optimizer's step of parameter {number} is {_short(count)}")
        for name in _MOMENTS:
            title = f"optimizer {name} of parameter {number}"
            _check_tensor(own[name], parameters[number], title, where, finite=True)
        if parameters[number].numel() and own["exp_avg_sq"].min() < 0:
            raise _unfit(where, f"optimizer exp_avg_sq of parameter {number} is negative")


def check_settings(old: Any, new: Mapping[str, Any], where: str = "checkpoint") -> None:
    """A resumed run must have the settings it was started with, but for those that change nothing it computes.

    Raises:
        ConfigError: a setting has changed; names all that have.
        CheckpointError: the stored settings are not plain values.
    """
    if not isinstance(old, Mapping) or not all(_is_plain(value) for value in _flatten(old).values()):
        raise _unfit(where, "its settings cannot be read")
    before, now = _fixed(old), _fixed(new)
    changed = [
        f"{key} is {now[key]}, was {_short(before[key])}"
        for key in now.keys() & before.keys()  # a setting that is new in this version is not a change
        if now[key] != before[key] and not (key == STEPS and _is_longer(before[key], now[key]))
    ]
    if changed:
        raise ConfigError(
            f"a resumed run must use the same settings, but {'; '.join(sorted(changed))}: use those of its config.yaml"
        )


def _is_longer(old: Any, new: Any) -> bool:
    """Whether a run has more steps than before: its schedules are those of a run of so many from here on."""
    return type(old) is int and type(new) is int and new > old


def check_same_settings(config: Mapping[str, Any], runtime: Runtime) -> None:
    """All processes of a run must have been started with the same settings.

    Raises:
        ConfigError: they were not; in all processes.
    """
    every = runtime.gather({key: repr(value) for key, value in _fixed(config).items()})
    for rank, other in enumerate(every):
        differ = sorted(key for key in every[0].keys() | other.keys() if every[0].get(key) != other.get(key))
        if differ:
            text = (
                f"the processes were started with different settings: {differ[0]} is {other.get(differ[0])} in process "
                f"{rank}, {every[0].get(differ[0])} in process 0"
            )
            raise runtime.common(ConfigError(text))


def _fixed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide what a run computes, flat."""
    return {
        key: value
        for key, value in _flatten(config).items()
        if key in FIXED_ON_RESUME or not any(f"{key}.".startswith(f"{free}.") for free in FREE_ON_RESUME)
    }


def _flatten(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    if isinstance(value, Mapping):
        return all(_is_plain(item) for item in value.values())
    return isinstance(value, _PLAIN)


def _check_rng(rng: Any, where: str) -> None:
    if not isinstance(rng, Mapping) or "torch" not in rng:
        raise _unfit(where, "it holds no state of the random generator")
    for name, device in _generators(rng):
        try:
            torch.Generator(device).set_state(rng[name])
        except (RuntimeError, TypeError, ValueError) as error:
            raise _unfit(where, f"the state of the random generator {name}: {error}") from None


def _generators(rng: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The generators of this machine whose state is stored."""
    yield "torch", "cpu"
    if "cuda" in rng and torch.cuda.is_available():
        yield "cuda", "cuda"
    if "mps" in rng and torch.backends.mps.is_available():
        yield "mps", "mps"


def _check_scaler(scaler: Any, where: str) -> None:
    own = torch.amp.GradScaler("cpu").state_dict()
    if not isinstance(scaler, Mapping) or scaler.keys() != own.keys():
        raise _unfit(where, "the state of its loss scale cannot be read")
    for name, value in scaler.items():
        if type(value) is not type(own[name]) or not 0 <= value < math.inf or (value == 0 and own[name] != 0):
            raise _unfit(where, f"{name} of its loss scale is {_short(value)}")


def _check_tensor(value: Any, own: Tensor, name: str, where: str, *, finite: bool) -> None:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        raise _unfit(where, f"{name} is not a tensor")
    if value.shape != own.shape:
        raise _unfit(where, f"size mismatch for {name}: {list(value.shape)}, the model has {list(own.shape)}")
    if value.dtype != own.dtype:
        raise _unfit(where, f"{name} is {value.dtype}, the model has {own.dtype}")
    if finite and value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise _unfit(where, f"{name} is not finite")


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """All parameters, in the order in which a state numbers them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _numbers(group: Any) -> Any:
    """The parameters of a stored group."""
    return group.get("params") if isinstance(group, Mapping) else None


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:60]}..."


def _unfit(where: str, reason: str) -> CheckpointError:
    return CheckpointError(f"{where}: the checkpoint does not fit this model ({' '.join(reason.split())[:200]})")
