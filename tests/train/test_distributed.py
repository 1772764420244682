"""Device, precision and processes: chosen, explained, and without effect on the numbers."""

from __future__ import annotations

import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from openvjepa.config import TrainConfig
from openvjepa.errors import ConfigError
from openvjepa.train import distributed
from openvjepa.train.devices import choose_device, choose_dtype
from openvjepa.train.distributed import Launch, Runtime, make_runtime, one_process

CPU = torch.device("cpu")


def cpu_has(monkeypatch: pytest.MonkeyPatch, *, amx: bool, avx: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)


@pytest.mark.parametrize(
    ("amx", "avx", "dtype", "reason"),
    [
        (True, False, torch.bfloat16, "the CPU has AMX"),
        (False, True, torch.bfloat16, "the CPU has AVX512-BF16"),
        (False, False, torch.float32, "torch finds neither AMX nor AVX512-BF16 on this CPU"),
    ],
)
def test_bf16_only_where_the_cpu_has_it(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx: bool, dtype: torch.dtype, reason: str
) -> None:
    cpu_has(monkeypatch, amx=amx, avx=avx)
    assert choose_dtype(CPU, "auto") == (dtype, reason)
    assert choose_dtype(CPU, "fp32") == (torch.float32, "as configured")
    assert choose_dtype(CPU, "bf16")[0] == torch.bfloat16


def test_a_torch_without_the_test_counts_as_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    assert choose_dtype(CPU, "auto")[0] == torch.float32
    assert "though slow" in choose_dtype(CPU, "bf16")[1]


def test_bf16_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert choose_dtype(torch.device("cuda"), "auto") == (torch.float32, "Old GPU lacks bf16")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))  # T4; V100 is 7.0
    assert choose_dtype(torch.device("cuda"), "auto") == (torch.float16, "Old GPU lacks bf16")
    assert choose_dtype(torch.device("mps"), "auto") == (torch.float32, "bf16 is not used on mps")


def test_fp16_where_it_is_asked_for() -> None:
    assert choose_dtype(torch.device("cuda"), "fp16") == (torch.float16, "as configured")
    assert choose_dtype(CPU, "fp16") == (torch.float16, "as configured, though slow: meant for GPUs without bf16")
    with pytest.raises(ConfigError, match="precision fp16 is for CUDA devices"):
        choose_dtype(torch.device("mps"), "fp16")
    with make_runtime(TrainConfig(device="cpu", precision="fp16")) as runtime, runtime.autocast():
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float16


def test_autocast_keeps_weights_in_fp32() -> None:
    layer, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    with Runtime(CPU, torch.bfloat16, "").autocast():
        assert layer(x).dtype == torch.bfloat16
    with Runtime(CPU, torch.float32, "").autocast():
        assert layer(x).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:1", "cuda:99", ""])
def test_impossible_devices(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{name}' is"):
        choose_device(name)


@pytest.mark.parametrize(("cuda", "mps", "chosen"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_takes_the_fastest(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, chosen: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device("auto").type == chosen


LAUNCH = Launch(world_size=4, rank=1, local_rank=1)


@pytest.mark.parametrize(
    ("launch", "device", "name", "message"),
    [
        (LAUNCH, "cuda", "auto", r"more processes than GPUs: .* has 1: start torchrun with --nproc-per-node 1"),
        (Launch(4, 1), "cuda", "auto", "no LOCAL_RANK"),
        (LAUNCH, "cuda:1", "cuda:1", "'cuda:1' names one GPU for all processes"),
        (LAUNCH, "mps", "auto", "cannot train on mps"),
    ],
)
def test_processes_that_cannot_have_a_device_each(
    monkeypatch: pytest.MonkeyPatch, launch: Launch, device: str, name: str, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=message):
        launch.place(torch.device(device), name)


def test_each_process_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert LAUNCH.place(torch.device("cuda"), "auto") == torch.device("cuda:1")
    assert Launch().place(torch.device("cuda:1"), "cuda:1") == torch.device("cuda:1")  # one process: any
    assert LAUNCH.place(CPU, "cpu") == CPU


def test_commands_for_one_process_refuse_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="probing runs in one process: start it without torchrun"):
        one_process("probing")
    with pytest.raises(ConfigError, match="runs in one process"), make_runtime(TrainConfig(device="cpu")):
        pass


def test_a_reason_for_a_precision_that_nobody_asked_for() -> None:
    with make_runtime(TrainConfig(device="cpu", precision="fp32"), reason="the encoder is frozen") as runtime:
        assert str(runtime).startswith("cpu, fp32 (the encoder is frozen), ")


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    threads = torch.get_num_threads()
    with make_runtime(TrainConfig(device="cpu", precision="fp32", threads=threads)) as runtime:
        assert not dist.is_initialized()
        assert str(runtime) == f"cpu, fp32 (as configured), {threads} CPU threads"
        layer = torch.nn.Linear(1, 1)
        assert runtime.wrap(layer) is layer
        assert runtime.mean({"loss": 2.0}) == {"loss": 2.0}


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")
def test_two_processes_give_the_weights_of_one(
    tmp_path: Path, tiny_command: list[str], quiet_env: dict[str, str]
) -> None:
    python, script = tiny_command
    torchrun = [python, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0", "--standalone"]
    commands = {
        "one": [python, script, str(tmp_path / "one"), "--dropout", "0"],
        "two": [*torchrun, script, str(tmp_path / "two"), "--dropout", "0", "--micro-batch", "2"],
    }
    for command in commands.values():
        done = subprocess.run(command, env=quiet_env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    one = torch.load(tmp_path / "one/final-0.pt")
    for rank in (0, 1):
        two = torch.load(tmp_path / f"two/final-{rank}.pt")
        for name, weight in one.items():
            torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-6)
    lines = [(tmp_path / name / "metrics.jsonl").read_text().count("\n") for name in commands]
    assert lines == [7, 7]  # one process writes


def test_gpus_exchange_by_nccl_with_their_device_and_messages_by_gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not run on GPUs here: what torch is asked for."""
    asked: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.append(("device", {"device": device})))
    for name in ("init_process_group", "new_group", "destroy_process_group"):
        monkeypatch.setattr(dist, name, lambda name=name, **settings: asked.append((name, settings)))
    gpu = torch.device("cuda:1")
    with distributed._process_group(LAUNCH, gpu):
        pass
    with distributed._process_group(LAUNCH, CPU):
        pass
    half_hour, day = timedelta(minutes=30), timedelta(days=1)
    assert asked == [
        ("device", {"device": gpu}),
        ("init_process_group", {"timeout": half_hour, "backend": "nccl", "device_id": gpu}),
        ("new_group", {"backend": "gloo", "timeout": day}),
        ("destroy_process_group", {}),
        ("init_process_group", {"timeout": half_hour, "backend": "gloo"}),
        ("new_group", {"backend": "gloo", "timeout": day}),
        ("destroy_process_group", {}),
    ]


def test_tf32_only_beside_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(distributed, "choose_device", lambda name: torch.device("cuda"))
    for precision, inside in (("fp16", "high"), ("fp32", before)):
        with make_runtime(TrainConfig(precision=precision)):
            assert torch.get_float32_matmul_precision() == inside
        assert torch.get_float32_matmul_precision() == before
