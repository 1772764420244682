"""Errors written for the person at the keyboard: the command line prints their text as one line and exits with 1."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

_UNPRINTABLE = frozenset(("Cc", "Cs", "Zl", "Zp"))  # control characters, lone surrogates, line and paragraph separators
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # make text read in another order


def printable(text: object) -> str:
    r"""The text with everything that would control a terminal written as an escape, such as \x1b."""
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in _UNPRINTABLE or char in _DIRECTIONS
        else char
        for char in str(text)
    )


def shorten(names: Iterable[object], most: int = 4) -> str:
    """Names for an error: the first ones, cut to 80 characters each, and how many more there are."""
    texts = [printable(name) for name in names]
    shown = ", ".join(text if len(text) <= 80 else f"{text[:77]}..." for text in texts[:most])
    return f"{shown} and {len(texts) - most} more" if len(texts) > most else shown


class OpenVJEPAError(Exception):
    """Base class of all errors of this package. The message states the problem and what to do.

    What names and files bring into the message cannot control the terminal that shows it.
    """

    everywhere: bool = False
    """Whether every process of a distributed run raises it, so that showing one of them is enough."""

    def __str__(self) -> str:
        return "\n".join(map(printable, super().__str__().split("\n")))


class ConfigError(OpenVJEPAError):
    """A setting is unknown, has the wrong type, or contradicts another setting."""


class DataError(OpenVJEPAError):
    """A list of videos is missing, empty or malformed, or has too many unreadable files."""


class VideoError(OpenVJEPAError):
    """A video file is unreadable.

    Args:
        path: the file.
        reason: why, in a few words without the path.
    """

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{printable(path)}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:  # crosses the border of a loader's worker process
        return VideoError, (self.path, self.reason)


class CheckpointError(OpenVJEPAError):
    """A checkpoint is missing, damaged, or does not match the model."""


class Interrupted(OpenVJEPAError):
    """The command was stopped by a signal; finished work is saved.

    Args:
        text: where the work stands and how to go on.
        signal: number of the signal; the command line exits with 128 + it.
    """

    def __init__(self, text: str, signal: int) -> None:
        super().__init__(text)
        self.signal = signal

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        return Interrupted, (str(self), self.signal)
