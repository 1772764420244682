"""A run's place among its processes (torchrun): what they compute with, and what they tell one another."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from openvjepa.config import ComputeConfig
from openvjepa.errors import ConfigError, OpenVJEPAError
from openvjepa.train.devices import CONFIGURED, choose_device, choose_dtype, keep_freed_memory, keep_kernels

T = TypeVar("T")

_GRADIENTS = timedelta(minutes=30)  # until a process that does not answer in an exchange of gradients is given up
_MESSAGES = timedelta(days=1)  # the others wait this long while the main process monitors or saves
_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16 autocast", torch.float16: "fp16 autocast"}


@dataclass(frozen=True)
class Runtime:
    """Device and precision of a run, and why; `str(runtime)` is the line to show."""

    device: torch.device
    dtype: torch.dtype
    reason: str
    rank: int = 0
    world_size: int = 1
    messages: Any = field(default=None, repr=False)
    """Process group for small messages on the CPU, whatever the device; None: there is one process."""

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision for forward passes: weights stay float32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def wrap(self, task: nn.Module) -> nn.Module:
        """The task as it is, or under DistributedDataParallel (weights of rank 0) when there are several processes."""
        if self.world_size == 1:
            return task
        devices = [self.device] if self.device.type == "cuda" else None
        # A task may leave parameters out of a step, such as the mask token of a mask that is not configured.
        return nn.parallel.DistributedDataParallel(task, device_ids=devices, find_unused_parameters=True)

    def exchanging(self, wrapped: nn.Module, *, last: bool) -> AbstractContextManager[object]:
        """Around a pass of `wrap`'s result: processes exchange gradients only in the last pass of a step."""
        if last or not isinstance(wrapped, nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext()
        return wrapped.no_sync()

    def mean(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean of each scalar over all processes (which must have the same keys in the same order); on the device."""
        if self.world_size == 1:
            return values
        numbers = torch.stack(list(values.values()))
        dist.all_reduce(numbers)
        return dict(zip(values, (numbers / self.world_size).unbind(), strict=True))

    def highest(self, code: int) -> int:
        """The highest code that any process gives; all must call it. Does not wait for the device."""
        if self.world_size == 1:
            return code
        number = torch.tensor(code)
        dist.all_reduce(number, dist.ReduceOp.MAX, group=self.messages)
        return int(number)

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in order of rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.messages)
        return values

    def on_main(self, work: Callable[[], T]) -> T:
        """Do some work in the main process while the others wait; its result reaches all of them, and so does its error.

        Args:
            work: is called in the main process alone; its result must be small, and plain enough to be pickled.

        Raises:
            OpenVJEPAError: `work` raised it, in the main process.
        """
        if self.world_size == 1:
            return work()
        answer: list[Any] = [None, None]
        if self.is_main:
            try:
                answer = [work(), None]
            except OpenVJEPAError as error:
                answer = [None, error]
        dist.broadcast_object_list(answer, src=0, group=self.messages)
        if answer[1] is not None:
            raise self.common(answer[1])
        return answer[0]

    def common(self, error: OpenVJEPAError) -> OpenVJEPAError:
        """An error that all processes raise: the command line shows it once."""
        error.everywhere = self.world_size > 1
        return error

    def broadcast(self, tensor: Tensor) -> None:
        """Fill a tensor, on any device, with that of the main process."""
        if self.world_size > 1:
            sent = tensor.detach().to(self.device).contiguous()
            dist.broadcast(sent, src=0)
            tensor.detach().copy_(sent)

    def __str__(self) -> str:
        processes = f", {self.world_size} processes" if self.world_size > 1 else ""
        return f"{self.device}, {_NAMES[self.dtype]} ({self.reason}){processes}, {torch.get_num_threads()} CPU threads"


@contextmanager
def make_runtime(config: ComputeConfig, *, distributed: bool = False, reason: str = CONFIGURED) -> Generator[Runtime]:
    """Choose device and precision; join the process group that torchrun describes, if any, and leave it afterwards.

    Args:
        config: device, precision, threads.
        distributed: whether the work can be shared among processes; if not, starting it with torchrun is an error.
        reason: why the precision is as `config` says, where it is not "auto".

    Raises:
        ConfigError: the device or precision is not available, or the processes were started in a way that cannot work.
    """
    if not distributed:
        one_process("this command")
    launch = Launch.from_environment()
    if config.threads:
        torch.set_num_threads(config.threads)
    keep_freed_memory()
    keep_kernels()
    device = launch.place(choose_device(config.device), config.device)
    if device.type == "cuda" and ":" in str(device):  # cuda:1, without torchrun
        torch.cuda.set_device(device)  # generator states and support of bf16 are those of the current device
    dtype, reason = choose_dtype(device, config.precision, reason)
    matmul = torch.get_float32_matmul_precision()
    if device.type == "cuda" and dtype != torch.float32:
        torch.set_float32_matmul_precision("high")  # TF32 for what autocast leaves in float32
    try:
        with _process_group(launch, device) as messages:
            yield Runtime(device, dtype, reason, launch.rank, launch.world_size, messages)
    finally:
        torch.set_float32_matmul_precision(matmul)


@dataclass(frozen=True)
class Launch:
    """How this process was started: alone, or as one of several."""

    world_size: int = 1
    rank: int = 0
    local_rank: int | None = None

    @staticmethod
    def from_environment() -> Launch:
        """What torchrun's environment variables say.

        Raises:
            ConfigError: WORLD_SIZE is set, but what joins the processes is not: waiting for them would never end.
        """
        world_size = _number("WORLD_SIZE", 1)
        if world_size == 1:
            return Launch()
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
        if missing:
            raise ConfigError(
                f"the environment has WORLD_SIZE={world_size} but no {', '.join(missing)}: unset WORLD_SIZE to run one "
                "process, or start several with torchrun"
            )
        rank = _number("RANK", 0)
        if not 0 <= rank < world_size:
            raise ConfigError(f"RANK={rank} is not below WORLD_SIZE={world_size}: start the processes with torchrun")
        local_rank = _number("LOCAL_RANK", 0) if os.environ.get("LOCAL_RANK") else None
        return Launch(world_size, rank, local_rank)

    def place(self, device: torch.device, name: str) -> torch.device:
        """This process's own device, where there are several processes.

        Args:
            device: what `name` stands for.
            name: the device of the configuration.

        Raises:
            ConfigError: the processes cannot all have a device of this kind.
        """
        if self.world_size == 1 or device.type == "cpu":
            return device
        if device.type == "mps":
            raise ConfigError("several processes cannot train on mps: start one without torchrun, or add --device cpu")
        if device.index is not None:  # pyright: ignore[reportUnnecessaryComparison] (torch says int, and gives None)
            raise ConfigError(
                f"device {name!r} names one GPU for all processes: leave the number out (each process takes its own), and "
                "choose GPUs with CUDA_VISIBLE_DEVICES"
            )
        count = torch.cuda.device_count()
        if self.local_rank is None:
            raise ConfigError("the environment has no LOCAL_RANK, which chooses the GPU: start with torchrun")
        if self.local_rank >= count:
            raise ConfigError(
                f"more processes than GPUs: this is process {self.local_rank + 1} of this machine, which has {count}: "
                f"start torchrun with --nproc-per-node {count}, or add --device cpu"
            )
        return torch.device("cuda", self.local_rank)


def one_process(what: str) -> None:
    """Refuse torchrun, under which every process would do all the work and write the same files.

    Raises:
        ConfigError: there are several processes.
    """
    if Launch.from_environment().world_size > 1:
        error = ConfigError(f"{what} runs in one process: start it without torchrun")
        error.everywhere = True
        raise error


def lost_peer(error: RuntimeError) -> bool:
    """Whether an exchange failed because another process of the run has ended."""
    text = str(error)
    return isinstance(error, dist.DistError) or any(
        word in text for word in ("gloo", "NCCL", "Connection closed by peer")
    )


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"the environment variable {name} is {text!r}, not a whole number: unset it") from None


@contextmanager
def _process_group(launch: Launch, device: torch.device) -> Generator[Any]:
    """The group that exchanges gradients while the context is open; gives another one for messages on the CPU."""
    if launch.world_size == 1:
        yield None
        return
    settings: dict[str, Any] = {"backend": "gloo"}
    if device.type == "cuda":
        torch.cuda.set_device(device)
        settings = {"backend": "nccl", "device_id": device}
    try:
        dist.init_process_group(timeout=_GRADIENTS, **settings)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"the {launch.world_size} processes cannot connect to each other ({reason})") from None
    try:
        yield dist.new_group(backend="gloo", timeout=_MESSAGES)
    finally:
        gc.collect()  # gloo can abort at exit while reducers are still referenced
        dist.destroy_process_group()
