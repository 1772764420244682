"""`vjepa bench`: what this machine can do, and how much of it training, inference and data make use of."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from openvjepa.atomic import check_file, json_text
from openvjepa.bench.measure import machine, measure_data, measure_inference, measure_peak, measure_step
from openvjepa.config import BenchConfig, command
from openvjepa.data.cores import process_pool, signals_blocked
from openvjepa.train.devices import choose_device, choose_dtype
from openvjepa.weights.files import write_file

log = logging.getLogger("openvjepa")


@dataclass(frozen=True)
class BenchResult:
    """What a machine can do; None where a measurement ended early. Names of numbers end with their unit."""

    date: str
    """ISO 8601, local time."""
    machine: Mapping[str, Any]
    """Processor, cores, threads, load and versions."""
    peak: Mapping[str, float] | None
    """GFLOP/s of products by number format, and GB/s of a copy."""
    step: Mapping[str, Mapping[str, Any] | None]
    """Model -> its pretraining step."""
    inference: Mapping[str, Mapping[str, Any] | None]
    """Model -> its encoder, one clip at a time."""
    data: Mapping[str, float] | None
    """Clips per second of decoding and loading."""


@command(BenchConfig, "models")
def benchmark(config: BenchConfig) -> BenchResult:
    """Benchmark this machine, and write the results to `config.out` (JSON with the fields of the result).

    Every measurement has a process of its own, which tells its memory apart; one that dies, mostly for want of memory, is
    left out and named.

    Raises:
        ConfigError: the device or precision asked for is not available.
        OSError: `out` cannot be written.
    """
    device = choose_device(config.device)
    choose_dtype(device, config.precision)
    models = config.models[:1] if config.quick else config.models
    if config.out:
        check_file(config.out)
    log.info("%s, load %s", machine()["processor"], machine()["load"])
    result = BenchResult(
        datetime.datetime.now().isoformat(timespec="seconds"),
        machine(),
        _apart(measure_peak, config),
        {name: _apart(measure_step, config, name) for name in models},
        {name: _apart(measure_inference, config, name) for name in models},
        _apart(measure_data, config),
    )
    if config.out:
        write_file(Path(config.out), (json_text(asdict(result), 2) + "\n").encode())
    return result


def _apart(measure: Callable[..., dict[str, Any]], config: BenchConfig, *args: Any) -> dict[str, Any] | None:
    """What a measurement finds in a process of its own; None where that process dies or has no memory left."""
    with process_pool(1, get_context("spawn")) as pool:
        try:
            with signals_blocked():
                answer = pool.submit(measure, config, *args)
            return answer.result()
        except (BrokenProcessPool, MemoryError):
            name = " ".join([measure.__name__, *args])
            log.warning("%s: the process ended early: is there too little memory?", name)
            return None
