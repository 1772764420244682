"""`vjepa evaluate`: how good classifiers are on labelled videos, each alone and all together, and what that costs."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from openvjepa.commands.probe import versions
from openvjepa.config import Combine, EvaluateConfig, TrainConfig, to_mapping
from openvjepa.data.index import VideoIndex
from openvjepa.errors import ConfigError, DataError
from openvjepa.features.encode import EncodeSettings
from openvjepa.inference.ensemble import (
    Answers,
    Member,
    Probabilities,
    ask,
    check_combinable,
    combined,
    label_sets,
    load_members,
    passes,
    to_device,
)
from openvjepa.inference.labelled import check_labels, videos_for
from openvjepa.metrics import Scores, score
from openvjepa.probing.heads import Labels
from openvjepa.train.distributed import make_runtime
from openvjepa.weights.files import whole_file, write_file

RUN_FILES = ("results.json", "report.html", "predictions.csv")


@dataclass(frozen=True)
class Verdict:
    """How one classifier, or all together, did, and at what cost."""

    name: str
    scores: Scores
    probabilities: Probabilities
    """[n, C] of the videos that could be read."""
    passes: int
    """Clips of a video that go through an encoder (segments x views); of several runs those of all encoder passes."""
    seconds_per_video: float
    """Wall time, reading included."""

    @property
    def seconds_per_clip(self) -> float:
        """Wall time, reading included."""
        return self.seconds_per_video / self.passes


@dataclass(frozen=True)
class EvaluateResult:
    """What `vjepa evaluate` found; results.json holds the same figures."""

    out: Path
    classes: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    """Of each run, and last, where there are several with the same classes, of all together."""
    index: VideoIndex
    """The videos that could be read; labels are numbers of `classes`."""
    skipped: dict[str, str]
    """Unreadable files: path -> reason."""
    left_out: int
    """Videos that a run was trained on or chosen with."""

    @property
    def labels(self) -> Labels:
        """Class numbers [n]."""
        return np.array(self.index.labels, dtype=np.int64)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "source": self.index.source,
            "classes": self.classes,
            "videos": len(self.index),
            "skipped": self.skipped,
            "left_out": self.left_out,
            "results": [
                {
                    "name": verdict.name,
                    **verdict.scores.to_dict(),
                    "passes_per_video": verdict.passes,
                    "seconds_per_video": verdict.seconds_per_video,
                    "seconds_per_clip": verdict.seconds_per_clip,
                }
                for verdict in self.verdicts
            ],
        }


def evaluate(config: EvaluateConfig) -> EvaluateResult:
    """Show labelled videos to classifiers, count right answers, and write results.json, report.html and predictions.csv.

    Classes are matched by their names. Runs with one and the same encoder share its pass. A video that cannot be read is
    counted and reported, and does not stop the others.

    Raises:
        ConfigError: no run or no videos are given, the folder is in use, or runs with different classes are to be combined.
        CheckpointError: a run cannot be read or holds no classifier, or the results cannot be written.
        DataError: the videos cannot be read, have no labels, or have labels that a run does not know.
    """
    runs, data = (config.runs, config.data) if config.data else (config.runs[:-1], "".join(config.runs[-1:]))
    if not runs or not data:
        raise ConfigError(
            "give run folders of probes or fine-tunings, and then labelled videos: a folder, list or CSV file"
        )
    out = Path(config.out)
    if not config.overwrite and any((out / name).exists() for name in RUN_FILES):
        raise ConfigError(f"{out}: holds an evaluation already: add --overwrite to replace it, or choose another --out")
    index, left_out = videos_for(runs, data, label=config.label, split=config.split)
    rate = {"frame_step": config.frame_step, "fps": config.fps}
    members = load_members(runs, index.records, segments=config.segments, views=config.views, **rate)
    if config.combine is not None:
        check_combinable(members)
    for member in members:
        check_labels(index, member)
    train = TrainConfig(device=config.device, precision=config.precision, threads=config.threads)
    with make_runtime(train) as runtime:
        print(f"evaluate on {runtime}", file=sys.stderr if config.json else sys.stdout, flush=True)
        to_device(members, runtime)
        settings = EncodeSettings(runtime, config.batch_size, workers=config.workers)
        said = ask(members, index, settings)
    result = _result(config, members, index, said, left_out)
    _write(config, members, result, str(runtime))
    if config.json:
        print(json.dumps(result.to_dict(), indent=1))
    else:
        _print(result)
    return result


def _result(
    config: EvaluateConfig, members: Sequence[Member], index: VideoIndex, said: Answers, left_out: int
) -> EvaluateResult:
    """Score each run, in the order of the first one's classes where they are the same, and all together."""
    kept = said.kept
    skipped = {index.records[place].path: reason for place, reason in said.skipped.items()}
    if not kept:
        path, reason = next(iter(skipped.items()))
        raise DataError(f"{index.source}: none of {len(index)} videos can be read, for example {path}: {reason}")
    classes = members[0].classifier.classes
    if len(label_sets(members)) > 1:  # of supersets of the videos' classes, every run keeps its own
        classes = tuple(dict.fromkeys(name for member in members for name in member.classifier.classes))
    number = {name: i for i, name in enumerate(classes)}
    names = index.classes or ()
    records = tuple(replace(index.records[i], label=number[names[index.labels[i]]]) for i in kept)
    read = replace(index, records=records, classes=classes)
    labels = np.array(read.labels, dtype=np.int64)
    verdicts = []
    short = _short_names([member.name for member in members])
    for name, member, found, seconds in zip(short, members, said.probabilities, said.seconds, strict=True):
        shares = _widen(found[kept], member.classifier.classes, classes)
        scores, plan = score(shares, labels, classes), member.classifier.plan
        verdicts.append(Verdict(name, scores, shares, plan.clips, seconds / len(index)))
    if len(members) > 1 and len(label_sets(members)) == 1:
        ((_, _, together),) = combined(members, said.probabilities, config.combine or "mean")
        verdicts.append(_all(members, together[kept], labels, said, config.combine or "mean"))
    return EvaluateResult(Path(config.out), classes, tuple(verdicts), read, skipped, left_out)


def _short_names(names: Sequence[str]) -> list[str]:
    """The last part of each path where these differ, else the whole."""
    last = [Path(name).name for name in names]
    return last if len(set(last)) == len(last) else list(names)


def _widen(probabilities: Probabilities, have: Sequence[str], want: Sequence[str]) -> Probabilities:
    """Columns [n, C] of the classes `have` in the order of `want`; 0 for classes that are not among them."""
    wide = np.zeros((len(probabilities), len(want)))
    wide[:, [want.index(name) for name in have]] = probabilities
    return wide


def _all(members: Sequence[Member], shares: Probabilities, labels: Labels, said: Answers, how: Combine) -> Verdict:
    """All runs together: the cost is that of the passes that they need."""
    firsts = [group[0] for group in passes(members)]
    clips = sum(members[i].classifier.plan.clips for i in firsts)
    seconds = sum(said.seconds[i] for i in firsts) / len(said.probabilities[0])
    name = f"all {len(members)} ({'mean softmax' if how == 'mean' else 'vote'})"
    return Verdict(name, score(shares, labels, members[0].classifier.classes), shares, clips, seconds)


def _write(config: EvaluateConfig, members: Sequence[Member], result: EvaluateResult, runtime: str) -> None:
    """predictions.csv, report.html, and results.json, which is the last: a folder without it is unfinished."""
    from openvjepa.reports.evaluate import write_evaluation  # matplotlib takes a second to load

    (result.out / "results.json").unlink(missing_ok=True)
    _write_predictions(result)
    facts = {"computed on": runtime, "settings": to_mapping(config), "versions": versions()}
    write_evaluation(result, members[0].classifier.plan, facts)
    text = json.dumps({**result.to_dict(), **facts}, indent=1)
    write_file(result.out / "results.json", text.encode())


def _write_predictions(result: EvaluateResult) -> None:
    """A line for each video: path, true class, and what each run says, with which probability."""
    names = [name for v in result.verdicts for name in (v.name, f"probability ({v.name})")]
    path = result.out / "predictions.csv"
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", *names])
        for row, record in enumerate(result.index.records):
            said = [(int(v.probabilities[row].argmax()), float(v.probabilities[row].max())) for v in result.verdicts]
            cells = [cell for best, share in said for cell in (result.classes[best], f"{share:.6f}")]
            writer.writerow([record.path, result.classes[result.labels[row]], *cells])


def _print(result: EvaluateResult) -> None:
    """The figures and their cost; of one classifier also class by class."""
    table = Table(
        Column("run", overflow="fold"),
        title=f"{len(result.index)} videos, {len(result.classes)} classes",
        title_justify="left",
    )
    large = result.verdicts[0].scores.top5 is not None
    headings = ("top-1 %", *(["top-5"] if large else []), "class mean", "ECE %", "log loss")
    for heading in (*headings, "passes", "s/video", "s/pass"):
        table.add_column(heading, justify="right")
    for verdict in result.verdicts:
        s = verdict.scores
        figures = [s.top1, *([s.top5] if large else []), s.mean_class, s.ece]
        cost = (str(verdict.passes), f"{verdict.seconds_per_video:.3g}", f"{verdict.seconds_per_clip:.3g}")
        table.add_row(escape(verdict.name), *(f"{value:.1f}" for value in figures), f"{s.log_loss:.3f}", *cost)
    console = Console()
    console.print(table, _class_table(result.verdicts[-1]))
    for path, reason in list(result.skipped.items())[:10]:
        print(f"cannot be read: {path}: {reason}")
    notes = [f"{len(result.skipped)} cannot be read"] if result.skipped else []
    notes += (
        [f"{result.left_out} left out, since a run was trained on them or chosen with them"] if result.left_out else []
    )
    print("; ".join([f"{len(result.index)} videos", *notes, f"results in {result.out}: report.html, predictions.csv"]))


def _class_table(verdict: Verdict, most: int = 30) -> Table:
    """The classes, the least recognised first."""
    table = Table("class", title=escape(verdict.name), title_justify="left")
    for heading in ("videos", "recognised %", "right of those named so %"):
        table.add_column(heading, justify="right")
    table.add_column("most often taken for")
    rows = sorted(verdict.scores.per_class, key=lambda row: (row.recall is None, row.recall or 0.0))
    for row in rows[:most]:
        shares = ("-" if value is None else f"{value:.1f}" for value in (row.recall, row.precision))
        table.add_row(escape(row.name), str(row.videos), *shares, escape(row.taken_for or ""))
    if len(rows) > most:
        table.caption = f"{len(rows) - most} more are in report.html"
    return table
