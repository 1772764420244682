"""`vjepa bench`: what this machine can do, and how much of it training, inference and data make use of."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from openvjepa.bench.measure import machine, measure_data, measure_inference, measure_peak, measure_step
from openvjepa.config import BenchConfig
from openvjepa.train.devices import choose_device, choose_dtype
from openvjepa.weights.files import write_file


def bench(config: BenchConfig) -> dict[str, Any]:
    """Measure, print a table, write `config.out`; returns the figures.

    Every measurement has a process of its own, which tells its memory apart; one that dies, mostly for want of memory, is
    left out and named.

    Raises:
        ConfigError: the device or precision asked for is not to be had.
        OSError: `out` cannot be written.
    """
    device = choose_device(config.device)
    choose_dtype(device, config.precision)
    models = config.models[:1] if config.quick else config.models
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"{machine()['processor']}, load {machine()['load']}", highlight=False)
    figures: dict[str, Any] = {"date": datetime.datetime.now().isoformat(timespec="seconds"), "machine": machine()}
    figures["peak"] = _apart(measure_peak, config)
    figures["step"] = {name: _apart(measure_step, config, name) for name in models}
    figures["inference"] = {name: _apart(measure_inference, config, name) for name in models}
    figures["data"] = _apart(measure_data, config)
    for table in _tables(figures):
        console.print(table)
    if config.out:
        write_file(Path(config.out), (json.dumps(figures, indent=2) + "\n").encode())
    return figures


def _apart(measure: Callable[..., dict[str, Any]], config: BenchConfig, *args: Any) -> dict[str, Any] | None:
    """What a measurement finds in a process of its own; None where that process dies or has no memory left."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(measure, config, *args).result()
        except (BrokenProcessPool, MemoryError):
            print(f"{' '.join([measure.__name__, *args])}: the process ended early: too little memory?", flush=True)
            return None


def _tables(figures: dict[str, Any]) -> list[Table]:
    tables = [_simple(figures["peak"], "This machine, GFLOP/s of products and GB/s of a copy")]
    for part, title in (("step", "Pretraining step"), ("inference", "Encoder, one clip at a time")):
        table = Table(title=title, title_justify="left")
        for heading in ("model", "batch", "s/clip", "(median)", "GFLOP/s", "of peak", "GiB"):
            table.add_column(heading, justify="left" if heading == "model" else "right")
        for name, row in figures[part].items():
            table.add_row(name, *(_cells(row) if row else ["-"] * 6))
        tables.append(table)
    return [*tables, _simple(figures["data"], "Clips of 16 x 224 px from rendered videos")]


def _cells(row: dict[str, Any]) -> list[str]:
    seconds, median = f"{row['seconds_per_clip']:.3f}", f"{row['median_seconds_per_clip']:.3f}"
    memory = row.get("device_memory_gib", row.get("memory_gib"))
    rate, share = f"{row['gflops']:.0f}", f"{row['share_of_peak']:.0%}"
    return [str(row.get("batch_size", 1)), seconds, median, rate, share, "-" if memory is None else f"{memory:.2f}"]


def _simple(row: dict[str, float] | None, title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in (row or {}).items():
        table.add_row(name.replace("_", " "), f"{value:.0f}" if value >= 100 else f"{value:.3g}")
    return table
