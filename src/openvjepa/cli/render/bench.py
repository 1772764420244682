"""What `vjepa bench` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from openvjepa.cli.console import show
from openvjepa.commands.bench import BenchResult
from openvjepa.config import BenchConfig


def bench(result: BenchResult, config: BenchConfig) -> None:
    """A table for each part of the machine."""
    for table in _tables(result):
        show(table)


def _tables(result: BenchResult) -> list[Table]:
    tables = [_simple(result.peak, "This machine, GFLOP/s of products and GB/s of a copy")]
    for rows, title in ((result.step, "Pretraining step"), (result.inference, "Encoder, one clip at a time")):
        table = Table(title=title, title_justify="left")
        for heading in ("model", "batch", "s/clip", "(median)", "GFLOP/s", "of peak", "GiB"):
            table.add_column(heading, justify="left" if heading == "model" else "right")
        for name, row in rows.items():
            table.add_row(name, *(_cells(row) if row else ["-"] * 6))
        tables.append(table)
    return [*tables, _simple(result.data, "Clips of 16 x 224 px from rendered videos")]


def _cells(row: Mapping[str, Any]) -> list[str]:
    seconds, median = f"{row['seconds_per_clip']:.3f}", f"{row['median_seconds_per_clip']:.3f}"
    memory = row.get("device_memory_gib", row.get("memory_gib"))
    rate, share = f"{row['gflops']:.0f}", f"{row['share_of_peak']:.0%}"
    return [str(row.get("batch_size", 1)), seconds, median, rate, share, "-" if memory is None else f"{memory:.2f}"]


def _simple(row: Mapping[str, float] | None, title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in (row or {}).items():
        table.add_row(name.replace("_", " "), f"{value:.0f}" if value >= 100 else f"{value:.3g}")
    return table
