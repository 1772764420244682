"""The command line from outside: exit codes, one-line errors, help without heavy imports."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from openvjepa.cli import main
from openvjepa.cli.parsing import parse
from openvjepa.cli.verbs import VERBS, Verb, find
from openvjepa.config import PRESETS, DemoConfig, ModelConfig, PretrainConfig, to_yaml
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


def test_overview_names_every_verb_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from openvjepa.cli import main; main(['--help']); "
        "print([m for m in ('torch', 'numpy', 'av', 'tyro', 'pydantic', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
    for verb in VERBS:
        assert f"  {verb.words} " in out


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


def test_help_of_pretrain_does_not_import_torch() -> None:
    code = (
        "import sys; from openvjepa.cli import main\n"
        "try: main(['pretrain', '--help'])\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "False"


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


def test_unknown_flag_is_a_usage_error_that_suggests_a_near_one() -> None:
    result = vjepa("pretrain", "videos", "--stps", "3")
    assert result.returncode == 2
    assert "--steps" in result.stderr
    assert "Traceback" not in result.stderr


def test_wrong_type_is_a_usage_error() -> None:
    result = vjepa("pretrain", "videos", "--steps", "many")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_unknown_config_key(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("optim:\n  learning_rate: 1\n", encoding="utf-8")
    assert_one_line_error(vjepa("pretrain", "videos", "--config", file), "run.yaml", "learning_rate")


def test_config_that_is_not_yaml(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("a: [1,\nb", encoding="utf-8")
    assert_one_line_error(vjepa("pretrain", "videos", "--config", file), "run.yaml", "YAML")


def test_missing_config_file(tmp_path: Path) -> None:
    assert_one_line_error(vjepa("pretrain", "videos", "--config", tmp_path / "no.yaml"), "no.yaml")


def test_impossible_geometry() -> None:
    assert_one_line_error(vjepa("pretrain", "videos", "--img-size", "64", "90"), "64 x 90 px")


def test_unknown_preset_names_the_known_ones() -> None:
    assert_one_line_error(vjepa("pretrain", "videos", "--preset", "vitl"), "vitl", *PRESETS)


def test_preset_and_config_together(tmp_path: Path) -> None:
    result = vjepa("pretrain", "videos", "--preset", "vitl16", "--config", tmp_path / "x.yaml")
    assert_one_line_error(result, "--preset or --config")


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


def test_flag_without_its_value() -> None:
    with pytest.raises(ConfigError, match="--config needs a value"):
        parsed("pretrain", ["--config"])


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
