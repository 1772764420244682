"""Output files: whether they can be written, and written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openvjepa.errors import ConfigError


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A temporary path beside `path` to write to, which takes its place when the block ends without an error.

    Folders above it are made. What is left of a failed attempt is deleted.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.part")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors makes files that nobody else may read
        with temporary.open("rb+") as file:  # a power cut after the renaming must not leave half a file
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_folder(path: str | Path) -> None:
    """Fail before the work if a folder cannot be made or written to.

    Raises:
        ConfigError: it is a file, lies below one, or may not be written to.
    """
    folder = Path(path)
    for place in (folder, *folder.parents):
        if place.is_dir():
            if not os.access(place, os.W_OK):
                raise ConfigError(f"{place}: cannot be written to: choose another folder")
            return
        if place.exists():
            text = "pass a folder" if place == folder else f"{folder} cannot be a folder"
            raise ConfigError(f"{place}: is a file: {text}")


def check_file(path: str | Path) -> None:
    """Fail before the work if a file cannot be written.

    Raises:
        ConfigError: it is a folder, or its folder cannot be made or written to.
    """
    if Path(path).is_dir():
        raise ConfigError(f"{path}: is a folder: pass a file")
    check_folder(Path(path).parent)


def json_text(value: object, indent: int | None = 1) -> str:
    """A result as JSON; numbers that are not finite are null, since JSON has none."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
