"""How much is learned in a CPU-minute: nano-JEPA's recipe beside the preset `nano-masked`, probed on the way.

    .venv/bin/python benchmarks/nano.py run [--recipes nano-jepa nano-masked] [--data shapes DIR ...] [--seeds 0 1 2]
    .venv/bin/python benchmarks/nano.py report [--figure docs/images/nano.png]

A cell is a recipe, a data set and a seed. Its encoder is pretrained on some of the videos, without labels. At points
of the run the frozen target encoder is probed (linear, attentive, nearest neighbors), and the CPU time that the
process has spent on pretraining, all threads together, is noted; probing is not counted. A cell's lines are added to
the results file when it is done, and cells that are in it are skipped. Point 0 is the untrained encoder; the recipe
`pixels` probes raw pixels, as the demo does.

Data sets: `shapes` renders moving shapes (label: motion; a linear probe also for appearance); the pretraining videos
are the first of the training videos. A folder of class folders is real data: its videos are copied with `vjepa data
prepare`, the pretraining videos are drawn class by class, and probes are tested by repeated cross-validation over all
videos. A folder of class folders of images is used as it is; an image is a clip that stands still.

nano-JEPA's recipe is run with openvjepa's bf16 step, and counted at the CPU time of a clip in the plain float32
step of `benchmarks/step.py --threads 1`.

`--set objective.sigreg_coeff=5 --name weaker` tries a change of one recipe.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from openvjepa.config import PRESETS, PrepareConfig, PretrainConfig, ShapesConfig, from_mapping, to_mapping
from openvjepa.data.clips import ClipSpec
from openvjepa.data.copies.prepare import prepare
from openvjepa.data.lists.index import VideoIndex, read_index, stratified_split
from openvjepa.data.loader import EvalClips, PretrainBatches, PretrainLoader
from openvjepa.data.media.images import is_image
from openvjepa.data.rendered.synthetic import make_shapes
from openvjepa.data.transforms import normalize
from openvjepa.features.encode import encode
from openvjepa.metrics import rankme
from openvjepa.model.encoder import Encoder, cut_tubelets
from openvjepa.pretraining.task import PretrainTask
from openvjepa.probing.attentive import Recipe
from openvjepa.probing.probes import KINDS, probe_features
from openvjepa.train.distributed import Runtime, make_runtime
from openvjepa.train.trainer import accumulation, fit

STEPS = 45  # of nano-JEPA's recipe: 15 epochs of 3 steps, as many as its configuration gives an epoch
BASELINE = "nano-jepa"
PIECE = 2  # clips of its batch that are computed together: the same gradients in less memory
SPLITS = {"train": 240, "val": 96, "test": 384}  # shapes
FOLDS, REPEATS = 5, 4
LEAST_SPAN = 20.0  # points on the axis of a panel: noise shall not look like a difference
PROBE = Recipe(lrs=(3e-3, 5e-4), weight_decays=(0.01,), epochs=60)  # a smaller grid than the published one: many probes
Features = NDArray[np.float32]


@dataclass(frozen=True)
class Data:
    """Videos to pretrain on, and labeled videos to probe with: with splits, or cross-validated (`crossed`)."""

    name: str
    pretraining: tuple[str, ...]
    index: VideoIndex
    crossed: bool
    frame_step: int
    """Of nano-JEPA's recipe: 4 as published, 1 where the videos have no more frames than a clip."""
    second: VideoIndex | None = None
    """The same videos with a second label, for a linear probe."""
    second_name: str = "appearance"


def shapes(work: Path, videos: int, seed: int) -> Data:
    """Moving shapes, rendered anew for every seed."""
    folder = work / f"shapes-{seed}"
    if not (folder / "index.csv").exists():
        make_shapes(ShapesConfig(out=str(folder), size=256, seed=seed, **SPLITS), workers=1)
    index = read_index(folder, label="motion")
    chosen = tuple(record.path for record in index.select("train").records[:videos])
    return Data("shapes", chosen, index, False, 1, read_index(folder, label="appearance"))


def real(source: Path, work: Path, videos: int, seed: int) -> Data:
    """Class folders of images, or of videos, as copies of 256 px on the short side; those to pretrain on follow from the
    seed."""
    index = read_index(source)
    if not is_image(index.records[0].path):
        folder = work / source.name
        if not (folder / "index.csv").exists():
            prepare(PrepareConfig(source=str(source), out=str(folder), workers=1))
        index = read_index(folder)
    share = min(1.0, videos / len(index))
    chosen = index if share == 1 else stratified_split(index, val=share, test=1 - share - 1e-9, seed=seed).select("val")
    return Data(source.name, tuple(r.path for r in chosen.records), index, True, 4)


def recipe_of(name: str, data: Data, seed: int, run: Path, changes: dict[str, Any]) -> PretrainConfig:
    """The recipe for a data set."""
    config = PRESETS[name]()
    if name == BASELINE:
        config = replace(
            config,
            data=replace(config.data, frame_step=data.frame_step),
            train=replace(config.train, steps=STEPS, micro_batch=PIECE, precision="bf16"),
        )
    values = to_mapping(config)
    for key, value in changes.items():
        part, field = key.split(".")
        values[part][field] = value
    config = from_mapping(PretrainConfig, values)
    run.mkdir(parents=True, exist_ok=True)
    (run / "pretraining.csv").write_text("\n".join(["path", *(os.path.abspath(path) for path in data.pretraining)]))
    return replace(
        config,
        sources=(str(run / "pretraining.csv"),),
        out=str(run),
        data=replace(config.data, cache=True, workers=0),  # in this process, whose CPU time is measured
        train=replace(config.train, seed=seed, threads=1, overwrite=True, save_every=10**9),
    )


class Probes:
    """Accuracy of frozen features, percent, by kind of probe."""

    def __init__(self, data: Data, config: PretrainConfig, seed: int) -> None:
        self.data, self.config, self.seed = data, config, seed
        self.spec = ClipSpec(config.model.num_frames, config.data.frame_step, config.data.fps)

    def of_encoder(self, encoder: Encoder, runtime: Runtime, kinds: tuple[str, ...]) -> dict[str, float]:
        """Of an encoder's tokens; also their effective rank."""
        encoder.eval()
        seen: list[float] = []

        def tokens(clips: torch.Tensor) -> Features:
            found = encode(encoder, clips, runtime=runtime)
            if len(seen) < 1:
                seen.append(rankme(found.flatten(0, 1)[::7]))
            return found.numpy()

        return self._accuracy(tokens, encoder.num_heads, kinds) | {"rankme": seen[0]}

    def of_pixels(self) -> dict[str, float]:
        """Of the pixels of each token at a quarter of the resolution, as in the demo."""

        def tokens(clips: torch.Tensor) -> Features:
            return cut_tubelets(F.avg_pool3d(normalize(clips), (1, 4, 4)), (2, 4, 4)).numpy()

        return self._accuracy(tokens, 4, KINDS)

    def _accuracy(
        self, tokens: Callable[[torch.Tensor], Features], num_heads: int, kinds: tuple[str, ...]
    ) -> dict[str, float]:
        data = self.data
        if data.crossed:
            return self._cross_validated(self._features(data.index, tokens, 0), num_heads, kinds)
        sets = [self._features(data.index.select(name), tokens, int(name == "train")) for name in SPLITS]
        found = self._fit(sets, [np.array(data.index.select(name).labels) for name in SPLITS], num_heads, kinds)
        if data.second is not None:
            labels = [np.array(data.second.select(name).labels) for name in SPLITS]
            found[data.second_name] = self._fit(sets, labels, num_heads, ("linear",))["linear"]
        return found

    def _cross_validated(self, features: Features, num_heads: int, kinds: tuple[str, ...]) -> dict[str, float]:
        """Mean over repeats of the share of all videos that were named rightly; attentive probes are trained once."""
        labels, found = np.array(self.data.index.labels), defaultdict(list)
        for repeat, parts in folds(labels, self.seed):
            wanted = tuple(kind for kind in kinds if kind != "attentive" or repeat == 0)
            if wanted:
                one = self._fit([features[part] for part in parts], [labels[part] for part in parts], num_heads, wanted)
                for kind, value in one.items():
                    found[kind].append(value * len(parts[-1]) / len(labels))
        return {kind: sum(values) / (len(values) // FOLDS) for kind, values in found.items()}

    def _fit(
        self, sets: list[Features], labels: list[NDArray[np.int64]], num_heads: int, kinds: tuple[str, ...]
    ) -> dict[str, float]:
        args: list[Any] = [item for pair in zip(sets, labels, strict=True) for item in pair]
        classes = [str(label) for label in np.unique(labels[0])]
        outcomes = probe_features(*args, classes=classes, num_heads=num_heads, kinds=kinds, recipe=PROBE)
        return {kind: outcome.test_top1 for kind, outcome in outcomes.items()}

    def _features(self, index: VideoIndex, tokens: Callable[[torch.Tensor], Features], random: int) -> Features:
        """[n, V, N, D]: the plain clip of every video, then random ones."""
        size = self.config.model.image_hw
        plain = EvalClips(index, self.spec, size)
        more = EvalClips(index, self.spec, size, augment=random, seed=self.seed) if random else None
        rows = []
        for first in range(0, len(index), 32):
            items = range(first, min(first + 32, len(index)))
            clips = [torch.cat([plain[i][0], more[i][0]]) if more else plain[i][0] for i in items]
            found = tokens(torch.cat(clips))
            rows.append(found.reshape(len(items), -1, *found.shape[1:]))
        return np.concatenate(rows)


def folds(labels: NDArray[np.int64], seed: int) -> Iterator[tuple[int, list[NDArray[np.int64]]]]:
    """Repeat, and rows to train on, choose with and test: balanced over classes, each row tested once a repeat."""
    for repeat in range(REPEATS):
        rng = np.random.default_rng((seed, repeat))
        place = np.empty(len(labels), np.int64)
        for label in np.unique(labels):
            rows = rng.permutation(np.flatnonzero(labels == label))
            place[rows] = np.arange(len(rows)) % FOLDS
        for fold in range(FOLDS):
            test, val = place == fold, place == (fold + 1) % FOLDS
            yield repeat, [np.flatnonzero(part) for part in (~(test | val), val, test)]


class Clock:
    """CPU seconds of pretraining: those of the process, without what the monitor spent."""

    def __init__(self) -> None:
        self.spent, self.since = 0.0, time.process_time()

    def stop(self) -> float:
        """CPU seconds so far."""
        self.spent += time.process_time() - self.since
        return self.spent

    def go(self) -> None:
        """Count again."""
        self.since = time.process_time()


def in_pieces(loader: Iterable[dict[str, Any]], pieces: int) -> Iterator[dict[str, Any]]:
    """The batches of a loader, cut into equal parts after their masks have been drawn together."""
    for batch in loader:
        for part in range(pieces):
            yield {key: _part(value, part, pieces) for key, value in batch.items()}


def _part(value: Any, part: int, pieces: int) -> Any:
    if isinstance(value, torch.Tensor):
        return value.chunk(pieces)[part]
    return [_part(item, part, pieces) for item in value] if isinstance(value, list) else value


def run_cell(
    config: PretrainConfig, data: Data, seed: int, points: int, kinds: tuple[str, ...], *, untrained: bool
) -> list[dict[str, Any]]:
    """Pretrain and probe; a line for each point. Attentive probes are trained at the first and last point alone."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    lines: list[dict[str, Any]] = []
    with make_runtime(config.train) as runtime:
        clock = Clock()
        size, (_, pieces) = config.train.batch_size, accumulation(config.train, 1)
        batches = PretrainBatches(
            config.sources, config.data, config.model, config.masking, seed=seed, micro_batch=size
        )
        task = PretrainTask(config)
        probes = Probes(data, config, seed)

        def monitor(step: int) -> dict[str, float]:
            spent = clock.stop()
            ends = step in (0, config.train.steps)
            if step or untrained:
                here = tuple(kind for kind in kinds if ends or kind != "attentive")
                found = probes.of_encoder(task.jepa.target_encoder, runtime, here)
                lines.append({"step": step, "clips": step * config.train.batch_size, "cpu_s": round(spent, 2)} | found)
                print(config.out, {k: round(v, 1) for k, v in lines[-1].items()}, flush=True)
            clock.go()
            return {}

        every = max(1, config.train.steps // points)
        fit(
            task,
            lambda step: in_pieces(
                PretrainLoader(batches, start_step=step, steps=config.train.steps, pin_memory=False), pieces
            ),
            optim=config.optim,
            train=replace(config.train, monitor_every=every),
            run_dir=Path(config.out),
            runtime=runtime,
            config=to_mapping(config),
            monitor=monitor,
        )
    return lines


def run(args: argparse.Namespace) -> None:
    """Fill the missing cells of the results file."""
    results = Path(args.results)
    changes = {key: yaml.safe_load(value) for key, value in (item.split("=", 1) for item in args.set)}
    for source in args.data:
        for recipe in args.recipes:
            for seed in args.seeds:
                cell = {"recipe": args.name or recipe, "data": Path(source).name, "seed": seed}
                if any(cell.items() <= line.items() for line in read_lines(results)):
                    continue
                work = Path(args.work)
                work.mkdir(parents=True, exist_ok=True)
                data = (
                    shapes(work, args.videos, seed)
                    if source == "shapes"
                    else real(Path(source), work, args.videos, seed)
                )
                folder = work / "runs" / f"{cell['data']}-{cell['recipe']}-{seed}"
                if recipe == "pixels":
                    config = recipe_of("demo-masked", data, seed, folder, {"data.frame_step": data.frame_step})
                    lines = [{"step": 0, "clips": 0, "cpu_s": 0.0} | Probes(data, config, seed).of_pixels()]
                else:
                    config = recipe_of(recipe, data, seed, folder, changes)
                    kinds = tuple(args.kinds)
                    lines = run_cell(config, data, seed, args.points, kinds, untrained=not args.no_untrained)
                facts = {"videos": len(data.pretraining), "changes": changes, "date": time.strftime("%Y-%m-%d")}
                append(results, [cell | line | facts for line in lines])


def report(args: argparse.Namespace) -> None:
    """Print the table (Markdown) and draw the figure."""
    cells = read_lines(Path(args.results))
    price = json.loads(Path(args.price).read_text())["results"]["plain"]["cpu_s_per_clip"]
    for line in cells:
        seconds = line["clips"] * price if line["recipe"] == BASELINE else line["cpu_s"]
        line["minutes"] = seconds / 60
    print(f"nano-JEPA's recipe is counted at {price:.2f} CPU-seconds a clip\n")
    print("| data | recipe | clips | CPU-minutes | " + " | ".join(KINDS) + " |\n|" + "---|" * (4 + len(KINDS)))
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = defaultdict(list)
    for line in cells:
        groups[line["data"], line["recipe"], line["step"]].append(line)
    for (data, recipe, step), group in groups.items():
        name = recipe if step or recipe == "pixels" else f"{recipe}, untrained"
        minutes = np.mean([line["minutes"] for line in group])
        shown = [_spread([line[kind] for line in group if kind in line]) for kind in KINDS]
        print(f"| {data} | {name} | {group[0]['clips']} | {minutes:.1f} | " + " | ".join(shown) + " |")
    if args.figure:
        draw(cells, Path(args.figure))


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    return f"{np.mean(values):.1f} ({min(values):.1f} - {max(values):.1f}; {len(values)})"


def draw(cells: list[dict[str, Any]], path: Path) -> None:
    """Accuracy against CPU-minutes: a row for each data set, a column for each probe, a line for each seed."""
    names = list(dict.fromkeys(line["data"] for line in cells))
    recipes = [r for r in dict.fromkeys(line["recipe"] for line in cells) if r != "pixels"]
    colors = {recipe: f"C{i}" for i, recipe in enumerate(recipes)}
    figure = Figure(figsize=(11, 3.2 * len(names)), layout="constrained")
    grid = figure.subplots(len(names), len(KINDS), squeeze=False)
    for axes_row, name in zip(grid, names, strict=True):
        for axes, kind in zip(axes_row, KINDS, strict=True):
            curves = _curves(cells, name, kind)
            axes.set_visible(bool(curves))
            for (recipe, _seed), line in curves.items():
                if recipe == "pixels":
                    axes.axhline(line[0][1], color="gray", linewidth=0.8, linestyle=":")
                else:
                    axes.plot(*zip(*line, strict=True), "o-", color=colors[recipe], markersize=3, linewidth=1)
            axes.set_xscale("symlog", linthresh=0.5)
            axes.set_xlim(left=0)
            axes.set_xticks([0, 1, 10], ["0", "1", "10"])
            low, high = axes.get_ylim()
            spare = max(0.0, LEAST_SPAN - (high - low)) / 2
            axes.set_ylim(low - spare, high + spare)
            axes.set_title(f"{name}, {kind}")
            axes.set_xlabel("CPU-minutes of pretraining")
            axes.set_ylabel("test top-1, %")
    handles = [Line2D([], [], color=color, marker="o", label=recipe) for recipe, color in colors.items()]
    if any(line["recipe"] == "pixels" for line in cells):
        handles.append(Line2D([], [], color="gray", linestyle=":", label="raw pixels"))
    grid[0][0].legend(handles=handles, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _curves(cells: list[dict[str, Any]], data: str, kind: str) -> dict[tuple[str, int], list[tuple[float, float]]]:
    """(recipe, seed) -> points (CPU-minutes, accuracy)."""
    curves = defaultdict(list)
    for line in cells:
        if line["data"] == data and kind in line:
            curves[line["recipe"], line["seed"]].append((line["minutes"], line[kind]))
    return curves


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a results file; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, lines: list[dict[str, Any]]) -> None:
    """Add a cell in one write, so that several processes can share the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run")
    command.add_argument("--recipes", nargs="+", default=["pixels", "nano-jepa", "nano-masked"])
    command.add_argument("--data", nargs="+", default=["shapes"])
    command.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    command.add_argument("--videos", type=int, default=24, help="pretraining videos")
    command.add_argument("--points", type=int, default=2, help="evaluations on the way")
    command.add_argument("--kinds", nargs="+", default=list(KINDS))
    command.add_argument("--set", nargs="*", default=[], help="changes of the recipe, section.field=value")
    command.add_argument("--name", help="what to call the changed recipe")
    command.add_argument("--no-untrained", action="store_true", help="leave out the evaluation before training")
    command.add_argument("--work", default="runs/nano-bench")
    command.add_argument("--results", default="benchmarks/results/nano.jsonl")
    command.set_defaults(call=run)
    command = commands.add_parser("report", help="print the table, draw the figure")
    command.add_argument("--results", default="benchmarks/results/nano.jsonl")
    command.add_argument(
        "--price", default="benchmarks/results/step-1-thread.json", help="what benchmarks/step.py wrote"
    )
    command.add_argument("--figure")
    command.set_defaults(call=report)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
