"""Wrong command lines of every command: one line on stderr, status 1 or 2, no traceback, and nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openvjepa.cli.main import main
from openvjepa.cli.verbs import VERBS

MUST = "must be given: `vjepa"
CASES = [
    ("demo --out FILE", 1, "FILE: "),
    ("demo --out OUT --few 1 --train 1 --videos 1", 2, "few 1: give at least 48"),
    ("data check EMPTY", 1, "EMPTY: "),
    ("data check NAME", 1, "NAME: no such file or folder"),
    ("data make-shapes FILE --train 1", 1, "FILE"),
    ("data make-shapes OUT --size 15", 2, "size 15"),
    ("data make-physics FILE/below --train 1", 1, "FILE/below"),
    ("data prepare SHAPES SHAPES", 1, "shapes"),
    ("distill", 2, MUST),
    ("data split EMPTY --out OUT.csv", 1, "EMPTY"),
    ("data prepare EMPTY OUT", 1, "EMPTY: "),
    ("pretrain", 2, f"SOURCES {MUST}"),
    ("pretrain SHAPES --out FILE", 1, "FILE: "),
    ("pretrain SHAPES --out OUT --device quantum", 2, "device 'quantum' is unknown: choose from auto, cpu"),
    ("pretrain SHAPES --out OUT --device cud", 2, "device 'cud' is unknown: did you mean cuda?"),
    ("pretrain SHAPES --config INDEX", 2, "index.csv: not a configuration: give settings as `name: value`"),
    ("pretrain SHAPES --config EMPTY", 2, "EMPTY: cannot be read as YAML"),
    ("pretrain SHAPES --out OUT --batch-size 1000000000 --device cpu", 1, "the frames of 1000000000 clips take"),
    ("pretrain SHAPES --out OUT --depth 1024 --embed-dim 65536 --num-heads 1 --device cpu", 1, "take at least"),
    ("pretrain SHAPES --out OUT --init EMPTY", 1, "EMPTY: no model.safetensors"),
    ("train", 2, f"SOURCE {MUST}"),
    ("train SHAPES --label motion --out FILE", 1, "FILE: "),
    ("probe SHAPES", 2, f"--model {MUST}"),
    ("probe --model SAVED", 2, f"SOURCE {MUST}"),
    ("probe SHAPES --model FILE --label motion --out OUT", 1, "FILE: cannot be read"),
    ("finetune SHAPES --out OUT", 2, f"--model {MUST}"),
    ("predict", 2, f"VIDEOS and --model {MUST}"),
    ("predict VIDEO --model SAVED", 1, "classifier"),
    ("predict VIDEO --model SAVED --window 1 --csv FILE/x.csv", 1, "FILE: "),
    ("predict VIDEO --model SAVED --window 1 --annotate EMPTY", 1, "annotate EMPTY"),
    ("evaluate SHAPES --model SAVED --out FILE", 1, "FILE: "),
    ("evaluate SHAPES", 2, f"--model {MUST}"),
    ("embed SHAPES --model SAVED --out FILE/x.npz", 1, "FILE: "),
    ("embed SHAPES --model SAVED --out OUT.doc", 1, "OUT.doc"),
    ("show VIDEO --model SAVED --out FILE/below", 1, "FILE/below: "),
    ("show VIDEO --model SAVED --out OUT --short-side 16384", 1, "choose a smaller short_side"),
    ("track VIDEO --model SAVED --out OUT --points 1,nan", 1, "points 1,nan: write each as x,y in pixels"),
    ("track VIDEO --model SAVED --out OUT --points 1,inf", 1, "points 1,inf: write each as x,y in pixels"),
    ("track VIDEO --model SAVED --out OUT --points 500,1", 1, "inside the frame of 32 x 32 px"),
    ("surprise VIDEO --model SAVED --out FILE", 1, "FILE: "),
    ("surprise VIDEO --model SAVED --out OUT", 1, "predictor"),
    ("decode VIDEO", 2, f"--model {MUST}"),
    ("compare", 2, f"RUNS {MUST}"),
    ("compare FILE --out OUT", 1, "FILE: "),
    ("compare FILE --out EMPTY", 1, "EMPTY: is a folder"),
    ("models ../etc", 1, "../etc: no published model has this name"),
    ("convert SAVED FILE --to openvjepa", 1, "FILE: "),
    ("convert NAME OUT --to hf", 1, "NAME: no such file or folder"),
    ("export SAVED FILE --to onnx", 1, "FILE: "),
    ("bench --models vit_femto --out FILE/x", 1, "FILE: "),
]


@pytest.mark.parametrize(("line", "status", "words"), CASES, ids=[case[0] for case in CASES])
def test_one_line_and_nothing_written(
    line: str,
    status: int,
    words: str,
    shapes: Path,
    saved: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("OPENVJEPA_DEBUG", raising=False)
    here = tmp_path / "ein Ördner"
    here.mkdir()
    (here / "FILE").write_text("")
    (here / "EMPTY").mkdir()
    monkeypatch.chdir(here)
    names = {
        "SHAPES": str(shapes),
        "INDEX": str(shapes / "index.csv"),
        "VIDEO": str(sorted((shapes / "videos").iterdir())[0]),
        "SAVED": str(saved),
        "NAME": "нет такого",
    }
    assert main([names.get(word, word) for word in line.split()]) == status
    out, err = capsys.readouterr()
    assert out == ""
    (said,) = [text for text in err.splitlines() if text.startswith("vjepa: error: ")]
    assert err.endswith(f"{said}\n")
    assert words.replace("NAME", names["NAME"]) in said
    assert "Traceback" not in err
    assert (here / "FILE").read_text() == ""
    assert {path.name for path in here.iterdir()} == {"FILE", "EMPTY"}
    assert not list((here / "EMPTY").iterdir())


def test_every_command_has_a_case() -> None:
    missing = [verb.words for verb in VERBS if not any(case[0].startswith(verb.words) for case in CASES)]
    assert not missing


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried", "out of memory"),
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "a process that loads data was ended"),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "choose fewer --workers"),
    ],
)
def test_limits_of_the_machine_are_one_line(
    text: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(config: object) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr("openvjepa.commands.demo.demo", fail)
    assert main(["demo"]) == 1
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    text = "a mistake of ours"
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        main(["demo"])


def test_results_for_programs_are_json_whatever_they_hold(capsys: pytest.CaptureFixture[str]) -> None:
    from openvjepa.cli.console import say_json

    say_json([{"probability": float("nan")}])
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == [{"probability": None}]


def test_a_row_of_a_table_in_a_pipe_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    from openvjepa.cli.console import show

    table = Table("video", "class")
    path = "/" + "/".join(["a folder with a long name"] * 30) + "/x.mp4"
    table.add_row(path, "left")
    show(table)
    (row,) = [line for line in capsys.readouterr().out.splitlines() if ".mp4" in line]
    assert path in row
    assert "left" in row
