"""Where everything that a person reads is written: results on stdout, messages and errors on stderr."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from openvjepa.atomic import json_text
from openvjepa.cli.bars import report
from openvjepa.errors import printable
from openvjepa.progress import set_reporter

if TYPE_CHECKING:
    from rich.console import RenderableType

_WIDE = 10_000  # columns that a table may take in a pipe, so that a row is a line


def say(text: object = "") -> None:
    """Write a line of a result."""
    print(text, flush=True)


def say_json(value: object) -> None:
    """Write a result for programs."""
    say(json_text(value))


def say_skipped(skipped: Mapping[str, str], most: int = 10) -> None:
    """Write which files could not be read, and why.

    Args:
        skipped: path -> reason.
        most: how many are named.
    """
    for path, reason in list(skipped.items())[:most]:
        say(printable(f"cannot be read: {path}: {reason}"))


def complain(text: str) -> None:
    """Write an error or a warning, in one line however wide the terminal is."""
    print(f"vjepa: {text}", file=sys.stderr, flush=True)


def write_error(text: str) -> None:
    """Write text to stderr as it is."""
    print(text, file=sys.stderr, flush=True)


def show(content: RenderableType) -> None:
    """Write a table, as wide as the terminal; in a pipe, a line for each row."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else _WIDE).print(content)


class _Handler(logging.Handler):
    """Messages of the library as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        text = "\n".join(printable(line) for line in record.getMessage().split("\n"))
        print(text if record.levelno < logging.WARNING else f"vjepa: {record.levelname.lower()}: {text}",
              file=sys.stderr, flush=True)  # fmt: skip


@contextmanager
def messages() -> Generator[None]:
    """While the context is open, the library's messages and its progress are shown."""
    logger, handler = logging.getLogger("openvjepa"), _Handler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    before = set_reporter(report)
    try:
        yield
    finally:
        set_reporter(before)
        logger.removeHandler(handler)
        logger.setLevel(level)


def survive_any_character() -> None:
    """A console that cannot show a character must not stop the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
