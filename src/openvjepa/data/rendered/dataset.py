"""Write a rendered dataset: video files, in several processes, and then its index.csv."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from openvjepa.atomic import replacing
from openvjepa.data.copies.mp4 import write_mp4
from openvjepa.data.cores import process_count, process_pool
from openvjepa.errors import DataError
from openvjepa.progress import track

ConfigT = TypeVar("ConfigT")
JobT = TypeVar("JobT")
_OPTIONS = {"crf": "18", "preset": "veryfast", "g": "12", "mbtree": "0"}


def write_dataset(
    out: Path,
    config: ConfigT,
    jobs: Sequence[JobT],
    write: Callable[[ConfigT, JobT], None],
    *,
    columns: Sequence[str],
    row: Callable[[JobT], Sequence[object]],
    workers: int | None,
) -> Path:
    """Write the videos, which may be there in part, and at last index.csv: a folder without it is unfinished.

    Args:
        out: the folder.
        config: first argument of `write`.
        jobs: the videos.
        write: writes one of them below `out`/videos; a function of a module, for other processes.
        columns: of index.csv.
        row: the cells of a video.
        workers: processes; None: one per core, at most 8.

    Raises:
        DataError: the folder holds an index already, or a video cannot be written.
    """
    if (out / "index.csv").exists():
        raise DataError(f"{out}: already holds a dataset: choose another folder, or delete it first")
    try:
        (out / "videos").mkdir(parents=True, exist_ok=True)
        workers = process_count(workers, len(jobs))
        if workers > 1:
            with process_pool(workers) as pool:
                written = [pool.submit(write, config, job) for job in jobs]
                for future in track(written, "rendering", len(jobs)):
                    future.result()
        else:
            for job in track(jobs, "rendering", len(jobs)):
                write(config, job)
        with replacing(out / "index.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(columns)
            rows.writerows(map(row, jobs))
        return out / "index.csv"
    except OSError as error:
        raise DataError(f"{out}: cannot write the dataset: {error.strerror or error}") from None


def write_video(path: Path, frames: NDArray[np.uint8], *, fps: int | Fraction) -> None:
    """Encode frames uint8 [T, H, W, 3] as H.264 in the container that the file name's ending asks for, atomically.

    Good quality (CRF 18), short groups of pictures (12 frames), one encoding thread, and no macroblock trees, for which
    x264's AVX-512 code gives other files from run to run.

    Raises:
        VideoError: they cannot be encoded.
        OSError: the file cannot be written.
    """
    kind, rate = path.suffix[1:].lower(), Fraction(fps)
    with replacing(path) as part:
        write_mp4(
            part,
            _images(frames),
            [float(number / rate) for number in range(len(frames))],
            fps=float(rate),
            base=1 / rate,
            options=_OPTIONS,
            threads=1,
            source=str(path),
            container_format={"mkv": "matroska"}.get(kind, kind),
            index_first=False,
        )


def _images(frames: NDArray[np.uint8]) -> Iterator[av.VideoFrame]:
    reformatter = VideoReformatter()  # with one thread, as when reading
    for pixels in frames:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        yield reformatter.reformat(frame, format="yuv420p", threads=1)
