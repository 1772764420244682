"""What every published size costs on a CPU: memory and seconds per clip, with random weights.

    OMP_NUM_THREADS=4 .venv/bin/python benchmarks/checkpoints.py [--limit 12] [--models NAME ...]

Each size at its published clip, in float32 and under bf16 autocast, runs in a process of its own. A clip that should take
more than `--limit` seconds, by the speed of the sizes before, runs through the first block only, with all weights in
memory: blocks are alike, so that its time counts for each (`blocks` in the result). Others run through all blocks twice,
and the better counts. Two frames come before, to warm up. What does not fit the free memory is left out, and said so.
Besides wall time there is CPU time, of all threads, which other programs disturb less. Memory is the process's peak, with
Python and torch; the estimate beside it is that of `vjepa models`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from openvjepa import __version__
from openvjepa.config import ModelConfig
from openvjepa.model.encoder import Encoder
from openvjepa.weights.local import free_memory_gb, memory_gb
from openvjepa.weights.registry import list_models

RESULTS = Path(__file__).parent / "results" / "checkpoints.json"


def gflop(config: ModelConfig) -> float:
    """Products of an encoder's pass over one clip: of weights, and of attention."""
    dims, tokens = config.dims, config.grid.tokens
    weights = dims.depth * (4 * dims.embed_dim**2 + 2 * dims.embed_dim * int(dims.embed_dim * dims.mlp_ratio))
    return 2e-9 * (weights * tokens + 2 * dims.depth * dims.embed_dim * tokens**2)


def status_gb(name: str) -> float:
    """An entry of this process's /proc/self/status, GB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e9


def measure(config: ModelConfig, precision: str, blocks: int) -> dict[str, float]:
    """Time and memory in this process, of as many blocks as are to be run; times are those of all blocks."""
    with torch.device("meta"):
        encoder = Encoder(config)
    encoder = encoder.to_empty(device="cpu").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for value in encoder.state_dict().values():
        value.normal_(0, 0.02, generator=generator)
    timer = Timer(encoder.blocks[0])
    for block in encoder.blocks[blocks:]:
        block.forward = lambda x, _: x
    clip = torch.randn(1, 3, config.num_frames, *config.image_hw, generator=generator)
    rounds: list[Times] = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        encoder(clip[:, :, : config.tubelet_size])
        for _ in range(2 if blocks == config.dims.depth else 1):
            begin = now()
            encoder(clip)
            rest = config.dims.depth - blocks
            rounds.append(tuple(e - b + rest * t for e, b, t in zip(now(), begin, timer.last, strict=True)))  # pyright: ignore
    wall, cpu = (min(values) for values in zip(*rounds, strict=True))
    return {"seconds": wall, "cpu_seconds": cpu, "rounds": len(rounds), "memory_gb": status_gb("VmHWM")}


Times = tuple[float, float]
"""Seconds on the wall's clock, and of all threads of this process."""


def now() -> Times:
    """The clocks."""
    return time.perf_counter(), time.process_time()


class Timer:
    """Times the calls of a block."""

    def __init__(self, block: torch.nn.Module) -> None:
        self.run, self.last = block.forward, (0.0, 0.0)
        block.forward = self

    def __call__(self, *args: Any) -> Any:
        begin = now()
        result = self.run(*args)
        self.last = tuple(e - b for e, b in zip(now(), begin, strict=True))
        return result


def in_child(config: ModelConfig, precision: str, blocks: int) -> dict[str, float]:
    """`measure` in a new process."""
    fields = {k: v for k, v in vars(config).items() if v != getattr(ModelConfig(), k)}
    command = [sys.executable, __file__, "--child", json.dumps([fields, precision, blocks])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{fields}: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
    return json.loads(done.stdout)


def sizes(names: list[str]) -> dict[ModelConfig, list[str]]:
    """Encoders to measure, the cheapest first, each with the published models that it is."""
    found: dict[ModelConfig, list[str]] = {}
    for info in list_models():
        if not names or info.name in names:
            found.setdefault(replace(ModelConfig(**info.arch), predictor_num_heads=1), []).append(info.name)
    return dict(sorted(found.items(), key=lambda item: gflop(item[0])))


def rows(names: list[str], limit: float) -> list[dict[str, Any]]:
    """A row for each encoder and precision."""
    result, speed = [], {"fp32": 50.0, "bf16": 50.0}  # GFLOP/s, at first a guess
    for config, models in sizes(names).items():
        for precision in speed:
            need, free = memory_gb(config), free_memory_gb() or 0.0
            row: dict[str, Any] = {
                "models": models, "arch": config.arch, "frames": config.num_frames, "px": config.image_hw[0],
                "tokens": config.grid.tokens, "gflop": gflop(config), "precision": precision, "estimate_gb": need,
            }  # fmt: skip
            if need > free:
                row["left_out"] = f"needs {need:.1f} GB, {free:.1f} GB are free"
            else:
                row["blocks"] = config.dims.depth if row["gflop"] < limit * speed[precision] else 1
                row |= in_child(config, precision, row["blocks"])
                speed[precision] = row["gflop"] / row["seconds"]
            row["load"] = os.getloadavg()[0]
            print(line(row), flush=True)
            result.append(row)
    return result


def line(row: dict[str, Any]) -> str:
    """A row of a markdown table."""
    cells = [
        ", ".join(row["models"]),
        row["arch"],
        f"{row['frames']} x {row['px']}",
        f"{row['tokens']}",
        row["precision"],
    ]
    if "left_out" in row:
        cells += [row["left_out"], "", "", f"{row['estimate_gb']:.2f}", ""]
    else:
        cells += [f"{row[name]:.2f}" for name in ("seconds", "cpu_seconds", "memory_gb", "estimate_gb")]
        cells.append("one" if row["blocks"] == 1 else "all")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=12.0, help="seconds of a clip that runs through all blocks")
    parser.add_argument("--models", nargs="*", default=[], help="only these")
    parser.add_argument("--json", type=Path, default=RESULTS, help="file for the result")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        fields, precision, blocks = json.loads(args.child)
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        print(json.dumps(measure(ModelConfig(**fields), precision, blocks)))
        return
    names = [text for text in Path("/proc/cpuinfo").read_text().splitlines() if text.startswith("model name")]
    result: dict[str, Any] = {
        "date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
        "command": " ".join(["OMP_NUM_THREADS=" + os.environ.get("OMP_NUM_THREADS", ""), "python", *sys.argv]),
        "machine": f"{names[0].partition(': ')[2]}, {os.cpu_count()} cores, {platform.system()}",
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "openvjepa": __version__},
        "load_before": os.getloadavg(),
    }
    print(f"{result['date']}  {result['machine']}, {result['threads']} threads, load {result['load_before'][0]:.1f}\n")
    print("| models | encoder | clip | tokens | precision | s / clip | CPU s | peak GB | estimate GB | blocks |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    result["rows"] = rows(args.models, args.limit)
    args.json.parent.mkdir(exist_ok=True)
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
