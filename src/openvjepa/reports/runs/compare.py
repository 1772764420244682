"""Runs side by side: what each one is, its metrics, and the mean and spread of runs that differ only in their seed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape
from rich.table import Table

from openvjepa.errors import DataError
from openvjepa.reports import charts
from openvjepa.reports import pages as report
from openvjepa.train.logs import read_metrics

PRETRAIN_METRICS = ("loss", "feature_std", "rankme", "knn")
# Settings that tell where and how a run computed, not what.
_ELSEWHERE = frozenset(("seed", "out", "resume", "overwrite", "device", "threads", "workers", "cache_dir", "log_every"))


@dataclass(frozen=True)
class RunSummary:
    """One run of pretraining, probing, fine-tuning or evaluation."""

    path: str
    kind: str
    """pretrain, probe, finetune or evaluate."""
    model: str
    data: str
    seed: int | None
    metrics: dict[str, float]
    """Name -> value; accuracies of the test videos in percent, except for pretraining."""
    seconds: float | None
    recipe: str
    """Everything that the result follows from but the seed, as text: runs with the same recipe are repetitions."""
    curve: tuple[tuple[int, float], ...] = ()
    """Steps and losses of a pretraining."""
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Metric -> its interval of 95 %, where the run has it."""


def read_run(path: str | Path) -> RunSummary:
    """Summary of a run folder.

    Raises:
        DataError: the folder holds no run that can be read.
    """
    folder = Path(path)
    try:
        config = (
            yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) if _has(folder, "config.yaml") else {}
        )
        results = (
            json.loads((folder / "results.json").read_text(encoding="utf-8")) if _has(folder, "results.json") else None
        )
        if results is None:
            return _pretraining(folder, config or {})
        return _evaluation(folder, results) if "results" in results else _classifier(folder, config or {}, results)
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder}: cannot be compared ({type(error).__name__}: {error})") from None


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_file()


def _pretraining(folder: Path, config: Mapping[str, Any]) -> RunSummary:
    rows = read_metrics(folder / "metrics.jsonl")
    if not rows:
        raise DataError(f"{folder}: not a run folder (neither results.json nor metrics.jsonl)")
    last = {name: next((row[name] for row in reversed(rows) if name in row), None) for name in PRETRAIN_METRICS}
    seconds = sum(row["seconds_per_step"] * _steps(rows, i) for i, row in enumerate(rows) if "seconds_per_step" in row)
    return RunSummary(
        str(folder),
        "pretrain",
        config.get("model", {}).get("arch", "?"),
        ", ".join(config.get("sources", ())) or "?",
        config.get("train", {}).get("seed"),
        {name: float(value) for name, value in last.items() if value is not None},
        seconds or None,
        _recipe(config),
        tuple((int(row["step"]), float(row["loss"])) for row in rows if "loss" in row),
    )


def _steps(rows: Sequence[Mapping[str, float]], number: int) -> float:
    before = rows[number - 1]["step"] if number else 0
    return rows[number]["step"] - before


def _classifier(folder: Path, config: Mapping[str, Any], results: Mapping[str, Any]) -> RunSummary:
    kind = "finetune" if "tune" in results else "probe"
    return RunSummary(
        str(folder),
        kind,
        str(results["model"]) + (f" ({results['tune']})" if kind == "finetune" else ""),
        _data(results),
        results.get("seed"),
        {name: float(outcome["test_top1"]) for name, outcome in results["probes"].items()},
        float(sum(results["seconds"].values())),
        _recipe(config),
        intervals={name: found for name, outcome in results["probes"].items() if (found := _interval(outcome))},
    )


def _evaluation(folder: Path, results: Mapping[str, Any]) -> RunSummary:
    found = {row["name"]: float(row["top1"]) for row in results["results"]}
    intervals = {row["name"]: interval for row in results["results"] if (interval := _interval(row))}
    names, source = ", ".join(found), str(results["source"])
    return RunSummary(str(folder), "evaluate", names, source, None, found, None, str(folder), intervals=intervals)


def _interval(outcome: Mapping[str, Any]) -> tuple[float, float] | None:
    """The interval of an accuracy; None in runs of older versions."""
    found = outcome.get("test_top1_interval") or outcome.get("top1_interval")
    low, high = found.values() if isinstance(found, Mapping) else found or (None, None)
    return None if low is None or high is None else (float(low), float(high))


def _data(results: Mapping[str, Any]) -> str:
    label = results.get("label")
    return str(results["source"]) + (f" ({label})" if label else "")


def _recipe(config: Mapping[str, Any]) -> str:
    def kept(values: Any) -> Any:
        if isinstance(values, Mapping):
            return {key: kept(value) for key, value in values.items() if key not in _ELSEWHERE}
        return values

    return json.dumps(kept(config), sort_keys=True)


def repetitions(runs: Sequence[RunSummary]) -> list[tuple[RunSummary, ...]]:
    """Groups of at least two runs with the same recipe."""
    groups: dict[tuple[str, str], list[RunSummary]] = {}
    for run in runs:
        groups.setdefault((run.kind, run.recipe), []).append(run)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def mean_and_spread(group: Sequence[RunSummary]) -> dict[str, tuple[float, float]]:
    """Metric -> mean and standard deviation (of the sample) over the runs that have it."""
    names = list(dict.fromkeys(name for run in group for name in run.metrics))
    values = {name: [run.metrics[name] for run in group if name in run.metrics] for name in names}
    return {name: (statistics.fmean(v), statistics.stdev(v)) for name, v in values.items() if len(v) > 1}


def _rows(runs: Sequence[RunSummary]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of a table of runs of one kind."""
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    head = ("run", "model", "data", "seed", *names, "seconds")
    rows = [
        (
            run.path,
            run.model,
            run.data,
            "" if run.seed is None else str(run.seed),
            *(_number(run.metrics.get(name), run.intervals.get(name)) for name in names),
            "" if run.seconds is None else f"{run.seconds:.0f}",
        )
        for run in runs
    ]
    for group in repetitions(runs):
        spread = mean_and_spread(group)
        cells = (f"{spread[name][0]:.4g} ± {spread[name][1]:.2g}" if name in spread else "" for name in names)
        rows.append((f"mean of {len(group)} seeds", group[0].model, group[0].data, "", *cells, ""))
    return head, rows


def _number(value: float | None, interval: tuple[float, float] | None) -> str:
    shown = "–" if value is None else f"{value:.4g}"
    return shown if interval is None else f"{shown} ({interval[0]:.0f} - {interval[1]:.0f})"


def _by_kind(runs: Sequence[RunSummary]) -> dict[str, list[RunSummary]]:
    groups: dict[str, list[RunSummary]] = {}
    for run in runs:
        groups.setdefault(run.kind, []).append(run)
    return groups


def tables(runs: Sequence[RunSummary]) -> list[Table]:
    """A table for a terminal for each kind of run."""
    found = []
    for kind, group in _by_kind(runs).items():
        head, rows = _rows(group)
        table = Table(title=kind, title_justify="left")
        for number, name in enumerate(head):
            table.add_column(escape(name), justify="left" if number < 3 else "right", overflow="fold")
        for row in rows:
            table.add_row(*map(escape, row))
        found.append(table)
    return found


def write_comparison(path: Path, runs: Sequence[RunSummary]) -> Path:
    """Write an HTML page with a table for each kind of run, and the losses of pretrainings in one chart.

    Raises:
        CheckpointError: it cannot be written.
    """
    sections = []
    for kind, group in _by_kind(runs).items():
        sections.append(report.Section(kind, report.plain_table(*_rows(group))))
        curves = [run for run in group if len(run.curve) > 1]
        if curves:
            drawn = [charts.line_chart(f"Loss of {run.path}", *_columns(run.curve), smooth=True) for run in curves]
            sections.append(report.Section("Losses", report.chart_row(drawn)))
    note = (
        "Test top-1 accuracy in percent, with intervals of 95 %; of pretraining "
        "runs the last value of each metric. Runs that differ only in their "
        "seed are averaged."
    )
    return report.write_report(path, "Comparison of runs", sections, lead=note)


def _columns(curve: Sequence[tuple[int, float]]) -> tuple[list[int], dict[str, list[float]]]:
    return [step for step, _ in curve], {"loss": [loss for _, loss in curve]}
