"""How many processor cores this process may use."""

from __future__ import annotations

import os
import sys


def usable_cores() -> int:
    """Cores that the system lets this process run on, which in a container are often fewer than the machine has."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
