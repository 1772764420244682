"""The judge of recipes: what a pretrained encoder is worth, against no training, pixels and a classic descriptor.

    .venv/bin/python benchmarks/learning.py run --recipe demo --data shapes-hard --seed 0 --budget 300 [--final]
    .venv/bin/python benchmarks/learning.py run --recipe nano --data DIR --label steering --budget 600 --final
    .venv/bin/python benchmarks/learning.py report [--figure docs/images/learning.png]

A run is one JSON line of benchmarks/results/learning.jsonl. The recipe (a preset, or a YAML file of PretrainConfig) is
given so many steps as fit into the budget of CPU seconds, by the time of its first steps; its schedules follow. What is
reported is the CPU time that the whole pretraining took, with decoding, in one thread. Lines that are in the file are skipped.

Data: `shapes` and `shapes-hard` are rendered: thousands of videos without labels, 480 with. Any folder, list or CSV is real
data: it is pretrained on the training videos; splits are those of the CSV (by person or source, where it has them), else
drawn class by class.

Probes: linear (mean token), attentive, kNN, and grid (logistic regression on tokens pooled to 2 x 4 x 4 places), with all
labels and with 20 and 5 labels of each class (mean of three draws; attentive and grid: one draw). Settings of probes are
chosen on the split val. Without `--final` the test split is not touched: half of val takes its place.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from descriptors import gradient_histograms, grid_pooled, pixel_tokens
from learning_report import report
from openvjepa.commands.pretrain import pretrain
from openvjepa.config import PRESETS, PretrainConfig, ProbeConfig, ShapesConfig, from_mapping, read_yaml, to_mapping
from openvjepa.data.clips import ClipSpec
from openvjepa.data.lists.index import VideoIndex, read_index
from openvjepa.data.lists.splits import read_splits
from openvjepa.data.loader import EvalClips
from openvjepa.data.rendered.synthetic import make_shapes
from openvjepa.features.encode import encode
from openvjepa.metrics import rankme
from openvjepa.model.encoder import Encoder
from openvjepa.pretraining.task import PretrainTask
from openvjepa.probing.attentive import Recipe
from openvjepa.probing.probes import probe_features
from openvjepa.train.distributed import make_runtime
from openvjepa.weights.hub import load_model

RESULTS = "benchmarks/results/learning.jsonl"
UNLABELED = 4000
LABELED = {"train": 480, "val": 192, "test": 480}
WORLDS: dict[str, dict[str, Any]] = {"shapes": {}, "shapes-hard": {"size": 48, "texture": 0.3, "clutter": 2}}
ATTENTIVE = Recipe(lrs=(3e-3, 1e-3), weight_decays=(0.05,))
FEW, DRAWS = (20, 5), 3
TRIAL_STEPS = 12
Arrays = dict[str, NDArray[Any]]
Tokens = Callable[[torch.Tensor], NDArray[np.float32]]


@dataclass(frozen=True)
class Data:
    """Videos without labels, and labeled splits by name of the label."""

    name: str
    sources: tuple[str, ...]
    labels: dict[str, dict[str, VideoIndex]]


def rendered(name: str, work: Path, seed: int) -> Data:
    """Moving shapes: every seed has videos of its own."""
    folder = work / f"{name}-{seed}"
    if not (folder / "index.csv").exists():
        counts = {**LABELED, "train": UNLABELED}
        make_shapes(ShapesConfig(out=str(folder), seed=seed, **counts, **WORLDS[name]), workers=1)
    labels = {}
    for label in ("motion", "appearance"):
        index = read_index(folder, label=label)
        labels[label] = {
            split: replace(part, records=part.records[:count])
            for split, count in LABELED.items()
            for part in [index.select(split)]
        }
    return Data(name, (str(folder),), labels)


def real(source: str, label: str | None, work: Path, seed: int, group: str | None = None) -> Data:
    """A labeled set; its training videos are pretrained on, without labels. No group (person, source) is divided by splits."""
    splits = read_splits(ProbeConfig(source=source, label=label, seed=seed, group=group))
    listed = work / f"{Path(source).name}-{label or 'label'}-{seed}.csv"
    listed.parent.mkdir(parents=True, exist_ok=True)
    paths = [str(Path(record.path).resolve()) for record in splits["train"].records]
    listed.write_text("\n".join(["path", *paths]))
    return Data(Path(source).name, (str(listed),), {label or "label": splits})


def recipe_of(args: argparse.Namespace, data: Data, out: Path) -> PretrainConfig:
    """The recipe with its changes, in this process, whose CPU time is measured."""
    base = PRESETS[args.recipe]() if args.recipe in PRESETS else read_yaml(PretrainConfig, args.recipe)
    values = to_mapping(base)
    for item in args.set:
        key, value = item.split("=", 1)
        part, field = key.split(".")
        values[part][field] = yaml.safe_load(value)
    config = from_mapping(PretrainConfig, values)
    rate = {"frame_step": 1, "fps": None} if data.name in WORLDS else {}
    return replace(
        config,
        sources=data.sources,
        out=str(out),
        data=replace(config.data, cache=True, workers=0, **rate),
        train=replace(
            config.train, seed=args.seed, threads=1, overwrite=True, save_every=10**9, monitor_every=0, log_every=50
        ),
    )


def cpu_seconds() -> float:
    """Of this process and its children."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in usage)


def train(config: PretrainConfig, budget: float) -> tuple[Encoder, dict[str, Any]]:
    """Pretrain within the budget; the target encoder and what it cost. A budget of 0: the steps of the recipe."""
    if budget:
        spent = []
        for steps in (2, 2 + TRIAL_STEPS):  # the first run also pays for what is made once
            started = cpu_seconds()
            pretrain(replace(config, train=replace(config.train, steps=steps)))
            spent.append(cpu_seconds() - started)
        steps = max(10, round(budget / (max(1e-3, spent[1] - spent[0]) / TRIAL_STEPS)))
        config = replace(config, train=replace(config.train, steps=steps))
    started, wall = cpu_seconds(), time.monotonic()
    pretrain(config)
    cost = {"steps": config.train.steps, "cpu_s": round(cpu_seconds() - started, 1)}
    return load_model(config.out).encoder, cost | {"wall_s": round(time.monotonic() - wall, 1)}


def plain_clips(index: VideoIndex, config: PretrainConfig) -> torch.Tensor:
    """The plain clip of every video, uint8 [n, 3, T, H, W]."""
    spec = ClipSpec(config.model.num_frames, config.data.frame_step, config.data.fps)
    items = EvalClips(index, spec, config.model.image_hw)
    found = [items[i] for i in range(len(index))]
    bad = [reason for _, _, reason in found if reason]
    if bad:
        raise SystemExit(f"{index.source}: {bad[0]}")
    return torch.cat([clip for clip, _, _ in found])


def features(clips: torch.Tensor, tokens: Tokens) -> NDArray[np.float16]:
    """Of clips: [n, 1, N, D]."""
    return np.concatenate([tokens(part).astype(np.float16) for part in clips.split(64)])[:, None]


def few(labels: NDArray[np.int64], count: int, draw: int) -> NDArray[np.int64]:
    """Rows of so many videos of each class, all where a class has fewer."""
    rng = np.random.default_rng((17, draw))
    return np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:count] for c in np.unique(labels)])


def judge(x: Arrays, labels: Arrays, grid: tuple[int, int, int], num_heads: int) -> dict[str, dict[str, float]]:
    """Probe -> number of labels of each class -> top-1 on the test split, percent. A single token is a vector: no attention."""
    x = {split: value.astype(np.float32) for split, value in x.items()}
    vector = x["train"].shape[2] == 1
    pooled = x if vector else {split: grid_pooled(value, grid) for split, value in x.items()}
    classes = [str(c) for c in range(int(labels["train"].max()) + 1)]
    found: dict[str, dict[str, float]] = {}
    for probe in ("linear", "knn") if vector else ("linear", "attentive", "knn", "grid"):
        kind, shown = ("linear", pooled) if probe == "grid" else (probe, x)
        found[probe] = {}
        for count in (None, *FEW):
            scores = []
            for draw in range(1 if count is None or probe in ("attentive", "grid") else DRAWS):
                rows = slice(None) if count is None else few(labels["train"], count, draw)
                outcome = probe_features(
                    shown["train"][rows], labels["train"][rows], shown["val"], labels["val"], shown["test"], labels["test"],
                    classes=classes, num_heads=num_heads, kinds=(kind,), recipe=ATTENTIVE,
                )  # fmt: skip
                scores.append(outcome[kind].test_top1)
            found[probe]["all" if count is None else str(count)] = round(float(np.mean(scores)), 2)
    return found


def halved(splits: dict[str, VideoIndex]) -> dict[str, VideoIndex]:
    """Splits for choosing a recipe: one half of val stands in for the test split."""
    val = splits["val"]
    even, odd = (replace(val, records=val.records[i::2]) for i in range(2))
    return {"train": splits["train"], "val": even, "test": odd}


def run(args: argparse.Namespace) -> None:
    """Pretrain, probe, add a line."""
    cell = {"recipe": args.name or args.recipe, "data": Path(args.data).name, "seed": args.seed, "budget": args.budget}
    cell |= {"final": args.final}
    results = Path(args.results)
    if results.exists() and any(cell.items() <= json.loads(line).items() for line in results.read_text().splitlines()):
        return
    torch.set_num_threads(1)
    work = Path(args.work)
    data = (
        rendered(args.data, work, args.seed)
        if args.data in WORLDS
        else real(args.data, args.label, work, args.seed, args.group)
    )
    config = recipe_of(args, data, work / "runs" / "-".join(map(str, list(cell.values())[:4])))
    torch.manual_seed(args.seed)
    encoders = {"untrained": PretrainTask(config).jepa.encoder.eval()}
    encoders["pretrained"], cost = train(config, args.budget)
    config = replace(config, model=encoders["pretrained"].config)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found: dict[str, Any] = {}
    with make_runtime(config.train) as runtime:
        kinds: dict[str, Tokens] = {
            name: lambda clips, encoder=encoder: encode(encoder, clips, runtime=runtime).numpy()
            for name, encoder in encoders.items()
        }
        if not args.no_baselines:
            kinds["pixels"] = lambda clips: pixel_tokens(clips, config.model)
            kinds["descriptor"] = gradient_histograms
        wanted = {label: parts if args.final else halved(parts) for label, parts in data.labels.items()}
        clips = {split: plain_clips(part, config) for split, part in next(iter(wanted.values())).items()}
        for name, tokens in kinds.items():
            x = {split: features(part, tokens) for split, part in clips.items()}
            for label, parts in wanted.items():
                labels = {split: np.array(part.labels) for split, part in parts.items()}
                heads = config.model.dims.num_heads if x["train"].shape[-1] == config.model.dims.embed_dim else 1
                grid = config.model.grid
                found.setdefault(label, {})[name] = judge(x, labels, (grid.t, grid.h, grid.w), heads)
            if name in encoders:
                seen = torch.from_numpy(x["val"][:64, 0].astype(np.float32)).flatten(0, 1)[::7]
                cost[f"rankme_{name}"] = round(rankme(seen), 1)
    facts = {"changes": args.set, "peak_mb": round(peak), "date": time.strftime("%Y-%m-%d"), "machine": machine()}
    facts |= {"videos": {split: len(part) for split, part in next(iter(data.labels.values())).items()}}
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a") as file:
        file.write(json.dumps(cell | cost | facts | {"results": found}) + "\n")


def machine() -> str:
    """Processor and number of cores, in words."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(names) or '?'} cores, 1 used"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run")
    command.add_argument("--recipe", default="demo", help="a preset, or a YAML file")
    command.add_argument("--data", default="shapes-hard", help="shapes, shapes-hard, or a labeled set")
    command.add_argument("--label", help="column of a CSV")
    command.add_argument("--group", help="column of a CSV that names the person or source: not divided by splits")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--budget", type=float, default=0, help="CPU seconds; 0: the steps of the recipe")
    command.add_argument("--final", action="store_true", help="look at the test split")
    command.add_argument("--set", nargs="*", default=[], help="changes of the recipe, section.field=value")
    command.add_argument("--name", help="what to call the changed recipe")
    command.add_argument("--no-baselines", action="store_true", help="leave out pixels and the descriptor")
    command.add_argument("--work", default="runs/learning")
    command.add_argument("--results", default=RESULTS)
    command.set_defaults(call=run)
    command = commands.add_parser("report", help="print the table, draw the figure")
    command.add_argument("--results", default=RESULTS)
    command.add_argument("--labels", default="all", choices=["all", *map(str, FEW)])
    command.add_argument("--figure")
    command.set_defaults(call=report)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
