"""Ranges of settings, declared in the type of each field and checked before any work.

For example, `steps: Count` is an integer of at least 1, and `hflip: Share` lies in 0..1. Every configuration derives from
`Config`, which checks all fields when an instance is created.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import Field, dataclass
from difflib import get_close_matches
from functools import cache
from os import PathLike, fspath
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, get_args, get_origin, get_type_hints

from openvjepa.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """Range of a number, or of every number of a tuple; None is always allowed where the type allows it."""

    least: float
    most: float
    above: bool = False
    """The least number is itself not allowed."""
    below: bool = False
    """The greatest number is itself not allowed."""
    ordered: bool = False
    """The numbers of a tuple must not decrease."""

    def holds(self, number: float) -> bool:
        """Whether a number lies in the range; never for nan."""
        return self.least <= number <= self.most and not (
            (self.above and number == self.least) or (self.below and number == self.most)
        )

    def __str__(self) -> str:
        """The range in words: "from 0 to 1", "above 0, at most 1", "at least 0, below 1"."""
        if not self.above and not self.below:
            return f"from {self.least:.10g} to {self.most:.10g}"
        least = f"above {self.least:.10g}" if self.above else f"at least {self.least:.10g}"
        return f"{least}, below {self.most:.10g}" if self.below else f"{least}, at most {self.most:.10g}"


@dataclass(frozen=True)
class NotEmpty:
    """A text, or every text of a tuple, must not be empty."""


@dataclass(frozen=True)
class AtLeastOne:
    """A tuple must have an entry."""


@dataclass(frozen=True)
class OneOf:
    """A value, or every value of a tuple, must be one of these; made from `Literal`."""

    choices: tuple[Any, ...]


Rule: TypeAlias = Range | NotEmpty | AtLeastOne | OneOf


MANY = 10**9
"""Upper limit of counts: more than any run needs, far from overflow."""
Count: TypeAlias = Annotated[int, Range(1, MANY)]
"""A count of at least one."""
Whole: TypeAlias = Annotated[int, Range(0, MANY)]
"""A count, possibly 0."""
Few: TypeAlias = Annotated[int, Range(1, 1024)]
"""A small count."""
Threads: TypeAlias = Annotated[int, Range(1, 1024)]
Workers: TypeAlias = Annotated[int, Range(0, 256)]
Seed: TypeAlias = Annotated[int, Range(0, 2**63 - 1)]
Share: TypeAlias = Annotated[float, Range(0, 1)]
"""A fraction or probability."""
ProperShare: TypeAlias = Annotated[float, Range(0, 1, above=True, below=True)]
"""A fraction strictly between 0 and 1."""
ShareBelowOne: TypeAlias = Annotated[float, Range(0, 1, below=True)]
Rate: TypeAlias = Annotated[float, Range(0, 100)]
"""A learning rate or weight decay."""
Weight: TypeAlias = Annotated[float, Range(0, 1e6)]
"""Weight of a term in a sum."""
Seconds: TypeAlias = Annotated[float, Range(1e-3, 1e9)]
FrameRate: TypeAlias = Annotated[float, Range(1e-3, 1e4)]
"""Frames per second."""
Pixels: TypeAlias = Annotated[int, Range(1, 2**14)]
Scale: TypeAlias = Annotated[tuple[float, float], Range(0, 1, above=True, ordered=True)]
"""Minimum and maximum fraction of an area or a length."""
Aspect: TypeAlias = Annotated[tuple[float, float], Range(0.01, 100, ordered=True)]
"""Minimum and maximum aspect ratio."""
Text: TypeAlias = Annotated[str, NotEmpty()]


class Config:
    """Base class of configurations: frozen dataclasses whose fields are validated on creation.

    Lists become tuples, `Path` objects become strings, and a single string becomes a tuple of one where several are expected.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __post_init__(self) -> None:
        check_ranges(self)


def check_ranges(config: object) -> None:
    """Check that the fields of a configuration lie in the ranges that their types state.

    Args:
        config: a dataclass.

    Raises:
        ConfigError: names the field, its value and its range.
    """
    for name, hint, rules in _rules(type(config)):
        value = _plain(getattr(config, name), hint)
        if value is not getattr(config, name):
            object.__setattr__(config, name, value)
        _check_kind(name, value, hint)
        for rule in rules:
            _check(name, value, rule, whole=int in leaf_types(hint) and float not in leaf_types(hint))


def ranges_of(kind: type[Any]) -> dict[str, tuple[Rule, ...]]:
    """Field of a configuration -> the rules that its type states."""
    return {name: rules for name, _, rules in _rules(kind)}


@cache
def _rules(kind: type[Any]) -> tuple[tuple[str, Any, tuple[Rule, ...]], ...]:
    """(field, type, rules) of a dataclass."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple((name, hint, tuple(_found(hint))) for name, hint in hints.items() if name in kind.__dataclass_fields__)


def _found(hint: Any) -> Iterator[Rule]:
    if get_origin(hint) is Annotated:
        yield from (rule for rule in hint.__metadata__ if isinstance(rule, (Range, NotEmpty, AtLeastOne)))
    if get_origin(hint) is Literal:
        yield OneOf(get_args(hint))
        return
    for part in get_args(hint):
        yield from _found(part)


def leaf_types(hint: Any) -> set[Any]:
    """The types that a value, or an entry of a tuple, may have."""
    parts = get_args(hint)
    if get_origin(hint) is Annotated:
        return leaf_types(parts[0])
    return {leaf for part in parts for leaf in leaf_types(part)} if parts else {hint}


def _plain(value: Any, hint: Any) -> Any:
    """Lists as tuples, paths as text, and a text where a tuple of texts is expected as a tuple of one."""
    if isinstance(value, PathLike):
        value = fspath(value)
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    plain_tuple = get_origin(bare) is tuple or any(get_origin(part) is tuple for part in get_args(bare))
    if not plain_tuple:
        return value
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) or (isinstance(value, tuple) and any(isinstance(item, PathLike) for item in value)):
        return tuple(fspath(item) if isinstance(item, PathLike) else item for item in value)
    return value


def _check_kind(name: str, value: Any, hint: Any) -> None:
    """Refuse a switch that is no truth value, a text that is none, and a tuple of another length than its type says."""
    leaves = leaf_types(hint) - {Ellipsis}
    if value is None and type(None) in leaves:
        return
    leaves -= {type(None)}
    if leaves == {bool} and not isinstance(value, bool):
        raise ConfigError(f"{name} {str(value)[:40]!r}: give true or false")
    items: tuple[Any, ...] = value if isinstance(value, tuple) else (value,)
    if leaves == {str} and any(item is not None and not isinstance(item, str) for item in items):
        raise ConfigError(f"{name} {str(value)[:40]!r} is not a text")
    lengths = set(_lengths(hint))
    fixed = sorted(length for length in lengths if length is not None)
    if isinstance(value, tuple) and fixed and None not in lengths and len(items) not in fixed:
        raise ConfigError(f"{name}: give {' or '.join(map(str, fixed))} values, not {len(items)}")


def _lengths(hint: Any) -> Iterator[int | None]:
    """How many entries the tuples of a type have; None: any number."""
    if get_origin(hint) is tuple:
        entries = get_args(hint)
        yield None if Ellipsis in entries else len(entries)
        return
    for part in get_args(hint):
        yield from _lengths(part)


def _check(name: str, value: Any, rule: Rule, *, whole: bool) -> None:
    if value is None:
        return
    if isinstance(rule, AtLeastOne):
        if not value:
            raise ConfigError(f"{name} is empty: give at least one value")
        return
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(rule, NotEmpty):
            if not str(item).strip():
                raise ConfigError(f"{name} is empty: give a value")
        elif isinstance(rule, OneOf):
            if item not in rule.choices:
                raise ConfigError(f"{name} {str(item)[:40]!r} is unknown: {choose(str(item), rule.choices)}")
        else:
            _check_number(name, item, rule, whole=whole)
    if isinstance(rule, Range) and rule.ordered and isinstance(value, tuple) and list(value) != sorted(value):
        raise ConfigError(
            f"{name} {', '.join(f'{n:g}' for n in value)}: the first number must not be larger than the second"
        )


def _check_number(name: str, number: Any, rule: Range, *, whole: bool) -> None:
    if isinstance(number, (bool, str, bytes)) or not hasattr(number, "__float__"):
        raise ConfigError(f"{name} {str(number)[:40]!r} is not a number")
    if not rule.holds(number) or (whole and number != int(number)):
        kind = "a whole number" if whole else "a number"
        shown = f"{number:.10g}" if isinstance(number, float) else str(number)[:40]
        raise ConfigError(f"{name} {shown}: give {kind} {rule}")


def choose(given: str, choices: Iterable[Any]) -> str:
    """Suggestion for an unknown name: "did you mean fp32? choose from auto, fp32, bf16"."""
    names = [str(choice) for choice in choices]
    near = get_close_matches(given[:80], names, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{meant}choose from {', '.join(names)}"
