"""A check of every video and image of a list: a full decode of each file, several at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from openvjepa.data.cores import process_count
from openvjepa.data.images import is_image_name
from openvjepa.data.index import VideoIndex, read_index
from openvjepa.data.video import VideoInfo, probe
from openvjepa.errors import DataError, VideoError, printable
from openvjepa.progress import Meter


@dataclass(frozen=True)
class CheckReport:
    """What a full decode of every video and image of an index found; a file that several rows name is decoded once."""

    index: VideoIndex
    good: tuple[VideoInfo, ...]
    bad: dict[str, str]
    """Path -> reason; files that decode with errors are in `good` and listed in `damaged`."""

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
            "classes": dict(self._class_counts()),
            "labels_from": self.index.labels_from,
            "frames": sum(info.frames for info in self.good),
            "seconds": round(sum(info.duration for info in self.good), 3),
            "sizes": _counts(f"{info.width}x{info.height}" for info in self.good),
            "codecs": _counts(info.codec for info in self.good),
            "bad": self.bad,
            "damaged": self.damaged,
        }

    def render(self) -> RenderableType:
        """The same for people; names from outside are shown as they are, with control characters escaped."""
        images, moving = self.images, [info for info in self.good if info.fps]
        kinds = f"{len(self.files) - images} videos" + (f", {images} images" if images else "")
        if len(self.index) != len(self.files):
            kinds += f" in {len(self.index)} rows"
        table = Table(title=_text(f"{self.index.source}: {kinds}"), show_header=False, title_justify="left")
        durations = [info.duration for info in moving] or [0.0]
        splits = _counts(record.split for record in self.index.records if record.split)
        rows = {
            "readable": f"{len(self.good)} ({len(self.damaged)} of them with damaged packets)",
            "duration": f"{min(durations):.2f} - {max(durations):.2f} s, median {median(durations):.2f} s",
            "frames": f"{sum(info.frames for info in self.good)} in all",
            "fps": _short(_counts(f"{info.fps:.4g}" for info in moving)),
            "sizes": _short(_counts(f"{info.width}x{info.height}" for info in self.good)),
            "codecs": _short(_counts(info.codec for info in self.good)),
            "splits": _short(splits) if splits else "none given",
            "classes": _short(dict(self._class_counts())) if self.index.classes else self._no_labels(),
        }
        if self.index.labels_from:
            rows["labels from"] = self.index.labels_from
        for name, value in rows.items():
            table.add_row(name, _text(value))
        parts: list[RenderableType] = [table]
        notes = {**{p: f"{n} packets cannot be decoded" for p, n in self.damaged.items()}, **self.bad}
        if notes:
            title = f"{len(self.bad)} bad, {len(self.damaged)} damaged"
            problems = Table("file", "reason", title=title, title_justify="left")
            for path, reason in notes.items():
                problems.add_row(_text(path), _text(reason))
            parts.append(problems)
        return Group(*parts)

    def _no_labels(self) -> str:
        columns = self.index.columns
        return f"no labels (choose a column: {', '.join(columns)})" if columns else "no labels"

    def _class_counts(self) -> list[tuple[str, int]]:
        counts = Counter(self.index.labels)
        return [(name, counts[i]) for i, name in enumerate(self.index.classes or ())]


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
    good, bad = [], {}
    try:
        with (
            ProcessPoolExecutor(process_count(workers, len(paths))) as pool,
            Meter("decoding", len(paths), unit="files") as meter,
        ):
            for done, (path, result) in enumerate(zip(paths, pool.map(_probe, paths, chunksize=4), strict=True), 1):
                if isinstance(result, VideoInfo):
                    good.append(result)
                else:
                    bad[path] = result
                meter.show(done)
    except BrokenProcessPool:
        raise DataError(f"{source}: a decoding process died, perhaps for lack of memory: use fewer workers") from None
    return CheckReport(index, tuple(good), bad)


def _files(index: VideoIndex) -> tuple[str, ...]:
    return tuple(dict.fromkeys(record.path for record in index.records))


def _probe(path: str) -> VideoInfo | str:
    try:
        return probe(path)
    except VideoError as error:
        return error.reason


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _short(counts: dict[str, int], most: int = 12) -> str:
    shown = ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:most])
    return shown + (f" and {len(counts) - most} more" if len(counts) > most else "") or "-"


def _text(text: str) -> Text:
    """Without Rich's markup, which names such as "[/b]" would be taken for."""
    return Text(printable(text))
