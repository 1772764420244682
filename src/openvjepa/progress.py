"""How far a long piece of work has come: the library says so, and whoever runs it decides how that is shown.

Nothing is shown unless a reporter is set; the command line sets one that draws a line on stderr.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")
MeterT = TypeVar("MeterT", bound="Meter")


@dataclass(frozen=True)
class Work:
    """A piece of work."""

    what: str
    """What is done, such as "encoding videos"."""
    total: int | None
    """How many units there are; None: not known yet."""
    done: int = 0
    """How many of them an earlier run has done."""
    unit: str = "videos"
    """What is counted; "bytes" are shown as such."""


class Bar(Protocol):
    """Shows how far one piece of work has come."""

    def update(self, done: int, total: int | None, figures: str) -> None:
        """So many units are done, of so many; `figures` is a text to show with them."""
        ...

    def close(self) -> None:
        """The work has ended."""
        ...


class _Silent:
    def update(self, done: int, total: int | None, figures: str) -> None:
        pass

    def close(self) -> None:
        pass


Reporter = Callable[[Work], Bar]
_reporter: Reporter = lambda work: _Silent()  # noqa: E731


def set_reporter(reporter: Reporter) -> Reporter:
    """Choose how work that begins from now on is shown; returns what was chosen before."""
    global _reporter
    before, _reporter = _reporter, reporter
    return before


class Meter:
    """Tells the reporter about a piece of work while the context is open.

    Args:
        what: what is done, such as "encoding videos".
        total: how many units there are; None: not known yet.
        done: how many of them an earlier run has done.
        unit: what is counted.
    """

    def __init__(self, what: str, total: int | None, done: int = 0, *, unit: str = "videos") -> None:
        self.work = Work(what, total, done, unit)
        self.done, self.total = done, total

    def __enter__(self: MeterT) -> MeterT:
        self.bar = _reporter(self.work)
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def show(self, done: int, *, total: int | None = None, figures: str = "") -> None:
        """So many units are done; `total` where it has become known; `figures` is a text to show with them."""
        self.done, self.total = done, self.total if total is None else total
        self.bar.update(done, self.total, figures)


def track(items: Iterable[T], what: str, total: int, *, unit: str = "videos") -> Iterator[T]:
    """The items, one after the other, while the reporter is told how many have been dealt with."""
    with Meter(what, total, unit=unit) as meter:
        for done, item in enumerate(items, 1):
            yield item
            meter.show(done)
