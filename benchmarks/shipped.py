"""How the shipped encoder `openvjepa-small` was made: splits, training clips, training, and the judge.

    .venv/bin/python benchmarks/shipped.py prepare --data DATA --work runs/shipped
    .venv/bin/python benchmarks/shipped.py train --work runs/shipped
    .venv/bin/python benchmarks/shipped.py judge --work runs/shipped
    .venv/bin/python benchmarks/shipped.py ship --work runs/shipped

DATA holds one folder for each set, as downloaded (src/openvjepa/weights/shipped/openvjepa-small/README.md names sources and
licenses): surveillance/{fight,noFight}, sign_digits/0 ... 9, shapes_motion/{circular,horizontal,vertical}, rc_driving, grocery
and clothing with an index.csv each (the authors' splits; by block of time; by sender).

Held out as a whole: people (sign_digits), blocks of ten neighboring numbers (surveillance), a color (shapes_motion), senders
(clothing), blocks of time (rc_driving), the authors' test split (grocery). `prepare` writes sets/NAME.csv with the splits,
train/NAME.csv with what is trained on, and heldout.json with the SHA-256 of every held-out file. A photograph is trained on as
a clip of a camera that pans, zooms and turns over it, because a still teaches nothing about time.
"""

from __future__ import annotations

import argparse
import bisect
import csv
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openvjepa.data.rendered.synthetic import write_video

FRAMES, SIZE, FPS = 16, 80, 10
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
    work, heldout = Path(args.work), {}
    for name, files in sets(Path(args.data).resolve()).items():
        rows = [(str(file.path), file.label, file.split) for file in files]
        write_list(work / "sets" / f"{name}.csv", rows, ("path", "label", "split"))
        held = [file for file in files if file.split != "train"]
        heldout[name] = {file.path.name: hashlib.sha256(file.path.read_bytes()).hexdigest() for file in held}
        hashes = set(heldout[name].values())
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
    (work / "heldout.json").write_text(json.dumps(heldout, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("prepare", help="splits and training clips")
    command.add_argument("--data", required=True)
    command.add_argument("--work", default="runs/shipped")
    command.set_defaults(call=prepare)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
