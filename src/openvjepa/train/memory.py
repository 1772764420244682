"""What the process keeps: freed memory, and kernels once made."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory for the next tensors; whether it will (with glibc it does).

    Otherwise every tensor of more than some MB gets fresh pages, which the kernel hands out and fills with zeros one by one.
    That can take several times as long as a layer in bf16 (docs/experiments/performance.md). The process then stays
    as large as it ever
    was.
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
