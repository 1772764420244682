"""`vjepa evaluate`: how good classifiers are on labeled videos, each alone and all together, and what that costs."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from openvjepa.atomic import json_text
from openvjepa.config import EvaluateConfig, command, to_mapping
from openvjepa.data.lists.cells import safe_cell
from openvjepa.errors import ConfigError
from openvjepa.features.encode import EncodeSettings
from openvjepa.inference.classifier import heads_of
from openvjepa.inference.ensemble import Member, ask, check_combinable, load_members, to_device
from openvjepa.inference.evaluation import EvaluateResult, evaluation_result
from openvjepa.inference.labeled import check_labels, videos_for
from openvjepa.inference.temporal.evaluation import TemporalResult, evaluate_over_time
from openvjepa.inference.temporal.segments import write_segments
from openvjepa.reports.runs.evaluate import write_evaluation
from openvjepa.reports.runs.temporal import write_temporal
from openvjepa.train.distributed import make_runtime
from openvjepa.train.run_folder import open_output
from openvjepa.version import versions
from openvjepa.weights.files import whole_file, write_file

logger = logging.getLogger("openvjepa")

RUN_FILES = ("results.json", "report.html", "predictions.csv")


def _head(source: str, label: str | None) -> str:
    """Of a run with several labels, the folder of the one that is evaluated."""
    heads = heads_of(source)
    if not heads:
        return source
    if label not in heads:
        raise ConfigError(f"{source}: knows the labels {', '.join(heads)}: choose one of them with --label")
    return str(Path(source) / label)


@command(EvaluateConfig, "source")
def evaluate(config: EvaluateConfig) -> EvaluateResult | TemporalResult:
    """Evaluate classifiers on labeled videos, and write results.json, report.html and predictions.csv.

    Classes are matched by their names. Runs with one and the same encoder share its pass. A video that cannot be read is
    counted and reported, and does not stop the others. With `window`, long videos are followed and their segments are
    compared with the labeled ones.

    Raises:
        ConfigError: no run or no videos are given, the folder is in use, or runs with different classes are to be combined.
        CheckpointError: a run cannot be read or holds no classifier, or the results cannot be written.
        DataError: the videos cannot be read, have no labels, or have labels that a run does not know.
    """
    if not config.source:
        raise ConfigError("no videos given: pass a folder, list or CSV file of labeled videos")
    if not config.model:
        raise ConfigError("no model given: pass --model with run folders of vjepa train, probe or finetune")
    with open_output(config.out, RUN_FILES, overwrite=config.overwrite) as out:
        return _evaluate(config, out)


def _evaluate(config: EvaluateConfig, out: Path) -> EvaluateResult | TemporalResult:
    models = tuple(_head(source, config.label) for source in config.model)
    chosen = videos_for(
        models, config.source, label=config.label, split=config.split, group=config.group, classes=config
    )
    clips = config if config.window is None else replace(config, segments=config.segments or 1)
    members = load_members(models, chosen.index.records, clips)
    if config.combine is not None:
        check_combinable(members)
    for member in members:
        check_labels(chosen.index, member)
    with make_runtime(config) as runtime:
        logger.info("evaluate on %s", runtime)
        to_device(members, runtime)
        if config.window is not None:
            how = config.combine or "mean"
            found = evaluate_over_time(out, members, chosen, config, runtime, combine=how, background=config.background)
            _write_over_time(config, found, str(runtime))
            return found
        settings = EncodeSettings(runtime, config.batch_size, workers=config.workers)
        said = ask(members, chosen.index, settings)
    result = evaluation_result(out, members, chosen, said, config.combine or "mean")
    _write(config, members, result, str(runtime))
    return result


def _write(config: EvaluateConfig, members: Sequence[Member], result: EvaluateResult, runtime: str) -> None:
    """predictions.csv, report.html, and results.json, which is the last: a folder without it is unfinished."""
    (result.out / "results.json").unlink(missing_ok=True)
    _write_predictions(result)
    facts = {"computed on": runtime, "settings": to_mapping(config), "versions": versions()}
    write_evaluation(result, members[0].classifier.plan, facts)
    text = json_text({**result.to_dict(), **facts})
    write_file(result.out / "results.json", text.encode())


def _write_over_time(config: EvaluateConfig, result: TemporalResult, runtime: str) -> None:
    """predictions.csv with the segments of the last classifier, report.html, and results.json, which is the last."""
    (result.out / "results.json").unlink(missing_ok=True)
    write_segments(result.out / "predictions.csv", [video.timelines[-1] for video in result.videos])
    facts = {"computed on": runtime, "settings": to_mapping(config), "versions": versions()}
    write_temporal(result, facts)
    write_file(result.out / "results.json", json_text({**result.to_dict(), **facts}).encode())


def _write_predictions(result: EvaluateResult) -> None:
    """A line for each video: path, true class, and what each run says, with which probability."""
    names = [name for v in result.evaluations for name in (v.name, f"probability ({v.name})")]
    known = [v for v in result.evaluations if v.distances is not None]
    names += [f"distance ({v.name})" for v in known]
    path = result.out / "predictions.csv"
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        parts = any(record.is_part for record in result.index.records)
        writer.writerow(["path", *(("start", "end") if parts else ()), "label", *map(safe_cell, names)])
        for row, record in enumerate(result.index.records):
            said = [(int(v.probabilities[row].argmax()), float(v.probabilities[row].max())) for v in result.evaluations]
            cells = [cell for best, share in said for cell in (result.classes[best], f"{share:.6f}")]
            cells += [f"{v.distances[row]:.4f}" for v in known if v.distances is not None]
            times: list[float | None] = [record.start, record.end] if parts else []
            writer.writerow(map(safe_cell, [record.path, *times, result.classes[result.labels[row]], *cells]))
