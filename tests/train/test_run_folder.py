"""The run folder: never written over silently, held by one process at a time, and only a run's own files are deleted."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from openvjepa.config import TrainConfig
from openvjepa.errors import ConfigError
from openvjepa.train.logs import read_metrics
from openvjepa.train.run_folder import DEMO_MARK, DEMO_PARTS, locked, open_run, start_demo

SHORT = {"steps": 2, "batch_size": 8, "device": "cpu", "precision": "fp32", "threads": 1, "log_every": 1}


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def start(path: Path, **settings: bool) -> None:
    with open_run(path, **settings) as folder:
        folder.start()


def test_a_run_is_never_overwritten_silently(tmp_path: Path, tiny: ModuleType) -> None:
    tiny.run(tmp_path, TrainConfig(**SHORT))
    before = read_metrics(tmp_path / "metrics.jsonl")
    with pytest.raises(ConfigError, match=r"already holds a run: add --resume .* --overwrite"):
        tiny.run(tmp_path, TrainConfig(**SHORT))
    assert read_metrics(tmp_path / "metrics.jsonl") == before
    with pytest.raises(ConfigError, match="exclude each other"):
        start(tmp_path, resume=True, overwrite=True)


def test_overwrite_deletes_what_a_run_wrote_and_nothing_else(tmp_path: Path, tiny: ModuleType) -> None:
    tiny.run(tmp_path, TrainConfig(**SHORT))
    for name in ("model.yaml", "model.safetensors", "report.html", "results.json", "splits.csv", "confusion.png"):
        (tmp_path / name).write_text("of a run")
    mine = ["notes.txt", "README.md", "checkpoints/mine.safetensors", "tensorboard/mine.txt", "features/a.bin"]
    for name in mine:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    start(tmp_path, overwrite=True)
    assert files(tmp_path) == sorted([*mine, "final-0.pt"])
    (tmp_path / "config.yaml").write_text("of the new run")
    start(tmp_path, overwrite=True)  # fit asks again
    assert (tmp_path / "config.yaml").exists()


def test_a_model_card_goes_with_its_run(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    start(tmp_path, overwrite=True)
    assert files(tmp_path) == []


def test_a_folder_that_holds_no_run_loses_nothing(tmp_path: Path) -> None:
    for name in ("config.yaml", "model.safetensors", "checkpoints/other.pt", "tensorboard/events.out.tfevents.1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match="holds a model that is not from a run"):
        start(tmp_path, overwrite=True)
    assert len(files(tmp_path)) == 4
    (tmp_path / "model.safetensors").unlink()
    start(tmp_path, overwrite=True)
    assert len(files(tmp_path)) == 3


def test_a_run_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be used as a run folder"):
        start(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"


def test_a_run_that_wrote_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_run(tmp_path / "run"):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    start(tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_one_thread_may_open_it_twice_and_no_other(tmp_path: Path) -> None:
    refused: list[str] = []

    def other() -> None:
        try:
            start(tmp_path)
        except ConfigError as error:
            refused.append(str(error))

    with open_run(tmp_path):
        start(tmp_path)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert refused == [f"{tmp_path}: another run is using this folder: wait until it is done, or choose another folder"]
    start(tmp_path)
    assert files(tmp_path) == []


HOLDER = """
import sys, time
from multiprocessing import get_context
from pathlib import Path
from openvjepa.train.run_folder import open_run
with open_run(sys.argv[1]):
    if sys.argv[2:]:  # as a loader's process, which outlives its parent for some seconds
        get_context("fork").Process(target=time.sleep, args=(20,), daemon=True).start()
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("ending", ["end", "kill"])
def test_two_processes_never_share_a_folder(tmp_path: Path, ending: str) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    if ending == "kill" and os.name != "nt":
        command.append("fork")
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        for settings in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(ConfigError, match="another run is using this folder"):
                start(tmp_path / "run", **settings)
        if ending == "kill":
            process.kill()
        process.stdin.close()
        process.wait(timeout=60)
        start(tmp_path / "run")  # at once
        assert (tmp_path / "run").is_dir() == (ending == "kill")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_only_a_demo_is_cleared(tmp_path: Path) -> None:
    start_demo(tmp_path)
    for name in DEMO_PARTS:
        path = tmp_path / name.replace("*", "motion")
        if "." in name:
            path.write_text("x")
        else:
            path.mkdir()
            (path / "file").write_text("x")
    (tmp_path / "mine.txt").write_text("mine")
    with locked(tmp_path):
        start_demo(tmp_path)
    assert set(files(tmp_path)) == {"mine.txt", DEMO_MARK}
    start_demo(tmp_path / "new")


def test_runs_beside_shapes_are_no_demo(tmp_path: Path) -> None:
    for name in ("shapes", "pretrain", "probe-mine"):  # the default folders of make-shapes and pretrain
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    before = files(tmp_path)
    with pytest.raises(ConfigError, match="is not a demo"), locked(tmp_path):
        start_demo(tmp_path)
    assert files(tmp_path) == before
