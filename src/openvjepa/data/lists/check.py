"""A check of every video and image of a list: a full decode of each file, several at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from openvjepa.data.copies.gain import PrepareGain, prepare_gain
from openvjepa.data.cores import process_count, process_pool
from openvjepa.data.lists.index import VideoIndex, read_index
from openvjepa.data.media.images import is_image_name
from openvjepa.data.media.video import VideoInfo, probe
from openvjepa.errors import DataError, VideoError
from openvjepa.progress import Meter


@dataclass(frozen=True)
class CheckReport:
    """Result of `check`: decoded files, unreadable files and statistics."""

    index: VideoIndex
    good: tuple[VideoInfo, ...]
    bad: dict[str, str]
    """Path -> reason; files that decode with errors are in `good` and listed in `damaged`."""
    gain: PrepareGain | None = None
    """How much cheaper reading would become with `vjepa data prepare`; None where no file can be read."""

    @property
    def files(self) -> tuple[str, ...]:
        """The different files, in the order of the index."""
        return _files(self.index)

    @property
    def images(self) -> int:
        """How many of the files are still images, by their names."""
        return sum(map(is_image_name, self.files))

    @property
    def damaged(self) -> dict[str, int]:
        """Path -> packets that could not be decoded, for files that can be used all the same."""
        return {info.path: info.errors for info in self.good if info.errors}

    def to_dict(self) -> dict[str, object]:
        """The same for programs."""
        return {
            "source": self.index.source,
            "rows": len(self.index),
            "videos": len(self.files) - self.images,
            "images": self.images,
            "classes": dict(self.class_counts()),
            "labels_from": self.index.labels_from,
            "frames": sum(info.frames for info in self.good),
            "seconds": round(sum(info.duration for info in self.good), 3),
            "sizes": counts(f"{info.width}x{info.height}" for info in self.good),
            "codecs": counts(info.codec for info in self.good),
            "bad": self.bad,
            "damaged": self.damaged,
            "prepare": None
            if self.gain is None
            else {**asdict(self.gain), "times_cheaper": round(self.gain.factor, 2)},
        }

    def class_counts(self) -> list[tuple[str, int]]:
        """(class, number of its rows), in the order of the classes."""
        tally = Counter(self.index.labels)
        return [(name, tally[i]) for i, name in enumerate(self.index.classes or ())]


def check_index(source: str | Path, *, label: str | None = None, workers: int | None = None) -> CheckReport:
    """Decode every video and image of an index completely, several at a time, and report what is there.

    Args:
        source: what `read_index` reads.
        label: CSV column of the label.
        workers: processes that decode; None: one per core, at most 8.

    Raises:
        DataError: the index itself cannot be read, or a decoding process was ended from outside.
    """
    index = read_index(source, label=label)
    paths = _files(index)
    good, bad = list[VideoInfo](), dict[str, str]()
    try:
        with (
            process_pool(process_count(workers, len(paths))) as pool,
            Meter("decoding", len(paths), unit="files") as meter,
        ):
            # Not pool.map, which cancels its jobs when a signal comes: stopped processes would then give a traceback.
            jobs = [pool.submit(_probe, path) for path in paths]
            for done, (path, job) in enumerate(zip(paths, jobs, strict=True), 1):
                result = job.result()
                if isinstance(result, VideoInfo):
                    good.append(result)
                else:
                    bad[path] = result
                meter.show(done)
        bad |= _missing_parts(index, good)
    except BrokenProcessPool:
        raise DataError(
            f"{source}: a decoding process was killed, perhaps out of memory: use fewer --workers"
        ) from None
    fine = [record for record in index.records if record.path not in bad and record.name not in bad]
    return CheckReport(index, tuple(good), bad, prepare_gain(fine))


def _files(index: VideoIndex) -> tuple[str, ...]:
    return tuple(dict.fromkeys(record.path for record in index.records))


def _missing_parts(index: VideoIndex, good: Iterable[VideoInfo]) -> dict[str, str]:
    """Parts that lie outside of their videos -> reason."""
    durations, missing = {info.path: info.duration for info in good}, dict[str, str]()
    for record in index.records:
        duration = durations.get(record.path)
        if record.is_part and duration is not None:
            try:
                replace(record, duration=duration)
            except DataError as error:
                missing[record.name] = str(error).removeprefix(f"{record.path}: ")
    return missing


def _probe(path: str) -> VideoInfo | str:
    try:
        return probe(path)
    except VideoError as error:
        return error.reason


def counts(values: Iterable[str]) -> dict[str, int]:
    """Value -> how often it occurs, the most frequent first."""
    return dict(Counter(values).most_common())
