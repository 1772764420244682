"""What `vjepa data prepare` is worth: the CPU time of a random clip from originals and from their copies.

    .venv/bin/python benchmarks/prepare.py FOLDER [--videos 6] [--clips 10] [--rounds 3] [--seed 0] [--json FILE]

Takes the largest videos below FOLDER, plays each forth and back to 10 s at 30 frames per second, and encodes two kinds of
originals: `k250` (340 x 256 px, B-frames, a key frame every 250 frames, as data sets of web videos have) and `hd` (1920 x
1080 px, 16 Mbit/s, a key frame a second, as a phone writes them). Copies them with the settings of `vjepa data prepare`,
and reads clips of 16 frames, every 4th, from random starts as a loader's worker does: open, find the frames, decode them
with one thread, crop and resize to 224 px. Originals and copies take turns, clip by clip, so that both meet the same
disturbances; a clip's cost is the least CPU time of the rounds. The table of a file's time stamps is made once, before
the clock starts, as in training. `hd` is read twice: as it is, and shrunk to a short side of 256 px while its colors are
converted.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from openvjepa import __version__
from openvjepa.config import PrepareConfig
from openvjepa.data.clips import ClipSpec
from openvjepa.data.copies.transcode import copy_video
from openvjepa.data.media.video import VIDEO_EXTENSIONS, VideoInfo, open_video, probe
from openvjepa.data.transforms import train_transform

SECONDS, FPS = 10, 30
SPEC = ClipSpec(num_frames=16, frame_step=4)


@dataclass(frozen=True)
class Kind:
    """Originals of one kind: their size, px, how they are encoded, and what a clip may cost in a copy."""

    name: str
    height: int
    width: int
    options: dict[str, str]
    target: float
    """Largest share of the original's CPU time."""


KINDS = (
    Kind(
        "k250", 256, 340, {"preset": "medium", "crf": "20", "g": "250", "keyint_min": "250", "sc_threshold": "0"}, 0.4
    ),
    Kind("hd", 1080, 1920, {"preset": "veryfast", "b": "16M", "g": "30", "bf": "0"}, 0.03),
)


def largest(folder: Path, count: int) -> list[VideoInfo]:
    """The videos with the most pixels a frame."""
    found = [probe(path) for path in sorted(folder.rglob("*")) if path.suffix.lower() in VIDEO_EXTENSIONS]
    return sorted(found, key=lambda info: -info.width * info.height)[:count]


def forth_and_back(path: str) -> Iterator[NDArray[np.uint8]]:
    """10 s of frames of a video, uint8 [H, W, 3], without a cut."""
    frames = open_video(path, threads=2).all_frames().frames
    order = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
    yield from (frames[i] for i in islice(cycle(order), SECONDS * FPS))


def encode(source: str, target: Path, kind: Kind) -> None:
    """Write an original as H.264."""
    reformatter = VideoReformatter()
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=kind.options)
        stream.height, stream.width, stream.pix_fmt = kind.height, kind.width, "yuv420p"
        for pixels in forth_and_back(source):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(reformatter.reformat(frame, kind.width, kind.height, "yuv420p", threads=1)))
        container.mux(stream.encode())


def cost(path: Path, start: float, short_side: int | None) -> float:
    """CPU milliseconds of this process, all threads, for one clip of a training batch."""
    begin = time.process_time()
    video = open_video(path)
    frames = video.frames([int(i) for i in SPEC.indices(video, start)], short_side=short_side).frames
    generator = torch.Generator().manual_seed(round(1000 * start))
    train_transform(frames, (224, 224), scale=(0.3, 1.0), ratio=(0.75, 1.35), hflip=0.5, generator=generator)
    return 1000 * (time.process_time() - begin)


def measure(originals: list[Path], copies: list[Path], args: argparse.Namespace, short_side: int | None) -> list[float]:
    """Mean CPU milliseconds per clip of [originals, copies]: the least of the rounds for each clip."""
    starts = np.random.default_rng(args.seed).uniform(0, SECONDS - 16 * 4 / FPS, (len(originals), args.clips))
    best = np.full((2, *starts.shape), np.inf)
    for path in originals + copies:
        cost(path, 0.0, short_side)
    for _ in range(args.rounds):
        for video, clip in np.ndindex(starts.shape):
            for which, path in enumerate((originals[video], copies[video])):
                best[which, video, clip] = min(best[which, video, clip], cost(path, starts[video, clip], short_side))
    return best.mean(axis=(1, 2)).tolist()


def compare(kind: Kind, sources: list[VideoInfo], folder: Path, args: argparse.Namespace) -> list[dict[str, object]]:
    """Encode, copy and measure one kind; a row for each way of reading."""
    originals, copies = ([folder / f"{kind.name}-{i}{end}.mp4" for i in range(len(sources))] for end in ("", "-copy"))
    for source, original in zip(sources, originals, strict=True):
        encode(source.path, original, kind)
    settings, begin = PrepareConfig("", ""), time.process_time()
    for original, copy in zip(originals, copies, strict=True):
        copy_video(str(original), copy, short_side=settings.short_side, gop=settings.gop, crf=settings.crf)
    copying = (time.process_time() - begin) / (SECONDS * len(originals))
    before, after = (sum(path.stat().st_size for path in paths) / 1e6 / len(paths) for paths in (originals, copies))
    rows = []
    for short_side in (None, 256) if kind.height > 400 else (None,):
        original, copy = measure(originals, copies, args, short_side)
        row = {"original": kind.name + (f", shrunk to {short_side}" if short_side else "")}
        sizes = {"original_mb": before, "copy_mb": after, "copying_cpu_s_per_s": copying}
        costs = {"original_cpu_ms": original, "copy_cpu_ms": copy, "ratio": copy / original, "target": kind.target}
        rows.append(row | {name: round(value, 4) for name, value in (sizes | costs).items()})
    return rows


def machine() -> str:
    """The processor's name."""
    facts = Path("/proc/cpuinfo")
    names = [line for line in facts.read_text().splitlines() if "model name" in line] if facts.is_file() else []
    return names[0].partition(": ")[2] if names else platform.processor() or platform.machine()


def main() -> None:
    """Encode, copy, measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of real videos")
    parser.add_argument("--videos", type=int, default=6, help="how many of them")
    parser.add_argument("--clips", type=int, default=10, help="clips of each video")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("prepare.json"), help="file for the result")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sources = largest(args.folder, args.videos)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for kind in KINDS for row in compare(kind, sources, Path(folder), args)]
    result = {
        "date": str(datetime.date.today()),
        "command": " ".join([Path(sys.executable).name, *sys.argv]),
        "machine": f"{machine()}, {os.cpu_count()} cores, {platform.system()}",
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {
            "python": platform.python_version(),
            "av": av.__version__,
            "ffmpeg": av.ffmpeg_version_info,
            "torch": torch.__version__,
            "openvjepa": __version__,
        },
        "videos": [f"{Path(info.path).name} {info.width}x{info.height}" for info in sources],
        "rows": rows,
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{result['date']}  {result['machine']}, load {result['load']}\n{result['versions']}")
    print(f"{len(sources)} videos, {args.clips} clips of 16 frames, every 4th, of each; CPU ms per clip\n")
    print(f"{'original':<20}{'MB':>7}{'copy MB':>9}{'CPU s/s':>9}{'original':>10}{'copy':>7}{'ratio':>8}{'at most':>9}")
    for row in rows:
        cells = "{original:<20}{original_mb:>7.1f}{copy_mb:>9.1f}{copying_cpu_s_per_s:>9.3f}{original_cpu_ms:>10.1f}"
        print((cells + "{copy_cpu_ms:>7.1f}{ratio:>8.3f}{target:>9}").format(**row))


if __name__ == "__main__":
    main()
