"""`vjepa <verb>`: one verb per task; a task is imported only when it is called, so that help comes at once."""

from __future__ import annotations

import dataclasses
import difflib
import errno
import io
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from openvjepa.errors import ConfigError, OpenVJEPAError
from openvjepa.verbs import INTERRUPTED, VERBS, Verb, find

ConfigT = TypeVar("ConfigT")

USAGE_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that cannot show a character must not stop the run
    _log_to_console()
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(args)
    except KeyboardInterrupt:
        print("vjepa: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has gone (`vjepa predict ... | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OpenVJEPAError, OSError, MemoryError) as error:
        if os.environ.get("OPENVJEPA_DEBUG") == "1":
            raise
        print(f"vjepa: error: {_one_line(error)}", file=sys.stderr)
        return 1


class _Console(logging.Handler):
    """Progress on stdout, warnings on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        stream = sys.stderr if prefix or "--json" in sys.argv else sys.stdout
        print(f"{prefix}{record.getMessage()}", file=stream, flush=True)


def _log_to_console() -> None:
    log = logging.getLogger("openvjepa")
    log.setLevel(logging.INFO)
    log.handlers = [_Console()]


def _dispatch(args: list[str]) -> int:
    if args in (["-V"], ["--version"]):
        from openvjepa.version import __version__

        print(f"openvjepa {__version__}")
        return 0
    if not args or args[0] in ("-h", "--help", "help"):
        print(_overview(VERBS), file=sys.stdout if args else sys.stderr)
        return 0 if args else USAGE_ERROR
    for verb in VERBS:
        words = verb.words.split()
        if args[: len(words)] == words:
            return _run(verb, args[len(words) :])
    group = [verb for verb in VERBS if verb.words.startswith(f"{args[0]} ")]
    if group and (len(args) == 1 or args[1] in ("-h", "--help")):
        print(_overview(group), file=sys.stdout if len(args) > 1 else sys.stderr)
        return 0 if len(args) > 1 else USAGE_ERROR
    given = " ".join(args[: 2 if group else 1])
    near = difflib.get_close_matches(given, [verb.words for verb in VERBS], n=1)
    hint = f"did you mean `vjepa {near[0]}`?" if near else "`vjepa --help` lists what there is"
    print(f"vjepa: error: there is no command {given!r}: {hint}", file=sys.stderr)
    return USAGE_ERROR


def _run(verb: Verb, args: list[str]) -> int:
    config = parse(verb, args)
    return verb.status(find(verb.task)(config))


def _overview(verbs: Sequence[Verb]) -> str:
    width = max(len(verb.words) for verb in verbs)
    return "\n".join(
        [
            "usage: vjepa COMMAND ...",
            "",
            "V-JEPA for the computer you have: pretrain, probe and predict with video.",
            "",
            *(f"  {verb.words:<{width}}  {verb.summary}" for verb in verbs),
            "",
            "examples:",
            *(f"  {verb.examples[0]}" for verb in verbs),
            "",
            "`vjepa COMMAND --help` shows the options of a command; `vjepa --version` the version.",
        ]
    )


def _one_line(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "out of memory: choose a smaller batch, clip or model"
    if isinstance(error, OSError):
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        return f"{error.filename}: {reason}" if error.filename else reason
    text = str(error)
    if "Original Traceback" in text:  # torch puts the traceback of a loader's worker before the message
        text = text.rpartition("Error: ")[2]
    return " ".join(text.split())


def parse(verb: Verb, args: list[str]) -> Any:
    """Read a command's config from flags: one per field, of the parts too; `--preset` and `--config` give the base.

    Args:
        verb: the command.
        args: what follows its words.

    Raises:
        ConfigError: the base cannot be read, or the settings are impossible together.
        SystemExit: 0 after help, 2 after a usage error.
    """
    import tyro

    from openvjepa.config import read_yaml

    kind, presets = find(verb.config), find(verb.presets) if verb.presets else {}
    args, preset = _take(args, "--preset") if presets else (args, None)
    args, file = _take(args, "--config")
    if preset and file:
        raise ConfigError("give --preset or --config, not both")
    base = None
    if preset:
        if preset not in presets:
            raise ConfigError(f"preset {preset!r} is unknown: choose one of {', '.join(presets)}")
        base = presets[preset]()
    elif file:
        base = read_yaml(kind, file)
    flags = _flag_type(kind, verb.positional)
    read = partial(
        tyro.cli,
        flags,
        prog=f"vjepa {verb.words}",
        description=_description(verb, presets),
        args=args,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    config = read() if base is None else read(default=_recast(base, flags))
    return _recast(config, kind)


def _description(verb: Verb, presets: dict[str, Any]) -> str:
    bases = ["--config FILE      start from a YAML file, such as a run folder's config.yaml; flags override it"]
    if presets:
        bases.append(f"--preset NAME      start from a recipe; flags override it: {', '.join(presets)}")
    return "\n  ".join([f"{verb.summary}\n\nexamples:", *verb.examples]) + "\n\n" + "\n".join(bases)


def _take(args: list[str], flag: str) -> tuple[list[str], str | None]:
    """The arguments without `flag VALUE` or `flag=VALUE`, and the (last) value."""
    rest, value, given = [], None, iter(args)
    for arg in given:
        if arg == flag:
            value = next(given, None)
            if value is None:
                raise ConfigError(f"{flag} needs a value")
        elif arg.startswith(f"{flag}="):
            value = arg.removeprefix(f"{flag}=")
        else:
            rest.append(arg)
    return rest, value


def _flag_type(kind: type[Any], positional: tuple[str, ...] = ()) -> type[Any]:
    """A subclass of a config dataclass that says how its fields are written on a command line.

    Fields that hold lists of dataclasses have no flag (they are for YAML).
    """
    import tyro

    hints, changed = get_type_hints(kind), []
    for item in dataclasses.fields(kind):
        hint = hints[item.name]
        default = dataclasses.field(default=item.default, default_factory=item.default_factory)  # pyright: ignore
        if item.name in positional:
            hint = Annotated[tyro.conf.Positional[hint], tyro.conf.arg(metavar=_metavar(item.name, hint))]
        elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
            hint = _flag_type(hint)
            default = dataclasses.field(default_factory=hint)
        elif any(dataclasses.is_dataclass(part) for part in get_args(hint)):
            hint = tyro.conf.Suppress[hint]
        else:
            continue
        changed.append((item.name, hint, default))
    if not changed:
        return kind
    return dataclasses.make_dataclass(
        kind.__name__, changed, bases=(kind,), frozen=True, namespace={"__doc__": kind.__doc__}
    )


def _metavar(name: str, hint: Any) -> str:
    return f"{name.upper()} ..." if get_origin(hint) is tuple else name.upper()


def _recast(config: Any, kind: type[ConfigT]) -> ConfigT:
    """The same values in another dataclass of the same fields (and so for its parts)."""
    hints = get_type_hints(kind)
    values = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    return kind(**{k: _recast(v, hints[k]) if dataclasses.is_dataclass(hints[k]) else v for k, v in values.items()})


if __name__ == "__main__":
    raise SystemExit(main())
