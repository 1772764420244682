"""A run small enough to be killed, resumed and repeated; as a script: `tiny_run.py RUN_DIR [--key value]...`."""

from __future__ import annotations

import argparse
import copy
import logging
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openvjepa.config import OptimConfig, TrainConfig
from openvjepa.errors import DataError, OpenVJEPAError
from openvjepa.train.distributed import make_runtime
from openvjepa.train.optim import ema_momentum
from openvjepa.train.trainer import FitResult, Task, fit

OPTIM = OptimConfig(lr=0.02, start_lr=0.002, warmup=0.2, clip_grad=0.5, ema=(0.9, 1.0))
CONFIG = {"optim": {"lr": 0.02}, "data": {"workers": 0, "fps": 4}, "train": {"steps": 12, "seed": 0, "log_every": 2}}


class TinyTask(Task):
    """Predicts a slow copy of itself, as JEPA does; `dropout` draws from torch's generator in each pass."""

    def __init__(self, *, dropout: float = 0.1, steps: int = 12, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.steps = steps
        self.encoder = nn.Sequential(nn.Linear(4, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout))
        self.predictor = nn.Linear(width, 4)
        self.unused = nn.Parameter(torch.ones(3))  # as the mask token of a mask that is not configured
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)
        self.momenta: list[float] = []

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        prediction = self.predictor(self.encoder(batch["x"]))
        loss = (prediction - batch["parts"][0]).square().mean() + self.target(batch["x"]).mean() * 0
        return {"loss": loss, "error": prediction.detach().abs().mean()}

    def param_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = []
        for decay in (True, False):
            for name in ("encoder", "predictor"):
                params = [p for p in self.get_submodule(name).parameters() if (p.ndim > 1) == decay]
                groups.append({"params": params, "decay": decay, "module": name})
        groups[1]["params"].append(self.unused)
        return groups

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        momentum = ema_momentum(step, OPTIM, self.steps)
        self.momenta.append(momentum)
        for slow, fast in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
            slow.lerp_(fast, 1 - momentum)


def global_batch(step: int, clips: int) -> tuple[Tensor, Tensor]:
    """Inputs and answers of a step, each [clips, 4]."""
    x = torch.randn(clips, 4, generator=torch.Generator().manual_seed(1000 + step))
    return x, x.roll(1, dims=1).cos()


def micro_batches(
    step: int, *, steps: int, clips: int, accumulate: int = 1, rank: int = 0, world_size: int = 1, pause: float = 0.0
) -> Iterator[dict[str, Any]]:
    """The share of one process of each global batch, from `step` on."""
    for number in range(step, steps):
        x, y = global_batch(number, clips)
        size = clips // (accumulate * world_size)
        for part in range(accumulate):
            start = (part * world_size + rank) * size
            time.sleep(pause)
            yield {"x": x[start : start + size], "parts": [y[start : start + size]], "names": ["a"] * size}


def failing(batches: Iterator[dict[str, Any]], number: int) -> Iterator[dict[str, Any]]:
    """So many batches, and then a DataError."""
    for _ in range(number):
        yield next(batches)
    raise DataError("a.mp4: cannot be read")


def run(
    run_dir: Path,
    train: TrainConfig,
    *,
    dropout: float = 0.1,
    pause: float = 0.0,
    width: int = 8,
    fail_after: int | None = None,
    config: dict[str, Any] | None = None,
) -> FitResult:
    """Train a TinyTask; writes its last state to final.pt."""
    with make_runtime(train, distributed=True) as runtime:
        task = TinyTask(dropout=dropout, steps=train.steps, width=width)
        accumulate = train.batch_size // (
            (train.micro_batch or train.batch_size // runtime.world_size) * runtime.world_size
        )
        batches = partial(
            micro_batches,
            steps=train.steps,
            clips=train.batch_size,
            accumulate=accumulate,
            rank=runtime.rank,
            world_size=runtime.world_size,
            pause=pause,
        )
        result = fit(
            task,
            lambda step: batches(step) if fail_after is None else failing(batches(step), fail_after),
            optim=OPTIM,
            train=train,
            run_dir=run_dir,
            runtime=runtime,
            config=CONFIG if config is None else config,
            monitor=lambda step: {"weight": task.predictor.weight.norm().item(), "draw": torch.rand(()).item()},
        )
        torch.save(task.state_dict(), run_dir / f"final-{runtime.rank}.pt")
    return result


def main() -> None:
    """Run as told on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--file-limit", type=int, help="bytes that a file may have, as if the disk were full")
    parser.add_argument("--fail-after", type=int, help="batches after which the data cannot be read")
    parser.add_argument("--learning-rate", type=float, default=0.02, help="that the stored settings tell")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if args.file_limit:
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (args.file_limit, args.file_limit))
    train = TrainConfig(
        steps=12, batch_size=8, micro_batch=args.micro_batch, device="cpu", precision="fp32", threads=1, log_every=2,
        save_every=5, monitor_every=4, keep_last=2, resume=args.resume,
    )  # fmt: skip
    try:
        result = run(
            args.run_dir,
            train,
            dropout=args.dropout,
            pause=args.pause,
            width=args.width,
            fail_after=args.fail_after,
            config={**CONFIG, "optim": {"lr": args.learning_rate}},
        )
    except OpenVJEPAError as error:
        raise SystemExit(f"error: {error}") from None
    print("interrupted" if result.interrupted else "finished", result.step, flush=True)
    raise SystemExit(128 + result.signal if result.interrupted else 0)


if __name__ == "__main__":
    main()
