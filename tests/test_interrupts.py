"""One answer to signals, in every command: one line, status 128 + the signal, nothing half-written, no process left behind."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from openvjepa.cli.main import main
from openvjepa.config import ShapesConfig
from openvjepa.data.media.video import Video, open_video
from openvjepa.data.rendered.synthetic import make_shapes
from openvjepa.interrupts import STOP_SIGNALS, RaisedSignals, StopRequest, StopSignals
from openvjepa.train.checkpoint import load_newest
from openvjepa.train.logs import read_metrics

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
VJEPA = (sys.executable, "-m", "openvjepa")
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command line in a process group of its own, which is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(args: Sequence[str], **options: object) -> subprocess.Popen[str]:
        with (tmp_path / f"stderr-{len(started)}").open("w") as err:
            process = subprocess.Popen(
                args, stdout=subprocess.DEVNULL, stderr=err, text=True, start_new_session=True, env=environment()
            )
        started.append(process)
        return process

    yield begin
    for process in started:
        for end in (lambda p=process: os.killpg(p.pid, signal.SIGKILL), process.wait):
            with contextlib.suppress(ProcessLookupError):
                end()


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def wait_until(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(3000):
        if there():
            return
        assert process.poll() is None, "it has ended"
        time.sleep(0.02)
    raise AssertionError("it does not get there")


def ended(process: subprocess.Popen[str], number: int, err: Path, *, group: bool) -> str:
    """Send a signal to a process, or to its group as a terminal does; returns what was its last word."""
    (os.killpg if group else os.kill)(process.pid, number)
    assert process.wait(timeout=60) == 128 + number
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("a process is left behind")
    text = err.read_text()
    assert "Traceback" not in text
    said = [line for line in text.splitlines() if line.startswith("vjepa: interrupted")]
    assert text.splitlines()[-1:] == said
    return said[0]


def contents(folder: Path) -> dict[str, str]:
    """Relative path -> sha256, of all files but locks and what depends on the time."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != "prepare.jsonl"
    }


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 24 videos whose copies take about a tenth of a second each."""
    out = tmp_path_factory.mktemp("videos")
    make_shapes(ShapesConfig(out=str(out), train=24, val=0, test=0, size=160, frames=40), workers=1)
    return out / "videos"


@pytest.fixture(scope="module")
def copies(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an undisturbed run writes."""
    out = tmp_path_factory.mktemp("copies") / "out"
    subprocess.run([*VJEPA, "data", "prepare", str(videos), str(out)], check=True, capture_output=True)
    return contents(out)


@pytest.mark.parametrize("name", NAMES)
def test_data_prepare_goes_on_where_a_signal_ended_it(
    tmp_path: Path,
    videos: Path,
    copies: dict[str, str],
    start: Callable[..., subprocess.Popen[str]],
    name: str,
) -> None:
    out = tmp_path / "out"
    command = [*VJEPA, "data", "prepare", str(videos), str(out), "--workers", "2"]
    process = start(command)
    wait_until(lambda: len(list(out.glob("*.mp4"))) >= 3, process)
    group = name in ("SIGINT", "SIGHUP")
    said = ended(process, getattr(signal, name), tmp_path / "stderr-0", group=group)
    assert said == "vjepa: interrupted: repeat the command to continue"
    assert list(out.rglob("*.part")) == []
    done = sorted(out.glob("*.mp4"))
    assert 3 <= len(done) < 24
    before = {path: path.stat().st_mtime_ns for path in done}
    assert (out / "index.csv").read_text().splitlines() == ["path"]
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert contents(out) == copies
    kept = sum(path.stat().st_mtime_ns == before[path] for path in done)
    assert kept >= len(done) - 2  # one that each process had just written is not in the journal yet
    assert f"{kept} already done" in again.stdout


@pytest.mark.parametrize("words", [["data", "check", "VIDEOS"], ["data", "make-shapes", "OUT", "--size", "160"]])
def test_processes_of_a_pool_end_with_their_parent(
    tmp_path: Path, videos: Path, start: Callable[..., subprocess.Popen[str]], words: list[str]
) -> None:
    """Also when it is killed, and cannot end them."""
    many = tmp_path / "many"
    many.mkdir()
    for number in range(300):
        (many / f"{number}.mp4").symlink_to(next(videos.glob("*.mp4")))
    for number in (signal.SIGTERM, signal.SIGKILL):
        args = [str(many) if word == "VIDEOS" else str(tmp_path / "out") if word == "OUT" else word for word in words]
        process = start([*VJEPA, *args])
        wait_until(lambda p=process: len(children(p.pid)) >= min(2, os.cpu_count() or 1), process)
        time.sleep(0.3)
        if number == signal.SIGTERM:
            ended(process, number, tmp_path / "stderr-0", group=False)
        else:
            process.kill()
            process.wait()
            wait_until(lambda p=process: children(p.pid) == [], subprocess.Popen(["sleep", "20"]))


def test_rendered_videos_are_whole_or_not_there(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    """Also after a kill, at which two files are half-written."""
    process = start([*VJEPA, "data", "make-shapes", str(tmp_path / "out"), "--size", "320", "--frames", "48"])
    wait_until(lambda: len(list(tmp_path.glob("out/videos/*.mp4"))) >= 3, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for path in tmp_path.glob("out/videos/*.mp4"):
        assert open_video(str(path)).frame_count == 48
    assert not (tmp_path / "out" / "index.csv").exists()


def children(group: int) -> list[int]:
    """Processes of a group, but for its leader."""
    listed = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [int(pid) for pid, own, state in rows if own == str(group) != pid and "Z" not in state]


HOLDER = """
import os, sys, time
from openvjepa.interrupts import RaisedSignals, StopRequest
with RaisedSignals(print, lasting=True) as signals:
    try:
        print("ready", flush=True)
        time.sleep(60)
    except StopRequest as stop:
        print("stopped by", stop.number, flush=True)
        time.sleep(60)  # cleaning up takes long
"""


def test_a_second_signal_ends_at_once() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    out: IO[str] = process.stdout
    assert out.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert out.readline() == f"stopped by {int(signal.SIGTERM)}\n"
    process.send_signal(signal.SIGTERM)  # a copy of the first
    time.sleep(1.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    rest = out.read()
    assert process.wait(timeout=10) == 130
    out.close()
    assert "Traceback" not in rest


def press_and_wait(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(5)


def test_a_loop_takes_signals_over_and_gives_them_back() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with RaisedSignals(print) as outer:
        with StopSignals(announce=False) as inner:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
        assert (inner.number, outer.number) == (signal.SIGHUP, signal.SIGHUP)
    with pytest.raises(StopRequest) as caught, RaisedSignals(print):
        press_and_wait(signal.SIGUSR1)
    assert caught.value.number == signal.SIGUSR1
    assert isinstance(caught.value, KeyboardInterrupt)
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_a_forked_process_ends_as_if_nothing_were_handled() -> None:
    with RaisedSignals(print):
        process = os.fork()
        if not process:
            time.sleep(20)
            os._exit(0)
        time.sleep(0.1)
        os.kill(process, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGTERM


@pytest.mark.slow
def test_a_closed_terminal_does_not_lose_the_run(tmp_path: Path, shapes: Path) -> None:
    """SIGHUP comes, and from then on nothing can be written to the terminal."""
    import pty

    out, settings = tmp_path / "run", "--arch vit_femto --img-size 32 --num-frames 4 --frame-step 1 --predictor-depth 1"
    words = [
        *VJEPA,
        "pretrain",
        str(shapes),
        "--out",
        str(out),
        *settings.split(),
        "--steps",
        "5000",
        "--log-every",
        "2",
    ]
    words += [
        "--predictor-embed-dim",
        "48",
        "--batch-size",
        "4",
        "--workers",
        "1",
        "--threads",
        "1",
        "--monitor-every",
        "0",
    ]
    process, terminal = pty.fork()
    if not process:
        os.execve(sys.executable, words, environment())
    for _ in range(3000):
        if len(read_metrics(out / "metrics.jsonl")) >= 3:
            break
        os.set_blocking(terminal, False)
        try:
            os.read(terminal, 65536)
        except BlockingIOError:
            time.sleep(0.02)
    os.close(terminal)
    for _ in range(3000):
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            break
        time.sleep(0.02)
    else:
        os.kill(process, signal.SIGKILL)
        raise AssertionError("it does not end")
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    lines = read_metrics(out / "metrics.jsonl")
    assert load_newest(out / "checkpoints")["step"] >= lines[-1]["step"] >= 6


class Press:
    """A progress bar that sends a signal to this process when the second piece of work is done."""

    def __init__(self, number: int) -> None:
        self.number = number

    def update(self, done: int, total: int | None, figures: str) -> None:
        number, self.number = self.number, self.number if done < 2 else 0
        if number and done >= 2:
            os.kill(os.getpid(), number)

    def close(self) -> None:
        pass


ON_MODELS = {
    "probe": ("SIGTERM", ["--label", "motion", "--no-baselines"]),
    "finetune": ("SIGHUP", ["--label", "motion"]),
    "train": ("SIGINT", ["--label", "motion"]),
    "embed": ("SIGUSR1", ["--batch-size", "1"]),
    "show": ("SIGHUP", []),
    "surprise": ("SIGTERM", []),
    "decode": ("SIGINT", ["--fit", "VIDEOS"]),
}
AGAIN = {"finetune": ": repeat the command with --resume to continue", "embed": ": repeat the command to continue"}


@pytest.mark.parametrize("verb", ON_MODELS)
def test_commands_on_models_end_in_order(
    tmp_path: Path,
    shapes: Path,
    predictive: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
) -> None:
    name, options = ON_MODELS[verb]
    number, before = getattr(signal, name), [signal.getsignal(number) for number in STOP_SIGNALS]
    options = [str(shapes) if word == "VIDEOS" else word for word in options]
    out = tmp_path / ("out.npz" if verb == "embed" else "out")
    press = Press(number)
    command = [verb, str(shapes), "--model", str(predictive), *options, "--out", str(out), "--threads", "1"]
    with monkeypatch.context() as patched:
        patched.setattr("openvjepa.cli.console.report", lambda work: press)
        if verb in ("show", "decode"):  # which have no bars
            read, calls = Video.frames, itertools.count()
            patched.setattr(Video, "frames", lambda *args: press.update(next(calls), None, "") or read(*args))
        assert main(command) == 128 + number
    assert press.number == 0
    shown = capsys.readouterr()
    assert shown.err.splitlines()[-1] == f"vjepa: interrupted{AGAIN.get(verb, '')}"
    assert shown.err.count("interrupted") == 1
    assert shown.out == ""
    left = [path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()]
    assert set(left) <= {"out.npz.parts"}
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
    if verb == "embed":
        assert main(command) == 0
        assert main([*command[:-3], str(tmp_path / "whole.npz"), *command[-2:]]) == 0
        one, two = (np.load(tmp_path / f"{name}.npz")["features"] for name in ("out", "whole"))
        assert np.array_equal(one, two)
        assert len(one) == 88
