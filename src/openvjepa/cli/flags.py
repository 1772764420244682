"""Command-line flags from configurations: one per field, including nested configurations, without prefixes."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from openvjepa.config import Config
from openvjepa.config.ranges import choose
from openvjepa.config.yaml import field_names
from openvjepa.errors import ConfigError

PARTS = "openvjepa.config.parts"
# Part of a configuration -> title of its options, and the part that says what they are.
_TITLES = {
    "RateConfig": ("clip", "ClipConfig"),
    "ClipConfig": ("clip", "ClipConfig"),
    "LabelConfig": ("label", "LabelConfig"),
    "LabelSource": ("label", "LabelConfig"),
    "ClassesConfig": ("label", "LabelConfig"),
    "SplitConfig": ("split", "SplitConfig"),
    "ComputeConfig": ("compute", "ComputeConfig"),
    "LoaderConfig": ("compute", "ComputeConfig"),
}
_EACH = {int: "N", float: "X", str: "TEXT"}


@dataclass(frozen=True)
class Flag:
    """One field of a configuration, as it is written on the command line."""

    name: str
    """Name of the field."""
    hint: Any
    """Type of the field, without ranges."""
    default: Any
    """Default; dataclasses.MISSING if the option is required."""
    help: str
    group: str
    """Title of its group in the help; "": settings of the command itself."""
    about: str
    """One-line description of the group."""

    @property
    def option(self) -> str:
        """Its name on the command line: "--frame-step"."""
        return "--" + self.name.replace("_", "-")

    @property
    def is_switch(self) -> bool:
        """Whether it takes no value: --cache or --no-cache."""
        return self.hint is bool

    @property
    def shapes(self) -> tuple[Any, ...]:
        """The types that a value may have."""
        return get_args(self.hint) if _is_union(self.hint) else (self.hint,)

    @property
    def may_be_none(self) -> bool:
        """Whether "None" is a value."""
        return type(None) in self.shapes

    @property
    def several(self) -> bool:
        """Whether more than one value may follow."""
        return any(get_origin(shape) is tuple for shape in self.shapes)

    @property
    def metavar(self) -> str:
        """Placeholder of the value in the help."""
        leaves = [leaf for shape in self.shapes if shape is not type(None) for leaf in _entries(shape)]
        return _shown(leaves[0]) if get_origin(leaves[0]) is Literal else _EACH.get(leaves[0], "TEXT")

    def value(self, tokens: Sequence[str]) -> Any:
        """The value of the field from what was written.

        Raises:
            ConfigError: the value does not have the type of the field, or is not among the choices.
        """
        if self.may_be_none and list(tokens) == ["None"]:
            return None
        for shape in self.shapes:
            if get_origin(shape) is not tuple:
                if shape is not type(None) and len(tokens) == 1:
                    return self._convert(shape, tokens[0])
                continue
            entries = _entries(shape)
            if get_args(shape)[-1] is Ellipsis:
                return tuple(self._convert(entries[0], token) for token in tokens)
            if len(tokens) == len(entries):
                return tuple(self._convert(*pair) for pair in zip(entries, tokens, strict=True))
        numbers = " or ".join(str(len(_entries(s)) if get_origin(s) is tuple else 1) for s in self.shapes)
        raise ConfigError(f"{self.option}: give {numbers} values, not {len(tokens)}")

    def _convert(self, kind: Any, token: str) -> Any:
        if get_origin(kind) is Literal:
            choices = get_args(kind)
            if token not in choices:
                raise ConfigError(f"{self.option} {token!r} is unknown: {choose(token, choices)}")
            return token
        if kind is str:
            return token[1:] if token.startswith(" -") else token
        try:
            return kind(token)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise ConfigError(f"{self.option} {token[:40]!r}: give {what}") from None


def flags_of(kind: type[Config], base: Config | None = None) -> list[Flag]:
    """All flags of a configuration; fields that hold lists of configurations have none (they are for YAML).

    Args:
        kind: the configuration.
        base: where defaults come from; None: the fields' own.
    """
    return list(_flags(kind, base, "", ""))


def build(kind: type[Config], values: Mapping[str, Any], base: Config | None = None) -> Any:
    """A configuration from the values of its flags; other fields are those of the base.

    Raises:
        ConfigError: the settings are impossible.
    """
    hints, settings = _hints(kind), dict[str, Any]()
    for item in dataclasses.fields(kind):
        nested = _nested(hints[item.name])
        below = None if base is None else getattr(base, item.name)
        if nested is not None:
            settings[item.name] = build(nested, values, below)
        elif item.name in values:
            settings[item.name] = values[item.name]
        elif base is not None:
            settings[item.name] = below
    return kind(**settings)


def _flags(kind: type[Config], base: Config | None, group: str, about: str) -> list[Flag]:
    hints, texts = _hints(kind), _field_texts(kind)
    flags: list[Flag] = []
    nested: list[Flag] = []
    fields = {item.name: item for item in dataclasses.fields(kind)}
    for name in field_names(kind):
        item, hint = fields[name], hints[name]
        below = _nested(hint)
        if below is not None:
            value = getattr(base, item.name) if base is not None else below()
            nested += _flags(below, value, item.name, _first_line(below))
        elif not any(_nested(part) for part in get_args(hint)):
            title, words = (group, about) if group else _part_of(kind, item.name)
            default = item.default if base is None else getattr(base, item.name)
            flags.append(Flag(item.name, hint, default, texts.get(item.name, ""), title, words))
    titles = list(dict.fromkeys(["", *(flag.group for flag in flags)]))
    return sorted(flags, key=lambda flag: titles.index(flag.group)) + nested


def _nested(hint: Any) -> type[Config] | None:
    return hint if isinstance(hint, type) and issubclass(hint, Config) else None


def _part_of(kind: type[Any], name: str) -> tuple[str, str]:
    """(title, what it is) of the shared part that a field comes from."""
    origin = [c for c in kind.__mro__ if name in vars(c).get("__annotations__", {})][-1]
    if origin.__module__ != PARTS:
        return "", ""
    title, part = _TITLES[origin.__name__]
    return title, _first_line(getattr(sys.modules[PARTS], part))


def _first_line(kind: type[Any]) -> str:
    return (kind.__doc__ or "").partition("\n")[0]


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def _entries(shape: Any) -> tuple[Any, ...]:
    """Types of the entries of a tuple; of anything else itself."""
    return tuple(p for p in get_args(shape) if p is not Ellipsis) if get_origin(shape) is tuple else (shape,)


def _shown(kind: Any) -> str:
    return "{" + ",".join(map(str, get_args(kind))) + "}"


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    """Field -> type, without the ranges."""
    return get_type_hints(kind)


@cache
def _field_texts(kind: type[Any]) -> dict[str, str]:
    """Field of a dataclass -> the text that stands under it."""
    texts: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        texts |= _texts_of_module(parent.__module__).get(parent.__name__, {})
    return texts


@cache
def _texts_of_module(name: str) -> dict[str, dict[str, str]]:
    """Class -> field -> text, of a module of configurations."""
    if not name.startswith("openvjepa."):
        return {}
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(sys.modules[name])).body:
        if isinstance(node, ast.ClassDef):
            texts = found[node.name] = {}
            for field, text in itertools.pairwise(node.body):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    words = ast.literal_eval(text.value) if isinstance(text.value, ast.Constant) else ""
                    texts[ast.unparse(field.target)] = " ".join(str(words).split())
    return found
