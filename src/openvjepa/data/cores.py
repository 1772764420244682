"""How many processor cores this process may use, and how many processes may share them."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import BaseContext

from openvjepa.interrupts import STOP_SIGNALS, end_with_parent

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


@contextmanager
def process_pool(workers: int, context: BaseContext | None = None) -> Generator[ProcessPoolExecutor]:
    """A pool of processes, none of which outlives the context, or this process, however that ends.

    When the context ends with an error, such as Ctrl-C, they are stopped in the middle of what they do.

    Args:
        workers: how many processes.
        context: how they are started; None: as Python does on this system.
    """
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def signals_blocked() -> Generator[None]:
    """Context in which a process may be started that would answer Ctrl-C with a traceback before it is set up.

    It inherits that stop signals are blocked, until `end_with_parent`; this process gets its own when the context ends.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
