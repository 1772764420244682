"""Signals that end the work: the first one ends it in order, a second one at once; and processes that end with their parent."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

logger = logging.getLogger("openvjepa")

# Ctrl-C; kill and the end of a job; a closed terminal; what schedulers send some time before the end of a job.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
STOP_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
_SAME = 1.0  # s within which a second signal is a copy: torchrun and srun pass on what the terminal has sent as well
_TORCHRUN = "TORCHELASTIC_RUN_ID"  # an environment variable that it sets
_WORKER_GRACE = 60  # s that a loader process goes on after SIGTERM, so that the step can be finished


class StopRequest(KeyboardInterrupt):
    """A stop signal, raised where the program was: what handles Ctrl-C handles it too.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


class _Handler:
    """While the context is open, stop signals that nobody else handles come here; see the classes below."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self.number = 0
        """The first signal that came; 0: none."""
        self.came = 0.0
        """When it came, on the monotonic clock, s."""
        self._process = os.getpid()
        self._copies = 1 if _TORCHRUN in os.environ else 0
        """Further signals that may be torchrun's: it passes its own on, and ends all processes when one ends; at any time."""
        self._before: dict[int, object] = {}

    def _enter(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                before = signal.getsignal(number)
                if before in (signal.SIG_DFL, signal.default_int_handler) or handler_of(before):
                    self._before[number] = signal.signal(number, self._receive)

    def _leave(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # pyright: ignore[reportArgumentType]
            outer = handler_of(before)
            if outer is not None and self.number and not outer.number:
                outer.number, outer.came = self.number, self.came
        self._before.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            self._in_child(number)
            return
        if number == getattr(signal, "SIGHUP", None):
            _leave_terminal()
        now = time.monotonic()
        if not self.number:
            self.number, self.came = number, now
            self._first(number)
        elif self._copies:
            self._copies -= 1
        elif now - self.came > _SAME:
            self._say("stopped at once: what was saved before stays")
            os._exit(128 + number)

    def _first(self, number: int) -> None:
        raise NotImplementedError

    def _in_child(self, number: int) -> None:
        raise NotImplementedError

    def _say(self, text: str) -> None:
        with contextlib.suppress(
            RuntimeError, OSError
        ):  # in the middle of a write to the same stream; the terminal is gone
            self.tell(text)


def handler_of(handler: object) -> _Handler | None:
    """The context that a signal handler belongs to, if it is one of this module."""
    owner = getattr(handler, "__self__", None)
    return owner if isinstance(owner, _Handler) else None


class StopSignals(_Handler):
    """While the context is open, a stop signal is noted in `number` and nothing else happens to the program.

    A second one, more than a second later, ends the process at once with status 128 + its number; under torchrun, which sends
    copies whenever it gets to it, a third one does. Signals that are ignored (`nohup`) or that someone else handles are
    left alone, and outside of the main thread nothing is done.

    Args:
        announce: whether to log what happens when the first signal comes.
    """

    def __init__(self, *, announce: bool = True) -> None:
        super().__init__(logger.warning if announce else _silent)

    def __enter__(self) -> StopSignals:
        self._enter()
        return self

    def __exit__(self, *error: object) -> None:
        self._leave()

    def _first(self, number: int) -> None:
        hint = "" if self._copies else "; send the signal again to stop immediately"
        self._say(f"stopping after this step, then saving{hint}")

    def _in_child(self, number: int) -> None:
        """Nothing: it is a loader process that is not set up yet, and the step is to be finished."""


class RaisedSignals(_Handler):
    """While the context is open, a stop signal raises StopRequest in the main thread, so that the work is ended in order.

    A second one, more than a second later, ends the process at once, as with `StopSignals`, which may take over within.

    Args:
        tell: is told in one line when a second signal ends the process.
        lasting: whether the handlers stay when the context ends after a signal: the program is about to end.
    """

    def __init__(self, tell: Callable[[str], None], *, lasting: bool = False) -> None:
        super().__init__(tell)
        self.lasting = lasting

    def __enter__(self) -> RaisedSignals:
        self._enter()
        return self

    def __exit__(self, *error: object) -> None:
        if not (self.lasting and self.number):
            self._leave()

    def _first(self, number: int) -> None:
        raise StopRequest(number)

    def _in_child(self, number: int) -> None:
        """A process that was forked from this one ends as if the signal had never been handled."""
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _leave_terminal() -> None:
    """Send what is still written to a terminal that has been closed to nowhere: else writing a message would end the work."""
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def _silent(text: str) -> None:
    pass


def leave_signals_to_parent() -> None:
    """In a loader process: stop signals that reach the whole process group do not end it; its parent does.

    SIGTERM, by which a parent also ends a process that hangs, does so after a minute.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later if hasattr(signal, "alarm") else signal.SIG_DFL)


def _end_later(number: int, frame: FrameType | None) -> None:
    signal.alarm(_WORKER_GRACE)


def end_with_parent() -> None:
    """In a process of a pool: stop signals end it without words, and so does the end of its parent, however that ends."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
