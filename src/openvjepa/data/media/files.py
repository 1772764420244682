"""Paths as people and systems give them: what they stand for, and which of them can be opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def expanded(path: str | Path) -> Path:
    """A path with `~` replaced by the home directory, where there is one.

    A file whose own name begins with `~` is left alone.
    """
    try:
        return path if (path := Path(path)).exists() else path.expanduser()
    except (OSError, RuntimeError, ValueError):  # no such user; a name that the system does not take
        return Path(path)


def why_not_readable(path: str | Path) -> str | None:
    """Why a path cannot be opened as a file or a folder, in a few words; None if it can.

    Reading a pipe, a socket or a device may block or never end.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:  # a null byte
        return str(error)
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    return f"not a regular file, but {_KINDS.get(stat.S_IFMT(mode), 'something else')}"
