"""The paper's comparison on small data: what is predicted, which masks, which videos; frozen and fine-tuned.

    .venv/bin/python benchmarks/comparison.py run [--seeds 0 1] [--rows features pixels ...]
    .venv/bin/python benchmarks/comparison.py report

Every row changes one thing of one recipe (the preset `nano-masked` with the coarser tokens that it had first) and pretrains on
400 rendered videos; then the encoder is judged on 384 others of the plain set: linear and attentive probe on the frozen encoder,
for motion and for shape, and fine-tuning of everything, for motion. Data mixes are of plain shapes and of harder ones
(textured, with things in the background), always 400 videos. A finished row and seed is one line of the results file and is
not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from openvjepa import __version__
from openvjepa.commands.finetune import finetune
from openvjepa.commands.pretrain import pretrain
from openvjepa.commands.probe import probe
from openvjepa.config import (
    PRESETS,
    FinetuneConfig,
    MaskConfig,
    MaskingConfig,
    PretrainConfig,
    ProbeConfig,
    ShapesConfig,
)
from openvjepa.data.rendered.synthetic import make_shapes
from openvjepa.pretraining.task import PretrainTask
from openvjepa.weights.hub import save_model

RESULTS = Path(__file__).parent / "results" / "comparison.json"
PLAIN, HARD = "plain", "hard"
SETS = {
    PLAIN: ShapesConfig(train=400, val=96, test=384),
    HARD: ShapesConfig(train=400, val=0, test=0, texture=0.5, clutter=2, seed=500),
}
Change = Callable[[PretrainConfig], PretrainConfig]


def masked(*masks: MaskConfig) -> Change:
    """The recipe with other masks, and as many of them in a step as before."""

    def change(config: PretrainConfig) -> PretrainConfig:
        times = max(1, len(config.masking.masks) // len(masks))
        return replace(config, masking=MaskingConfig(masks=masks * times))

    return change


def pixels(config: PretrainConfig) -> PretrainConfig:
    """The recipe with pixels as targets; without SIGReg, whose weight was chosen for features."""
    return replace(config, objective=replace(config.objective, target="pixels", sigreg_coeff=0.0))


def same(config: PretrainConfig) -> PretrainConfig:
    """The recipe."""
    return config


def unregularised(config: PretrainConfig) -> PretrainConfig:
    """The recipe with the published objective alone."""
    return replace(config, objective=replace(config.objective, sigreg_coeff=0.0))


BLOCK = MaskConfig(spatial_scale=(0.3, 0.3), temporal_scale=(0.5, 0.5))
SHORT, LONG = MaskConfig(), MaskConfig(num_blocks=2, spatial_scale=(0.7, 0.7))
TUBE = MaskConfig(kind="tube", ratio=0.9)
# name: (what differs, sets that are pretrained on)
ROWS: dict[str, tuple[Change, tuple[str, ...]]] = {
    "untrained": (same, ()),
    "features": (same, (PLAIN,)),
    "features, no SIGReg": (unregularised, (PLAIN,)),
    "pixels": (pixels, (PLAIN,)),
    "pixels, tube masks": (lambda config: masked(TUBE)(pixels(config)), (PLAIN,)),
    "published masks": (masked(SHORT, LONG), (PLAIN,)),
    "tube masks": (masked(TUBE), (PLAIN,)),
    "causal masks, first 3/4": (masked(replace(BLOCK, max_temporal_keep=0.75)), (PLAIN,)),
    "causal masks, first half": (masked(replace(BLOCK, max_temporal_keep=0.5)), (PLAIN,)),
    "hard videos": (same, (HARD,)),
    "half plain, half hard": (same, (PLAIN, HARD)),
}


def data(work: Path, name: str, train: int, seed: int) -> Path:
    """A rendered set with this number of training videos."""
    out = work / f"{name}-{train}-{seed}"
    if not (out / "index.csv").exists():
        make_shapes(replace(SETS[name], out=str(out), train=train, seed=SETS[name].seed + seed))
    return out


def recipe() -> PretrainConfig:
    """`nano` as it was when the results were recorded: the docs name the differences."""
    nano = PRESETS["nano-masked"]()
    model = replace(nano.model, img_size=64, patch_size=8, tubelet_size=4)
    train = replace(nano.train, precision="fp32")
    return replace(nano, model=model, optim=replace(nano.optim, ema=(0.998, 1.0)), train=train)


def encoder(work: Path, name: str, seed: int) -> tuple[Path, float]:
    """Folder of a row's encoder, and the CPU seconds that it took."""
    change, sets = ROWS[name]
    base = recipe()
    sources = tuple(str(data(work, kind, SETS[kind].train // len(sets), seed)) for kind in sets)
    out = work / "runs" / f"{name}-{seed}".replace(" ", "-").replace("/", "-")
    train = replace(base.train, seed=seed, monitor_every=0, overwrite=True)
    read = replace(base.data, label="motion", workers=0, cache=True)
    config = change(replace(base, sources=sources, out=str(out), train=train, data=read))
    started = time.process_time()
    if sources:
        pretrain(config)
    else:
        torch.manual_seed(seed)
        save_model(out, PretrainTask(config).jepa.encoder)
    return out, time.process_time() - started


def judge(work: Path, model: Path, seed: int) -> dict[str, float]:
    """Test accuracies in percent."""
    source, found = str(data(work, PLAIN, SETS[PLAIN].train, seed)), {}
    rate = recipe().data.fps
    for label in ("motion", "appearance"):
        config = ProbeConfig(str(model), source, out=str(model / f"probe-{label}"), label=label, seed=seed, fps=rate,
                             kinds=("attentive", "linear"), workers=0, overwrite=True)  # fmt: skip
        for kind, outcome in probe(config).outcomes.items():
            found[f"{label}, {kind}"] = outcome.test_top1
    config = FinetuneConfig(source, str(model), str(model / "tuned"), label="motion", tune="all", epochs=12, seed=seed,
                            fps=rate, workers=0, precision="fp32", overwrite=True)  # fmt: skip
    found["motion, fine-tuned"] = finetune(config).outcome.test_top1
    return found


def run(args: argparse.Namespace) -> None:
    """Fill the missing cells of the results file."""
    torch.set_num_threads(args.threads)
    for seed in args.seeds:
        for name in args.rows or ROWS:
            if any((line["row"], line["seed"]) == (name, seed) for line in read()):
                continue
            print(f"== {name}, seed {seed}", flush=True)
            args.work.mkdir(parents=True, exist_ok=True)
            with open(args.work / "log.txt", "a") as log, contextlib.redirect_stdout(log):
                model, seconds = encoder(args.work, name, seed)
                found = judge(args.work, model, seed)
            facts = {"date": str(datetime.date.today()), "machine": f"{platform.system()} {platform.machine()}, "
                     f"{os.cpu_count()} cores", "threads": args.threads, "torch": torch.__version__,
                     "openvjepa": __version__}  # fmt: skip
            line = {"row": name, "seed": seed, "pretraining_cpu_s": round(seconds, 1), **found, **facts}
            RESULTS.parent.mkdir(parents=True, exist_ok=True)
            with RESULTS.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(found, flush=True)


def report(args: argparse.Namespace) -> None:
    """The table, as Markdown: mean and (least - greatest) of the seeds."""
    lines = read()
    columns = [f"{label}, {kind}" for label in ("motion", "appearance") for kind in ("linear", "attentive")]
    columns.append("motion, fine-tuned")
    print("| pretraining | CPU s | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 2) + "|")
    for name in ROWS:
        cells: list[dict[str, Any]] = [line for line in lines if line["row"] == name]
        if cells:
            seconds = f"{statistics.mean(cell['pretraining_cpu_s'] for cell in cells):.0f}"
            print(
                f"| {name} | {seconds} | " + " | ".join(spread([c[column] for c in cells]) for column in columns) + " |"
            )


def spread(values: list[float]) -> str:
    """Mean, and least and greatest of several."""
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} - {max(values):.1f})"


def read() -> list[dict[str, Any]]:
    """Lines of the results file."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def main() -> None:
    """Run or report, as told on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    command = verbs.add_parser("run")
    command.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    command.add_argument("--rows", nargs="+", choices=list(ROWS))
    command.add_argument("--work", type=Path, default=Path("runs/comparison"))
    command.add_argument("--threads", type=int, default=torch.get_num_threads())
    command.set_defaults(call=run)
    verbs.add_parser("report").set_defaults(call=report)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
