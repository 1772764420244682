"""A folder that grows: its videos and images, as they become complete."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from openvjepa.data.media.video import MEDIA_EXTENSIONS
from openvjepa.errors import DataError

POLL = 0.5  # s between two looks


def new_files(folder: Path, *, idle: float | None = None, poll: float = POLL) -> Iterator[Path]:
    """Videos and images of a folder, those that are there first, then each new one when it has stopped growing.

    A file counts as complete when its size and time of change are the same at three looks, and is named once; hidden files and
    folders are left out, so a program can write under a hidden name and rename.

    Args:
        folder: where they appear.
        idle: s without a new or growing file after which it ends; None: never.
        poll: s between two looks.

    Raises:
        DataError: the folder is not there, or cannot be read any more.
    """
    done, states = set[Path](), dict[Path, tuple[int, int, int]]()
    quiet = time.monotonic()
    while True:
        found = _files(folder)
        states = {path: state for path, state in states.items() if path in found}  # others were renamed or deleted
        ready: list[Path] = []
        for path, (size, changed) in found.items():
            if path in done:
                continue
            before = states.get(path)
            looks = before[2] + 1 if before and before[:2] == (size, changed) and size else 0
            states[path] = (size, changed, looks)
            if before is None or before[:2] != (size, changed):
                quiet = time.monotonic()
            if looks >= 2:
                ready.append(path)
        for path in sorted(ready, key=lambda path: (states[path][1], path)):
            done.add(path)
            del states[path]
            yield path
            quiet = time.monotonic()
        pending = any(looks < 2 and size for size, _, looks in states.values())
        if idle is not None and not pending and time.monotonic() - quiet >= idle:
            return
        time.sleep(poll)


def _files(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of change, ns, of every video and image directly in a folder."""
    found: dict[Path, tuple[int, int]] = {}
    try:
        for path in folder.iterdir():
            if path.suffix.lower() in MEDIA_EXTENSIONS and not path.name.startswith("."):
                try:
                    state = path.stat()
                except FileNotFoundError:  # gone between two looks
                    continue
                found[path] = (state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from None
    return found
