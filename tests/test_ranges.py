"""Every number of every configuration has a range; whatever is given, it is accepted or refused in one line."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite, nan
from typing import Annotated, Any, get_args, get_type_hints

import pytest

import openvjepa.config
from openvjepa.cli.verbs import VERBS, find
from openvjepa.config import Config, ModelConfig, PretrainConfig, Range, check_ranges, from_mapping, ranges_of
from openvjepa.config.ranges import NotEmpty
from openvjepa.errors import ConfigError


def below(kind: type[Config]) -> set[type[Config]]:
    """All configurations that derive from one."""
    return {other for child in kind.__subclasses__() for other in (child, *below(child))}


for module in pkgutil.walk_packages(openvjepa.config.__path__, "openvjepa.config."):
    importlib.import_module(module.name)
KINDS = sorted(
    (kind for kind in below(Config) if kind.__module__.startswith("openvjepa.config.")), key=lambda kind: kind.__name__
)
NEEDED = {"source": "videos", "out": "there", "model": "m", "to": "hf", "num_frames": 4, "size": (32, 32)}
NUMBERS = (nan, inf, -inf, 0, -1, 1e30, 10**23, 10**40)
MAY_BE_EMPTY = {"source", "model", "teacher", "video", "geometry", "arch"}  # the command asks for them


def leaves(hint: Any) -> set[Any]:
    """The plain types in a type."""
    parts = get_args(hint)
    return {leaf for part in parts for leaf in leaves(part)} if parts else {hint}


FIELDS = [
    pytest.param(kind, field, id=f"{kind.__name__}.{field.name}")
    for kind in KINDS
    for field in dataclasses.fields(kind)
    if {int, float} & leaves(get_type_hints(kind)[field.name])
]
TEXTS = [
    pytest.param(kind, field, id=f"{kind.__name__}.{field.name}")
    for kind in KINDS
    for field in dataclasses.fields(kind)
    if str in leaves(get_type_hints(kind)[field.name]) and field.name not in MAY_BE_EMPTY
]


def given(kind: type[Config], **values: Any) -> dict[str, Any]:
    """Settings with what a configuration cannot do without."""
    needed = {
        f.name: NEEDED[f.name]
        for f in dataclasses.fields(kind)
        if f.default is f.default_factory is dataclasses.MISSING
    }
    return {**needed, **values}


def variants(kind: type[Config], field: dataclasses.Field[Any], value: Any) -> list[Any]:
    """The value itself or, for a tuple, the value in each of its places."""
    hint = get_type_hints(kind)[field.name]
    if not any(getattr(part, "__origin__", part) is tuple for part in (hint, *get_args(hint))):
        return [value]
    default = field.default if isinstance(field.default, tuple) and field.default else (value,)
    return [tuple(value if i == place else item for i, item in enumerate(default)) for place in range(len(default))]


SWITCHES = [
    pytest.param(kind, field, id=f"{kind.__name__}.{field.name}")
    for kind in KINDS
    for field in dataclasses.fields(kind)
    if leaves(get_type_hints(kind)[field.name]) - {type(None)} == {bool}
]


def parts(kind: type[Config]) -> set[type[Config]]:
    """A configuration and those that its fields hold, in tuples too."""
    held = {
        leaf
        for hint in get_type_hints(kind).values()
        for leaf in leaves(hint)
        if isinstance(leaf, type) and issubclass(leaf, Config)
    }
    return {kind}.union(*(parts(part) for part in held))


def test_all_configurations_are_walked() -> None:
    """Those of every command and all that they hold, and every field of each in one of the three walks, or a choice."""
    used = set[type[Config]]().union(*(parts(find(verb.config)) for verb in VERBS))
    assert len(VERBS) > 19
    assert used <= set(KINDS)
    walked = {(param.values[0], param.values[1].name) for param in (*FIELDS, *TEXTS, *SWITCHES)}  # type: ignore[union-attr]
    for kind in KINDS:
        hints = get_type_hints(kind)
        for field in dataclasses.fields(kind):
            found = leaves(hints[field.name])
            choice = any(isinstance(leaf, str) for leaf in found)  # of Literal
            config = any(isinstance(leaf, type) and issubclass(leaf, Config) for leaf in found)
            known = (kind, field.name) in walked or field.name in MAY_BE_EMPTY
            assert known or choice or config, f"{kind.__name__}.{field.name}: {found}"


@pytest.mark.parametrize(("kind", "field"), SWITCHES)
def test_every_switch_is_true_or_false(kind: type[Config], field: dataclasses.Field[Any]) -> None:
    optional = type(None) in leaves(get_type_hints(kind)[field.name])
    for value in ("no", 2, nan, *(() if optional else (None,))):
        with pytest.raises(ConfigError, match=f"^{field.name} .*: give true or false$"):
            kind(**given(kind, **{field.name: value}))


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_every_number_has_a_range(kind: type[Config], field: dataclasses.Field[Any]) -> None:
    ranges = [rule for rule in ranges_of(kind)[field.name] if isinstance(rule, Range)]
    assert ranges
    assert all(isfinite(rule.least) and isfinite(rule.most) and rule.least < rule.most for rule in ranges)
    for number in NUMBERS:
        inside = all(
            (rule.least < number or (rule.least == number and not rule.above))
            and (number < rule.most or (rule.most == number and not rule.below))
            for rule in ranges
        )
        for value in variants(kind, field, number):
            for make in (lambda v: kind(**given(kind, **v)), lambda v: from_mapping(kind, given(kind, **v))):
                made, message = outcome(make, {field.name: value})
                assert inside or made is None, f"{field.name} {value} is accepted"
                assert made is None or getattr(made, field.name) == value
                assert "\n" not in message
                assert len(message) < 400
                assert inside or field.name in message


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_what_is_no_number_is_refused(kind: type[Config], field: dataclasses.Field[Any]) -> None:
    for wrong in ("many", b"1", True, {}, object()):
        for value in variants(kind, field, wrong):
            made, message = outcome(lambda v: kind(**given(kind, **v)), {field.name: value})
            assert made is None, f"{field.name} {value} is accepted"
            assert field.name in message
    hint = get_type_hints(kind)[field.name]
    lengths = [len(get_args(part)) for part in (hint, *get_args(hint)) if getattr(part, "__origin__", None) is tuple]
    if lengths and Ellipsis not in get_args(hint) and field.default not in (None, ()):
        default = field.default if isinstance(field.default, tuple) else (field.default,) * max(lengths)
        made, message = outcome(lambda v: kind(**given(kind, **v)), {field.name: (*default, default[-1])})
        if max(lengths) == len(default) and Ellipsis not in {a for p in get_args(hint) for a in get_args(p)}:
            assert made is None
            assert f"{field.name}: give" in message


def outcome(make: Callable[[dict[str, Any]], Config], values: dict[str, Any]) -> tuple[Config | None, str]:
    """The configuration, or why there is none."""
    try:
        return make(values), ""
    except ConfigError as error:
        return None, str(error)


@pytest.mark.parametrize(("kind", "field"), TEXTS)
def test_texts_that_must_not_be_empty(kind: type[Config], field: dataclasses.Field[Any]) -> None:
    if field.name in ("models",):
        return  # each is one of the encoder sizes
    assert any(isinstance(rule, NotEmpty) for rule in ranges_of(kind)[field.name])
    for empty in ("", "  "):
        for value in variants(kind, field, empty):
            with pytest.raises(ConfigError, match=f"^{field.name} is empty"):
                kind(**given(kind, **{field.name: value}))
    for value in variants(kind, field, 3):
        with pytest.raises(ConfigError, match=f"^{field.name} .* is not a text"):
            kind(**given(kind, **{field.name: value}))


BASE = {"arch": "vit_femto", "img_size": 32, "num_frames": 4, "levels": (1, 3), "predictor_out_dim": 96}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_heads": 2.5, "embed_dim": 100}, "num_heads 2.5: give a whole number from 1 to 1024"),
        ({"mlp_ratio": 0.005}, "mlp_ratio 0.005 is too small"),
        ({"num_frames": 1, "embed_dim": 98, "num_heads": 1, "levels": ()}, "embed_dim 98: .* a multiple of 4"),
        ({"uniform_power": False, "predictor_embed_dim": 12}, "predictor_embed_dim 12: .* a multiple of 8"),
        ({"positions": "rope", "num_heads": 32}, "embed_dim 96 has heads of 3 channels: .* even number of at least 6"),
        (
            {"positions": "rope", "interpolate_rope": True, "patch_size": 256, "img_size": 256},
            "patch_size 256: interpolate_rope supports patches of up to 128 px",
        ),
        ({"img_size": 16384, "patch_size": 8}, "a clip has 8388608 tokens"),
        ({"arch": "x" * 10_000}, "is unknown: choose from vit_femto"),
    ],
)
def test_combinations_that_no_model_has(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        ModelConfig(**{**BASE, **values})
    assert len(str(caught.value)) < 400


@dataclass(frozen=True)
class Sizes(Config):
    sides: tuple[Annotated[float, Range(1, 3)], ...] = ()
    rooms: tuple[Annotated[int, Range(1, 3)], ...] = ()
    share: Annotated[float, Range(0, 1, above=True, below=True)] | None = None
    span: Annotated[tuple[float, float], Range(0, 1, ordered=True)] = (0, 1)
    names: tuple[str, ...] = ()


def test_what_a_range_says() -> None:
    assert Sizes(sides=(1, 2.5)).sides == (1, 2.5)
    for values, message in (
        ({"sides": (1, 3.5)}, "sides 3.5: give a number from 1 to 3"),
        ({"rooms": (1, 2.5)}, "rooms 2.5: give a whole number from 1 to 3"),
        ({"share": 1.0}, "share 1: give a number above 0, below 1"),
        ({"share": 0}, "share 0: give a number above 0, below 1"),
        ({"share": "a"}, "share 'a' is not a number"),
        ({"span": (0.5, 0.2)}, "span 0.5, 0.2: the first number must not be larger than the second"),
    ):
        with pytest.raises(ConfigError) as caught:
            Sizes(**values)  # type: ignore[arg-type]
        assert str(caught.value) == message
    check_ranges(Sizes())


def test_lists_paths_and_single_texts_become_tuples_of_text(tmp_path: Any) -> None:
    assert Sizes(names="one").names == ("one",)  # type: ignore[arg-type]
    assert Sizes(names=[tmp_path, "b"]).names == (str(tmp_path), "b")  # type: ignore[arg-type]
    assert Sizes(names=tmp_path).names == (str(tmp_path),)  # type: ignore[arg-type]


def test_a_choice_that_is_nearly_right() -> None:
    with pytest.raises(ConfigError, match=r"^positions 'ropee' is unknown: did you mean rope\? choose from sincos"):
        ModelConfig(positions="ropee")  # type: ignore[arg-type]


def test_a_switch_is_no_number_in_a_file_either() -> None:
    with pytest.raises(ConfigError, match=r"^run\.yaml: steps True: give a number$"):
        from_mapping(PretrainConfig, {"train": {"steps": True}}, where="run.yaml")
    with pytest.raises(ConfigError, match=r"ema \[True, 1\.0\]: give a number"):
        from_mapping(PretrainConfig, {"optim": {"ema": [True, 1.0]}})
    assert from_mapping(PretrainConfig, {"train": {"steps": 3, "compile": True}}).train.compile
