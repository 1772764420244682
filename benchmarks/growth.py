"""How the cost of a pretraining step grows with tokens, batch and model: seconds per clip and memory, in one figure.

    .venv/bin/python benchmarks/growth.py [--threads 4] [--json FILE] [--figure FILE]

Clips of 224 px, the two published masks in the shares they have at 16 frames, bf16 where the hardware has it. One thing grows at
a time: frames (4 to 32: 392 to 3136 tokens; ViT-T, batch 2), batch (1 to 8; ViT-T, 8 frames), model (ViT-T to ViT-L; 4 frames,
batch 1; the predictor stays 12 x 384). Each point is the best of three steps after a first one, in a process of its own.
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from openvjepa.bench.measure import MASKS, machine, random_batch
from openvjepa.config import ModelConfig, PretrainConfig, TrainConfig
from openvjepa.model.flops import step_flops
from openvjepa.pretraining.task import PretrainTask
from openvjepa.train.distributed import make_runtime
from openvjepa.train.optim import make_optimizer

HERE = Path(__file__).parent
SERIES = {
    "tokens": [(("vit_tiny", frames, 2), frames // 2 * 196) for frames in (4, 8, 16, 32)],
    "clips in a batch": [(("vit_tiny", 8, size), size) for size in (1, 2, 4, 8)],
    "million encoder parameters": [
        ((name, 4, 1), size)
        for name, size in (("vit_tiny", 5.5), ("vit_small", 21.7), ("vit_base", 86.2), ("vit_large", 303.9))
    ],
}


def point(arch: str, frames: int, size: int, threads: int) -> dict[str, Any]:
    """Best of three steps of forward pass, backward pass, optimizer and EMA; memory is the process's peak."""
    model = ModelConfig(arch=arch, num_frames=frames)
    masks = [(ids[0] * model.grid.tokens // 1568, ids[1] * model.grid.tokens // 1568) for ids in MASKS]
    train = TrainConfig(threads=threads, device="cpu")
    config = PretrainConfig(model=model, train=train)
    seconds = []
    with make_runtime(train) as runtime:
        task, batch = PretrainTask(config), random_batch(model, size, masks)
        optimizer = make_optimizer(task.param_groups(), config.optim)
        for step in range(4):
            started = time.perf_counter()
            with runtime.autocast():
                loss = task(batch)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            task.after_step(step)
            seconds.append((time.perf_counter() - started) / size)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"s_per_clip": min(seconds[1:]), "peak_GiB": memory, "gflop_per_clip": step_flops(model, masks) / 1e9}


def draw(series: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Seconds per clip (blue, left) and memory (orange, right) of each series, both axes logarithmic."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(1, 3), series.items(), strict=True):
        x = [found["x"] for found in points]
        seconds = [found["s_per_clip"] for found in points]
        axes.plot(x, seconds, "o-", color="#2563eb")
        axes.set(xscale="log", yscale="log", xlabel=name, xticks=x, xticklabels=[f"{value:g}" for value in x])
        axes.set_yticks(seconds, [f"{value:.2f}" for value in seconds])
        axes.set_ylabel("s per clip", color="#2563eb")
        axes.minorticks_off()
        memory = axes.twinx()
        memory.plot(x, [found["peak_GiB"] for found in points], "s--", color="#d97706")
        memory.set_ylabel("GiB", color="#d97706")
        memory.set_ylim(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, default=HERE / "results" / "growth.json")
    parser.add_argument("--figure", type=Path, default=HERE.parent / "docs" / "images" / "growth.png")
    args = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    for name, points in SERIES.items():
        found[name] = []
        for settings, x in points:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                figures = pool.submit(point, *settings, args.threads).result()
            found[name].append({"x": x, "settings": settings, **figures})
            print(name, x, {key: round(value, 3) for key, value in figures.items()}, flush=True)
    facts = {"command": "python benchmarks/growth.py", "date": str(datetime.date.today()), **machine()}
    args.json.write_text(json.dumps({**facts, "threads": args.threads, "series": found}, indent=1) + "\n")
    draw(found, args.figure)


if __name__ == "__main__":
    main()
