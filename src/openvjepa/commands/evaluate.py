"""`vjepa evaluate`: how good classifiers are on labelled videos, each alone and all together, and what that costs."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from openvjepa.config import EvaluateConfig, TrainConfig, command, to_mapping
from openvjepa.errors import ConfigError
from openvjepa.features.encode import EncodeSettings
from openvjepa.inference.ensemble import Member, ask, check_combinable, load_members, to_device
from openvjepa.inference.evaluation import EvaluateResult, Evaluation, evaluation_result
from openvjepa.inference.labelled import check_labels, videos_for
from openvjepa.reports.evaluate import share, write_evaluation
from openvjepa.train.distributed import make_runtime
from openvjepa.version import versions
from openvjepa.weights.files import whole_file, write_file

RUN_FILES = ("results.json", "report.html", "predictions.csv")


@command(EvaluateConfig, "source")
def evaluate(config: EvaluateConfig) -> EvaluateResult:
    """Show labelled videos to classifiers, count right answers, and write results.json, report.html and predictions.csv.

    Classes are matched by their names. Runs with one and the same encoder share its pass. A video that cannot be read is
    counted and reported, and does not stop the others.

    Raises:
        ConfigError: no run or no videos are given, the folder is in use, or runs with different classes are to be combined.
        CheckpointError: a run cannot be read or holds no classifier, or the results cannot be written.
        DataError: the videos cannot be read, have no labels, or have labels that a run does not know.
    """
    if not config.source:
        raise ConfigError("no videos given: name a folder, a list or a CSV file of labeled videos")
    if not config.model:
        raise ConfigError("no model given: --model names run folders of probes or fine-tunings")
    out = Path(config.out)
    if not config.overwrite and any((out / name).exists() for name in RUN_FILES):
        raise ConfigError(f"{out}: holds an evaluation already: add --overwrite to replace it, or choose another --out")
    chosen = videos_for(config.model, config.source, label=config.label, split=config.split)
    shown = {"segments": config.segments, "views": config.views, "placement": config.placement, "fit": config.fit}
    members = load_members(config.model, chosen.index.records, frame_step=config.frame_step, fps=config.fps, **shown)
    if config.combine is not None:
        check_combinable(members)
    for member in members:
        check_labels(chosen.index, member)
    train = TrainConfig(device=config.device, precision=config.precision, threads=config.threads)
    with make_runtime(train) as runtime:
        print(f"evaluate on {runtime}", file=sys.stderr if config.json else sys.stdout, flush=True)
        to_device(members, runtime)
        settings = EncodeSettings(runtime, config.batch_size, workers=config.workers)
        said = ask(members, chosen.index, settings)
    result = evaluation_result(out, members, chosen, said, config.combine or "mean")
    _write(config, members, result, str(runtime))
    if config.json:
        print(json.dumps(result.to_dict(), indent=1))
    else:
        _print(result)
    return result


def _write(config: EvaluateConfig, members: Sequence[Member], result: EvaluateResult, runtime: str) -> None:
    """predictions.csv, report.html, and results.json, which is the last: a folder without it is unfinished."""
    (result.out / "results.json").unlink(missing_ok=True)
    _write_predictions(result)
    facts = {"computed on": runtime, "settings": to_mapping(config), "versions": versions()}
    write_evaluation(result, members[0].classifier.plan, facts)
    text = json.dumps({**result.to_dict(), **facts}, indent=1)
    write_file(result.out / "results.json", text.encode())


def _write_predictions(result: EvaluateResult) -> None:
    """A line for each video: path, true class, and what each run says, with which probability."""
    names = [name for v in result.evaluations for name in (v.name, f"probability ({v.name})")]
    path = result.out / "predictions.csv"
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", *names])
        for row, record in enumerate(result.index.records):
            said = [(int(v.probabilities[row].argmax()), float(v.probabilities[row].max())) for v in result.evaluations]
            cells = [cell for best, share in said for cell in (result.classes[best], f"{share:.6f}")]
            writer.writerow([record.path, result.classes[result.labels[row]], *cells])


def _print(result: EvaluateResult) -> None:
    """The figures and their cost; of one classifier also class by class."""
    table = Table(
        Column("run", overflow="fold"),
        title=f"{len(result.index)} videos, {len(result.classes)} classes",
        title_justify="left",
    )
    large = result.evaluations[0].metrics.top5 is not None
    headings = ("top-1 %", *(["top-5"] if large else []), "class mean", "ECE %", "log loss")
    for heading in (*headings, "passes", "s/video", "s/pass"):
        table.add_column(heading, justify="right")
    for evaluation in result.evaluations:
        s = evaluation.metrics
        figures = [s.top1, *([s.top5] if large else []), s.mean_class, s.ece]
        cost = (str(evaluation.passes), f"{evaluation.seconds_per_video:.3g}", f"{evaluation.seconds_per_clip:.3g}")
        table.add_row(escape(evaluation.name), *(f"{value:.1f}" for value in figures), f"{s.log_loss:.3f}", *cost)
    console = Console()
    console.print(table, _class_table(result.evaluations[-1]))
    for path, reason in list(result.skipped.items())[:10]:
        print(f"cannot be read: {path}: {reason}")
    notes = [f"{len(result.skipped)} cannot be read"] if result.skipped else []
    notes += (
        [f"{result.left_out} left out, since a run was trained on them or chosen with them"] if result.left_out else []
    )
    if result.seen:
        notes.append(f"{result.seen} of them seen in training: the accuracy is too high")
    if result.unknown:
        notes.append(f"not known which videos {', '.join(result.unknown)} was trained on: the accuracy may be too high")
    print("; ".join([f"{len(result.index)} videos", *notes, f"results in {result.out}: report.html, predictions.csv"]))


def _class_table(evaluation: Evaluation, most: int = 30) -> Table:
    """The classes, lowest recall first."""
    table = Table("class", title=escape(evaluation.name), title_justify="left")
    for heading in ("videos", "recall %", "precision %"):
        table.add_column(heading, justify="right")
    table.add_column("most often confused with")
    rows = sorted(evaluation.metrics.per_class, key=lambda row: (row.recall is None, row.recall or 0.0))
    for row in rows[:most]:
        shares = (share(value) for value in (row.recall, row.precision))
        table.add_row(escape(row.name), str(row.videos), *shares, escape(row.confused_with or ""))
    if len(rows) > most:
        table.caption = f"{len(rows) - most} more are in report.html"
    return table
