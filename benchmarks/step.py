"""How fast the pretraining step is: openvjepa's beside a straightforward one in float32, taking turns.

    .venv/bin/python benchmarks/step.py [--rounds 7] [--batch 8] [--threads 4] [--parts] [--json FILE]

ViT-T/16 on clips of 16 x 224 px with the full predictor (12 x 384) and the two masks of nano-JEPA: context 416 and 48 tokens,
targets 968 and 1232, 597 GFLOP a clip. The plain step runs the same model in float32 with torch's attention, AdamW as torch
makes it, an EMA tensor by tensor, and writes statistics of all gradients and moments at every step, as the reference code
does. Ours is the real training loop (`fit`). Each has a process of its own, for an allocator of its own; only one of them
works at a time, in turns. The peak is that of a bf16 product of 2048 x 2048 matrices, between the steps. --parts takes ours
apart: without kept memory, with torch's attention, and in float32. With ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 in the environment
nothing uses AMX: a stand-in for processors without.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from openvjepa.bench.measure import MASKS, machine, product_rate, random_batch
from openvjepa.config import ModelConfig, PretrainConfig, TrainConfig, to_mapping
from openvjepa.data.transforms import normalize
from openvjepa.model.blocks import kernels
from openvjepa.model.flops import step_flops
from openvjepa.pretraining.task import PretrainTask
from openvjepa.train import distributed
from openvjepa.train.distributed import make_runtime
from openvjepa.train.trainer import fit

PARTS = ("ours, memory given back", "ours, torch's attention", "ours, float32")
STEPS = 10**6  # of the schedules; both stop when they are told to

Turn = Callable[[], None]


def plain(batch: dict[str, Any], turn: Turn) -> None:
    """Steps of a straightforward implementation."""
    task = PretrainTask(PretrainConfig())
    jepa = task.jepa
    trained = [p for p in task.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=6.25e-4, weight_decay=0.04)
    with tempfile.TemporaryFile("w") as log:
        while True:
            turn()
            loss = jepa(normalize(batch["clips"]), batch["masks_enc"], batch["masks_pred"])["loss"]
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 10.0)
            optimizer.step()
            with torch.no_grad():
                pairs = zip(jepa.target_encoder.parameters(), jepa.encoder.parameters(), strict=True)
                for target, online in pairs:
                    target.mul_(0.998).add_(online, alpha=0.002)
            used = [p for p in trained if p.grad is not None]
            moments = [optimizer.state[p][name].abs().mean().item() for p in used for name in ("exp_avg", "exp_avg_sq")]
            log.write(json.dumps([loss.item(), [p.grad.norm().item() for p in used], moments]))
            log.flush()


def ours(batch: dict[str, Any], turn: Turn, precision: str) -> None:
    """Steps of `fit`, with what it does besides: schedules, finite numbers, record, progress line."""

    def batches(step: int) -> Iterator[dict[str, Any]]:
        while True:
            turn()
            yield batch

    size = len(batch["clips"])
    train = TrainConfig(steps=STEPS, batch_size=size, save_every=STEPS, monitor_every=0, precision=precision)
    config = PretrainConfig(train=train)
    with tempfile.TemporaryDirectory() as folder, make_runtime(train) as runtime:
        print(runtime, kernels.describe(runtime.device, runtime.dtype), sep=", ", file=sys.stderr)
        task = PretrainTask(config)
        fit(
            task,
            batches,
            optim=config.optim,
            train=train,
            run_dir=Path(folder),
            runtime=runtime,
            config=to_mapping(config),
        )


def work(name: str, batch_size: int, threads: int) -> None:
    """A process: a step for every line on stdin, and its figures on a line of stdout."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the progress lines of `fit`
    batch = random_batch(ModelConfig(), batch_size, MASKS)
    started: list[tuple[float, float]] = []

    def turn() -> None:
        if started:
            wall, cpu = time.perf_counter() - started[-1][0], time.process_time() - started[-1][1]
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(json.dumps({"seconds": wall, "cpu": cpu, "peak_GiB": memory}), file=out, flush=True)
        if not sys.stdin.readline():
            os._exit(0)
        started.append((time.perf_counter(), time.process_time()))

    if name == "plain":
        plain(batch, turn)
    if name == PARTS[0]:
        distributed.keep_freed_memory = lambda: False
    if name == PARTS[1]:
        kernels.CHUNKED = False
    if "AMX" not in os.environ.get("ONEDNN_MAX_CPU_ISA", "AMX"):
        kernels._has_amx = lambda: False  # as on a processor that has none
    ours(batch, turn, "fp32" if name == PARTS[2] else "bf16")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All processes take turns; the figures of every turn but the first."""
    names = ["plain", "ours", *(PARTS if args.parts else ())]
    command = [sys.executable, __file__, "--batch", str(args.batch), "--threads", str(args.threads), "--work"]
    workers = {
        name: subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in names
    }
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    peaks: list[float] = []
    for number in range(args.rounds + 1):
        for name, worker in workers.items():
            peaks.append(product_rate(torch.bfloat16, repeats=5))
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
            figures = json.loads(worker.stdout.readline())
            print(f"round {number}  {name:<26}{figures['seconds']:8.2f} s  load {os.getloadavg()[0]:.1f}", flush=True)
            if number:
                turns[name].append(figures)
    for worker in workers.values():
        worker.communicate()
    return {"peak_bf16_gflops": {"best": max(peaks), "median": statistics.median(peaks)}, "turns": turns}


def report(args: argparse.Namespace, found: dict[str, Any]) -> dict[str, Any]:
    """Print the table; returns everything for the record."""
    flops = step_flops(ModelConfig(), MASKS)
    peak = found["peak_bf16_gflops"]["best"] * 1e9
    rows = {}
    for name, turns in found["turns"].items():
        seconds = sorted(turn["seconds"] for turn in turns)
        rows[name] = {
            "best_s_per_clip": seconds[0] / args.batch,
            "median_s_per_clip": statistics.median(seconds) / args.batch,
            "cpu_s_per_clip": min(turn["cpu"] for turn in turns) / args.batch,
            "gflops": flops * args.batch / seconds[0] / 1e9,
            "share_of_bf16_peak": flops * args.batch / seconds[0] / peak,
            "peak_GiB": turns[-1]["peak_GiB"],
        }
    for row in rows.values():
        row["times_plain"] = rows["plain"]["best_s_per_clip"] / row["best_s_per_clip"]
        row["times_plain_median"] = rows["plain"]["median_s_per_clip"] / row["median_s_per_clip"]
    print(f"\n{'':<26}{'s/clip':>8}{'median':>8}{'GFLOP/s':>9}{'of peak':>9}{'x plain':>9}{'(median)':>9}{'GiB':>6}")
    for name, row in rows.items():
        print(
            f"{name:<26}{row['best_s_per_clip']:8.3f}{row['median_s_per_clip']:8.3f}{row['gflops']:9.0f}"
            f"{row['share_of_bf16_peak']:9.1%}{row['times_plain']:9.2f}{row['times_plain_median']:9.2f}{row['peak_GiB']:6.1f}"
        )
    print(f"peak of a bf16 product: {peak / 1e9:.0f} GFLOP/s; {flops / 1e9:.1f} GFLOP a clip")
    return {"gflop_per_clip": flops / 1e9, "results": rows, **found}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="steps of each that are counted")
    parser.add_argument("--batch", type=int, default=8, help="clips in a step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--parts", action="store_true", help="take ours apart as well (24 GiB at batch 8)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work, args.batch, args.threads)
    torch.set_num_threads(args.threads)
    facts = {"command": " ".join(["python", *sys.argv]), "date": str(datetime.date.today()), **machine()}
    print(facts)
    result = {**facts, **report(args, measure(args))}
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
