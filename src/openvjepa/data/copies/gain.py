"""How much cheaper reading would become with copies, measured on a few clips."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import fmean

import av
import numpy as np
from av.video.reformatter import Colorspace
from numpy.typing import NDArray

from openvjepa.data.clips import ClipSpec
from openvjepa.data.copies.mp4 import write_mp4
from openvjepa.data.copies.transcode import copy_options, copy_picture, copy_size
from openvjepa.data.lists.records import VideoRecord
from openvjepa.data.media.images import is_image, read_image
from openvjepa.data.media.video import Video, open_video
from openvjepa.errors import VideoError

WORTH = 1.5
"""Gain from which copies are worth their disk space."""
_CHUNK = 128  # frames decoded at a time
_BASE = Fraction(1, 90_000)  # unit of time of a copy, s


@dataclass(frozen=True)
class PrepareGain:
    """What reading a clip costs, from the files and from copies as `vjepa data prepare` writes them."""

    before: float
    """CPU seconds for a clip, or a picture, from the files; the mean over the sample."""
    after: float
    """The same from copies."""
    files: int
    """Size of the sample."""
    short_side: int
    """Of the copies, px."""

    @property
    def factor(self) -> float:
        """How many times cheaper reading becomes; around 1 where the files are small already."""
        return self.before / max(self.after, 1e-9)

    @property
    def worth(self) -> bool:
        """Whether copies save a third of the time or more."""
        return self.factor >= WORTH

    def __str__(self) -> str:
        """For people."""
        costs = (
            f"{1000 * self.before:.2g} ms a clip now, {1000 * self.after:.2g} ms from copies of {self.short_side} px"
        )
        if self.worth:
            return f"`vjepa data prepare` would make reading about {self.factor:.0f} times cheaper ({costs})"
        return f"`vjepa data prepare` would not make reading much cheaper ({costs})"


def prepare_gain(
    records: Sequence[VideoRecord],
    spec: ClipSpec | None = None,
    *,
    short_side: int = 256,
    gop: int = 12,
    crf: int = 23,
    files: int = 24,
    seconds: float = 8.0,
) -> PrepareGain | None:
    """Read a clip of some files, and the same frames from copies that are made of them for this alone.

    Costs are CPU time in one thread, as in a loader process: what others do on the machine changes little. The table of time
    stamps, which every file needs once, is not counted.

    Args:
        records: the videos and images, of which a sample is taken, evenly spread.
        spec: the clip; None: 16 frames, every fourth.
        short_side: of the copies, px.
        gop: frames between two key frames of the copies.
        crf: x264's constant rate factor.
        files: size of the sample.
        seconds: no further file is tried after that time.

    Returns:
        None where no file of the sample can be read.
    """
    spec = spec or ClipSpec(16, 4)
    costs: list[tuple[float, float]] = []
    begin = time.monotonic()
    places = np.unique(np.linspace(0, len(records) - 1, files).round().astype(int)) if records else []
    with tempfile.TemporaryDirectory(prefix="openvjepa-gain-") as folder:
        for place in np.random.default_rng(0).permutation(
            places
        ):  # so that no part of the list is left out for lack of time
            if costs and time.monotonic() - begin > seconds:
                break
            try:
                costs.append(_costs(records[int(place)], spec, Path(folder), (short_side, gop, crf)))
            except VideoError:
                continue
            finally:
                for copy in Path(folder).iterdir():
                    copy.unlink()
    if not costs:
        return None
    before, after = (fmean(column) for column in zip(*costs, strict=True))
    return PrepareGain(before, after, len(costs), short_side)


def _costs(record: VideoRecord, spec: ClipSpec, folder: Path, style: tuple[int, int, int]) -> tuple[float, float]:
    """CPU seconds of a clip from a file, and from its copy."""
    if is_image(record.path):
        copy = folder / f"copy{Path(record.path).suffix}"
        copy_picture(record.path, copy, short_side=style[0])
        return _cpu(lambda: read_image(record.path)), _cpu(lambda: read_image(copy))
    video = record.open()
    indices = [int(i) for i in spec.indices(video, spec.segment_starts(video, 1)[0])]
    first, end = indices[0], indices[-1] + 1
    # The copy begins up to a group of pictures earlier: a clip seldom begins with a key frame.
    lead = min(first, style[1] // 2)
    copy = folder / "copy.mp4"
    _copy_part(video, first - lead, end, copy, style)
    small = open_video(copy)
    same = [i - first + lead for i in indices]
    return _cpu(lambda: video.frames(indices)), _cpu(lambda: small.frames(same))


def _copy_part(video: Video, first: int, end: int, target: Path, style: tuple[int, int, int]) -> None:
    """Write frames first to end - 1 as a copy would hold them."""
    short_side, gop, crf = style

    def images() -> Iterator[av.VideoFrame]:
        for begin in range(first, end, _CHUNK):
            for frame in video.frames(range(begin, min(begin + _CHUNK, end)), short_side=short_side).frames:
                yield _small(frame, short_side)

    times, options = video.times[first:end] - video.times[first], copy_options(gop, crf)
    write_mp4(target, images(), times, fps=video.fps, base=_BASE, options=options, threads=1, source=video.path)


def _small(frame: NDArray[np.uint8], short_side: int) -> av.VideoFrame:
    width, height = copy_size(frame.shape[1], frame.shape[0], short_side)
    image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    return image.reformat(width, height, "yuv420p", dst_colorspace=Colorspace.ITU709, threads=1)


def _cpu(read: Callable[[], object]) -> float:
    """CPU seconds of the faster one of two calls; the first also brings the file into the system's cache."""
    found: list[float] = []
    for _ in range(2):
        start = time.process_time()
        read()
        found.append(time.process_time() - start)
    return min(found)
