"""The loop: same numbers however a run is cut, stopped or split; nothing lost when it goes wrong."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from openvjepa.config import TrainConfig
from openvjepa.errors import CheckpointError, ConfigError, DataError, OpenVJEPAError
from openvjepa.train import trainer
from openvjepa.train.checkpoint import list_checkpoints, load_checkpoint, load_newest
from openvjepa.train.distributed import Runtime
from openvjepa.train.logs import TIMINGS, read_metrics
from openvjepa.train.optim import ema_momentum, learning_rate, weight_decay
from openvjepa.train.trainer import Task, accumulation, fit

CPU = Runtime(torch.device("cpu"), torch.float32, "test")


def settings(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "steps": 12, "batch_size": 8, "device": "cpu", "precision": "fp32", "threads": 1, "log_every": 2,
        "save_every": 5, "monitor_every": 4, "keep_last": 2,
    }  # fmt: skip
    return TrainConfig(**values | changes)


def record(run_dir: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what a clock decides."""
    lines = read_metrics(run_dir / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in lines]


def same_end(run_dir: Path, other: Path) -> None:
    """Both runs ended with the same bits: weights, target, optimizer, generator, record."""
    one, two = load_newest(run_dir / "checkpoints"), load_newest(other / "checkpoints")
    assert one.keys() == two.keys()
    assert one["step"] == two["step"] == 12
    for part in ("model", "rng"):
        assert all(torch.equal(value, two[part][name]) for name, value in one[part].items()), part
    assert one["optimizer"]["state"].keys() == two["optimizer"]["state"].keys()
    for number, moments in one["optimizer"]["state"].items():
        assert all(torch.equal(value, two["optimizer"]["state"][number][name]) for name, value in moments.items())
    assert record(run_dir) == record(other)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny: ModuleType) -> Path:
    """A run of 12 steps that nothing disturbed."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    result = tiny.run(run_dir, settings())
    assert (result.step, result.interrupted) == (12, False)
    return run_dir


# What a run leaves


def test_run_folder(whole: Path) -> None:
    assert [path.name for path in list_checkpoints(whole / "checkpoints")] == ["step-00000010.pt", "step-00000012.pt"]
    lines = read_metrics(whole / "metrics.jsonl")
    assert [line["step"] for line in lines] == [0, 2, 4, 6, 8, 10, 12]
    assert ["draw" in line for line in lines] == [True, False, True, False, True, False, True]
    assert {"loss", "error", "lr", "weight_decay", "grad_norm_encoder", "grad_norm_predictor", *TIMINGS} < lines[
        1
    ].keys()
    assert lines[-1]["loss"] < lines[1]["loss"] / 2
    assert list((whole / "tensorboard").glob("events.out.tfevents.*"))


def test_schedules_reach_the_optimizer_and_the_task(tmp_path: Path, tiny: ModuleType) -> None:
    task, optim, seen = tiny.TinyTask(), tiny.OPTIM, []
    groups = task.param_groups()

    def after_step(step: int) -> None:
        seen.append((step, [p.detach().clone() for p in groups[2]["params"]]))

    task.after_step = after_step
    batches = lambda step: tiny.micro_batches(step, steps=12, clips=8)  # noqa: E731
    fit(task, batches, optim=optim, train=settings(log_every=1), run_dir=tmp_path, runtime=CPU, config={})
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["lr"] for line in lines] == [learning_rate(step, optim, 12) for step in range(1, 13)]
    assert [line["weight_decay"] for line in lines] == [weight_decay(step, optim, 12) for step in range(1, 13)]
    assert [step for step, _ in seen] == list(range(12))  # counted from 0
    saved = load_newest(tmp_path / "checkpoints")["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in saved] == [weight_decay(12, optim, 12)] * 2 + [0.0, 0.0]
    tiny_task = tiny.TinyTask()
    fit(tiny_task, batches, optim=optim, train=settings(), run_dir=tmp_path / "2", runtime=CPU, config={})
    assert tiny_task.momenta == [ema_momentum(step, optim, 12) for step in range(12)]


def test_loop_is_the_one_written_out(tmp_path: Path, tiny: ModuleType) -> None:
    """The trainer against a few lines of plain PyTorch: schedules, clipping by module after the warm-up, AdamW, EMA."""
    task = tiny.TinyTask(dropout=0.0)
    plain = copy.deepcopy(task)
    batches = lambda step: tiny.micro_batches(step, steps=12, clips=8)  # noqa: E731
    fit(task, batches, optim=tiny.OPTIM, train=settings(), run_dir=tmp_path, runtime=CPU, config={})
    groups = plain.param_groups()
    optimizer = torch.optim.AdamW([{"params": group["params"]} for group in groups], betas=(0.9, 0.999), eps=1e-8)
    clipped = 0
    for step in range(12):
        for group, ours in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] = learning_rate(step + 1, tiny.OPTIM, 12)
            group["weight_decay"] = weight_decay(step + 1, tiny.OPTIM, 12) if ours["decay"] else 0.0
        plain(next(iter(batches(step))))["loss"].backward()
        for module in (plain.encoder, plain.predictor):
            norm = torch.sqrt(sum((p.grad.square().sum() for p in module.parameters()), torch.zeros(())))
            if step >= 2 and norm > 0.5:  # the warm-up is 0.2 of 12 steps
                clipped += 1
                for p in module.parameters():
                    p.grad.mul_(0.5 / norm)
        optimizer.step()
        optimizer.zero_grad()
        plain.after_step(step)
    assert 0 < clipped < 20
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(task.state_dict()[name], weight, rtol=0, atol=1e-5, msg=name)


# Gradient accumulation


def test_accumulated_micro_batches_are_one_large_batch(tmp_path: Path, tiny: ModuleType) -> None:
    for micro in (8, 4, 2, 1):
        tiny.run(tmp_path / str(micro), settings(micro_batch=micro), dropout=0.0)
    one = torch.load(tmp_path / "8/final-0.pt")
    for micro in (4, 2, 1):
        split = torch.load(tmp_path / f"{micro}/final-0.pt")
        for name, weight in one.items():
            torch.testing.assert_close(split[name], weight, rtol=0, atol=1e-6)
        for ours, theirs in zip(record(tmp_path / str(micro)), record(tmp_path / "8"), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize(
    ("batch_size", "micro_batch", "world_size", "expected"),
    [(16, None, 1, (16, 1)), (16, 4, 1, (4, 4)), (16, 4, 2, (4, 2)), (16, None, 4, (4, 1)), (3, 1, 3, (1, 1))],
)
def test_passes_in_a_step(batch_size: int, micro_batch: int | None, world_size: int, expected: tuple[int, int]) -> None:
    assert accumulation(TrainConfig(batch_size=batch_size, micro_batch=micro_batch), world_size) == expected


@pytest.mark.parametrize(
    ("batch_size", "micro_batch", "world_size"), [(16, 5, 1), (16, 16, 2), (2, None, 4), (7, None, 2)]
)
def test_batches_that_do_not_divide(batch_size: int, micro_batch: int | None, world_size: int) -> None:
    with pytest.raises(ConfigError, match=f"batch_size {batch_size} is not a multiple of micro_batch"):
        accumulation(TrainConfig(batch_size=batch_size, micro_batch=micro_batch), world_size)


# Stop and resume


class Stopped(Exception):
    """Ends a run as a crash would."""


@pytest.mark.parametrize("stop_at", [1, 4, 5, 6, 11])
def test_crash_and_resume_is_bit_for_bit(
    tmp_path: Path, tiny: ModuleType, whole: Path, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tiny.TinyTask.after_step

    def crash(task: Any, step: int) -> None:
        if step == stop_at:
            raise Stopped
        original(task, step)

    with monkeypatch.context() as patch:
        patch.setattr(tiny.TinyTask, "after_step", crash)
        with pytest.raises(Stopped):
            tiny.run(tmp_path, settings())
    torch.manual_seed(99)  # a new process has another state of the generator
    assert tiny.run(tmp_path, settings(resume=True)).step == 12
    same_end(tmp_path, whole)


@pytest.mark.parametrize("press_at", [0, 3, 7, 12])
def test_ctrl_c_saves_and_says_how_to_go_on(
    tmp_path: Path, tiny: ModuleType, whole: Path, press_at: int, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    original = tiny.micro_batches

    def pressed(step: int, **share: Any) -> Iterator[dict[str, Any]]:
        for number, batch in enumerate(original(step, **share), start=step):
            if number == press_at:
                torch.rand(3)  # what a half-done step draws must not count
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(tiny, "micro_batches", pressed)
        result = tiny.run(tmp_path, settings())
    assert (result.step, result.interrupted) == (press_at, press_at < 12)
    if press_at < 12:
        assert f"Interrupted at step {press_at}, saved in {tmp_path}. To continue," in (said := caplog.text)
        assert "--resume" in said
        assert list_checkpoints(tmp_path / "checkpoints")[-1].name == f"step-{press_at:08d}.pt"
        assert not tiny.run(tmp_path, settings(resume=True)).interrupted
    same_end(tmp_path, whole)


def test_an_interrupt_within_an_update_saves_no_half_of_it(tmp_path: Path, tiny: ModuleType) -> None:
    task = tiny.TinyTask()

    def fail(step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    task.after_step = fail
    batches = lambda step: tiny.micro_batches(step, steps=12, clips=8)  # noqa: E731
    train, optim, config = settings(), tiny.OPTIM, tiny.CONFIG
    result = fit(task, batches, optim=optim, train=train, run_dir=tmp_path, runtime=CPU, config=config)
    assert (result.step, result.interrupted) == (5, True)
    for path in list_checkpoints(tmp_path / "checkpoints"):
        state = load_checkpoint(path)
        assert {int(moments["step"]) for moments in state["optimizer"]["state"].values()} == {state["step"]}


def test_a_failure_of_the_loader_saves_the_last_step(
    tmp_path: Path, tiny: ModuleType, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tiny.micro_batches

    def killed(step: int, **share: Any) -> Iterator[dict[str, Any]]:
        for number, batch in enumerate(original(step, **share), start=step):
            if number == 7:
                raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(tiny, "micro_batches", killed)
        with pytest.raises(RuntimeError, match="DataLoader worker"):
            tiny.run(tmp_path, settings())
    assert list_checkpoints(tmp_path / "checkpoints")[-1].name == "step-00000007.pt"
    tiny.run(tmp_path, settings(resume=True))
    same_end(tmp_path, whole)


def test_ctrl_c_within_a_step_waits_for_its_end(tmp_path: Path, tiny: ModuleType, whole: Path) -> None:
    task = tiny.TinyTask()
    original = task.after_step

    def press(step: int) -> None:
        if step == 5:
            signal.raise_signal(signal.SIGINT)
        original(step)

    task.after_step = press
    batches = lambda step: tiny.micro_batches(step, steps=12, clips=8)  # noqa: E731
    look = lambda step: {"weight": task.predictor.weight.norm().item(), "draw": torch.rand(()).item()}  # noqa: E731
    result = fit(
        task,
        batches,
        optim=tiny.OPTIM,
        train=settings(),
        run_dir=tmp_path,
        runtime=CPU,
        config=tiny.CONFIG,
        monitor=look,
    )
    assert (result.step, result.interrupted) == (6, True)
    assert result.metrics["step"] == 6
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    tiny.run(tmp_path, settings(resume=True))
    same_end(tmp_path, whole)


@pytest.mark.parametrize("wait", [0.0, 0.12, 0.31])
def test_killed_at_any_moment_a_run_goes_on(
    tmp_path: Path, tiny_command: list[str], quiet_env: dict[str, str], whole: Path, wait: float
) -> None:
    run_dir = tmp_path / "run"
    command = [*tiny_command, str(run_dir)]
    process = subprocess.Popen([*command, "--pause", "0.05"], env=quiet_env, stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if (run_dir / "metrics.jsonl").exists() and len(read_metrics(run_dir / "metrics.jsonl")) > 1:
                break
            time.sleep(0.05)
        time.sleep(wait)
    finally:
        process.kill()  # SIGKILL: nothing can be tidied up
        process.wait()
    done = subprocess.run(
        [*command, "--resume"], env=quiet_env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("finished 12\n")
    same_end(run_dir, whole)
    assert not list(run_dir.rglob("*.part"))


@pytest.mark.skipif(os.name == "nt", reason="a process cannot send Ctrl-C to another on Windows")
def test_ctrl_c_from_outside(tmp_path: Path, tiny_command: list[str], quiet_env: dict[str, str], whole: Path) -> None:
    command = [*tiny_command, str(tmp_path / "run")]
    process = subprocess.Popen([*command, "--pause", "0.1"], env=quiet_env, stdout=subprocess.PIPE, text=True)
    try:
        while len(read_metrics(tmp_path / "run/metrics.jsonl")) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Interrupted at step" in said
    subprocess.run([*command, "--resume"], env=quiet_env, capture_output=True, timeout=60, check=True)
    same_end(tmp_path / "run", whole)


def test_a_finished_run_resumes_to_nothing(tmp_path: Path, tiny: ModuleType, whole: Path) -> None:
    first = tiny.run(tmp_path, settings())
    again = tiny.run(tmp_path, settings(resume=True))
    assert (again.step, again.metrics) == (12, first.metrics)
    same_end(tmp_path, whole)


def test_resume_falls_back_over_a_damaged_checkpoint(tmp_path: Path, tiny: ModuleType, whole: Path) -> None:
    tiny.run(tmp_path, settings())
    newest = list_checkpoints(tmp_path / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:2000])
    assert tiny.run(tmp_path, settings(resume=True)).step == 12
    same_end(tmp_path, whole)


def test_a_resumed_run_keeps_its_settings(tmp_path: Path, tiny: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.run(tmp_path, settings())
    changed = copy.deepcopy(tiny.CONFIG)
    changed["optim"]["lr"], changed["train"]["seed"], changed["data"]["fps"] = 0.1, 1, None
    changed["train"]["log_every"], changed["data"]["workers"], changed["data"]["new"] = 3, 4, True
    monkeypatch.setattr(tiny, "CONFIG", changed)
    with pytest.raises(ConfigError) as caught:
        tiny.run(tmp_path, settings(resume=True))
    assert "data.fps is None, was 4; optim.lr is 0.1, was 0.02; train.seed is 1, was 0: use" in str(caught.value)
    changed["optim"]["lr"], changed["train"]["seed"], changed["data"]["fps"] = 0.02, 0, 4
    assert tiny.run(tmp_path, settings(resume=True)).step == 12


def test_a_checkpoint_of_another_model(tmp_path: Path, tiny: ModuleType) -> None:
    tiny.run(tmp_path, settings())
    with pytest.raises(CheckpointError, match=r"does not fit this model .*size mismatch"):
        tiny.run(tmp_path, settings(resume=True), width=16)


# What goes wrong


class Bad(Task):
    """Loss or gradient stops being finite at step 6."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.weight, self.how, self.passes = nn.Parameter(torch.ones(2)), how, 0

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        self.passes += 1
        x = self.weight.sum()
        if self.passes == 7:
            x = x * float("nan") if self.how == "loss" else torch.sqrt(x - x.detach())  # 0, with an infinite slope
        return {"loss": x}

    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.weight], "decay": True, "module": "encoder"}]

    def after_step(self, step: int) -> None:
        pass


@pytest.mark.parametrize(("how", "name"), [("loss", "loss is nan"), ("gradient", "grad_norm_encoder is (inf|nan)")])
def test_not_finite_stops_before_the_weights(tmp_path: Path, tiny: ModuleType, how: str, name: str) -> None:
    task = Bad(how)
    loader = lambda step: ({} for _ in range(12))  # noqa: E731
    with pytest.raises(OpenVJEPAError, match=rf"^{name} at step 7: stopped .* last checkpoint is of step 5"):
        fit(task, loader, optim=tiny.OPTIM, train=settings(), run_dir=tmp_path, runtime=CPU, config={})
    assert torch.isfinite(task.weight).all()
    assert load_newest(tmp_path / "checkpoints")["step"] == 5
    assert [line["step"] for line in record(tmp_path)] == [2, 4, 6]


def test_loader_that_ends_early(tmp_path: Path, tiny: ModuleType) -> None:
    loader = lambda step: tiny.micro_batches(step, steps=3, clips=8)  # noqa: E731
    with pytest.raises(DataError, match="loader ended"):
        fit(tiny.TinyTask(), loader, optim=tiny.OPTIM, train=settings(), run_dir=tmp_path, runtime=CPU, config={})


@pytest.mark.skipif(os.name == "nt", reason="file sizes cannot be limited on Windows")
def test_full_disk_is_one_line_and_the_run_goes_on_later(
    tmp_path: Path, tiny_command: list[str], quiet_env: dict[str, str]
) -> None:
    command = [*tiny_command, str(tmp_path / "run"), "--width", "600"]
    done = subprocess.run(
        [*command, "--file-limit", "20000"], env=quiet_env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "step-00000005.pt: cannot be written (File too large); earlier checkpoints are intact" in done.stderr
    assert not list((tmp_path / "run/checkpoints").iterdir())
    subprocess.run([*command, "--resume"], env=quiet_env, capture_output=True, timeout=60, check=True)
    assert load_newest(tmp_path / "run/checkpoints")["step"] == 12


# Start and monitor


def test_resume_without_a_checkpoint_starts_at_zero(
    tmp_path: Path, tiny: ModuleType, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "openvjepa")
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 2, "loss": 1.0}) + "\n")
    tiny.run(tmp_path, settings(resume=True))
    assert "no checkpoint yet: starting at step 0" in caplog.text
    same_end(tmp_path, whole)


def test_the_monitor_does_not_touch_the_training(tmp_path: Path, tiny: ModuleType, whole: Path) -> None:
    quiet = dataclasses.replace(settings(), monitor_every=0)
    tiny.run(tmp_path, quiet)  # without monitor: its draws and its eval() would show
    one, two = torch.load(tmp_path / "final-0.pt"), torch.load(whole / "final-0.pt")
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    task = tiny.TinyTask()
    modes = []

    def look(step: int) -> dict[str, float]:
        modes.append(task.training)
        task.eval()
        return {"std": 1.0}

    batches = lambda step: tiny.micro_batches(step, steps=12, clips=8)  # noqa: E731
    fit(task, batches, optim=tiny.OPTIM, train=settings(), run_dir=tmp_path / "2", runtime=CPU, config={}, monitor=look)
    assert modes == [True] * 4
    assert all(torch.equal(value, two[name]) for name, value in task.state_dict().items())


def test_batches_go_to_the_device() -> None:
    batch = {"x": torch.ones(2), "parts": [torch.ones(1), [torch.ones(1)]], "bad": [("a.mp4", "torn")], "n": 3}
    (moved,) = trainer._on_device(lambda step: [batch], 0, torch.device("meta"))
    assert moved["x"].is_meta
    assert moved["parts"][1][0].is_meta
    assert moved["bad"] == [("a.mp4", "torn")]
    assert moved["n"] == 3


def test_an_fp16_run_goes_on_with_its_loss_scale(tmp_path: Path, tiny: ModuleType, whole: Path) -> None:
    tiny.run(tmp_path / "whole", settings(precision="fp16"))
    tiny.run(tmp_path / "cut", settings(precision="fp16", save_every=5))
    list_checkpoints(tmp_path / "cut/checkpoints")[-1].unlink()
    half = load_newest(tmp_path / "cut/checkpoints")
    assert half["step"] == 10
    assert half["scaler"]["_growth_tracker"] == 10
    tiny.run(tmp_path / "cut", settings(precision="fp16", resume=True))
    same_end(tmp_path / "whole", tmp_path / "cut")
    ends = [load_newest(tmp_path / name / "checkpoints")["scaler"] for name in ("whole", "cut")]
    assert ends[0] == ends[1]
    assert ends[0]["_growth_tracker"] == 12
    for ours, exact in zip(record(tmp_path / "whole")[1:], record(whole)[1:], strict=True):
        assert ours["loss"] == pytest.approx(exact["loss"], rel=0.02)
        assert ours["loss"] != exact["loss"]


# A GPU, where there is one


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["fp32", "auto", "fp16"])
def test_cuda_run_and_resume(tmp_path: Path, tiny: ModuleType, precision: str) -> None:
    on_gpu = {"device": "cuda", "precision": precision}
    assert tiny.run(tmp_path / "whole", settings(**on_gpu)).step == 12
    lines = record(tmp_path / "whole")
    assert lines[-1]["loss"] < lines[1]["loss"] / 2
    tiny.run(tmp_path / "cut", settings(**on_gpu))
    list_checkpoints(tmp_path / "cut/checkpoints")[-1].unlink()
    tiny.run(tmp_path / "cut", settings(**on_gpu, resume=True))  # with the generator of the GPU: dropout draws there
    one, two = torch.load(tmp_path / "whole/final-0.pt"), torch.load(tmp_path / "cut/final-0.pt")
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-5)
