"""Signals, failures and several processes: whatever ends a run, it is saved, in agreement, and says so in one line."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.distributed as dist

from openvjepa.config import TrainConfig
from openvjepa.errors import ConfigError
from openvjepa.interrupts import STOP_SIGNALS, StopSignals, leave_signals_to_parent
from openvjepa.train.checkpoint import list_checkpoints, load_newest
from openvjepa.train.logs import read_metrics

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
gloo = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are ended with the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny: ModuleType) -> dict[str, torch.Tensor]:
    """The weights at the end of a run that nothing disturbed, without dropout."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    tiny.run(run_dir, TrainConfig(steps=12, batch_size=8, device="cpu", precision="fp32", threads=1), dropout=0.0)
    return torch.load(run_dir / "final-0.pt")


def start(
    processes: list[subprocess.Popen[str]], command: Sequence[str], env: dict[str, str], *args: str
) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    process = subprocess.Popen([*command, "--dropout", "0", *args], env=env, stdout=pipe, stderr=pipe, text=True)
    processes.append(process)
    return process


def start_two(
    processes: list[subprocess.Popen[str]],
    command: Sequence[str],
    env: dict[str, str],
    one: Sequence[str],
    two: Sequence[str],
) -> list[subprocess.Popen[str]]:
    """Two processes of one run, each with its own arguments, as on two machines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = env | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    each = [(rank, args) for rank, args in enumerate((one, two))]
    return [start(processes, command, env | {"RANK": str(rank)}, *args) for rank, args in each]


def wait_for_line(run_dir: Path, process: subprocess.Popen[str], lines: int = 2) -> None:
    """Until the run has written to its record."""
    for _ in range(1200):
        if len(read_metrics(run_dir / "metrics.jsonl")) >= lines:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("the run does not start")


def goes_on(
    run_dir: Path, command: Sequence[str], env: dict[str, str], whole: dict[str, torch.Tensor], atol: float = 0.0
) -> None:
    """The run is resumed by one process and ends as one that nothing disturbed."""
    arguments = [*command, str(run_dir), "--dropout", "0", "--resume"]
    subprocess.run(arguments, env=env, capture_output=True, timeout=60, check=True)
    end = torch.load(run_dir / "final-0.pt")
    for name, weight in whole.items():
        torch.testing.assert_close(end[name], weight, rtol=0, atol=atol)


@pytest.mark.parametrize(
    "name",
    ["SIGTERM", *(pytest.param(name, marks=pytest.mark.slow) for name in ("SIGINT", "SIGHUP", "SIGUSR1"))],
)
def test_every_stop_signal_saves(
    tmp_path: Path,
    processes: list[subprocess.Popen[str]],
    tiny_command: list[str],
    quiet_env: dict[str, str],
    whole: dict[str, torch.Tensor],
    name: str,
) -> None:
    run_dir, number = tmp_path / "run", getattr(signal, name)
    process = start(processes, tiny_command, quiet_env, str(run_dir), "--pause", "0.1")
    wait_for_line(run_dir, process)
    process.send_signal(number)
    process.send_signal(number)  # torchrun and srun may pass on a second copy
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    step = load_newest(run_dir / "checkpoints")["step"]
    assert f"Interrupted at step {step}, saved in {run_dir}. To continue," in out
    assert 2 <= step < 12
    goes_on(run_dir, tiny_command, quiet_env, whole)


def test_a_second_signal_ends_at_once(
    tmp_path: Path, processes: list[subprocess.Popen[str]], tiny_command: list[str], quiet_env: dict[str, str]
) -> None:
    process = start(processes, tiny_command, quiet_env, str(tmp_path / "run"), "--pause", "60")
    wait_for_line(tmp_path / "run", process, lines=1)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(1.5)
    assert process.poll() is None  # the step is to be finished
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in out + err
    assert "stopped at once" in out


def test_a_late_copy_of_torchrun_does_not_end_a_process_before_it_saves(
    tmp_path: Path, processes: list[subprocess.Popen[str]], tiny_command: list[str], quiet_env: dict[str, str]
) -> None:
    run_dir, env = tmp_path / "run", quiet_env | {"TORCHELASTIC_RUN_ID": "none"}
    process = start(processes, tiny_command, env, str(run_dir), "--pause", "4")
    wait_for_line(run_dir, process, lines=1)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(1.3)
    process.send_signal(signal.SIGTERM)  # torchrun, after another process has ended
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped at once" not in out + err
    assert "Interrupted at step 1, saved in" in out
    assert load_newest(run_dir / "checkpoints")["step"] == 1


def test_under_torchrun_a_third_signal_ends_at_once(
    tmp_path: Path, processes: list[subprocess.Popen[str]], tiny_command: list[str], quiet_env: dict[str, str]
) -> None:
    env = quiet_env | {"TORCHELASTIC_RUN_ID": "none"}
    process = start(processes, tiny_command, env, str(tmp_path / "run"), "--pause", "60")
    wait_for_line(tmp_path / "run", process, lines=1)
    time.sleep(0.3)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(1.3)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert "stopped at once" in process.communicate(timeout=10)[0]
    assert process.returncode == 143


def test_signals_that_others_handle_are_left_alone() -> None:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    seen: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
            assert signals.number == 0
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.number == signal.SIGTERM
        assert seen == [signal.SIGUSR1]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    with StopSignals():
        pass
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before


def test_a_loader_process_survives_signals_to_the_group() -> None:
    process = os.fork()
    if not process:
        leave_signals_to_parent()
        for number in STOP_SIGNALS:
            os.kill(os.getpid(), number)
        os._exit(signal.alarm(0))  # seconds that SIGTERM has left it
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert 50 < status <= 60


@pytest.mark.slow
@gloo
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_torchrun_passes_signals_on_and_the_run_is_saved(
    tmp_path: Path,
    processes: list[subprocess.Popen[str]],
    tiny_command: list[str],
    quiet_env: dict[str, str],
    whole: dict[str, torch.Tensor],
    number: signal.Signals,
) -> None:
    run_dir = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    process = start(processes, [*torchrun, tiny_command[1]], quiet_env, str(run_dir), "--pause", "0.1")
    wait_for_line(run_dir, process)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    (file,) = list_checkpoints(run_dir / "checkpoints")[-1:]
    step = load_newest(run_dir / "checkpoints")["step"]
    assert f"Interrupted at step {step}, saved" in out
    assert file.name == f"step-{step:08d}.pt"
    assert 2 <= step < 12
    goes_on(run_dir, tiny_command, quiet_env, whole, atol=1e-6)


@pytest.mark.slow
@gloo
def test_a_signal_to_one_process_stops_all_at_one_step(
    tmp_path: Path,
    processes: list[subprocess.Popen[str]],
    tiny_command: list[str],
    quiet_env: dict[str, str],
    whole: dict[str, torch.Tensor],
) -> None:
    run_dir = tmp_path / "run"
    args = [str(run_dir), "--pause", "0.1"]
    pair = start_two(processes, tiny_command, quiet_env, args, args)
    wait_for_line(run_dir, pair[0])
    pair[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=60) for process in pair]
    assert [process.returncode for process in pair] == [143, 143]
    step = load_newest(run_dir / "checkpoints")["step"]
    assert [out.splitlines()[-1] for out, _ in said] == [f"interrupted {step}"] * 2
    ends = [torch.load(run_dir / f"final-{rank}.pt") for rank in (0, 1)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    goes_on(run_dir, tiny_command, quiet_env, whole, atol=1e-6)


@pytest.mark.slow
@gloo
@pytest.mark.parametrize("how", ["data", "kill"])
def test_what_ends_one_process_ends_the_other_with_a_save(
    tmp_path: Path,
    processes: list[subprocess.Popen[str]],
    tiny_command: list[str],
    quiet_env: dict[str, str],
    whole: dict[str, torch.Tensor],
    how: str,
) -> None:
    run_dir = tmp_path / "run"
    args = [str(run_dir), "--pause", "0.1"]
    pair = start_two(processes, tiny_command, quiet_env, args, [*args, *(["--fail-after", "4"] * (how == "data"))])
    if how == "kill":
        wait_for_line(run_dir, pair[0], lines=3)
        pair[1].kill()
    said = [process.communicate(timeout=60)[1].strip().splitlines()[-1:] for process in pair]
    step = load_newest(run_dir / "checkpoints")["step"]
    if how == "data":
        assert step == 4
        assert said == [["error: process 1: a.mp4: cannot be read"]] * 2
    else:
        assert said[0] == [
            f"error: another process of the run has stopped; stopping at step {step}, the last checkpoint is of step "
            f"{step}: continue with --resume"
        ]
    assert pair[0].returncode == 1
    goes_on(run_dir, tiny_command, quiet_env, whole, atol=1e-6)


@pytest.mark.slow
@gloo
def test_machines_need_no_common_folder_to_resume(
    tmp_path: Path,
    processes: list[subprocess.Popen[str]],
    tiny_command: list[str],
    quiet_env: dict[str, str],
    tiny: ModuleType,
    whole: dict[str, torch.Tensor],
) -> None:
    """The second process has an older checkpoint, of other weights, in a folder of its own."""
    train = TrainConfig(steps=12, batch_size=8, device="cpu", precision="fp32", threads=1, save_every=3, keep_last=4)
    tiny.run(tmp_path / "one", train, dropout=0.0)
    list_checkpoints(tmp_path / "one/checkpoints")[-1].unlink()
    tiny.run(tmp_path / "two", train, dropout=0.5)
    for path in list_checkpoints(tmp_path / "two/checkpoints")[1:]:
        path.unlink()
    steps = [load_newest(tmp_path / name / "checkpoints")["step"] for name in ("one", "two")]
    assert steps == [9, 3]
    args = [[str(tmp_path / name), "--resume"] for name in ("one", "two")]
    pair = start_two(processes, tiny_command, quiet_env, *args)
    for process in pair:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    for rank, name in enumerate(("one", "two")):
        end = torch.load(tmp_path / name / f"final-{rank}.pt")
        for key, weight in whole.items():
            torch.testing.assert_close(end[key], weight, rtol=0, atol=1e-6)


@pytest.mark.slow
@gloo
@pytest.mark.parametrize("what", ["settings", "folder", "checkpoint"])
def test_an_error_is_one_line_in_all_processes(
    tmp_path: Path,
    processes: list[subprocess.Popen[str]],
    tiny_command: list[str],
    quiet_env: dict[str, str],
    tiny: ModuleType,
    what: str,
) -> None:
    run_dir = tmp_path / "run"
    one, two = [str(run_dir)], [str(run_dir)]
    message = "the processes were started with different settings: optim.lr is 0.5 in process 1, 0.02 in process 0"
    if what == "settings":
        two += ["--learning-rate", "0.5"]
    else:
        tiny.run(run_dir, TrainConfig(steps=12, batch_size=8, device="cpu", precision="fp32", threads=1))
        message = "already holds a run: add --resume to go on"
    if what == "checkpoint":
        one, two = [*one, "--resume", "--width", "9"], [*two, "--resume", "--width", "9"]
        message = "does not fit this model (size mismatch for"
    for process in start_two(processes, tiny_command, quiet_env, one, two):
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        lines = [line for line in err.splitlines() if line.startswith("error:") or "Traceback" in line]
        assert len(lines) == 1, err
        assert message in lines[0]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"WORLD_SIZE": "2"},
            "WORLD_SIZE=2 but no RANK, MASTER_ADDR, MASTER_PORT: unset WORLD_SIZE to run one process",
        ),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', not a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "RANK=2 is not below WORLD_SIZE=2"),
    ],
)
def test_a_stray_variable_does_not_hang(
    tmp_path: Path, tiny: ModuleType, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        tiny.run(tmp_path, TrainConfig(steps=1, device="cpu"))
