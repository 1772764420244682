"""How many processor cores this process may use, and how many processes may share them."""

from __future__ import annotations

import logging

_log = logging.getLogger("openvjepa")
_MOST = 61  # Windows cannot wait for more processes


def usable_cores() -> int:
    """Cores that this process may use: fewer than the machine has where affinity or a container's quota says so."""
    from joblib import cpu_count  # takes half a second to import

    return max(1, int(cpu_count()))


def process_count(asked: int | None, jobs: int, *, most: int = 8) -> int:
    """Processes to start: as many as asked for, but no more than there are jobs, nor than four a core (or 8) and 61 in all.

    Args:
        asked: by the user; None: one per core, at most `most`.
        jobs: how many pieces of work there are.
        most: of those that nobody asked for.
    """
    if asked is None:
        return max(1, min(most, usable_cores(), jobs))
    limit = min(_MOST, max(8, 4 * usable_cores()))
    if asked > limit and jobs > limit:
        _log.warning("%d workers are more than this computer has use for: %d are started", asked, limit)
    return max(1, min(asked, limit, jobs))
