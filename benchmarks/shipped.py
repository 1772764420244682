"""How the shipped encoder `openvjepa-small` was made: splits, training clips, training, and the judge.

    .venv/bin/python benchmarks/shipped.py prepare --data DATA --work runs/shipped
    .venv/bin/python benchmarks/shipped.py train --work runs/shipped
    .venv/bin/python benchmarks/shipped.py ship --work runs/shipped
    .venv/bin/python benchmarks/shipped.py judge --set rc_driving --work runs/shipped
    .venv/bin/python benchmarks/shipped.py table

DATA holds one folder for each set, as downloaded (src/openvjepa/weights/shipped/openvjepa-small/README.md names sources and
licenses): surveillance/{fight,noFight}, sign_digits/0 ... 9, shapes_motion/{circular,horizontal,vertical}, rc_driving, grocery
and clothing with an index.csv each (the authors' splits; by block of time; by sender).

Held out as a whole: people (sign_digits), blocks of ten neighboring numbers (surveillance), a color (shapes_motion), senders
(clothing), blocks of time (rc_driving), the authors' test split (grocery). `prepare` writes sets/NAME.csv with the splits,
train/NAME.csv with what is trained on, and heldout.txt with the first 16 digits of the SHA-256 of every held-out file (kept as
benchmarks/results/shipped-heldout.txt). A photograph is trained on as a clip of a camera that pans, zooms and turns over it,
because a still teaches nothing about time.
"""

from __future__ import annotations

import argparse
import bisect
import csv
import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from descriptors import gradient_histograms, pixel_tokens
from learning import features, judge, plain_clips
from openvjepa.commands.pretrain import pretrain
from openvjepa.config import PRESETS, ComputeConfig, PhysicsConfig, ShapesConfig
from openvjepa.data.lists.index import VideoIndex, read_index
from openvjepa.data.rendered.physics import make_physics
from openvjepa.data.rendered.synthetic import make_shapes, write_video
from openvjepa.features.encode import encode
from openvjepa.model.pixels import untrained
from openvjepa.train.distributed import make_runtime
from openvjepa.weights.hub import load_model, save_model

SHIPPED = "src/openvjepa/weights/shipped/openvjepa-small"
RESULTS = "benchmarks/results/shipped.jsonl"
FRAMES, SIZE, FPS = 16, 80, 10
COUNTS = ("all", "20", "5")  # labels of each class
MOST = 500  # videos of a split that are judged
LABELS = {"shapes-hard": ("motion", "appearance")}
PHOTOGRAPHS = ("sign_digits", "grocery", "clothing")
WEIGHTS = {
    "surveillance": 1.5,
    "rc_driving": 1.5,
    "shapes_motion": 0.5,
    "sign_digits": 1.0,
    "grocery": 1.5,
    "clothing": 1.5,
    "shapes-hard": 1.5,
    "physics": 1.0,
}


@dataclass(frozen=True)
class File:
    """A labeled file of a set and its split."""

    path: Path
    label: str
    split: str


def indexed(folder: Path, label: str) -> list[File]:
    """Files of an index.csv that names splits."""
    with (folder / "index.csv").open() as file:
        return [File(folder / row["path"], row[label], row["split"]) for row in csv.DictReader(file)]


def surveillance(folder: Path) -> list[File]:
    """Both classes count through the same numbers: 121 on are test, 101 to 120 val."""
    files = []
    for path in sorted(folder.glob("*/*.mp4")):
        number = int(path.stem.lstrip("nofi"))
        split = "test" if number > 120 else "val" if number > 100 else "train"
        files.append(File(path, path.parent.name, split))
    return files


def sign_digits(folder: Path) -> list[File]:
    """A person's ten photographs have neighboring numbers, from digit 0 on; the last 20 of 100 people are test, 10 before val.

    A person at the border of two splits is left out: where a photograph is missing, the number does not tell whose it is.
    """
    paths = sorted(folder.glob("[0-9]/*.JPG"))
    firsts = sorted(int(path.stem[4:]) for path in paths if path.parent.name == "0")
    files = []
    for path in paths:
        person = bisect.bisect_right(firsts, int(path.stem[4:]))
        split = "train" if person < 70 else "val" if 70 < person < 80 else "test" if person > 80 else None
        if split:
            files.append(File(path, path.parent.name, split))
    return files


def shapes_motion(folder: Path) -> list[File]:
    """Olive shapes are test, stars of the other two colors val."""
    files = []
    for path in sorted(folder.glob("*/*.mp4")):
        split = "test" if path.stem.startswith("olive") else "val" if "star" in path.stem else "train"
        files.append(File(path, path.parent.name, split))
    return files


def sets(data: Path) -> dict[str, list[File]]:
    """All labeled files of the real sets, with their splits."""
    return {
        "surveillance": surveillance(data / "surveillance"),
        "rc_driving": indexed(data / "rc_driving", "steering"),
        "shapes_motion": shapes_motion(data / "shapes_motion"),
        "sign_digits": sign_digits(data / "sign_digits"),
        "grocery": indexed(data / "grocery", "coarse"),
        "clothing": indexed(data / "clothing", "label"),
    }


def camera_move(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A clip of a camera over a photograph, uint8 [FRAMES, SIZE, SIZE, 3]: center, width and angle go along a line in time.

    A sixth of the clips stand still. Widths are 55 - 100 % of the short side, angles up to 8 degrees.
    """
    height, width = picture.shape[:2]
    short = min(height, width)
    border = short // 4
    padded = Image.fromarray(np.pad(picture, [(border, border), (border, border), (0, 0)], mode="reflect"))
    ends = []
    for _ in range(2):
        side = short * rng.uniform(0.55, 1.0)
        x = rng.uniform(side / 2, width - side / 2)
        y = rng.uniform(side / 2, height - side / 2)
        ends.append(np.array([x, y, np.log(side), np.deg2rad(rng.uniform(-8, 8))]))
    if rng.random() < 1 / 6:
        ends[1] = ends[0]
    frames = []
    for t in np.linspace(0, 1, FRAMES):
        x, y, log_side, angle = (1 - t) * ends[0] + t * ends[1] + (border, border, 0, 0)
        scale = np.exp(log_side) / SIZE
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        middle = (SIZE - 1) / 2
        inverse = (cos, -sin, x - middle * (cos - sin), sin, cos, y - middle * (sin + cos))  # clip -> photograph
        frame = padded.transform((SIZE, SIZE), Image.Transform.AFFINE, inverse, Image.Resampling.BICUBIC)
        frames.append(np.asarray(frame))
    return np.stack(frames)


def write_list(path: Path, rows: Iterable[tuple[str, ...]], header: tuple[str, ...]) -> None:
    """A CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def prepare(args: argparse.Namespace) -> None:
    """Splits, and the clips of photographs."""
    work, lines = Path(args.work), list[str]()
    for name, files in sets(Path(args.data).resolve()).items():
        rows = [(str(file.path), file.label, file.split) for file in files]
        write_list(work / "sets" / f"{name}.csv", rows, ("path", "label", "split"))
        held = [file for file in files if file.split != "train"]
        hashes = {hashlib.sha256(file.path.read_bytes()).hexdigest() for file in held}
        lines += [f"{name} {value[:16]}" for value in sorted(hashes)]
        shown = [file for file in files if file.split == "train"]
        copies = [file for file in shown if hashlib.sha256(file.path.read_bytes()).hexdigest() in hashes]
        shown = [file for file in shown if file not in copies]  # the same file in two splits
        print(
            name, {split: sum(file.split == split for file in files) for split in ("train", "val", "test")}, len(copies)
        )
        paths = [file.path for file in shown]
        if name in PHOTOGRAPHS:
            paths = [work / "clips" / name / f"{i:05d}.mp4" for i in range(len(shown))]
            paths[0].parent.mkdir(parents=True, exist_ok=True)
            for i, (file, target) in enumerate(zip(shown, paths, strict=True)):
                picture = np.asarray(Image.open(file.path).convert("RGB"))
                write_video(target, camera_move(picture, np.random.default_rng((0, i))), fps=FPS)
        write_list(work / "train" / f"{name}.csv", [(str(path.resolve()),) for path in paths], ("path",))
    (work / "heldout.txt").write_text("\n".join([*lines, ""]))


def train(args: argparse.Namespace) -> None:
    """The rendered worlds, then `vjepa pretrain` with the recipe; the learning rate ends at its lowest."""
    work = Path(args.work)
    hard = ShapesConfig(
        out=str(work / "shapes-hard"), train=4000, val=192, test=480, size=64, fps=10, texture=0.3, clutter=2, seed=1000
    )
    physics = PhysicsConfig(
        out=str(work / "physics"), train=1500, val=28, test=28, size=64, frames=18, fps=10, seed=1000
    )
    for config, make in ((hard, make_shapes), (physics, make_physics)):
        if not (Path(config.out) / "index.csv").exists():
            make(config)
    base = PRESETS["small"]()
    sources = [str(work / "train" / f"{name}.csv") for name in tuple(WEIGHTS)[:6]] + [hard.out, physics.out]
    config = replace(
        base,
        sources=tuple(sources),
        out=str(work / "run"),
        model=replace(base.model, depth=4),
        data=replace(base.data, mix=tuple(WEIGHTS.values()), fps=float(FPS), cache=True, crop_scale=(0.5, 1.0)),
        views=replace(
            base.views,
            global_scale=(0.5, 1.0),
            local_views=2,
            local_scale=(0.15, 0.5),
            local_size=32,
            token_keep=0.5,
        ),
        train=replace(
            base.train,
            steps=1100,
            threads=1,
            log_every=10,
            save_every=100,
            keep_last=3,
            monitor_every=550,
            resume=args.resume,
        ),
    )
    pretrain(config)


def ship(args: argparse.Namespace) -> None:
    """The encoder of the run in float16, as the package holds it."""
    model = load_model(Path(args.work) / "run")
    target = Path(args.out)
    save_model(target, model.encoder.half(), clip=model.clip)
    print(target / "model.safetensors", (target / "model.safetensors").stat().st_size, "bytes")


def labeled(work: Path, name: str, label: str) -> dict[str, VideoIndex]:
    """Splits of a set, at most MOST of each, drawn with one seed; classes without training files are left out."""
    if name == "shapes-hard":
        index = read_index(work / name, label=label)
    else:
        index = read_index(work / "sets" / f"{name}.csv", label=label)
    parts = {}
    for split in ("train", "val", "test"):
        part = index.select(split)
        rows = np.sort(np.random.default_rng(0).permutation(len(part))[:MOST])
        parts[split] = replace(part, records=tuple(part.records[i] for i in rows))
    return parts


def judge_set(args: argparse.Namespace) -> None:
    """Add a line for each label of a set to the results: probes on the shipped encoder and what it is compared with."""
    torch.set_num_threads(1)
    name, work = args.set, Path(args.work)
    model = load_model(args.model)
    config = replace(PRESETS["small"](), model=model.config)
    config = replace(config, data=replace(config.data, fps=float(FPS), frame_step=None))
    still = name in PHOTOGRAPHS  # all tubelets of a photograph are alike: the first will do
    grid = model.config.grid
    count = grid.tokens // grid.t if still else grid.tokens
    encoders = {"openvjepa-small": model.encoder, "untrained": untrained(model.config)}
    with make_runtime(ComputeConfig(threads=1)) as runtime:
        kinds: dict[str, Any] = {
            key: lambda clips, encoder=encoder: encode(encoder, clips, runtime=runtime).numpy()[:, :count]
            for key, encoder in encoders.items()
        }
        kinds["pixels"] = lambda clips: pixel_tokens(clips, model.config)[:, :count]
        kinds["descriptor"] = gradient_histograms
        for label in LABELS.get(name, ("label",)):
            started, parts = time.process_time(), labeled(work, name, label)
            numbers = sorted({r.label for r in parts["train"].records if r.label is not None})
            kept = {
                split: replace(part, records=tuple(r for r in part.records if r.label in numbers))
                for split, part in parts.items()
            }
            y = {s: np.array([numbers.index(r.label) for r in part.records if r.label is not None])
                 for s, part in kept.items()}  # fmt: skip
            clips = {split: plain_clips(part, config) for split, part in kept.items()}
            found = {}
            for key, tokens in kinds.items():
                x = {split: features(part, tokens) for split, part in clips.items()}
                heads = model.encoder.num_heads if key in encoders else 1
                shape = (1 if still else grid.t, grid.h, grid.w)
                found[key] = judge(x, y, shape, heads)
                print(name, label, key, found[key], flush=True)
            cell = {"set": name, "label": label, "videos": {s: len(part) for s, part in kept.items()}}
            cell |= {
                "classes": len(numbers),
                "majority": round(100 * float(np.bincount(y["test"]).max() / len(y["test"])), 1),
            }
            cell |= {"date": time.strftime("%Y-%m-%d"), "cpu_s": round(time.process_time() - started), "results": found}
            with Path(args.results).open("a") as file:
                file.write(json.dumps(cell) + "\n")


def table(args: argparse.Namespace) -> None:
    """Write the results into the model card."""
    names = ("openvjepa-small", "untrained", "pixels", "descriptor")
    rows = [f"| held-out set | probe | {' | '.join(names)} |", "|---|---|---|---|---|---|"]
    for line in Path(args.results).read_text().splitlines():
        cell = json.loads(line)
        label = "" if cell["label"] == "label" else f", {cell['label']}"
        where = (
            f"{cell['set']}{label} ({cell['classes']} classes; {cell['videos']['train']} / {cell['videos']['test']})"
        )
        for probe in ("linear", "attentive", "knn", "grid"):
            shown = []
            for name in names:
                found = cell["results"][name].get(probe)
                values = [] if found is None else [f"{found[count]:.0f}" for count in COUNTS]
                if name == names[0] and found is not None:
                    others = [cell["results"][other][probe] for other in names[1:3]]
                    worse = [found[c] < max(other[c] for other in others) for c in COUNTS]
                    values = [f"**{v}**" if bad else v for v, bad in zip(values, worse, strict=True)]
                shown.append(" / ".join(values))
            rows.append(f"| {where} | {'kNN' if probe == 'knn' else probe} | {' | '.join(shown)} |")
            where = ""
    card = Path(SHIPPED) / "README.md"
    before, rest = card.read_text().split("<!-- table -->")
    after = rest.split("<!-- end -->")[1]
    card.write_text("\n".join([f"{before}<!-- table -->", *rows, "", f"<!-- end -->{after}"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("prepare", help="splits and training clips")
    command.add_argument("--data", required=True)
    command.add_argument("--work", default="runs/shipped")
    command.set_defaults(call=prepare)
    command = commands.add_parser("train", help="the rendered worlds and the training")
    command.add_argument("--work", default="runs/shipped")
    command.add_argument("--resume", action="store_true")
    command.set_defaults(call=train)
    command = commands.add_parser("ship", help="write the encoder in float16")
    command.add_argument("--work", default="runs/shipped")
    command.add_argument("--out", default=SHIPPED)
    command.set_defaults(call=ship)
    command = commands.add_parser("judge", help="probes on held-out files of one set")
    command.add_argument("--set", required=True, choices=[name for name in WEIGHTS if name != "physics"])
    command.add_argument("--work", default="runs/shipped")
    command.add_argument("--model", default=SHIPPED)
    command.add_argument("--results", default=RESULTS)
    command.set_defaults(call=judge_set)
    command = commands.add_parser("table", help="write the results into the model card")
    command.add_argument("--results", default=RESULTS)
    command.set_defaults(call=table)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
