"""The one training loop, for pretraining and everything that trains a module later."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from openvjepa.config import OptimConfig, TrainConfig
from openvjepa.errors import ConfigError, OpenVJEPAError
from openvjepa.train.checkpoint import list_checkpoints, load_newest, rng_state, save_checkpoint, set_rng_state
from openvjepa.train.distributed import Runtime
from openvjepa.train.logs import RunLog
from openvjepa.train.optim import make_optimizer, set_schedules, warmup_steps

Batch = dict[str, Any]
RUN_FILES = ("metrics.jsonl", "metrics.part", "config.yaml", "checkpoints", "tensorboard", "model.safetensors")


class Task(Protocol):
    """All that the loop knows of what it trains (an nn.Module)."""

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars of a micro batch; `loss` is differentiated."""
        ...

    def param_groups(self) -> list[dict[str, Any]]:
        """AdamW groups, each with `params`, `decay` (bool) and `module`; gradients are clipped module by module."""
        ...

    def after_step(self, step: int) -> None:
        """Called after optimiser step number `step`, counted from 0."""
        ...


@dataclass(frozen=True)
class FitResult:
    """How a run ended."""

    step: int
    seconds: float
    metrics: dict[str, float]
    interrupted: bool = False


def accumulation(train: TrainConfig, world_size: int) -> tuple[int, int]:
    """(clips in a pass of one process, passes in a step).

    Raises:
        ConfigError: batch_size is not a multiple of micro_batch x processes.
    """
    micro = train.micro_batch or max(1, train.batch_size // world_size)
    if train.batch_size % (micro * world_size):
        raise ConfigError(
            f"batch_size {train.batch_size} is not a multiple of micro_batch {micro} x {world_size} processes"
        )
    return micro, train.batch_size // (micro * world_size)


def open_run_dir(run_dir: Path, train: TrainConfig) -> None:
    """Make the run folder ready: new, resumed or overwritten, as the configuration says.

    Raises:
        ConfigError: it holds a run already and neither resume nor overwrite is set.
    """
    used = [run_dir / name for name in RUN_FILES if (run_dir / name).exists()]
    if used and train.overwrite and not train.resume:
        for path in used:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif used and not train.resume:
        raise ConfigError(f"{run_dir}: holds a run already: add --resume to go on, --overwrite to delete it, or choose another --out")
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{run_dir}: cannot be made a run folder ({error.strerror})") from None


def fit(
    task: nn.Module,
    loader_factory: Callable[[int], Iterable[Batch]],
    *,
    optim: OptimConfig,
    train: TrainConfig,
    run_dir: Path,
    runtime: Runtime,
    config: dict[str, Any],
    monitor: Callable[[int], dict[str, float]] | None = None,
) -> FitResult:
    """Train until train.steps, saving on the way; resumes exactly (bit for bit on a CPU).

    Args:
        task: a module that follows `Task`.
        loader_factory: start step -> endless or long enough micro batches of this process, from that step on.
        optim: AdamW and schedules.
        train: steps, batch sizes, when to log, save and look for collapse.
        run_dir: made ready by `open_run_dir`.
        runtime: device, precision, rank.
        config: plain values, stored in each checkpoint; a resumed run must have the same ones but for `train` and `out`.
        monitor: step -> figures to log with that step.

    Raises:
        OpenVJEPAError: the loss is not finite, or a checkpoint cannot be read or written.
    """
    micro, accumulate = accumulation(train, runtime.world_size)
    task.to(runtime.device)
    groups = task.param_groups()  # pyright: ignore[reportCallIssue]
    optimizer = make_optimizer(groups, optim)
    checkpoints = run_dir / "checkpoints"
    step = 0
    if train.resume and list_checkpoints(checkpoints):
        step = _restore(load_newest(checkpoints), task, optimizer, config)
    wrapped = runtime.wrap(task)
    log = RunLog(run_dir, start_step=step, steps=train.steps, enabled=runtime.is_main)
    batches = _on_device(loader_factory(step), runtime.device) if step < train.steps else iter(())
    started, values, saved = time.monotonic(), {}, step

    def save() -> None:
        if runtime.is_main:
            state = {"model": task.state_dict(), "optimizer": optimizer.state_dict(), "rng": rng_state(), "config": config}
            save_checkpoint(checkpoints, step, {"step": step, **state}, keep_last=train.keep_last)

    try:
        if step == 0 and monitor and train.monitor_every and runtime.is_main:
            log.write(0, monitor(0))
        while step < train.steps:
            step_started = time.monotonic()
            lr, decay = set_schedules(optimizer, step + 1, optim, train.steps)
            scalars, waited = _accumulate_gradients(wrapped, batches, accumulate, runtime)
            if not math.isfinite(scalars["loss"]):
                raise OpenVJEPAError(
                    f"the loss is {scalars['loss']} at step {step + 1}: nothing was changed; lower the learning rate or use "
                    f"--precision fp32, and go on from the last checkpoint (step {saved}) with --resume"
                )
            clip = optim.clip_grad if step >= warmup_steps(optim, train.steps) else None
            norms = _clip_gradients(groups, clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            task.after_step(step)  # pyright: ignore[reportCallIssue]
            step += 1
            seconds = time.monotonic() - step_started
            values = {**scalars, "lr": lr, "weight_decay": decay, **norms}
            values |= {
                "clips_per_s": train.batch_size / seconds,
                "seconds_per_step": seconds,
                "data_wait": waited / seconds,
            }
            last = step == train.steps
            if monitor and train.monitor_every and (step % train.monitor_every == 0 or last) and runtime.is_main:
                values |= monitor(step)
            if step % train.log_every == 0 or last or "feature_std" in values:
                log.write(step, values)
            log.advance(step, values)
            if step % train.save_every == 0 or last:
                save()
                saved = step
    except KeyboardInterrupt:
        optimizer.zero_grad(set_to_none=True)
        if step > saved:
            save()
        if runtime.is_main:
            print(f"\nInterrupted: saved at step {step} of {train.steps} in {run_dir}. Go on with the same command and --resume.")
        return FitResult(step, time.monotonic() - started, values, interrupted=True)
    finally:
        log.close()
    return FitResult(step, time.monotonic() - started, values)


def _accumulate_gradients(
    task: nn.Module, batches: Iterator[Batch], accumulate: int, runtime: Runtime
) -> tuple[dict[str, float], float]:
    """Gradients of one step, averaged over its micro batches; the mean scalars and the seconds spent waiting for data."""
    totals: dict[str, Tensor] = {}
    waited = 0.0
    for _ in range(accumulate):
        asked = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - asked
        with runtime.autocast():
            out = task(batch)
        (out["loss"] / accumulate).backward()
        for name, value in out.items():
            totals[name] = totals.get(name, 0.0) + value.detach() / accumulate
    return {name: value.item() for name, value in totals.items()}, waited


def _clip_gradients(groups: list[dict[str, Any]], limit: float | None) -> dict[str, float]:
    """Scale the gradients of each module down to the limit; their norms before that, by module."""
    norms = {}
    for module in dict.fromkeys(group["module"] for group in groups):
        params = [p for group in groups if group["module"] == module for p in group["params"]]
        norms[f"grad_norm_{module}"] = nn.utils.clip_grad_norm_(params, limit or math.inf).item()
    return norms


def _on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    for batch in batches:
        yield {key: _move(value, device) for key, value in batch.items()}


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return [_move(item, device) for item in value] if isinstance(value, list) else value


def _restore(
    state: dict[str, Any], task: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any]
) -> int:
    """Put a run back to a checkpoint; the settings that shape its numbers must be the same."""
    changed = [
        key for key in config if key not in ("train", "out") and state["config"].get(key) != config[key]
    ]
    if changed:
        raise ConfigError(f"the run to resume has other settings ({', '.join(changed)}): use its config.yaml")
    task.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    set_rng_state(state["rng"])
    return state["step"]
