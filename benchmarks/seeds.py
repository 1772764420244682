"""The seeds' table on this machine's data: nano-JEPA's six models in shape, and two real sets, accuracy per epoch.

    .venv/bin/python benchmarks/seeds.py run [--seeds 0 1 2] [--real DIR]
    .venv/bin/python benchmarks/seeds.py report [--figure docs/images/seeds.png]

A cell is a model, a way to train it, and a seed. Models A to F are classifiers on a tiny backbone of the preset `demo-masked`
for 4 or 8 motions and 25 or 100 videos of each; A to D stand on the pretrained backbone, E and F on its initial weights.
With `--real`, classifiers of surveillance clips (2 classes) and of photographs of hands (10) on both backbones as well.

Ways: `finetune` (`vjepa finetune`, 20 epochs), `open` (the same with the number of epochs left open, which
gives 600 steps; for A and C), `hf-card` (`--preset hf-card`: 5 epochs of Adam, 1e-5), `probe` (`vjepa probe`:
attentive, linear, nearest neighbors).

A cell is one JSON line of the results file, added when it is done; cells that are in it are skipped, so that a run that
was ended goes on. `--cells` limits what is run, for instance to `A/probe C/probe`. Backbones are those of a `vjepa demo
--seed S` where `--demo` names its folder (`{seed}` stands for S), else they are pretrained first, as the demo does.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from openvjepa.commands.finetune import finetune
from openvjepa.commands.pretrain import pretrain
from openvjepa.commands.probe import probe
from openvjepa.config import FINETUNE_PRESETS as PRESETS
from openvjepa.config import FinetuneConfig, ProbeConfig, ShapesConfig
from openvjepa.config.presets import demo_masked as demo
from openvjepa.data.rendered.synthetic import MOTIONS, make_shapes
from openvjepa.pretraining.task import PretrainTask
from openvjepa.train.logs import read_metrics
from openvjepa.weights.hub import save_model

WAYS = ("finetune", "probe", "hf-card", "open")
POOL = {"train": 864, "val": 144, "test": 288}  # videos of 8 motions: at least 100, exactly 18 and exactly 36 of each
PRETRAINING = {"train": 768, "val": 192, "test": 384}  # videos of `vjepa demo`
DATA_SEED = 1000  # labeled videos are others than those that the backbone was pretrained on
BLUE, ORANGE, GREY = "#2563eb", "#d97706", "#9ca3af"


@dataclass(frozen=True)
class Model:
    """One row of the table."""

    classes: int
    per_class: int
    """Training videos of each class; of a real set, all that are no test or validation videos."""
    backbone: str
    real: str | None = None
    """Folder name of a real set."""


MODELS = {
    "A": Model(4, 25, "pretrained"),
    "B": Model(4, 100, "pretrained"),
    "C": Model(8, 25, "pretrained"),
    "D": Model(8, 100, "pretrained"),
    "E": Model(4, 100, "untrained"),
    "F": Model(8, 100, "untrained"),
    "surveillance": Model(2, 50, "pretrained", "surveillance"),
    "surveillance, untrained": Model(2, 50, "untrained", "surveillance"),
    "sign_digits": Model(10, 70, "pretrained", "sign_digits"),
    "sign_digits, untrained": Model(10, 70, "untrained", "sign_digits"),
}


# ---------------------------------------------------------------------------------------------------------------- run


def run(args: argparse.Namespace) -> None:
    """Fill the missing cells of the results file."""
    torch.set_num_threads(args.threads)
    for seed, way, name in cells(args):
        key = {"model": name, "way": way, "seed": seed}
        if any(key.items() <= line.items() for line in read_lines(args.results)):
            continue
        backbone = backbones(args, seed)
        source = labeled(args, MODELS[name], seed)
        print(f"\n== {name}, {way}, seed {seed}", flush=True)
        started = time.process_time()
        with open(args.work / "log.txt", "a") as log, contextlib.redirect_stdout(log):
            figures = measure(args, key, backbone, source)
        line = key | figures | {"cpu_seconds": round(time.process_time() - started, 1), **facts()}
        args.results.parent.mkdir(parents=True, exist_ok=True)
        with args.results.open("a") as file:  # a short line goes in at once, also beside another run's
            file.write(json.dumps(line) + "\n")
        print(json.dumps({name: line[name] for name in ("test", "videos", "cpu_seconds")}), flush=True)


def cells(args: argparse.Namespace) -> Iterator[tuple[int, str, str]]:
    """(seed, way, model) of what is to be run: seed by seed, the models of the table before real sets."""
    chosen = [name for name, model in MODELS.items() if args.real or not model.real]
    for seed in args.seeds:
        for way in WAYS:
            for name in chosen:
                wanted = f"{name}/{way}" in args.cells if args.cells else way != "open" or MODELS[name].per_class == 25
                if wanted:
                    yield seed, way, name


def backbones(args: argparse.Namespace, seed: int) -> Path:
    """Folder with `pretrain` and `untrained`: a demo's, or made now in the same way."""
    if args.demo:
        return Path(args.demo.format(seed=seed))
    folder = args.work / f"backbone-{seed}"
    if (folder / "pretrain" / "model.yaml").exists():
        return folder
    if not (folder / "shapes" / "index.csv").exists():
        make_shapes(ShapesConfig(out=str(folder / "shapes"), seed=seed, **PRETRAINING), workers=args.threads)
    recipe = demo()
    recipe = replace(
        recipe,
        sources=(str(folder / "shapes"),),
        out=str(folder / "pretrain"),
        data=replace(recipe.data, label="motion", workers=0),  # the label is for the collapse monitor alone
        train=replace(recipe.train, seed=seed, threads=args.threads, overwrite=True),
    )
    torch.manual_seed(seed)
    save_model(folder / "untrained", PretrainTask(recipe).jepa.encoder)
    print(f"== pretraining the backbone of seed {seed}", flush=True)
    if pretrain(recipe).interrupted:
        raise SystemExit("interrupted")
    return folder


def labeled(args: argparse.Namespace, model: Model, seed: int) -> Path:
    """What to train on: a CSV with the wanted number of videos of each class, or a folder of class folders."""
    if model.real:
        return Path(args.real) / model.real
    folder = args.work / f"shapes-{seed}"
    if not (folder / "index.csv").exists():
        make_shapes(ShapesConfig(out=str(folder), seed=DATA_SEED + seed, **POOL), workers=args.threads)
    motions, left = list(MOTIONS)[-model.classes :], defaultdict(lambda: model.per_class)
    rows = [("path", "motion", "split")]
    for row in csv.DictReader((folder / "index.csv").open()):
        motion, split = row["motion"], row["split"]
        if motion in motions and (split != "train" or left[motion] > 0):
            left[motion] -= split == "train"
            rows.append((row["path"], motion, split))
    path = folder / f"{model.classes}x{model.per_class}.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def measure(args: argparse.Namespace, key: dict[str, Any], backbone: Path, source: Path) -> dict[str, Any]:
    """Accuracies of a cell, percent."""
    model, way, seed = MODELS[key["model"]], key["way"], key["seed"]
    # Encoded anew for each cell, so that its time says what a user would wait.
    own = {
        "model": str(backbone / ("pretrain" if model.backbone == "pretrained" else "untrained")),
        "source": str(source),
        "out": str(args.work / "runs" / f"{key['model']}-{way}-{seed}".replace(", ", "-")),
        "frame_step": 4 if model.real else 1,
        "test_share": 0.3 if model.real == "surveillance" else 0.15,
        "seed": seed,
        "overwrite": True,
        "device": "cpu",
        "threads": args.threads,
        "workers": 0,  # all work is in this process, whose time is measured
    }
    if way == "probe":
        result = probe(ProbeConfig(**own))
        outcomes = result.outcomes
        curve = [(row["step"], row["val_top1"]) for row in metrics(own["out"]) if "val_top1" in row]
        test = {kind: outcome.test_top1 for kind, outcome in outcomes.items()}
        val = {kind: outcome.val_top1 for kind, outcome in outcomes.items()}
        return {"test": test, "val": val, "val_per_epoch": curve, "videos": result.videos, "chance": result.chance}
    config = PRESETS["hf-card"]() if way == "hf-card" else FinetuneConfig(epochs=20 if way == "finetune" else None)
    result = finetune(replace(config, **own))
    if result is None:
        raise SystemExit("interrupted")
    rows = metrics(own["out"])
    per_epoch = {name: [(row["epoch"], row[name]) for row in rows if name in row] for name in ("val_top1", "val_loss")}
    return {
        "test": {"attentive": result.outcome.test_top1},
        "val": {"attentive": result.outcome.val_top1},
        "val_per_epoch": per_epoch["val_top1"],
        "val_loss_per_epoch": [(epoch, round(loss, 4)) for epoch, loss in per_epoch["val_loss"]],
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        "videos": result.videos,
        "chance": result.chance,
    }


def metrics(out: str) -> list[dict[str, float]]:
    """Rows of a run's log."""
    return read_metrics(Path(out) / "metrics.jsonl")


def facts() -> dict[str, Any]:
    """What ran where and when."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "torch": torch.__version__,
    }


# ------------------------------------------------------------------------------------------------------------- report


def report(args: argparse.Namespace) -> None:
    """Print the tables and draw the figure."""
    lines = read_lines(args.results)
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in sorted(lines, key=lambda line: line["seed"]):
        found[line["model"], line["way"]].append(line)
    print("\n".join(table(found)))
    print()
    for way in WAYS:
        seconds = [line["cpu_seconds"] for line in lines if line["way"] == way]
        if seconds:
            print(f"{way}: {len(seconds)} cells, {min(seconds):.0f} to {max(seconds):.0f} s of processor time each")
    if args.figure:
        args.figure.parent.mkdir(parents=True, exist_ok=True)
        draw(found).savefig(args.figure, dpi=160)


def table(found: dict[tuple[str, str], list[dict[str, Any]]]) -> Iterator[str]:
    """Test accuracy of every model in every way, as Markdown."""
    columns = [("finetune", "attentive"), ("open", "attentive"), ("hf-card", "attentive")]
    columns += [("probe", kind) for kind in ("attentive", "linear", "knn")]
    heads = ["`finetune`, 20 epochs", "600 steps", "`hf-card`", "attentive probe", "linear probe", "kNN"]
    yield "| model | backbone | classes x videos | test videos | " + " | ".join(heads) + " | guessing |"
    yield "|---" * 4 + "|---" * (len(heads) + 1) + "|"
    for name, model in MODELS.items():
        first = next((rows[0] for (owner, _), rows in found.items() if owner == name), None)
        if first is None:
            continue
        values = [spread([line["test"][kind] for line in found[name, way]]) for way, kind in columns]
        size = f"{model.classes} x {first['videos']['train'] / model.classes:.0f}"
        start = f"| {name.split(',')[0]} | {model.backbone} | {size} | {first['videos']['test']} "
        yield start + "".join(f"| {value} " for value in values) + f"| {first['chance']:.1f} |"


def spread(values: Iterable[float]) -> str:
    """Mean (least - most)."""
    found = list(values)
    if len(found) < 2:
        return f"{found[0]:.1f}" if found else ""
    return f"{np.mean(found):.1f} ({min(found):.1f} - {max(found):.1f})"


def draw(found: dict[tuple[str, str], list[dict[str, Any]]]) -> Figure:
    """Six panels: validation accuracy after each epoch, a thin line for each seed and a thick one for their mean."""
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True, sharey=True)
    for panel, name in zip(panels.flat, "ABCDEF", strict=True):
        model = MODELS[name]
        for way, color in (("finetune", BLUE), ("hf-card", ORANGE)):
            curves = [np.array(line["val_per_epoch"]) for line in found[name, way]]
            for curve in curves:
                panel.plot(*curve.T, color=color, linewidth=0.8, alpha=0.35)
            if curves:
                panel.plot(*np.mean(curves, axis=0).T, color=color, linewidth=2)
        panel.axhline(100 / model.classes, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        title = f"{name}: {model.classes} classes x {model.per_class}"
        panel.set_title(title + (", untrained" if model.backbone == "untrained" else ""), loc="left", fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", alpha=0.25, linewidth=0.6)
        panel.set(xlim=(0, 20.3), ylim=(0, 103), xticks=range(0, 21, 5))
    corner = panels[0, 0]
    corner.text(20, 38, "vjepa finetune", color=BLUE, ha="right", fontsize=9)
    corner.text(20, 5, "--preset hf-card (5 epochs)", color=ORANGE, ha="right", fontsize=9)
    corner.text(20, 27, "guessing", color="#6b7280", ha="right", fontsize=9)
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel("validation accuracy, %", fontsize=10)
    return figure


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of the results file; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    """Run as told on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/seeds.json"))
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run", help="fill the missing cells")
    command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    command.add_argument("--real", help="folder that holds surveillance and sign_digits")
    command.add_argument("--demo", help="folder of a `vjepa demo` to take the backbones of, {seed} for the seed")
    command.add_argument("--cells", nargs="+", help="only these, MODEL/WAY")
    command.add_argument("--work", type=Path, default=Path("runs/seeds"))
    command.add_argument("--threads", type=int, default=1)
    command.set_defaults(function=run)
    command = commands.add_parser("report", help="tables and figure")
    command.add_argument("--figure", type=Path)
    command.set_defaults(function=report)
    args = parser.parse_args()
    if "work" in args:
        args.work.mkdir(parents=True, exist_ok=True)
    args.function(args)


if __name__ == "__main__":
    main()
