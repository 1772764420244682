"""Which device and which precision a run computes with, and what the process keeps for speed."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

from openvjepa.errors import ConfigError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
CONFIGURED = "as configured"


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
    if kind not in ("cpu", "cuda", "mps") or (number and not (number.isascii() and number.isdecimal())):
        raise ConfigError(f"device {name!r} is unknown: choose auto, cpu, cuda or mps")
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if int(number or 0) >= count:
        raise ConfigError(f"device {name!r} is not available on this machine: choose auto or cpu")
    return torch.device(name)


def choose_dtype(device: torch.device, precision: str, reason: str = CONFIGURED) -> tuple[torch.dtype, str]:
    """Precision ("auto", "fp32", "bf16" or "fp16") as a dtype, and the reason for it.

    auto: bf16 where the hardware computes in it; fp16 on CUDA devices that lack bf16 but have tensor cores for fp16
    (V100, T4); float32 otherwise.

    Args:
        device: where it is computed.
        precision: what the configuration says.
        reason: why it says so, where it does not say "auto".

    Raises:
        ConfigError: fp16 on mps.
    """
    if precision == "fp32":
        return torch.float32, reason
    if precision == "fp16":
        if device.type == "mps":
            raise ConfigError("precision fp16 is for CUDA devices: choose auto or fp32")
        return torch.float16, reason if device.type == "cuda" else f"{reason}, though slow: meant for GPUs without bf16"
    supported, found = _bf16_support(device)
    if precision == "bf16":
        return torch.bfloat16, reason if supported else f"{reason}, though slow: {found}"
    if not supported and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0):
        return torch.float16, found
    return (torch.bfloat16 if supported else torch.float32), found


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


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory for the next tensors; whether it will (with glibc it does).

    Otherwise every tensor of more than some MB gets fresh pages, which the kernel hands out and fills with zeros one by one.
    That can take several times as long as a layer in bf16 (docs/experiments/performance.md). The process
    then stays as large as it ever was.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))


def keep_kernels() -> None:
    """Have oneDNN keep the kernels of more shapes than its usual 1,024, unless the environment says how many.

    It makes one for every shape of a product in bf16. Masks have other numbers of tokens at every step, so that a small
    model would spend a tenth of its time on making them again (docs/experiments/performance.md). To be called before the
    first product.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")
