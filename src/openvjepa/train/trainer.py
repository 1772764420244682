"""The one training loop, for pretraining and everything that trains a module later."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from openvjepa.config import OptimConfig, TrainConfig
from openvjepa.errors import CheckpointError, ConfigError, DataError, OpenVJEPAError
from openvjepa.train.checkpoint import list_checkpoints, load_newest, rng_state, save_checkpoint, set_rng_state
from openvjepa.train.distributed import Runtime
from openvjepa.train.logs import RunLog, read_metrics
from openvjepa.train.optim import make_optimizer, set_schedules, warmup_steps

Batch = dict[str, Any]
Monitor = Callable[[int], dict[str, float]]

# All that a run writes, as patterns: what --overwrite deletes. The first two tell that a folder holds a run.
RUN_FILES = (
    "metrics.jsonl",
    "checkpoints/step-*.pt",
    "checkpoints/step-*.part",
    "metrics.part",
    "tensorboard/events.out.tfevents.*",
    "config.yaml",
    "model.safetensors",
)
# Settings that a resumed run may change: they do not alter what it computes (micro_batch: not beyond its masks).
FREE_ON_RESUME = ("out", "train", "data.workers", "data.cache", "data.max_bad")
FIXED_ON_RESUME = ("train.steps", "train.batch_size", "train.seed")


class Task(Protocol):
    """All that the loop knows of what it trains. A task is an nn.Module that has these methods."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars of a micro batch, of which `loss` (a mean over its clips) is differentiated; all are logged."""
        ...

    def param_groups(self) -> list[dict[str, Any]]:
        """AdamW groups: `params`, `decay` (bool), `module` (str) and perhaps `lr_scale`; gradients are clipped by module."""
        ...

    def after_step(self, step: int) -> None:
        """Called after the optimiser step, `step` counted from 0: for example `ema_momentum(step, ...)` and the EMA."""
        ...


@dataclass(frozen=True)
class FitResult:
    """How a run ended: finished steps, seconds of this call, the last line of the record, whether Ctrl-C ended it."""

    step: int
    seconds: float
    metrics: dict[str, float]
    interrupted: bool = False


def fit(
    task: nn.Module,
    loader_factory: Callable[[int], Iterable[Batch]],
    *,
    optim: OptimConfig,
    train: TrainConfig,
    run_dir: Path,
    runtime: Runtime,
    config: dict[str, Any],
    monitor: Monitor | None = None,
    optimizer_state: dict[str, Any] | None = None,
    stop: Callable[[], bool] | None = None,
) -> FitResult:
    """Train until train.steps, saving on the way; resumes exactly (bit for bit on a CPU).

    Args:
        task: a module that follows `Task`.
        loader_factory: finished steps -> micro batches of this process from there on, `accumulation` of them a step.
        optim: AdamW and schedules.
        train: steps, batch sizes, when to log, save and look for collapse.
        run_dir: is made ready by `open_run_dir`, which may be called earlier, too.
        runtime: device, precision, rank.
        config: plain values, stored in each checkpoint; a resumed run must have the same (see FREE_ON_RESUME).
        monitor: finished steps -> figures for the record; called at 0, every train.monitor_every and at the end.
        optimizer_state: AdamW's moments to start with, of a run of the same task; None: none.
        stop: asked before each step, by the process that writes, whether the run ends here; None: it never does.

    Returns:
        Where the run stands; `interrupted` after a Ctrl-C, when it has been saved at the last finished step.

    Raises:
        ConfigError: run_dir is in use, batch sizes that do not divide, or a resumed run with other settings.
        CheckpointError: a checkpoint cannot be read or written.
        DataError: the loader ends early.
        OpenVJEPAError: loss or gradients are not finite; the weights are left as they were.
    """
    run = _Run(task, optim, train, run_dir, runtime, config, monitor, optimizer_state)
    batches = _on_device(loader_factory, run.step, runtime.device)
    started = time.monotonic()
    try:
        run.record_start()
        while run.step < train.steps and not _told_to(stop, runtime):
            step_started = time.monotonic()
            lr, decay = set_schedules(run.optimizer, run.step + 1, optim, train.steps)
            scalars, waited = _accumulate_gradients(run.wrapped, batches, run.accumulate, runtime)
            norms = _clip_gradients(run.groups, optim.clip_grad if run.step >= run.warmup else None)
            run.check_finite(scalars | norms)
            with _whole_step():
                run.optimizer.step()
                run.optimizer.zero_grad(set_to_none=True)
                run.hooks.after_step(run.step)
                run.step += 1
                run.rng = rng_state()
                run.log.pace.add(train.batch_size, time.monotonic() - step_started, waited)
                run.record(scalars | {"lr": lr, "weight_decay": decay} | norms)
                if run.step % train.save_every == 0 or run.step == train.steps:
                    run.save()
        run.save()  # unless it has been: a run that is told to stop
    except KeyboardInterrupt:
        run.save()
        run.say(f"Interrupted at step {run.step}: saved in {run_dir}. Go on with: the same command and --resume")
        return FitResult(run.step, time.monotonic() - started, run.last_metrics(), interrupted=True)
    finally:
        batches.close()
        run.log.close()
    return FitResult(run.step, time.monotonic() - started, run.last_metrics())


def accumulation(train: TrainConfig, world_size: int) -> tuple[int, int]:
    """(clips in a pass of one process, passes in a step).

    Raises:
        ConfigError: batch_size is not a multiple of micro_batch x processes.
    """
    micro = train.micro_batch or max(1, train.batch_size // world_size)
    if micro < 1 or train.batch_size < 1 or train.batch_size % (micro * world_size):
        processes = f" x {world_size} processes" if world_size > 1 else ""
        raise ConfigError(f"batch_size {train.batch_size} is not a multiple of micro_batch {micro}{processes}")
    return micro, train.batch_size // (micro * world_size)


def open_run_dir(run_dir: Path, train: TrainConfig) -> None:
    """Make the run folder ready: new, resumed or overwritten, as the configuration says. Calling it again does nothing.

    Overwriting deletes the files a run writes and nothing else, and only in a folder that holds a run.

    Raises:
        ConfigError: it holds a run already and neither resume nor overwrite is set, or it cannot be made.
    """
    if train.resume and train.overwrite:
        raise ConfigError("--resume goes on with a run and --overwrite deletes it: choose one")
    try:
        if any(next(run_dir.glob(pattern), None) for pattern in RUN_FILES[:2]) and not train.resume:
            if not train.overwrite:
                raise ConfigError(
                    f"{run_dir}: holds a run already: add --resume to go on, --overwrite to delete it, or choose "
                    "another folder"
                )
            for path in [path for pattern in RUN_FILES for path in run_dir.glob(pattern)]:
                path.unlink()
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{run_dir}: cannot be made a run folder ({error.strerror or error})") from None


class _Run:
    """State of a run between two steps, and what becomes of it on disk."""

    def __init__(
        self,
        task: nn.Module,
        optim: OptimConfig,
        train: TrainConfig,
        run_dir: Path,
        runtime: Runtime,
        config: dict[str, Any],
        monitor: Monitor | None,
        optimizer_state: dict[str, Any] | None,
    ) -> None:
        self.task, self.hooks = task.to(runtime.device).train(), cast(Task, task)
        self.train, self.run_dir, self.runtime, self.config, self.monitor = train, run_dir, runtime, config, monitor
        self.accumulate = accumulation(train, runtime.world_size)[1]
        self.warmup = warmup_steps(optim, train.steps)
        self.groups = self.hooks.param_groups()
        self.optimizer = make_optimizer(self.groups, optim)
        if optimizer_state is not None:
            self.optimizer.load_state_dict(optimizer_state)
        if runtime.is_main:
            open_run_dir(run_dir, train)
        self.checkpoints = run_dir / "checkpoints"
        self.step, self.saved = 0, -1
        self.rng = rng_state()
        if train.resume:
            self._restore()
        self.wrapped = runtime.wrap(task)
        self.log = RunLog(run_dir, start_step=self.step, steps=train.steps, enabled=runtime.is_main)

    def _restore(self) -> None:
        """Put the run back to its newest checkpoint, where there is one."""
        if not list_checkpoints(self.checkpoints):
            self.say(f"{self.checkpoints}: no checkpoint yet: starting at step 0")
            return
        state = load_newest(self.checkpoints)
        _check_settings(state["config"], self.config)
        try:
            self.task.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            set_rng_state(state["rng"])
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{self.checkpoints}: the checkpoint does not fit this model ({reason})") from None
        self.step = self.saved = state["step"]
        self.rng = state["rng"]
        self.say(f"Resuming at step {self.step}")

    def save(self) -> None:
        """Write a checkpoint of the last finished step, unless there is one."""
        if self.runtime.is_main and self.step != self.saved:
            weights = {"model": self.task.state_dict(), "optimizer": self.optimizer.state_dict()}
            state = {**weights, "step": self.step, "rng": self.rng, "config": self.config}
            save_checkpoint(self.checkpoints, self.step, state, keep_last=self.train.keep_last)
            self.saved = self.step

    def record_start(self) -> None:
        """Record what the monitor sees before training."""
        if self.step == 0 and self._monitor_due():
            self.log.write(0, self._look())

    def record(self, values: dict[str, float]) -> None:
        """Show the last finished step, and record it with what the monitor sees where these are due."""
        self.log.advance(self.step, values["loss"])
        looked = self._monitor_due()
        if looked:
            values = values | self._look()
        if looked or self.step % self.train.log_every == 0 or self.step == self.train.steps:
            self.log.write(self.step, values)

    def _monitor_due(self) -> bool:
        if self.monitor is None or not self.train.monitor_every or not self.runtime.is_main:
            return False
        return self.step % self.train.monitor_every == 0 or self.step == self.train.steps

    def _look(self) -> dict[str, float]:
        """The monitor's figures; whatever it draws or switches off does not touch the training."""
        assert self.monitor is not None
        with torch.random.fork_rng([self.runtime.device] if self.runtime.device.type == "cuda" else []):
            values = self.monitor(self.step)
        self.task.train()
        return values

    def check_finite(self, values: dict[str, float]) -> None:
        """Stops before a loss or gradient that is not finite reaches the weights."""
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            saved = f"the last checkpoint is of step {self.saved}" if self.saved >= 0 else "there is no checkpoint yet"
            raise OpenVJEPAError(
                f"{bad[0]} is {values[bad[0]]} at step {self.step + 1}: stopped before it reached the weights; {saved}."
                " Start again with a lower --lr, or go on with --resume --precision fp32"
            )

    def last_metrics(self) -> dict[str, float]:
        """The last line of the record, in the process that writes it."""
        lines = read_metrics(self.run_dir / "metrics.jsonl") if self.runtime.is_main else []
        return lines[-1] if lines else {}

    def say(self, text: str) -> None:
        """Print, in one process."""
        if self.runtime.is_main:
            print(text, flush=True)


def _told_to(stop: Callable[[], bool] | None, runtime: Runtime) -> bool:
    """Whether the main process says so, in all processes."""
    if stop is None:
        return False
    return runtime.mean({"stop": float(runtime.is_main and stop())})["stop"] > 0


def _accumulate_gradients(
    task: nn.Module, batches: Iterator[Batch], accumulate: int, runtime: Runtime
) -> tuple[dict[str, float], float]:
    """Gradients of one step, averaged over its micro batches and processes; its mean scalars; seconds without data."""
    totals: dict[str, Tensor] = {}
    waited = 0.0
    for number in range(1, accumulate + 1):
        asked = time.monotonic()
        batch = next(batches, None)
        waited += time.monotonic() - asked
        if batch is None:
            raise DataError("the loader ended before the last step: it must give micro batches for every step")
        with runtime.exchanging(task, last=number == accumulate):
            with runtime.autocast():
                out = task(batch)
            (out["loss"] / accumulate).backward()
        for name, value in out.items():
            share = value.detach().float() / accumulate
            totals[name] = totals[name] + share if name in totals else share
    numbers = torch.stack(list(totals.values())).tolist()  # one wait for the device
    return runtime.mean(dict(zip(totals, numbers, strict=True))), waited


def _clip_gradients(groups: list[dict[str, Any]], limit: float | None) -> dict[str, float]:
    """Scale the gradients of each module down to the limit; their norms before that, by module."""
    norms = {}
    for module in dict.fromkeys(group["module"] for group in groups):
        params = [p for group in groups if group["module"] == module for p in group["params"]]
        most = math.inf if limit is None else limit
        norms[f"grad_norm_{module}"] = nn.utils.clip_grad_norm_(params, most).item()
    return norms


@contextmanager
def _whole_step() -> Iterator[None]:
    """Ctrl-C waits until the weights, the step's number and the record agree."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield  # there is no Ctrl-C here, or someone else handles it
        return
    pressed: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed:
        raise KeyboardInterrupt


def _on_device(
    loader_factory: Callable[[int], Iterable[Batch]], step: int, device: torch.device
) -> Generator[Batch, None, None]:
    for batch in loader_factory(step):
        yield _move(batch, device)


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: _move(item, device) for key, item in value.items()}
    return [_move(item, device) for item in value] if isinstance(value, list) else value


def _check_settings(old: dict[str, Any], new: dict[str, Any]) -> None:
    """A resumed run must have the settings it was started with, but for those that change nothing it computes."""
    before, now = _flatten(old), _flatten(new)
    changed = [
        f"{key} is {now[key]}, was {before[key]}"
        for key in now.keys() & before.keys()  # a setting that is new in this version is not a change
        if now[key] != before[key]
        and (key in FIXED_ON_RESUME or not any(f"{key}.".startswith(f"{free}.") for free in FREE_ON_RESUME))
    ]
    if changed:
        raise ConfigError(
            f"a resumed run keeps its settings, but {'; '.join(sorted(changed))}: use those of its config.yaml"
        )


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
