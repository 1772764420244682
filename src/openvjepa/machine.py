"""What this computer has left: memory and disk space."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes that this process can still allocate: the least of the free memory, the container's and the process's limit.

    None where the system does not tell.
    """
    limits = [_free_memory(), _container_room(), _process_room()]
    known = [limit for limit in limits if limit is not None]
    return max(0, min(known)) if known else None


def _free_memory() -> int | None:
    facts = Path("/proc/meminfo")
    if facts.is_file():
        sizes = dict(line.split(":") for line in facts.read_text().splitlines())
        return int(sizes["MemAvailable"].removesuffix("kB")) * 1024
    if sys.platform != "win32":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _container_room() -> int | None:
    """Of control groups, version 2: limit less use."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        return None if limit == "max" else int(limit) - int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return None


def _process_room() -> int | None:
    """Of `ulimit -v`: limit less use."""
    if sys.platform == "win32":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        used = 0
    return limit - used


def size_text(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
