"""How the process handles memory."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory for the next tensors; whether it will (with glibc it does).

    Otherwise every tensor of more than some MB gets fresh pages, which the kernel hands out and fills with zeros one by one.
    That can take several times as long as a layer in bf16 (docs/performance.md). The process then stays as large as it ever
    was.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
