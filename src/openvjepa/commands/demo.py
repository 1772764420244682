"""`vjepa demo`: the main job on the embedded data, once through, with a report.

Renders moving shapes over texture and clutter, pretrains an encoder on them, and asks what its frozen features know of two
labels that the pretraining never saw, with many labeled videos and with few, beside the same encoder untrained and the raw
pixels.
"""

from __future__ import annotations

import csv
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openvjepa.atomic import json_text
from openvjepa.commands.predict import predict_videos
from openvjepa.commands.pretrain import pretrain
from openvjepa.commands.probe import probe
from openvjepa.config import (
    ClipProtocol,
    DemoConfig,
    PredictConfig,
    PretrainConfig,
    ProbeConfig,
    ShapesConfig,
    command,
    to_mapping,
)
from openvjepa.config.presets import demo as demo_preset
from openvjepa.data.lists.index import VideoIndex, read_index
from openvjepa.data.rendered.synthetic import make_shapes
from openvjepa.errors import Interrupted
from openvjepa.features.pixels import pixel_tokens
from openvjepa.pretraining.task import PretrainTask
from openvjepa.probing.probes import Outcome, probe_features
from openvjepa.reports.runs.demo import Results, write_demo
from openvjepa.train.run_folder import locked, start_demo
from openvjepa.version import versions
from openvjepa.weights.files import write_file
from openvjepa.weights.hub import save_model

log = logging.getLogger("openvjepa")

LABELS = ("motion", "appearance")
WORLD: dict[str, Any] = {"size": 48, "texture": 0.3, "clutter": 2}  # fields of ShapesConfig
TRAIN_VIEWS = 3
SHOWN = 6  # test videos in the report


@dataclass(frozen=True)
class DemoResult:
    """Result of the demo."""

    out: Path
    accuracies: Results
    """label -> features -> probe -> top-1 on the test split, percent; with few labeled videos, the label is
    "motion, 160 videos"."""
    chance: dict[str, float]
    """Chance level of each label, percent."""
    seconds: float


@command(DemoConfig, "out")
def demo(config: DemoConfig) -> DemoResult:
    """Run the demo; writes results.json and report.html into config.out.

    Raises:
        ConfigError: the folder holds something that is not a demo, or there are fewer videos than labeled ones.
        Interrupted: the pretraining was interrupted.
    """
    out, started = Path(config.out), time.monotonic()
    with locked(out):
        start_demo(out)
        return _demo(config, out, started)


def _demo(config: DemoConfig, out: Path, started: float) -> DemoResult:
    """The demo, in a folder that is held."""
    seconds: dict[str, float] = {}

    def finished(part: str) -> None:
        seconds[part] = round(time.monotonic() - started - sum(seconds.values()), 1)

    log.info("== 1/5 Rendering moving shapes into video files")
    data, labeled = _render(config, out)
    finished("render")

    log.info("== 2/5 Pretraining a V-JEPA encoder on them, without labels")
    recipe = _recipe(config, data)
    _pretrain(recipe, out / "untrained")
    finished("pretrain")

    log.info("== 3/5 Probing frozen features: pretrained, untrained, raw pixels")
    outcomes: dict[str, dict[str, dict[str, Outcome]]] = {}
    for count, source in labeled.items():
        pixels = _pixel_features(recipe, read_index(source, label=LABELS[0]), config.seed)
        for label in LABELS:
            name = label if count == config.train else f"{label}, {count} videos"
            outcomes[name] = _probe_all(config, recipe, source, label, pixels, name)
    finished("probe")

    log.info("== 4/5 Predicting the motion of test videos")
    chosen = _some(read_index(data, label="motion").select("test"))
    predictions = predict_videos(
        PredictConfig(
            videos=tuple(r.path for r in chosen.records), model=(str(out / "probe-motion"),), threads=config.threads
        )
    )
    finished("predict")

    log.info("== 5/5 Writing the report")
    results: Results = {
        label: {name: {kind: o.test_top1 for kind, o in kinds.items()} for name, kinds in features.items()}
        for label, features in outcomes.items()
    }
    classes = {label: read_index(data, label=label).classes or () for label in LABELS}
    chance = {name: 100 / len(classes[name.split(",")[0]]) for name in outcomes}
    confusions = {
        f"{label}, attentive probe": (outcomes[label]["pretrained"]["attentive"].confusion, classes[label])
        for label in LABELS
    }
    finished("report")
    facts = {"chance": chance, "seed": config.seed, "versions": versions(), "config": to_mapping(recipe)}
    facts["seconds"] = seconds | {"total": round(time.monotonic() - started, 1)}
    write_demo(out, results, chance, config.test, confusions, predictions, chosen, recipe, facts)
    write_file(out / "results.json", json_text({"results": results, **facts}).encode())
    return DemoResult(out, results, chance, facts["seconds"]["total"])


def _render(config: DemoConfig, out: Path) -> tuple[Path, dict[int, Path]]:
    """The folder of rendered videos, and lists of so many labeled ones."""
    shapes = ShapesConfig(
        out=str(out / "shapes"), train=config.videos, val=config.val, test=config.test, seed=config.seed, **WORLD
    )
    data = make_shapes(shapes).parent
    return data, {count: _labeled(data, count) for count in (config.train, config.few)}


def _pretrain(recipe: PretrainConfig, untrained: Path) -> None:
    """Save the encoder with its initial weights, then pretrain."""
    torch.manual_seed(recipe.train.seed)
    clip = ClipProtocol.of(recipe.model, frame_step=recipe.data.frame_step, fps=recipe.data.fps)
    save_model(untrained, PretrainTask(recipe).jepa.encoder, clip=clip)
    result = pretrain(recipe)
    if result.interrupted:
        raise Interrupted("the demo was interrupted: run it again", result.signal)


def _labeled(data: Path, count: int) -> Path:
    """A list of the first `count` training videos, in which both labels are balanced, and of all others."""
    path = data / f"labeled-{count}.csv"
    with (data / "index.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    train = [row for row in rows if row[header.index("split")] == "train"]
    others = [row for row in rows if row[header.index("split")] != "train"]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *train[:count], *others])
    return path


def _some(videos: VideoIndex) -> VideoIndex:
    """Videos from the first to the last, to be shown."""
    places = np.linspace(0, len(videos) - 1, min(SHOWN, len(videos))).astype(int)
    return replace(videos, records=tuple(videos.records[i] for i in places))


def _recipe(config: DemoConfig, data: Path) -> PretrainConfig:
    base = demo_preset()
    train = replace(base.train, steps=config.steps, seed=config.seed, threads=config.threads)
    return replace(
        base,
        sources=(str(data),),
        out=str(Path(config.out) / "pretrain"),
        data=replace(base.data, label="motion"),  # for the nearest neighbors of the collapse monitor alone
        train=train,
    )


def _probe_all(
    config: DemoConfig,
    recipe: PretrainConfig,
    data: Path,
    label: str,
    pixels: dict[str, NDArray[np.float32]],
    title: str,
) -> dict[str, dict[str, Outcome]]:
    """Outcome by features and kind of probe."""
    out = Path(config.out)
    settings = ProbeConfig(
        source=str(data),
        label=label,
        frame_step=recipe.data.frame_step,
        fps=recipe.data.fps,
        train_views=TRAIN_VIEWS,
        segments=1,
        seed=config.seed,
        threads=config.threads,
    )
    outcomes: dict[str, dict[str, Outcome]] = {}
    folder = f"probe-{title.replace(', ', '-').replace(' ', '-')}"
    for name, run in (("pretrained", out / folder), ("untrained", out / f"{folder}-untrained")):
        model = out / ("pretrain" if name == "pretrained" else "untrained")
        log.info("%s, %s encoder", title, name)
        cache = str(out / "features")
        outcomes[name] = probe(replace(settings, model=str(model), out=str(run), cache_dir=cache)).outcomes
    log.info("%s, raw pixels", title)
    outcomes["pixels"] = _probe_pixels(recipe, read_index(data, label=label), pixels)
    return outcomes


def _pixel_features(recipe: PretrainConfig, index: VideoIndex, seed: int) -> dict[str, NDArray[np.float32]]:
    """The pixels of each token, at a quarter of the resolution, by split; both labels are probed on them."""
    views = {"train": TRAIN_VIEWS, "val": 1, "test": 1}
    return {name: pixel_tokens(recipe, index.select(name), count, seed) for name, count in views.items()}


def _probe_pixels(
    recipe: PretrainConfig, index: VideoIndex, pixels: dict[str, NDArray[np.float32]]
) -> dict[str, Outcome]:
    """The same probes on raw pixels."""
    labels = {name: np.array(index.select(name).labels) for name in pixels}
    return probe_features(
        pixels["train"],
        labels["train"],
        pixels["val"],
        labels["val"],
        pixels["test"],
        labels["test"],
        classes=index.classes or (),
        num_heads=recipe.model.dims.num_heads,
        grid=recipe.model.grid,
    )
