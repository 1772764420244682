"""A command line as a configuration.

argparse splits the arguments and formats the help; the types of the fields define how values are parsed (`flags`). Every usage
error is a ConfigError of one line.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NoReturn

from openvjepa.cli.flags import Flag, build, flags_of
from openvjepa.cli.verbs import Verb, find
from openvjepa.config.parts import ALTERNATIVES
from openvjepa.config.ranges import choose
from openvjepa.config.yaml import read_yaml
from openvjepa.errors import ConfigError


@dataclass(frozen=True)
class Request:
    """A parsed command line."""

    config: Any
    print_config: bool
    """Print the configuration and exit."""
    notes: tuple[str, ...] = ()
    """Warnings."""


def parse(verb: Verb, args: Sequence[str]) -> Request:
    """Read a command's configuration: one flag for each field, `--preset` and `--config` give the base.

    Args:
        verb: the command.
        args: what follows its words.

    Raises:
        ConfigError: an option is unknown, a value is invalid, the base cannot be read, or settings contradict each other.
    """
    kind = find(verb.config)
    words = list(args)
    end = words.index("--") if "--" in words else len(words)
    parser = _parser(verb, flags_of(kind), with_positionals=False)
    named, rest = parser.parse_known_args([_normal(word) for word in words[:end]])
    given = vars(named)
    base = _base(verb, kind, given)
    flags = flags_of(kind, base)
    for word in rest:
        if word.startswith("-") and len(word) > 1:
            raise ConfigError(_unknown(word, flags, verb))
    positionals, notes = [*(word.lstrip(" ") for word in rest), *words[end + 1 :]], []
    if verb.old_order is not None:
        positionals, notes = verb.old_order(positionals, given)
    given |= _assigned(verb, flags, positionals)
    values = {flag.name: _value(flag, given[flag.name]) for flag in flags if flag.name in given}
    for name, other in ALTERNATIVES.items():
        if values.get(name) is not None and other not in values:
            values[other] = None
    missing = [flag for flag in flags if flag.default is dataclasses.MISSING and flag.name not in values]
    if missing:
        names = [flag.name.upper() if flag.name in verb.positional else flag.option for flag in missing]
        raise ConfigError(f"{' and '.join(names)} must be given: see `vjepa {verb.words} --help`")
    return Request(build(kind, values, base), "print_config" in given, tuple(notes))


def help_of(verb: Verb) -> str:
    """The help of a command, at the width of the terminal."""
    return _parser(verb, flags_of(find(verb.config)), with_positionals=True).format_help()


def _base(verb: Verb, kind: type[Any], given: dict[str, Any]) -> Any:
    """The base configuration from `--preset` or `--config`; removes both from `given`."""
    preset, file = given.pop("preset", None), given.pop("config", None)
    if preset is not None and file is not None:
        raise ConfigError("give --preset or --config, not both")
    if file is not None:
        return read_yaml(kind, file)
    if preset is None:
        return None
    presets = find(verb.presets or "")
    if preset not in presets:
        raise ConfigError(f"--preset {preset!r} is unknown: {choose(preset, presets)}")
    return presets[preset]()


def _assigned(verb: Verb, flags: Sequence[Flag], words: Sequence[str]) -> dict[str, list[str]]:
    """Positional arguments by field."""
    several = {flag.name: flag.several for flag in flags}
    assigned: dict[str, list[str]] = {}
    left = list(words)
    for name in verb.positional:
        if left:
            count = len(left) if several[name] else 1
            assigned[name], left = left[:count], left[count:]
    if left:
        raise ConfigError(f"unexpected argument {left[0]!r}: `vjepa {verb.words} --help` shows the options")
    return assigned


def _value(flag: Flag, given: Any) -> Any:
    return given if isinstance(given, bool) else flag.value([given] if isinstance(given, str) else given)


def _unknown(word: str, flags: Sequence[Flag], verb: Verb) -> str:
    """The error message for an unknown option."""
    name = word.partition("=")[0]
    known = [flag.option for flag in flags if flag.name not in verb.positional]
    known += [f"--no-{option[2:]}" for option in known] if name.startswith("--no-") else []
    known += ["--config", "--print-config", "--help", *(["--preset"] if verb.presets else [])]
    near = [option for option in known if option.startswith(name)] or get_close_matches(name, known, n=1)
    meant = f"did you mean {' or '.join(near[:3])}?" if near else f"`vjepa {verb.words} --help` shows the options"
    return f"unknown option {name}: {meant}"


def _normal(word: str) -> str:
    """`--frame_step=2` as `--frame-step=2`; a negative number such as -1e-3 or -inf so that it is not taken for an option."""
    name, sign, value = word.partition("=")
    if word.startswith("--"):
        return name.replace("_", "-") + sign + value
    return f" {word}" if word.startswith("-") and _is_number(word) else word


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        option, _, problem = message.removeprefix("argument ").partition(": ")
        raise ConfigError(f"{option} needs a value" if problem.startswith("expected") else message)


def _parser(verb: Verb, flags: Sequence[Flag], *, with_positionals: bool) -> _Parser:
    """The parser of a command.

    Args:
        verb: the command.
        flags: its flags.
        with_positionals: for help; a command line is parsed without them, so that they may stand between options.
    """
    width = min(shutil.get_terminal_size().columns, 120) - 2
    parser = _Parser(
        prog=f"vjepa {verb.words}",
        usage=_usage(verb, flags),
        description="\n  ".join([f"{verb.summary}\n\nexamples:", *verb.examples]),
        formatter_class=lambda prog: _HelpFormatter(prog, max_help_position=26, width=width),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    by_name = {flag.name: flag for flag in flags}
    if with_positionals and verb.positional:
        group = parser.add_argument_group("arguments")
        for name in verb.positional:
            group.add_argument(name, metavar=_metavar(by_name[name]), nargs="?", help=_help(by_name[name]))
    groups: dict[str, Any] = {}
    for flag in flags:
        if flag.name not in verb.positional:
            title = f"{flag.group} options".strip()
            if title not in groups:
                groups[title] = parser.add_argument_group(title, _escaped(flag.about) or None)
            _add(groups[title], flag)
    for name in verb.hidden:
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    _add_common(parser, verb)
    return parser


def _add(group: Any, flag: Flag) -> None:
    if flag.is_switch:
        group.add_argument(flag.option, action=argparse.BooleanOptionalAction, help=_help(flag))
    elif flag.several:
        group.add_argument(flag.option, nargs="*", metavar=flag.metavar, help=_help(flag))
    else:
        group.add_argument(flag.option, metavar=flag.metavar, help=_help(flag))


def _add_common(parser: argparse.ArgumentParser, verb: Verb) -> None:
    group = parser.add_argument_group("configuration options")
    if verb.presets:
        names = ", ".join(find(verb.presets))
        group.add_argument(
            "--preset", metavar="NAME", help=f"Preset to start from; other options override it. One of {names}."
        )
    text = "YAML file to start from, such as the config.yaml of a run folder; other options override it."
    group.add_argument("--config", metavar="FILE", help=text)
    text = "Print the resulting configuration as YAML and exit."
    group.add_argument("--print-config", action="store_true", help=text)
    group.add_argument("-h", "--help", action="store_true", help="Show this help and exit.")


def _usage(verb: Verb, flags: Sequence[Flag]) -> str:
    by_name = {flag.name: flag for flag in flags}
    words = [_metavar(by_name[name]) for name in verb.positional]
    needed = [
        f"{flag.option} {flag.metavar}"
        for flag in flags
        if flag.name not in verb.positional and (flag.default is dataclasses.MISSING or flag.name in verb.needed)
    ]
    return " ".join(["vjepa", verb.words, *words, *needed, "[OPTIONS]"]).replace("%", "%%")


def _metavar(flag: Flag) -> str:
    name = flag.name.upper()
    return f"{name} [{name} ...]" if flag.several else name


def _help(flag: Flag) -> str:
    if flag.default is dataclasses.MISSING or flag.default in ("", (), None, False):
        return _escaped(flag.help)
    shown = " ".join(map(_shown, flag.default)) if isinstance(flag.default, tuple) else _shown(flag.default)
    return _escaped(f"{flag.help} (default: {shown})")


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Options with their values once, long option names on a line of their own, and no line breaks within names."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False, break_long_words=False)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {self._format_args(action, str(action.metavar or ''))}".rstrip()
