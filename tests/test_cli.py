"""The command line from outside: exit codes, one-line errors, help without heavy imports."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from openvjepa.cli import main
from openvjepa.cli.flags import flags_of
from openvjepa.cli.parsing import parse
from openvjepa.cli.verbs import VERBS, Verb, find
from openvjepa.config import PRESETS, Config, DemoConfig, ModelConfig, PretrainConfig, read_yaml, to_yaml
from openvjepa.errors import ConfigError, DataError


def vjepa(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command line as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "openvjepa", *map(str, args)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "100", **env},
        timeout=120,
        check=False,
    )


def assert_one_line_error(result: subprocess.CompletedProcess[str], *words: str, code: int = 1) -> None:
    """The exit status is `code` and standard error is one line that names what is wrong."""
    assert result.returncode == code, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("vjepa: error: ")
    for word in words:
        assert word in lines[0]


def parsed(verb: str, args: list[str]) -> object:
    """What a verb's command line becomes."""
    [found] = [v for v in VERBS if v.words == verb]
    return parse(found, args).config


HEAVY = ("torch", "numpy", "av", "sklearn", "PIL", "matplotlib", "pydantic", "rich", "yaml")


def test_overview_and_help_of_every_verb_import_nothing_heavy() -> None:
    lines = [
        "import sys",
        "from openvjepa.cli import main",
        "from openvjepa.cli.verbs import VERBS",
        "assert main(['--help']) == 0",
        "for verb in VERBS: assert main([*verb.words.split(), '--help']) == 0",
        f"print([m for m in {HEAVY} if m in sys.modules])",
    ]
    out = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
    for verb in VERBS:
        assert f"  {verb.words} " in out


def test_parsing_of_every_verb_imports_nothing_heavy() -> None:
    lines = [
        "import sys",
        "from openvjepa.cli.parsing import parse",
        "from openvjepa.cli.verbs import VERBS",
        "for verb in VERBS: parse(verb, [*verb.positional, *(['--to', 'hf'] if verb.words in ('convert', 'export') else [])])",
        f"print([m for m in {HEAVY} if m in sys.modules])",
    ]
    out = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.words)
def test_every_place_is_there(verb: Verb) -> None:
    assert callable(find(verb.task))
    fields = {field.name for field in dataclasses.fields(find(verb.config))}
    assert set(verb.positional) <= fields
    assert verb.presets is None or find(verb.presets)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.words)
def test_help_of_every_verb_has_examples(verb: Verb) -> None:
    result = vjepa(*verb.words.split(), "--help")
    assert result.returncode == 0, result.stderr
    assert verb.examples[0] in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.needed], ids=lambda verb: verb.words)
@pytest.mark.parametrize("place", [0, 1])
def test_each_thing_that_a_command_needs_is_a_usage_error(
    verb: Verb, place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    name = verb.needed[min(place, len(verb.needed) - 1)]
    given = [[word] if word in verb.positional else [f"--{word}", "x"] for word in verb.needed if word != name]
    assert main([*verb.words.split(), *(word for words in given for word in words)]) == 2
    shown = name.upper() if name in verb.positional else f"--{name}"
    assert capsys.readouterr().err.startswith(f"vjepa: error: {shown} must be given: `vjepa {verb.words} --help`")


def test_positional_arguments_without_a_default_are_needed() -> None:
    optional = {("track", "video"), ("models", "name"), ("data make-shapes", "out"), ("data make-physics", "out")}
    for verb in VERBS:
        fields = {field.name: field for field in dataclasses.fields(find(verb.config))}
        for name in verb.positional:
            has_default = fields[name].default is not dataclasses.MISSING
            assert has_default == (name in verb.needed or (verb.words, name) in optional), (verb.words, name)


def test_version() -> None:
    result = vjepa("--version")
    assert result.returncode == 0
    assert result.stdout.split()[0] == "openvjepa"


def test_no_command_is_a_usage_error() -> None:
    result = vjepa()
    assert result.returncode == 2
    assert "usage: vjepa" in result.stderr


def test_unknown_command_suggests_a_near_one() -> None:
    assert_one_line_error(vjepa("pretrian", "x"), "`vjepa pretrain`", code=2)
    assert_one_line_error(vjepa("data", "chek", "x"), "`vjepa data check`", code=2)
    assert_one_line_error(vjepa("zzzzz"), "vjepa --help", code=2)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("pretrain videos --stps 3", "unknown option --stps: did you mean --steps?"),
        ("pretrain videos --predictor-d 3", "unknown option --predictor-d: did you mean --predictor-depth?"),
        ("pretrain videos --no-uniform 3", "unknown option --no-uniform: did you mean --no-uniform-power?"),
        ("pretrain videos --zzz", "unknown option --zzz: `vjepa pretrain --help` shows the options"),
        ("probe videos --preset nano", "unknown option --preset"),
        ("pretrain videos --steps many", "--steps 'many': give a whole number"),
        ("pretrain videos --steps 1.5", "--steps '1.5': give a whole number"),
        ("pretrain videos --lr fast", "--lr 'fast': give a number"),
        ("pretrain videos --steps", "--steps needs a value"),
        ("pretrain videos --config", "--config needs a value"),
        (
            "pretrain videos --precision fp23",
            "--precision 'fp23' is unknown: did you mean fp32? choose from auto, fp32",
        ),
        (
            "pretrain videos --arch vit_larg",
            "arch 'vit_larg' is unknown: did you mean vit_large? choose from vit_femto",
        ),
        ("pretrain videos --preset nan", "--preset 'nan' is unknown: did you mean nano? choose from nano, "),
        ("probe b --model a --kinds attentive linar", "--kinds 'linar' is unknown: did you mean linear?"),
        ("pretrain videos --img-size 1 2 3", "--img-size: give 1 or 2 values, not 3"),
        ("pretrain videos --ema 1", "--ema: give 2 values, not 1"),
        ("models a b", "unexpected argument 'b'"),
        ("probe a b --model c", "unexpected argument 'b'"),
        ("convert a b", "--to must be given"),
        ("data prepare a", "OUT must be given"),
        ("pretrain --seed 99999999999999999999999", "seed 99999999999999999999999: give a whole number from 0 to"),
        ("pretrain --threads -1", "threads -1: give a whole number from 1 to 1024"),
        ("probe v --model m --lrs nan", "lrs nan: give a number from 0 to 100"),
        ("pretrain --mix nan", "mix nan: give a number"),
        ("predict v --model m --window 1e-9", "window 1e-09: give a number from 0.001"),
        ("pretrain --ema 2 3", "ema 2: give a number from 0 to 1"),
        ("pretrain --warmup 2", "warmup 2: give a number from 0 to 1"),
        ("pretrain --clip-grad -1", "clip_grad -1: give a number above 0"),
        ("pretrain --embed-dim 0", "embed_dim 0: give a whole number from 1"),
        ("pretrain --betas 1 1", "betas 1: give a number at least 0, below 1"),
        ("pretrain --lr -1e-3", "lr -0.001: give a number from 0 to 100"),
        ("pretrain --lr -inf", "lr -inf: give a number from 0 to 100"),
        ("pretrain --patch-size 0", "patch_size 0: give a whole number from 1 to 1024"),
        ("pretrain --frame-step 2 --fps 5", "frame_step or fps, not both"),
        ("data check v --workers 1000000", "workers 1000000: give a whole number from 0 to 256"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    args: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENVJEPA_DEBUG", raising=False)
    assert main(args.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vjepa: error: ")
    assert words in err
    assert err.count("\n") == 1


def test_empty_texts_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "videos", "--out", ""]) == 2
    assert "out is empty" in capsys.readouterr().err


NUMBERS = ("nan", "inf", "-inf", "0", "-1", "1e30", "1" + 23 * "0")


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.words)
def test_any_number_for_any_flag_is_accepted_or_refused_in_one_line(verb: Verb) -> None:
    flags = [flag for flag in flags_of(find(verb.config)) if flag.name not in verb.positional]
    numeric = [flag for flag in flags if flag.metavar in ("N", "X")]
    needed = [*verb.positional, *(["--to", "hf"] if verb.words in ("convert", "export") else [])]
    for flag in numeric:
        for number in NUMBERS:
            count = len(flag.default) if isinstance(flag.default, tuple) and flag.default else 1
            config, message = parsed_or_not(verb, [*needed, flag.option, *count * [number]])
            assert len(message.splitlines()) <= 1
            assert len(message) < 400
            if config is not None:
                parts = [vars(part) for part in vars(config).values() if isinstance(part, Config)]
                value = next(values[flag.name] for values in (vars(config), *parts) if flag.name in values)
                assert value == (count * (float(number),) if isinstance(value, tuple) else float(number))


def parsed_or_not(verb: Verb, args: list[str]) -> tuple[object | None, str]:
    """The configuration of a command line, or what is wrong with it."""
    try:
        return parse(verb, args).config, ""
    except ConfigError as error:
        return None, str(error)


def test_unknown_config_key(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("optim:\n  learning_rate: 1\n", encoding="utf-8")
    assert_one_line_error(vjepa("pretrain", "videos", "--config", file), "run.yaml", "learning_rate", code=2)


def test_config_that_is_not_yaml(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("a: [1,\nb", encoding="utf-8")
    assert_one_line_error(vjepa("pretrain", "videos", "--config", file), "run.yaml", "YAML", code=2)


def test_missing_config_file(tmp_path: Path) -> None:
    assert_one_line_error(vjepa("pretrain", "videos", "--config", tmp_path / "no.yaml"), "no.yaml", code=2)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_config_that_never_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "large.yaml").write_bytes(b" " * 16_000_001)
    for path in (tmp_path / "pipe.yaml", "/dev/zero", "/dev/urandom", tmp_path / "large.yaml"):
        assert main(["pretrain", "videos", "--config", str(path)]) == 2
        assert capsys.readouterr().err.startswith(f"vjepa: error: {path}: cannot be read as YAML: ")


def test_impossible_geometry() -> None:
    assert_one_line_error(vjepa("pretrain", "videos", "--img-size", "64", "90"), "64 x 90 px", code=2)


def test_unknown_preset_names_the_known_ones() -> None:
    assert_one_line_error(vjepa("pretrain", "videos", "--preset", "vitl"), "vitl", *PRESETS, code=2)


def test_preset_and_config_together(tmp_path: Path) -> None:
    result = vjepa("pretrain", "videos", "--preset", "vitl16", "--config", tmp_path / "x.yaml")
    assert_one_line_error(result, "--preset or --config", code=2)


def test_missing_videos(tmp_path: Path) -> None:
    assert_one_line_error(vjepa("data", "check", tmp_path / "nothing"), "nothing")
    result = vjepa(
        "pretrain", tmp_path / "nothing", "--out", tmp_path / "run", "--arch", "vit_femto", "--img-size", "32"
    )
    assert_one_line_error(result, "nothing")


def test_debug_shows_the_traceback() -> None:
    result = vjepa("pretrain", "videos", "--img-size", "64", "90", OPENVJEPA_DEBUG="1")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_make_shapes_then_check(tmp_path: Path) -> None:
    out = tmp_path / "shapes"
    sizes = ("--train", "2", "--val", "1", "--test", "1", "--size", "32", "--frames", "4")
    made = vjepa("data", "make-shapes", out, *sizes)
    assert made.returncode == 0, made.stderr
    assert len(list((out / "videos").glob("*.mp4"))) == 4
    checked = vjepa("data", "check", out, "--label", "motion")
    assert checked.returncode == 0, checked.stderr
    assert "4" in checked.stdout
    assert_one_line_error(vjepa("data", "make-shapes", out), "shapes")  # does not write over it


def test_check_of_a_bad_file_fails_and_names_it(tmp_path: Path) -> None:
    vjepa("data", "make-shapes", tmp_path, "--train", "1", "--val", "0", "--test", "0", "--size", "32", "--frames", "4")
    (tmp_path / "index.csv").unlink()
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"")
    result = vjepa("data", "check", tmp_path / "videos")
    assert result.returncode == 1
    assert "broken.mp4" in result.stdout
    assert "Traceback" not in result.stderr


def test_flags_reach_every_part_of_the_config() -> None:
    args = [
        "a",
        "b",
        "--img-size",
        "64",
        "96",
        "--frame-step",
        "2",
        "--no-uniform-power",
        "--lr",
        "0.5",
        "--mix",
        "1",
        "3",
    ]
    config = parsed("pretrain", args)
    assert type(config) is PretrainConfig
    assert type(config.model) is ModelConfig
    assert config.sources == ("a", "b")
    assert config.model.image_hw == (64, 96)
    assert config.model.uniform_power is False
    assert config.data.frame_step == 2
    assert config.data.mix == (1.0, 3.0)
    assert config.optim.lr == 0.5
    assert config.masking == PretrainConfig().masking


def test_no_arguments_give_the_defaults() -> None:
    assert parsed("pretrain", []) == PretrainConfig()


def test_flags_override_the_config_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("sources: [x]\nmodel: {arch: vit_small}\nmasking: {masks: [{kind: tube}]}\n", encoding="utf-8")
    config = parsed("pretrain", ["--config", str(file), "--arch", "vit_base"])
    assert isinstance(config, PretrainConfig)
    assert config.sources == ("x",)
    assert config.model.arch == "vit_base"
    assert [mask.kind for mask in config.masking.masks] == ["tube"]  # has no flag, and is kept


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_base(name: str, tmp_path: Path) -> None:
    args = [f"--preset={name}", "videos", "--out", "there"]
    config = parsed("pretrain", args)
    assert isinstance(config, PretrainConfig)
    assert config.model == PRESETS[name]().model
    assert (config.sources, config.out) == (("videos",), "there")
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert parsed("pretrain", ["--config", str(file)]) == config


def test_options_and_videos_in_any_order(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: {arch: vit_small}\n", encoding="utf-8")
    orders = [
        ["a", "b", "--config", str(file), "--steps", "3"],
        ["--steps=3", f"--config={file}", "a", "b"],
        ["a", "--config", str(file), "b", "--steps", "3"],
        ["--steps", "3", "--config", str(file), "--", "a", "b"],
    ]
    configs = [parsed("pretrain", order) for order in orders]
    assert configs[0] == configs[1] == configs[2] == configs[3]
    assert isinstance(configs[0], PretrainConfig)
    assert (configs[0].sources, configs[0].model.arch, configs[0].train.steps) == (("a", "b"), "vit_small", 3)


def test_values_that_are_not_numbers_or_words() -> None:
    config = parsed("pretrain", ["--levels", "--micro-batch", "None", "--frame_step", "2", "--out", "-1"])
    assert isinstance(config, PretrainConfig)
    assert config.model.levels == ()
    assert config.train.micro_batch is None
    assert config.data.frame_step == 2
    assert config.out == "-1"


def test_fps_replaces_frame_step_and_the_other_way_round() -> None:
    for args, rate in (
        (["--fps", "5"], (None, 5.0)),
        (["--preset", "demo", "--fps", "5"], (None, 5.0)),
        (["--preset", "vjepa2-vitl"], (None, 4.0)),
        (["--preset", "vjepa2-vitl", "--frame-step", "2"], (2, None)),
        ([], (4, None)),
    ):
        config = parsed("pretrain", args)
        assert isinstance(config, PretrainConfig)
        assert (config.data.frame_step, config.data.fps) == rate


def test_print_config_prints_what_would_be_done_and_does_nothing(tmp_path: Path) -> None:
    result = vjepa(
        "pretrain", "videos", "--preset", "nano", "--steps", "7", "--out", tmp_path / "run", "--print-config"
    )
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "run").exists()
    file = tmp_path / "printed.yaml"
    file.write_text(result.stdout, encoding="utf-8")
    expected = parsed("pretrain", ["videos", "--preset", "nano", "--steps", "7", "--out", str(tmp_path / "run")])
    assert read_yaml(PretrainConfig, file) == expected


def test_help_says_what_every_option_is() -> None:
    out = " ".join(vjepa("pretrain", "--help").stdout.split())
    assert "--preset NAME Preset to start from" in out
    assert ", ".join(PRESETS) in out
    assert (
        "--precision {auto,fp32,bf16,fp16} auto: bf16 autocast if the hardware supports it, fp16 on a GPU "
        "without bf16 (V100, T4), else fp32. (default: auto)" in out
    )
    assert "model options:" in out
    for verb in VERBS:
        for flag in flags_of(find(verb.config)):
            assert flag.help, f"{verb.words} {flag.option}"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "the disk is full"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 1, "runs/x: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/x"), 1, "runs/x: Permission denied"),
        (MemoryError(), 1, "out of memory"),
        (ConfigError("two\n  lines"), 1, "vjepa: error: two lines"),
        (
            DataError(
                'Caught DataError in worker 0.\nOriginal Traceback:\n  File "x"\nopenvjepa.errors.DataError: all bad'
            ),
            1,
            "vjepa: error: all bad",
        ),
    ],
)
def test_failures_of_a_task_become_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, words: str
) -> None:
    def fail(config: DemoConfig) -> None:
        raise error

    monkeypatch.setattr("openvjepa.commands.demo.demo", fail)
    monkeypatch.delenv("OPENVJEPA_DEBUG", raising=False)
    assert main(["demo"]) == code
    captured = capsys.readouterr().err.strip()
    assert words in captured
    assert "\n" not in captured


@pytest.mark.parametrize(
    ("args", "videos", "models"),
    [
        ("probe MODEL videos", "videos", "MODEL"),
        ("probe MODEL videos --steps 1", None, None),
        ("probe videos --model MODEL", "videos", "MODEL"),
        ("predict MODEL a.mp4", ("a.mp4",), ("MODEL",)),
        ("predict MODEL OTHER a.mp4 b.mp4 --json", ("a.mp4", "b.mp4"), ("MODEL", "OTHER")),
        ("predict MODEL vjepa2-vitl a.mp4", ("a.mp4",), ("MODEL", "vjepa2-vitl")),
        ("predict a.mp4 b.mp4 --model MODEL OTHER", ("a.mp4", "b.mp4"), ("MODEL", "OTHER")),
        ("predict a.mp4 b.mp4", ("a.mp4", "b.mp4"), ()),
        ("evaluate MODEL videos", "videos", ("MODEL",)),
        ("evaluate MODEL OTHER videos --label x", "videos", ("MODEL", "OTHER")),
        ("evaluate MODEL OTHER --data videos", "videos", ("MODEL", "OTHER")),
        ("evaluate videos --model MODEL OTHER", "videos", ("MODEL", "OTHER")),
        ("evaluate videos", "videos", ()),
    ],
)
def test_videos_come_first_and_the_old_order_is_understood_with_a_warning(
    args: str, videos: object, models: object, tmp_path: Path
) -> None:
    places = {}
    for name in ("MODEL", "OTHER"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.yaml").touch()
        places[name] = str(tmp_path / name)
    words = [places.get(word, word) for word in args.split()]
    [verb] = [verb for verb in VERBS if verb.words == words[0]]
    if videos is None:
        with pytest.raises(ConfigError, match="unknown option --steps"):
            parse(verb, words[1:])
        return
    request = parse(verb, words[1:])
    expected = tuple(places.get(m, m) for m in models) if isinstance(models, tuple) else places[str(models)]
    assert getattr(request.config, verb.positional[0]) == videos
    assert request.config.model == expected
    if "--model" in words or not models:
        assert request.notes == ()
    else:
        (note,) = request.notes
        assert note.startswith(f"models are given with --model now: `vjepa {verb.words} ")
        assert note.endswith("--model " + " ".join(expected if isinstance(expected, tuple) else [expected]) + "`")


def documented_commands() -> list[str]:
    """Command lines in code blocks of the README and the documentation, and the examples of help."""
    root, found = Path(__file__).parents[1], [example for verb in VERBS for example in verb.examples]
    for page in (root / "README.md", *sorted((root / "docs").rglob("*.md"))):
        for block in re.findall(
            r"```(?:sh|bash|console)?\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL
        ):
            lines = block.replace("\\\n", " ").splitlines()
            found += [line for line in lines if re.match(r"(torchrun .*)?vjepa [a-z]", line)]
    return found


@pytest.mark.parametrize("command", documented_commands())
def test_documented_commands_are_understood(command: str) -> None:
    words = shlex.split(command, comments=True)
    words = words[words.index("vjepa") + 1 :]
    for verb in VERBS:
        names = verb.words.split()
        if words[: len(names)] == names:
            given = words[len(names) :]
            if "--config" in given:  # of a run that is not there
                given[given.index("--config") : given.index("--config") + 2] = []
            assert parse(verb, [word for word in given if word not in (">", "|")]).notes == ()
            return
    raise AssertionError(f"no command: {command}")
