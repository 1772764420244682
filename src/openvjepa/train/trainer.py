"""The one training loop, for pretraining and everything that trains a module later."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openvjepa.config import OptimConfig, TrainConfig
from openvjepa.errors import ConfigError, DataError, OpenVJEPAError
from openvjepa.interrupts import StopSignals
from openvjepa.train.checkpoint import rng_state, save_checkpoint, set_rng_state
from openvjepa.train.distributed import Runtime, lost_peer
from openvjepa.train.logs import RunLog, read_metrics
from openvjepa.train.optim import NotFiniteError, Stepper, lengthened, make_optimizer, set_schedules
from openvjepa.train.resume import check_moments, check_same_settings, load_moments, resume
from openvjepa.train.run_folder import open_run

logger = logging.getLogger("openvjepa")

Batch = dict[str, Any]
Monitor = Callable[[int], dict[str, float]]


class Task(nn.Module):
    """What the loop trains: a model with its loss."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars of a micro batch, of which `loss` (a mean over its clips) is differentiated; all are logged."""
        raise NotImplementedError

    def param_groups(self) -> list[dict[str, Any]]:
        """AdamW groups: `params`, `decay` (bool), `module` (str) and perhaps `lr_scale`; gradients are clipped by module."""
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """Called after the optimizer step, `step` counted from 0: for example `ema_momentum(step, ...)` and the EMA."""


@dataclass(frozen=True)
class FitResult:
    """Result of a training run: finished steps, seconds of this call, last metrics, and the signal that stopped it (or 0)."""

    step: int
    seconds: float
    metrics: dict[str, float]
    signal: int = 0

    @property
    def interrupted(self) -> bool:
        """Whether a signal such as Ctrl-C ended the run before its last step."""
        return self.signal != 0


def fit(
    task: Task,
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
        task: what is trained.
        loader_factory: finished steps -> micro batches of this process from there on, `accumulation` of them a step.
        optim: AdamW and schedules.
        train: steps, batch sizes, when to log, save and look for collapse.
        run_dir: is opened by `open_run`, which the caller may have done already.
        runtime: device, precision, rank.
        config: plain values, stored in each checkpoint; a resumed run must have the same (see FREE_ON_RESUME).
        monitor: finished steps -> values for the record; called at 0, every train.monitor_every and at the end. All
            processes must pass one or none; the main process calls it while the others wait.
        optimizer_state: AdamW's moments to start with, of a run of the same task; None: none.
        stop: asked before each step, in the main process, whether the run ends here; None: it never does.

    Returns:
        Where the run stands; `interrupted` after a signal, when it has been saved at the last finished step.

    Raises:
        ConfigError: run_dir is in use, batch sizes that do not divide, or a resumed run with other settings.
        CheckpointError: a checkpoint cannot be read or written, or does not fit.
        DataError: the loader ends early or fails; the run has been saved.
        OpenVJEPAError: loss or gradients are not finite (the weights are left as they were), or another process ended.
    """
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        runtime.on_main(lambda: _open(stack, run_dir, train))
        check_same_settings(config, runtime)
        run = _Run(task, optim, train, run_dir, runtime, config, monitor, optimizer_state)
        stack.callback(run.log.close)
        signals = stack.enter_context(StopSignals(announce=runtime.is_main))
        batches = stack.enter_context(contextlib.closing(_on_device(loader_factory, run.step, runtime.device)))
        number = _guarded(run, batches, signals, stop)
        if number:
            run.say(
                f"Interrupted at step {run.step}, saved in {run_dir}. To continue, repeat the command with --resume"
            )
        return FitResult(run.step, time.monotonic() - started, run.last_metrics(), number)


def _open(stack: contextlib.ExitStack, run_dir: Path, train: TrainConfig) -> None:
    stack.enter_context(open_run(run_dir, resume=train.resume, overwrite=train.overwrite)).start()


def _guarded(run: _Run, batches: Iterator[Batch], signals: StopSignals, stop: Callable[[], bool] | None) -> int:
    """Run the loop; whatever ends it, the last finished step is saved. Returns the signal that ended it, or 0."""
    try:
        return _loop(run, batches, signals, stop)
    except KeyboardInterrupt:  # Ctrl-C where StopSignals is not in force, such as in a thread
        run.save_alone()
        return int(signal.SIGINT)
    except NotFiniteError as error:
        text = (
            f"{error}: stopped before it reached the weights; {run.saved_as()}. Restart with a lower --lr, or continue with "
            "--resume --precision fp32"
        )
        raise run.runtime.common(OpenVJEPAError(text)) from None
    except DataError:
        run.save()  # all processes are here
        raise
    except RuntimeError as error:
        if run.runtime.world_size == 1 or not lost_peer(error):
            with contextlib.suppress(RuntimeError, OpenVJEPAError):  # a device that failed cannot be saved from
                run.save_alone()
            raise
        run.save_alone()
        raise OpenVJEPAError(
            f"another process of the run has stopped; stopping at step {run.step}, {run.saved_as()}: continue with --resume"
        ) from None


def _loop(run: _Run, batches: Iterator[Batch], signals: StopSignals, stop: Callable[[], bool] | None) -> int:
    """All steps that are left, or those until a signal comes (its number is returned) or `stop` says so (0)."""
    runtime, optim, train = run.runtime, run.optim, run.train
    run.record_start()
    number = 0
    while run.step < train.steps:
        stopped = stop is not None and runtime.is_main and stop()
        code = runtime.highest(1 + signals.number if signals.number else int(stopped))
        if code:
            number = code - 1
            break
        started = time.monotonic()
        lr, decay = set_schedules(run.optimizer, run.step + 1, optim, train.steps)
        scalars, waited = _accumulate_gradients(run, batches)
        run.updating = True
        run.stepper.step(run.step + 1, scalars, wait=run.is_due(run.step + 1))
        run.task.after_step(run.step)
        run.finished(train.batch_size, time.monotonic() - started, waited, {"lr": lr, "weight_decay": decay})
    run.save()  # unless it has been: a run that is told to stop
    return number


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


class _Run:
    """State of a run between two steps, and what becomes of it on disk."""

    def __init__(
        self,
        task: Task,
        optim: OptimConfig,
        train: TrainConfig,
        run_dir: Path,
        runtime: Runtime,
        config: dict[str, Any],
        monitor: Monitor | None,
        optimizer_state: dict[str, Any] | None,
    ) -> None:
        self.task, self.optim, self.train = task.to(runtime.device).train(), optim, train
        self.run_dir, self.runtime, self.config, self.monitor = run_dir, runtime, config, monitor
        self.accumulate = accumulation(train, runtime.world_size)[1]
        groups = task.param_groups()
        self.optimizer = make_optimizer(groups, optim)
        if optimizer_state is not None:
            check_moments(optimizer_state, self.optimizer, "the run to start from")
            load_moments(self.optimizer, optimizer_state)
        self.updating = False
        self.stepper = Stepper(self.optimizer, groups, optim, train.steps, runtime)
        self.checkpoints = run_dir / "checkpoints"
        self.step, self.saved = 0, -1
        self.rng = rng_state()
        if train.resume:
            self._resume()
        self.wrapped = runtime.wrap(task)
        self.log = RunLog(run_dir, start_step=self.step, steps=train.steps, enabled=False)
        runtime.on_main(self._open_log)

    def _open_log(self) -> None:
        self.log = RunLog(self.run_dir, start_step=self.step, steps=self.train.steps)

    def _resume(self) -> None:
        """Put the run back to its newest checkpoint, where there is one."""
        found = resume(
            self.checkpoints,
            self.task,
            self.optimizer,
            steps=self.train.steps,
            config=self.config,
            runtime=self.runtime,
            scaler=self.stepper.scaler,
        )
        if found is None:
            self.say(f"{self.checkpoints}: no checkpoint yet: starting at step 0")
            return
        set_rng_state(found.rng)
        self.step, self.saved, self.rng = found.step, found.step, found.rng
        self.say(f"Resuming at step {self.step}")
        if found.planned is not None and found.planned < self.train.steps:
            self.say(lengthened(self.step, found.planned, self.optim, self.train.steps))

    def is_due(self, step: int) -> bool:
        """Whether anything of a finished step is written, which waits for the device."""
        train = self.train
        return (
            step % train.log_every == 0 or step % train.save_every == 0 or step == train.steps or self._monitors(step)
        )

    def finished(self, clips: int, seconds: float, waited: float, values: dict[str, float]) -> None:
        """Count a finished step, record it and save it where that is due."""
        self.step += 1
        self.rng = rng_state()
        self.updating = False
        self.log.pace.add(clips, seconds, waited)
        if self.is_due(self.step) or self.runtime.device.type == "cpu":
            norms = self.stepper.values()
            scalars = {name: norms.pop(name) for name in tuple(norms) if not name.startswith("grad_norm_")}
            values = scalars | values | norms
        self.log.advance(self.step, values.get("loss"))
        looked = self._monitors(self.step)
        if looked or self.step % self.train.log_every == 0 or self.step == self.train.steps:
            self.runtime.on_main(lambda: self._write_line(values, looked))
        if self.step % self.train.save_every == 0 or self.step == self.train.steps:
            self.save()

    def record_start(self) -> None:
        """Record what the monitor sees before training."""
        if self.step == 0 and self._monitors(0):
            self.runtime.on_main(lambda: self._write_line({}, True))

    def _write_line(self, values: dict[str, float], looked: bool) -> None:
        self.log.write(self.step, values | (self._look() if looked else {}))

    def _monitors(self, step: int) -> bool:
        if self.monitor is None or not self.train.monitor_every:
            return False
        return step % self.train.monitor_every == 0 or step == self.train.steps

    def _look(self) -> dict[str, float]:
        """The monitor's values; whatever it draws or switches off does not touch the training."""
        assert self.monitor is not None
        with torch.random.fork_rng([self.runtime.device] if self.runtime.device.type == "cuda" else []):
            values = self.monitor(self.step)
        self.task.train()
        return values

    def save(self) -> None:
        """Write a checkpoint of the last finished step, unless there is one; all processes must call it.

        Raises:
            CheckpointError: it cannot be written; in all processes.
        """
        if self.step != self.saved:
            self.stepper.check()
            self.runtime.on_main(self._write_checkpoint)
            self.saved = self.step

    def save_alone(self) -> None:
        """The same without the other processes, which may have ended."""
        if self.updating:  # the weights are those of neither step
            logger.warning("stopped within an update: the last checkpoint is that of step %d", self.saved)
        elif self.step != self.saved and self.runtime.is_main:
            self.stepper.check()
            self._write_checkpoint()
            self.saved = self.step

    def _write_checkpoint(self) -> None:
        weights = {"model": self.task.state_dict(), "optimizer": self.optimizer.state_dict()}
        state = {**weights, "step": self.step, "rng": self.rng, "config": self.config}
        if self.stepper.scaler is not None:
            state["scaler"] = self.stepper.scaler.state_dict()
        save_checkpoint(self.checkpoints, self.step, state, keep_last=self.train.keep_last)

    def saved_as(self) -> str:
        """What is on disk, in words."""
        return f"the last checkpoint is of step {self.saved}" if self.saved >= 0 else "there is no checkpoint yet"

    def last_metrics(self) -> dict[str, float]:
        """The last line of the record, in the process that writes it."""
        lines = read_metrics(self.run_dir / "metrics.jsonl") if self.runtime.is_main else []
        return lines[-1] if lines else {}

    def say(self, text: str) -> None:
        """Log a line, in one process."""
        if self.runtime.is_main:
            logger.info(text)


def _accumulate_gradients(run: _Run, batches: Iterator[Batch]) -> tuple[dict[str, Tensor], float]:
    """Gradients of one step, averaged over its micro batches and processes; its mean scalars; seconds without data."""
    runtime, scaler = run.runtime, run.stepper.scaler
    totals: dict[str, Tensor] = {}
    waited = 0.0
    for number in range(1, run.accumulate + 1):
        asked = time.monotonic()
        batch = _next(batches, runtime)
        waited += time.monotonic() - asked
        with runtime.exchanging(run.wrapped, last=number == run.accumulate):
            with runtime.autocast():
                out = run.wrapped(batch)
            loss = out["loss"] / run.accumulate
            (loss if scaler is None else scaler.scale(loss)).backward()
        for name, value in out.items():
            share = value.detach().float() / run.accumulate
            totals[name] = totals[name] + share if name in totals else share
    return runtime.mean(totals), waited


def _next(batches: Iterator[Batch], runtime: Runtime) -> Batch:
    """The next batch, if all processes have one.

    Raises:
        DataError: in all processes, where one of them has none.
    """
    batch, problem = None, None
    try:
        batch = next(batches, None)
        if batch is None:
            problem = DataError("the loader ended before the last step: it must give micro batches for every step")
    except DataError as error:
        if runtime.world_size == 1:
            raise
        problem = error
    if runtime.highest(int(problem is not None)):
        for rank, text in enumerate(runtime.gather("" if problem is None else _message(problem))):
            if text:
                raise runtime.common(
                    DataError(text if runtime.world_size == 1 else f"process {rank}: {text}")
                ) from None
    assert batch is not None
    return batch


def _message(error: DataError) -> str:
    """Its message, without the traceback that torch puts before it when it comes from a loader's process."""
    text = str(error)
    return text.rpartition("Error: ")[2] if "Original Traceback" in text else text


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
