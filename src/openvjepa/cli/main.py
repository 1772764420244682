"""Entry point of `vjepa`: parses the command line, runs the command, shows its result and returns the exit status."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import signal
import sys
from collections.abc import Sequence

from openvjepa.cli import console
from openvjepa.cli.verbs import VERBS, Verb, find
from openvjepa.errors import ConfigError, Interrupted, OpenVJEPAError
from openvjepa.interrupts import RaisedSignals

FAILED = 1
USAGE_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
        The exit status: 0 success; 1 failure; 2 usage error (an unknown option, a value out of its range, a preset or
        configuration file that cannot be read); 128 + signal number after a signal (Ctrl-C: 130).
    """
    console.survive_any_character()
    args = list(sys.argv[1:] if argv is None else argv)
    with RaisedSignals(console.complain, lasting=argv is None) as signals:
        try:
            return _guarded(args)
        except BaseException as error:  # whatever a signal has led to
            if not signals.number and not isinstance(error, KeyboardInterrupt):
                raise
            return _interrupted(args, signals.number or signal.SIGINT)


def _guarded(args: list[str]) -> int:
    """The exit status of a command line, with one line for every error that a user can meet."""
    try:
        return _dispatch(args)
    except Interrupted as error:
        console.complain(f"interrupted: {_one_line(error)}")
        return 128 + error.signal
    except BrokenPipeError:  # the reader of a pipe has gone (`vjepa predict ... | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (OpenVJEPAError, OSError, MemoryError) as error:
        return _failed(error, FAILED)
    except RuntimeError as error:
        known = _known(error)
        if known is None:
            raise
        return _failed(known, FAILED)


def _interrupted(args: list[str], number: int) -> int:
    """Say in one line that a signal has ended the work, and what is left of it."""
    with contextlib.suppress(OSError):  # nobody listens any more
        console.complain(f"interrupted{_again(args)}")
    return 128 + number


def _again(args: list[str]) -> str:
    verb = next((verb for verb in VERBS if args[: len(verb.words.split())] == verb.words.split()), None)
    return f": {verb.again}" if verb and verb.again else ""


def _dispatch(args: list[str]) -> int:
    if args in (["-V"], ["--version"]):
        from openvjepa.version import __version__

        console.say(f"openvjepa {__version__}")
        return 0
    if not args or args[0] in ("-h", "--help", "help"):
        return _overview(VERBS, asked=bool(args))
    for verb in VERBS:
        words = verb.words.split()
        if args[: len(words)] == words:
            return _run(verb, args[len(words) :])
    group = [verb for verb in VERBS if verb.words.startswith(f"{args[0]} ")]
    if group and (len(args) == 1 or args[1] in ("-h", "--help")):
        return _overview(group, asked=len(args) > 1)
    given = " ".join(args[: 2 if group else 1])
    near = difflib.get_close_matches(given, [verb.words for verb in VERBS], n=1)
    hint = f"did you mean `vjepa {near[0]}`?" if near else "`vjepa --help` lists the commands"
    return _failed(ConfigError(f"there is no command {given!r}: {hint}"), USAGE_ERROR)


def _run(verb: Verb, args: list[str]) -> int:
    from openvjepa.cli.parsing import help_of, parse

    if {"-h", "--help"} & set(args[: args.index("--")] if "--" in args else args):
        console.say(help_of(verb))
        return 0
    try:
        request = parse(verb, args)
    except ConfigError as error:
        return _failed(error, USAGE_ERROR)
    if request.print_config:
        from openvjepa.config.yaml import to_yaml

        console.say(to_yaml(request.config).rstrip())
        return 0
    missing = [name for name in verb.needed if getattr(request.config, name) in ("", ())]
    if missing:
        names = [name.upper() if name in verb.positional else f"--{name}" for name in missing]
        text = f"{' and '.join(names)} must be given: `vjepa {verb.words} --help` shows how"
        return _failed(ConfigError(text), USAGE_ERROR)
    for note in request.notes:
        console.complain(f"warning: {note}")
    with console.messages():
        result = find(verb.task)(request.config)
    if verb.render is not None:
        find(verb.render)(result, request.config)
    return verb.status(result)


def _overview(verbs: Sequence[Verb], *, asked: bool) -> int:
    width = max(len(verb.words) for verb in verbs)
    lines = [
        "usage: vjepa COMMAND ...",
        "",
        "V-JEPA for the computer you have: pretrain video encoders, train classifiers, visualize features.",
        "",
        *(f"  {verb.words:<{width}}  {verb.summary}" for verb in verbs),
        "",
        "examples:",
        *(f"  {verb.examples[0]}" for verb in verbs),
        "",
        "`vjepa COMMAND --help` shows the options of a command; `vjepa --version` shows the version.",
    ]
    if asked:
        console.say("\n".join(lines))
        return 0
    console.write_error("\n".join(lines))
    return USAGE_ERROR


def _failed(error: BaseException, status: int) -> int:
    """Write an error in one line; with OPENVJEPA_DEBUG=1, raise it."""
    if os.environ.get("OPENVJEPA_DEBUG") == "1":
        raise error
    if not (getattr(error, "everywhere", False) and os.environ.get("RANK", "0") != "0"):
        console.complain(f"error: {_one_line(error)}")
    return status


def _known(error: RuntimeError) -> Exception | None:
    """What torch's error means, where that is the machine's limit and not a mistake of ours."""
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return MemoryError()
    if "DataLoader worker" in text and ("killed by signal" in text or "exited unexpectedly" in text):
        return OpenVJEPAError(
            "a process that loads data was ended, as the system does when memory runs out: choose fewer --workers or a "
            "smaller batch"
        )
    return None


def _one_line(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "out of memory: choose a smaller batch, clip or model, or leave out --cache"
    if isinstance(error, OSError):
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        return f"{error.filename}: {reason}" if error.filename else reason
    text = str(error)
    if "Original Traceback" in text:  # torch puts the traceback of a loader's worker before the message
        text = text.rpartition("Error: ")[2]
    return " ".join(text.split())


if __name__ == "__main__":
    raise SystemExit(main())
