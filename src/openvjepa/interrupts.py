"""Signals that end a run: the first one is noted, so that the run can save; a second one ends the process at once."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from types import FrameType

logger = logging.getLogger("openvjepa")

# Ctrl-C; kill and the end of a job; a closed terminal; what schedulers send some time before the end of a job.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
STOP_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
_SAME = 1.0  # s within which a second signal is a copy: torchrun and srun pass on what the terminal has sent as well
_WORKER_GRACE = 60  # s that a loader process goes on after SIGTERM, so that the step can be finished


class StopSignals:
    """While the context is open, a stop signal is noted in `number` and nothing else happens to the program.

    A second one, more than a second later, ends the process at once with status 128 + its number. Signals that are
    ignored (`nohup`) or that someone else handles are left alone, and outside of the main thread nothing is done.

    Args:
        announce: whether to log what happens when the first signal comes.
    """

    def __init__(self, *, announce: bool = True) -> None:
        self.announce = announce
        self.number = 0
        """The first signal that came; 0: none."""
        self._came = 0.0
        self._process = os.getpid()
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader process that was forked from this one and is not set up yet
            return
        now = time.monotonic()
        if not self.number:
            self.number, self._came = number, now
            self._say("stopping: the step is finished and saved first; the same signal again stops at once")
        elif now - self._came > _SAME:
            self._say("stopped at once: what was saved before stays")
            os._exit(128 + number)

    def _say(self, text: str) -> None:
        if self.announce:
            with contextlib.suppress(RuntimeError):  # the signal came in the middle of a write to the same stream
                logger.warning(text)


def leave_signals_to_parent() -> None:
    """In a loader process: stop signals that reach the whole process group do not end it; its parent does.

    SIGTERM, by which a parent also ends a process that hangs, does so after a minute.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later if hasattr(signal, "alarm") else signal.SIG_DFL)


def _end_later(number: int, frame: FrameType | None) -> None:
    signal.alarm(_WORKER_GRACE)
