"""What `vjepa bench` measures: products, copies, the training step, inference, data."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from openvjepa.config import (
    BenchConfig,
    DataConfig,
    MaskingConfig,
    ModelConfig,
    PretrainConfig,
    ShapesConfig,
    TrainConfig,
    to_mapping,
)
from openvjepa.data.clips import read_clip
from openvjepa.data.cores import usable_cores
from openvjepa.data.loader import PretrainBatches, PretrainLoader, worker_count
from openvjepa.data.rendered.synthetic import make_shapes
from openvjepa.model.blocks.kernels import describe
from openvjepa.model.encoder import Encoder, create_model
from openvjepa.model.flops import encoder_flops, step_flops
from openvjepa.pretraining.task import PretrainTask
from openvjepa.train.devices import choose_device, choose_dtype, keep_freed_memory
from openvjepa.train.distributed import make_runtime
from openvjepa.train.trainer import fit
from openvjepa.version import __version__

MASKS = ((416, 968), (48, 1232))
"""(context, predicted) tokens of the step that is timed: typical draws of V-JEPA 1's two masks on 16 frames of 224 px."""


def machine() -> dict[str, Any]:
    """What the figures were measured on, and how busy it was."""
    name = platform.processor() or platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), name)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    facts = {"processor": name, "cores": usable_cores(), "threads": torch.get_num_threads(), "load": load}
    versions = {"python": platform.python_version(), "torch": torch.__version__, "openvjepa": __version__}
    return {**facts, "system": platform.system(), **versions}


def product_rate(
    dtype: torch.dtype, *, device: torch.device | None = None, size: int | None = None, repeats: int = 10
) -> float:
    """GFLOP/s of a square matrix product, the best of so many; by default of 2048 rows, on GPUs of 8192, to keep them busy."""
    size = size or (2048 if device is None or device.type == "cpu" else 8192)
    a = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / min(_seconds(lambda: a @ a, a.device, repeats)) / 1e9


def random_batch(model: ModelConfig, size: int, masks: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """A batch as the loader gives it, of noise, with (context, predicted) tokens of these numbers."""
    generator = torch.Generator().manual_seed(0)
    shape = (size, 3, model.num_frames, *model.image_hw)
    batch: dict[str, Any] = {"step": 0, "masks_enc": [], "masks_pred": []}
    batch["clips"] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    for context, predicted in masks:
        drawn = [torch.randperm(model.grid.tokens, generator=generator) for _ in range(size)]
        batch["masks_enc"].append(torch.stack([ids[:context].sort().values for ids in drawn]))
        batch["masks_pred"].append(torch.stack([ids[context : context + predicted].sort().values for ids in drawn]))
    return batch


def measure_peak(config: BenchConfig) -> dict[str, float]:
    """GFLOP/s of products in bf16 and float32; GB/s of a copy, reading and writing counted."""
    keep_freed_memory()
    device = _place(config)
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    seconds = min(_seconds(lambda: target.copy_(source), device, 10))
    rates = {name: product_rate(dtype, device=device, repeats=30) for name, dtype in _DTYPES.items()}
    return {
        **{f"{name}_gflops": rate for name, rate in rates.items()},
        "copy_gb_per_s": 2 * source.nbytes / seconds / 1e9,
    }


_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def measure_step(config: BenchConfig, name: str) -> dict[str, Any]:
    """Seconds per clip of the training loop's step, record and all; the first step does not count."""
    device, model = _place(config), ModelConfig(arch=name)
    size, steps = config.batch_size or _batch_size(config, device, name), 3 if config.quick else 6
    dtype = choose_dtype(device, config.precision)[0]
    batch, peaks = random_batch(model, size, MASKS), [product_rate(dtype, device=device)]
    times: list[float] = []

    def batches(_: int) -> Iterator[dict[str, Any]]:
        for _ in range(steps):
            started = time.perf_counter()
            yield batch
            _wait(device)
            times.append(time.perf_counter() - started)
            peaks.append(product_rate(dtype, device=device, repeats=3))
        raise _EnoughError

    train = TrainConfig(
        steps=1000,
        save_every=1000,
        batch_size=size,
        monitor_every=0,
        device=config.device,
        precision=config.precision,
        compile=config.compile,
    )
    pretrain = PretrainConfig(model=model, train=train)
    silence = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory() as out, make_runtime(train) as runtime, silence:
        said = f"{runtime}, {describe(runtime.device, runtime.dtype)}{', compiled blocks' if config.compile else ''}"
        task, settings = PretrainTask(pretrain), to_mapping(pretrain)
        with contextlib.suppress(_EnoughError):
            fit(task, batches, optim=pretrain.optim, train=train, run_dir=Path(out), runtime=runtime, config=settings)
    figures = _speed(times[1:], size, step_flops(model, MASKS), max(peaks))
    return {"batch_size": size, "how": said, **figures, **_memory(device)}


class _EnoughError(Exception):
    """Ends the training loop without a checkpoint."""


@torch.inference_mode()
def measure_inference(config: BenchConfig, name: str) -> dict[str, Any]:
    """Seconds per clip of the encoder, one clip at a time, its weights in the precision it computes in."""
    keep_freed_memory()
    device, model = _place(config), ModelConfig(arch=name)
    dtype = choose_dtype(device, config.precision)[0]
    encoder = new_encoder(model, dtype).to(device).eval()
    clip = torch.randn(1, 3, model.num_frames, *model.image_hw, device=device).to(dtype)
    encoder(clip)
    times, peaks = list[float](), [product_rate(dtype, device=device)]
    for _ in range(3 if config.quick else 10):
        times += _seconds(lambda: encoder(clip), device, 1)
        peaks.append(product_rate(dtype, device=device, repeats=3))
    return {"dtype": str(dtype), **_speed(times, 1, encoder_flops(model), max(peaks)), **_memory(device)}


def new_encoder(config: ModelConfig, dtype: torch.dtype) -> Encoder:
    """An encoder of random weights, all in one number format from the start, which saves the memory of float32 ones."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return create_model(config).to(dtype)
    finally:
        torch.set_default_dtype(before)


def measure_data(config: BenchConfig) -> dict[str, Any]:
    """Clips per second: decoding in this process, and the loader with its workers, on videos rendered here (224 px)."""
    videos = 12 if config.quick else 48
    with tempfile.TemporaryDirectory() as folder:
        shapes = ShapesConfig(out=folder, train=videos, val=0, test=0, size=224, frames=96, texture=0.3)
        index = make_shapes(shapes)
        paths = sorted(Path(folder).glob("videos/*.mp4"))
        for path in paths:
            read_clip(path)  # the table of time stamps is made once per file
        decoding = min(_seconds(lambda: [read_clip(path) for path in paths], torch.device("cpu"), 2))
        data = DataConfig()
        steps = (2 if config.quick else 4) * videos // 4
        batches = PretrainBatches((str(index),), data, ModelConfig(), MaskingConfig(), seed=0, micro_batch=4)
        loader = iter(PretrainLoader(batches, start_step=0, steps=steps, pin_memory=False))
        next(loader)  # starts the workers
        started = time.perf_counter()
        loaded = sum(len(batch["clips"]) for batch in loader)
        loading = time.perf_counter() - started
    return {
        "decode_clips_per_s": len(paths) / decoding,
        "loader_clips_per_s": loaded / loading,
        "loader_workers": worker_count(data),
    }


def _place(config: BenchConfig) -> torch.device:
    if config.threads:
        torch.set_num_threads(config.threads)
    return choose_device(config.device)


def _batch_size(config: BenchConfig, device: torch.device, name: str) -> int:
    if device.type != "cpu":
        return 8
    return 2 if config.quick else 4 if name in ("vit_tiny", "vit_small") else 1


def _seconds(run: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    run()
    times: list[float] = []
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        run()
        _wait(device)
        times.append(time.perf_counter() - started)
    return times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _speed(times: list[float], clips: int, flops: int, peak: float) -> dict[str, float]:
    """Seconds per clip, and GFLOP/s beside those of a product of the same number format."""
    rate = flops * clips / min(times) / 1e9
    return {
        "seconds_per_clip": min(times) / clips,
        "median_seconds_per_clip": statistics.median(times) / clips,
        "gflop_per_clip": flops / 1e9,
        "gflops": rate,
        "peak_gflops": peak,
        "share_of_peak": rate / peak,
    }


def _memory(device: torch.device) -> dict[str, float]:
    """GiB at most: of the device, and of the process where the system tells."""
    gib = 2.0**30
    found = {"device_memory_gib": torch.cuda.max_memory_allocated(device) / gib} if device.type == "cuda" else {}
    if sys.platform == "win32":
        return found
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return {**found, "memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / gib}
