"""`vjepa <verb>`: one verb per task; a task is imported only when it is called, so that help comes at once."""

from __future__ import annotations

import dataclasses
import difflib
import errno
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from openvjepa.errors import ConfigError, OpenVJEPAError

ConfigT = TypeVar("ConfigT")

USAGE_ERROR = 2
INTERRUPTED = 130


@dataclass(frozen=True)
class Verb:
    """A command: its words, what it does in one line, its examples, and the function that runs it."""

    words: str
    summary: str
    examples: tuple[str, ...]
    run: Callable[[Verb, list[str]], int]


@dataclass(frozen=True)
class CheckConfig:
    """`vjepa data check`: which videos."""

    source: str
    """Folder, list or CSV file of videos."""
    label: str | None = None
    """Column of a CSV that holds the label; None: the column `label`, or the only one there is."""
    workers: int | None = None
    """Processes that decode; None: one per core, at most 8."""
    json: bool = False
    """Print JSON, for programs."""


def data_check(verb: Verb, args: list[str]) -> int:
    """`vjepa data check`; 1 when files are bad."""
    config = parse(verb, CheckConfig, args, positional=("source",))
    from rich.console import Console

    from openvjepa.data.index import check_index

    report = check_index(config.source, label=config.label, workers=config.workers)
    if config.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:  # into a file or a pipe, rows stay on one line
        Console(width=None if sys.stdout.isatty() else 250).print(report.render())
    return 1 if report.bad else 0


def data_make_shapes(verb: Verb, args: list[str]) -> int:
    """`vjepa data make-shapes`."""
    from openvjepa.data.synthetic import ShapesConfig, make_shapes

    print(f"wrote {make_shapes(parse(verb, ShapesConfig, args, positional=('out',)))}")
    return 0


def data_prepare(verb: Verb, args: list[str]) -> int:
    """`vjepa data prepare`; 1 when a video cannot be copied."""
    from openvjepa.data.prepare import PrepareConfig, prepare

    report = prepare(parse(verb, PrepareConfig, args, positional=("source", "out")))
    print(report.summary())
    return 1 if report.bad else 0


def pretrain(verb: Verb, args: list[str]) -> int:
    """`vjepa pretrain`."""
    from openvjepa.config import PretrainConfig
    from openvjepa.presets import PRESETS

    config = parse(verb, PretrainConfig, args, positional=("sources",), presets=PRESETS)
    from openvjepa.tasks.pretrain import pretrain as run

    return INTERRUPTED if run(config).interrupted else 0


def probe(verb: Verb, args: list[str]) -> int:
    """`vjepa probe`."""
    from openvjepa.options import ProbeConfig

    config = parse(verb, ProbeConfig, args, positional=("model", "source"))
    from openvjepa.tasks.probe import probe as run

    run(config)
    return 0


def finetune(verb: Verb, args: list[str]) -> int:
    """`vjepa finetune`."""
    from openvjepa.tasks.finetune import PRESETS, FinetuneConfig
    from openvjepa.tasks.finetune import finetune as run

    config = parse(verb, FinetuneConfig, args, positional=("source",), presets=PRESETS)
    return 0 if run(config) else INTERRUPTED


def predict(verb: Verb, args: list[str]) -> int:
    """`vjepa predict`; 1 when no video can be read."""
    from openvjepa.options import PredictConfig

    config = parse(verb, PredictConfig, args, positional=("run", "videos"))
    from openvjepa.tasks.predict import predict as run

    return 0 if any(prediction.error is None for prediction in run(config)) else 1


def evaluate(verb: Verb, args: list[str]) -> int:
    """`vjepa evaluate`."""
    from openvjepa.tasks.evaluate import EvaluateConfig
    from openvjepa.tasks.evaluate import evaluate as run

    run(parse(verb, EvaluateConfig, args, positional=("runs",)))
    return 0


def models(verb: Verb, args: list[str]) -> int:
    """`vjepa models`."""
    from openvjepa.tasks.models import ModelsConfig
    from openvjepa.tasks.models import models as run

    run(parse(verb, ModelsConfig, args, positional=("name",)))
    return 0


def convert(verb: Verb, args: list[str]) -> int:
    """`vjepa convert`."""
    from openvjepa.tasks.convert import ConvertConfig
    from openvjepa.tasks.convert import convert as run

    run(parse(verb, ConvertConfig, args, positional=("source", "out")))
    return 0


def export(verb: Verb, args: list[str]) -> int:
    """`vjepa export`."""
    from openvjepa.tasks.export import ExportConfig
    from openvjepa.tasks.export import export as run

    run(parse(verb, ExportConfig, args, positional=("model", "out")))
    return 0


def embed(verb: Verb, args: list[str]) -> int:
    """`vjepa embed`."""
    from openvjepa.options import EmbedConfig

    config = parse(verb, EmbedConfig, args, positional=("source",))
    from openvjepa.tasks.embed import embed as run

    run(config)
    return 0


def bench(verb: Verb, args: list[str]) -> int:
    """`vjepa bench`."""
    from openvjepa.tasks.bench import bench as run
    from openvjepa.tasks.measure import BenchConfig

    run(parse(verb, BenchConfig, args))
    return 0


def demo(verb: Verb, args: list[str]) -> int:
    """`vjepa demo`."""
    from openvjepa.options import DemoConfig

    config = parse(verb, DemoConfig, args)
    from openvjepa.tasks.demo import demo as run

    run(config)
    return 0


VERBS = (
    Verb(
        "demo",
        "Render moving shapes, pretrain, probe, predict, and write a report: everything once, small.",
        ("vjepa demo",),
        demo,
    ),
    Verb(
        "data check",
        "Decode every video of a folder or list; print what is there and every bad file (exit 1 if there is one).",
        ("vjepa data check videos/", "vjepa data check list.csv --label action"),
        data_check,
    ),
    Verb(
        "data make-shapes",
        "Render labelled moving shapes into video files with an index.csv.",
        ("vjepa data make-shapes shapes", "vjepa data make-shapes big --train 4000 --size 96 --texture 0.5"),
        data_make_shapes,
    ),
    Verb(
        "data prepare",
        "Write small copies of videos that are quick to read from, with an index.csv (exit 1 if one cannot be copied).",
        ("vjepa data prepare videos/ small/", "vjepa data prepare list.csv small/ --short-side 224 --crf 20"),
        data_prepare,
    ),
    Verb(
        "pretrain",
        "Pretrain a V-JEPA encoder on videos without labels.",
        (
            "vjepa pretrain videos/ --out runs/mine --arch vit_tiny --img-size 112 --steps 5000",
            "vjepa pretrain videos/ --preset vitl16 --out runs/large",
            "vjepa pretrain --config runs/mine/config.yaml --resume",
        ),
        pretrain,
    ),
    Verb(
        "probe",
        "Train attentive, linear and kNN classifiers on the frozen features of an encoder.",
        (
            "vjepa probe runs/mine videos/",
            "vjepa probe runs/mine list.csv --label action --out runs/action",
            "vjepa probe runs/mine images/ --kinds linear knn",
            "vjepa probe runs/mine videos/ --label-fraction 0.05 0.1 0.5 --draws 3",
        ),
        probe,
    ),
    Verb(
        "finetune",
        "Fit an encoder with a classifier to labelled videos: the classifier alone, the last blocks, LoRA, or everything.",
        (
            "vjepa finetune videos/ --model runs/mine --out runs/action",
            "vjepa finetune videos/ --model facebook/vjepa2-vitl-fpc16-256-ssv2 --preset hf-card",
            "vjepa finetune videos/ --model runs/mine --tune all --randaugment 9 --patience 5",
        ),
        finetune,
    ),
    Verb(
        "predict",
        "Name the likeliest classes of videos with one or several probes; follow long videos over time.",
        (
            "vjepa predict runs/action new.mp4",
            "vjepa predict runs/action folder/ --json",
            "vjepa predict runs/a runs/b new.mp4 --combine vote",
            "vjepa predict runs/action long.mp4 --window 2 --stride 1 --csv long.csv --timeline long.png --annotate out.mp4",
        ),
        predict,
    ),
    Verb(
        "evaluate",
        "Measure classifiers on labelled videos: accuracy, classes, confusion, calibration, cost; alone and together.",
        (
            "vjepa evaluate runs/action test-videos/",
            "vjepa evaluate runs/a runs/b list.csv --label action --segments 4 --views 3",
        ),
        evaluate,
    ),
    Verb(
        "embed",
        "Write the features of videos and images into one file, with an index; an ended run goes on when it is repeated.",
        (
            "vjepa embed videos/ --model runs/mine --out features.safetensors",
            "vjepa embed list.csv --model runs/mine --what grid --layer 5 --out grids.npz",
        ),
        embed,
    ),
    Verb(
        "models",
        "List the published models: size, clip, accuracy, licence, memory needed here; or tell all about one of them.",
        ("vjepa models", "vjepa models vjepa2-vitl", "vjepa models --json"),
        models,
    ),
    Verb(
        "convert",
        "Rewrite a model in the layout of Meta, Hugging Face or this program, every tensor bit for bit.",
        (
            "vjepa convert runs/mine mine.pt --to meta",
            "vjepa convert vitl.pt vitl-hf --to hf",
            "vjepa convert jepa-latest.pth.tar nano --to openvjepa --probe probe-latest.pth.tar",
            'vjepa convert own.pt own --to openvjepa --geometry "num_heads: 3, num_frames: 8, img_size: 64"',
        ),
        convert,
    ),
    Verb(
        "export",
        "Hand a model over: a folder for transformers with a model card, or ONNX; tried before it is yours.",
        ("vjepa export runs/action action-hf --to hf", "vjepa export runs/action action-onnx --to onnx"),
        export,
    ),
    Verb(
        "bench",
        "Measure this machine: peak, pretraining step, inference and data, in clips and as a share of the peak.",
        ("vjepa bench --quick", "vjepa bench --models vit_tiny vit_large --out bench.json"),
        bench,
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that cannot show a character must not stop the run
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


def _dispatch(args: list[str]) -> int:
    if args in (["-V"], ["--version"]):
        from openvjepa import __version__

        print(f"openvjepa {__version__}")
        return 0
    if not args or args[0] in ("-h", "--help", "help"):
        print(_overview(VERBS), file=sys.stdout if args else sys.stderr)
        return 0 if args else USAGE_ERROR
    for verb in VERBS:
        words = verb.words.split()
        if args[: len(words)] == words:
            return verb.run(verb, args[len(words) :])
    group = [verb for verb in VERBS if verb.words.startswith(f"{args[0]} ")]
    if group and (len(args) == 1 or args[1] in ("-h", "--help")):
        print(_overview(group), file=sys.stdout if len(args) > 1 else sys.stderr)
        return 0 if len(args) > 1 else USAGE_ERROR
    given = " ".join(args[: 2 if group else 1])
    near = difflib.get_close_matches(given, [verb.words for verb in VERBS], n=1)
    hint = f"did you mean `vjepa {near[0]}`?" if near else "`vjepa --help` lists what there is"
    print(f"vjepa: error: there is no command {given!r}: {hint}", file=sys.stderr)
    return USAGE_ERROR


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


def parse(
    verb: Verb,
    kind: type[ConfigT],
    args: list[str],
    *,
    positional: tuple[str, ...] = (),
    presets: dict[str, Callable[[], ConfigT]] | None = None,
) -> ConfigT:
    """Read a config dataclass from flags: one per field, of the parts too; `--preset` and `--config` give the base.

    Args:
        verb: names the command in help and errors.
        kind: the dataclass.
        args: what follows the verb.
        positional: fields that are given without a flag.
        presets: named bases.

    Raises:
        ConfigError: the base cannot be read, or the settings are impossible together.
        SystemExit: 0 after help, 2 after a usage error.
    """
    import tyro

    from openvjepa.config import read_yaml

    args, preset = _take(args, "--preset") if presets else (args, None)
    args, file = _take(args, "--config")
    if preset and file:
        raise ConfigError("give --preset or --config, not both")
    base: ConfigT | None = None
    if preset and presets:
        if preset not in presets:
            raise ConfigError(f"preset {preset!r} is unknown: choose one of {', '.join(presets)}")
        base = presets[preset]()
    elif file:
        base = read_yaml(kind, file)
    flags = _flag_type(kind, positional)
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


def _description(verb: Verb, presets: dict[str, Any] | None) -> str:
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
