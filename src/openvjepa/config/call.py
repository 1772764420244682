"""Commands as functions: `pretrain(config)`, or `pretrain("videos/", preset="nano", out="runs/x", steps=400)`."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, overload

from openvjepa.config.parts import ALTERNATIVES
from openvjepa.config.yaml import from_mapping, read_yaml, to_mapping
from openvjepa.errors import ConfigError

ConfigT = TypeVar("ConfigT")
_ConfigT = TypeVar("_ConfigT", contravariant=True)
_ResultT = TypeVar("_ResultT", covariant=True)
ResultT = TypeVar("ResultT")

Source = str | Path
Presets = Mapping[str, Callable[[], ConfigT]]


class Command(Protocol, Generic[_ConfigT, _ResultT]):
    """A function that takes a configuration, or its settings by name."""

    @overload
    def __call__(self, config: _ConfigT, /) -> _ResultT: ...
    @overload
    def __call__(
        self,
        source: Source | Sequence[Source] = ...,
        /,
        *,
        preset: str | None = None,
        config: Source | None = None,
        **settings: Any,
    ) -> _ResultT: ...


def command(
    kind: type[ConfigT], source: str, presets: Presets[ConfigT] | None = None
) -> Callable[[Callable[[ConfigT], ResultT]], Command[ConfigT, ResultT]]:
    """Make a function of a configuration callable with its settings by name, too.

    Args:
        kind: the configuration.
        source: field that the first argument sets.
        presets: named configurations that `preset` chooses from.
    """

    def wrap(function: Callable[[ConfigT], ResultT]) -> Command[ConfigT, ResultT]:
        @functools.wraps(function)
        def call(
            first: Any = None, /, *, preset: str | None = None, config: Source | None = None, **settings: Any
        ) -> ResultT:
            if isinstance(first, kind):
                if preset is not None or config is not None or settings:
                    raise ConfigError("give a configuration or settings by name, not both")
                return function(first)
            if first is not None:
                settings[source] = first
            base = _base(kind, presets or {}, preset, config, settings)
            return function(base if not settings else override(base, settings))

        return call  # pyright: ignore[reportReturnType] (the overloads are those of `Command`)

    return wrap


def _base(
    kind: type[ConfigT],
    presets: Presets[ConfigT],
    preset: str | None,
    config: Source | None,
    settings: Mapping[str, Any],
) -> ConfigT:
    if preset is not None and config is not None:
        raise ConfigError("give preset or config, not both")
    if config is not None:
        return read_yaml(kind, config)
    if preset is None:
        needed = _needed(kind)
        if missing := [name for name in needed if name not in settings]:
            raise ConfigError(f"{kind.__name__} needs {', '.join(missing)}: give a value")
        return from_mapping(kind, {name: _plain(settings[name], many=False) for name in needed}, where=kind.__name__)
    if preset not in presets:
        raise ConfigError(f"preset {preset!r} is unknown: choose one of {', '.join(presets) or '(none)'}")
    return presets[preset]()


def _needed(kind: type[Any]) -> list[str]:
    """Fields without a default."""
    empty = dataclasses.MISSING
    return [item.name for item in dataclasses.fields(kind) if item.default is empty and item.default_factory is empty]


def override(config: ConfigT, settings: Mapping[str, Any]) -> ConfigT:
    """A configuration with other values of some of its fields, or of fields of its sections.

    Args:
        config: a configuration.
        settings: field -> value; field names are unique over the sections. Paths may be `Path` objects.

    Raises:
        ConfigError: a field is unknown, or a value does not fit.
    """
    values = to_mapping(config)
    homes = _homes(config, values)
    for name, value in settings.items():
        if name not in homes:
            near = difflib.get_close_matches(name, homes, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(homes))}"
            raise ConfigError(f"{type(config).__name__} has no setting {name!r}: {hint}")
        homes[name][name] = _plain(value, many=isinstance(homes[name][name], list))
        other = ALTERNATIVES.get(name)
        if value is not None and other in homes and other not in settings:
            homes[other][other] = None
    return from_mapping(type(config), values, where=type(config).__name__)


def _homes(config: Any, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Field -> the mapping that holds it, sections included."""
    homes: dict[str, dict[str, Any]] = {}
    for item in dataclasses.fields(config):
        homes[item.name] = values
        section = getattr(config, item.name)
        if dataclasses.is_dataclass(section):
            for inner in dataclasses.fields(section):
                homes[inner.name] = values[item.name]
    return homes


def _plain(value: Any, *, many: bool) -> Any:
    """A value as YAML holds it; a single path stands for a list of one."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_mapping(value)
    if isinstance(value, (str, Path)):
        return [os.fspath(value)] if many else os.fspath(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item, many=False) for item in value]
    return value
