"""Where a run computes: device, precision, and this process's place among others (torchrun)."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from openvjepa.config import TrainConfig
from openvjepa.errors import ConfigError
from openvjepa.train.memory import keep_freed_memory, keep_kernels


@dataclass(frozen=True)
class Runtime:
    """Device and precision of a run, and why; `str(runtime)` is the line to print."""

    device: torch.device
    dtype: torch.dtype
    reason: str
    rank: int = 0
    world_size: int = 1

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision for forward passes: weights stay float32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
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

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Mean of each value over all processes (which must have the same keys in the same order)."""
        if self.world_size == 1:
            return values
        numbers = torch.tensor(list(values.values()), device=self.device)
        dist.all_reduce(numbers)
        return dict(zip(values, (numbers / self.world_size).tolist(), strict=True))

    def __str__(self) -> str:
        name = {torch.float32: "fp32", torch.bfloat16: "bf16 autocast"}[self.dtype]
        processes = f", {self.world_size} processes" if self.world_size > 1 else ""
        return f"{self.device}, {name} ({self.reason}){processes}, {torch.get_num_threads()} CPU threads"


@contextmanager
def make_runtime(config: TrainConfig) -> Iterator[Runtime]:
    """Choose device and precision; join the process group that torchrun describes, if any, and leave it afterwards.

    Raises:
        ConfigError: the device or precision asked for is not to be had.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    keep_freed_memory()
    keep_kernels()
    world_size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = choose_device(config.device)
    if world_size > 1:
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        dtype, reason = choose_dtype(device, config.precision)
        yield Runtime(device, dtype, reason, rank, world_size)
    finally:
        if world_size > 1:
            gc.collect()  # gloo can abort at exit while reducers are still referenced
            dist.destroy_process_group()


def choose_device(name: str) -> torch.device:
    """cuda, else mps, else cpu for "auto"; the device of that name otherwise.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdecimal()):
        raise ConfigError(f"device {name!r} is unknown: choose auto, cpu, cuda or mps")
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if int(number or 0) >= count:
        raise ConfigError(f"device {name!r} is not available on this machine: choose auto or cpu")
    return torch.device(name)


def choose_dtype(device: torch.device, precision: str) -> tuple[torch.dtype, str]:
    """Precision ("auto", "fp32" or "bf16") as a dtype, and the reason for it: bf16 only where the hardware has it."""
    if precision == "fp32":
        return torch.float32, "asked for"
    supported, reason = _bf16_support(device)
    if precision == "bf16":
        return torch.bfloat16, "asked for" if supported else f"asked for, though slow: {reason}"
    return (torch.bfloat16 if supported else torch.float32), reason


def _bf16_support(device: torch.device) -> tuple[bool, str]:
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        return supported, f"{torch.cuda.get_device_name(device)} {'has' if supported else 'lacks'} bf16"
    if device.type == "cpu":
        # torch has no public test that all supported versions share; one that is missing counts as "no".
        for feature, test in (("AMX", "_is_amx_tile_supported"), ("AVX512-BF16", "_is_avx512_bf16_supported")):
            if hasattr(torch.cpu, test) and getattr(torch.cpu, test)():
                return True, f"the CPU has {feature}"
        return False, "torch finds neither AMX nor AVX512-BF16 on this CPU"
    return False, f"bf16 is not used on {device.type}"
