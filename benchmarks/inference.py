"""Inference of an encoder in bf16 with each attention kernel, taking turns, and what bf16 costs in accuracy and memory.

    .venv/bin/python benchmarks/inference.py [--model vit_large] [--rounds 5] [--threads 4] [--json FILE]

One clip of 16 x 224 px at a time, weights in bf16, random ones. The kernels: the one that openvjepa chooses, torch's flash
attention, torch's plain products (with sdpa_kernel), and openvjepa's chunked products. Seconds are wall and CPU time, the
best of the rounds. The error of the features is the root mean square against float32, as a share of theirs.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from openvjepa.bench.measure import machine, new_encoder, product_rate
from openvjepa.config import ModelConfig
from openvjepa.model.blocks import kernels
from openvjepa.model.encoder import create_model
from openvjepa.model.flops import encoder_flops
from openvjepa.train.devices import keep_freed_memory


def variants(run: Callable[[], Tensor]) -> dict[str, Callable[[], Tensor]]:
    """The forward pass with each kernel."""

    def with_backend(backend: SDPBackend) -> Tensor:
        kernels.CHUNKED = False
        try:
            with sdpa_kernel(backend):
                return run()
        finally:
            kernels.CHUNKED = True

    def chunked() -> Tensor:
        chosen, kernels._forward = kernels._forward, kernels.chunked_forward
        try:
            return run()
        finally:
            kernels._forward = chosen

    return {
        "openvjepa": run,
        "torch flash": lambda: with_backend(SDPBackend.FLASH_ATTENTION),
        "torch products": lambda: with_backend(SDPBackend.MATH),
        "chunked products": chunked,
    }


@torch.inference_mode()
def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_large")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="file for all figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    config = ModelConfig(arch=args.model)
    encoder = new_encoder(config, torch.bfloat16).eval()
    clip = torch.randn(1, 3, config.num_frames, *config.image_hw).bfloat16()
    encoder(clip)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    runs = variants(lambda: encoder(clip))  # pyright: ignore
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    peak = 0.0
    for _ in range(args.rounds):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        peak = max(peak, product_rate(torch.bfloat16, repeats=5))
    exact = create_model(config).eval()  # weights drawn in bf16 have outliers
    true = exact(clip.float())
    with torch.autocast("cpu", torch.bfloat16):
        autocast = exact(clip.float())
    features = copy.deepcopy(exact).bfloat16()(clip)
    errors = {
        "bf16 weights": ((features.float() - true).norm() / true.norm()).item(),
        "float32 weights, autocast": ((autocast.float() - true).norm() / true.norm()).item(),
    }
    gflop = encoder_flops(config) / 1e9
    result = {
        "command": " ".join(["python", *sys.argv]),
        "date": str(datetime.date.today()),
        **machine(),
        "gflop_per_clip": gflop,
        "peak_bf16_gflops": peak,
        "memory_gib": memory,
        "relative_error": errors,
        "seconds": {name: {"wall": min(t)[0], "cpu": min(c for _, c in t)} for name, t in times.items()},
    }
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
