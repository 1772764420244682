"""Configurations as YAML: read strictly (an unknown key or a wrong type is an error), and written."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

from openvjepa.config.ranges import leaf_types
from openvjepa.errors import ConfigError

ConfigT = TypeVar("ConfigT")
_LARGEST = 16_000_000  # bytes of a configuration
_SHOWN = 6  # wrong settings that an error names


def from_mapping(kind: type[ConfigT], values: Any, *, where: str = "configuration") -> ConfigT:
    """Make a config dataclass from plain values; unknown keys and wrong types are errors.

    Args:
        kind: a dataclass of this package.
        values: nested mapping, as YAML gives it.
        where: what to call it in an error.

    Raises:
        ConfigError: names the first wrong keys and values, and counts the others.
    """
    from pydantic import TypeAdapter, ValidationError  # slow to import, and help does without

    if not isinstance(values, (dict, kind)):
        raise ConfigError(f"{where}: not a configuration: give settings as `name: value`, a line each")
    _check_switches(kind, values, where)
    try:
        return TypeAdapter(kind).validate_python(values, extra="forbid")
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))[:80] or where}: {e['msg'][:200]}" for e in error.errors()]
        more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise ConfigError(f"{where}: {'; '.join(lines[:_SHOWN])}{more}") from None


def _check_switches(kind: Any, values: Any, where: str) -> None:
    """Refuse `steps: yes`, which pydantic reads as 1."""
    if not isinstance(values, dict) or not is_dataclass(kind):
        return
    hints = get_type_hints(kind)
    for name, value in cast("dict[Any, Any]", values).items():
        kinds = leaf_types(hints.get(name, bool))
        items: list[Any] = list(cast("Iterable[Any]", value)) if isinstance(value, (list, tuple)) else [value]
        if kinds & {int, float} and bool not in kinds and any(isinstance(item, bool) for item in items):
            raise ConfigError(f"{where}: {name} {value}: give a number")
        for part in kinds:
            _check_switches(part, value, where)


def read_yaml(kind: type[ConfigT], path: str | Path) -> ConfigT:
    """Read a config dataclass from a YAML file.

    Raises:
        ConfigError: the file is missing, is not YAML, or does not fit.
    """
    import yaml

    try:
        values = yaml.safe_load(_text(Path(path)))
    except (
        OSError,
        ValueError,
        yaml.YAMLError,
        RecursionError,
    ) as error:  # ValueError: not UTF-8, or a null byte in the name
        raise ConfigError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())[:300]}") from None
    return from_mapping(kind, values or {}, where=str(path))


def _text(path: Path) -> str:
    """Text of a regular file of a sensible size: reading a pipe or a device may never end.

    Raises:
        OSError: it is something else.
        ValueError: it is not UTF-8.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise OSError(f"{path} is not a regular file")
    if state.st_size > _LARGEST:
        raise OSError(f"{state.st_size / 1e6:.0f} MB are too many for a configuration")
    return path.read_text(encoding="utf-8")


def to_yaml(config: Any) -> str:
    """A config dataclass as YAML text that `read_yaml` reads back."""
    import yaml

    return yaml.safe_dump(to_mapping(config), sort_keys=False)


def to_mapping(config: Any) -> Any:
    """A config dataclass as plain dicts, lists and numbers; a command's own fields come before those of its parts."""
    if is_dataclass(config) and not isinstance(config, type):
        return {name: to_mapping(getattr(config, name)) for name in field_names(type(config))}
    if isinstance(config, dict):
        return {key: to_mapping(item) for key, item in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_mapping(item) for item in config]
    return config


def field_names(kind: type[Any]) -> list[str]:
    """Names of a dataclass's fields: its own first, then those of its bases."""
    known = {item.name for item in fields(kind)}
    return [
        name
        for name in dict.fromkeys(n for c in kind.__mro__ for n in vars(c).get("__annotations__", {}))
        if name in known
    ]
