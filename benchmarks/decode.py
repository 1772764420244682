"""How fast clips are decoded: openvjepa's reader beside the usual few lines of PyAV, in one process.

    .venv/bin/python benchmarks/decode.py [--clips 40] [--seed 0]

Renders two 10 s H.264 videos (340 x 256 px, 30 fps, B-frames; a key frame every 12 or 250 frames) and reads clips of 16
frames, every 4th, from random starts. Both readers must give the same frames. openvjepa's table of a file's time stamps
is made once per process, before the clock starts.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from openvjepa import __version__
from openvjepa.data.media.video import open_video
from openvjepa.data.rendered.synthetic import render_shape

FRAMES, FPS, HEIGHT, WIDTH = 300, 30, 256, 340
CLIP, STEP = 16, 4

Reader = Callable[[Path, "list[int]"], "NDArray[np.uint8]"]


def usual(path: Path, indices: list[int]) -> NDArray[np.uint8]:
    """What most code does: seek, decode with automatic threads, convert each frame on its own."""
    wanted, frames = set(indices), []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        first = int(indices[0] / FPS / stream.time_base)
        container.seek(first, stream=stream)
        for frame in container.decode(stream):
            number = round(float(frame.pts * stream.time_base) * FPS)
            if number in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
            if number >= indices[-1]:
                break
    return np.stack(frames)


def ours(path: Path, indices: list[int]) -> NDArray[np.uint8]:
    """openvjepa.data.media.video with one decoding thread, as in a loader's worker."""
    return open_video(path).frames(indices).frames


def render(path: Path, keyframes: int, rng: np.random.Generator) -> None:
    """Write a moving shape over slight noise as H.264 with a key frame every `keyframes` frames."""
    shape = render_shape("clockwise", "star", size=WIDTH, frames=FRAMES, rng=rng)[:, :HEIGHT]
    with av.open(str(path), "w") as container:
        options = {"crf": "20", "preset": "medium", "g": str(keyframes), "bf": "3", "threads": "1"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for frame in shape:
            noisy = np.clip(frame + rng.normal(0, 4, frame.shape), 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, format="rgb24")))
        container.mux(stream.encode())


def measure(read: Reader, path: Path, starts: list[int]) -> tuple[float, float]:
    """(wall, CPU) milliseconds per clip, the better of two rounds after one clip to warm up."""
    read(path, clip(starts[0]))
    rounds = []
    for _ in range(2):
        wall, cpu = time.perf_counter(), time.process_time()
        for start in starts:
            read(path, clip(start))
        rounds.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = min(rounds)
    return 1000 * wall / len(starts), 1000 * cpu / len(starts)


def clip(start: int) -> list[int]:
    """Frame numbers of the clip that begins at `start`."""
    return list(range(start, start + CLIP * STEP, STEP))


def main() -> None:
    """Render, compare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=40, help="clips read per round")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    starts = rng.integers(0, FRAMES - CLIP * STEP, args.clips).tolist()

    machine = platform.processor() or platform.machine()
    print(f"{datetime.date.today()}  {machine}, {os.cpu_count()} cores, {platform.system()}")
    print(f"Python {platform.python_version()}, PyAV {av.__version__}, numpy {np.__version__}, openvjepa {__version__}")
    print(f"{args.clips} clips of {CLIP} frames, every {STEP}th, {WIDTH} x {HEIGHT} px, one process\n")
    print(f"{'file':<16}{'reader':<12}{'wall ms/clip':>14}{'CPU ms/clip':>14}{'clips/s':>10}  same frames")
    with tempfile.TemporaryDirectory() as folder:
        for keyframes in (12, 250):
            path = Path(folder) / f"gop{keyframes}.mp4"
            render(path, keyframes, rng)
            same = all(np.array_equal(usual(path, clip(s)), ours(path, clip(s))) for s in starts[:10])
            for name, read in (("usual PyAV", usual), ("openvjepa", ours)):
                wall, cpu = measure(read, path, starts)
                file = f"key frame / {keyframes}"
                print(f"{file:<16}{name:<12}{wall:>14.1f}{cpu:>14.1f}{1000 / wall:>10.1f}  {'yes' if same else 'NO'}")


if __name__ == "__main__":
    main()
