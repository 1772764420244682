"""splits.csv: which videos a run has seen, by path and by content."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from openvjepa.data.lists.cells import csv_text, plain_cell
from openvjepa.data.lists.index import VideoIndex, VideoRecord
from openvjepa.errors import DataError

SPLITS_FILE = "splits.csv"
_COLUMNS = ("path", "content", "label", "split")
_TIMES = ("start", "end")
_BLOCK = 1 << 22  # bytes read at once
_LARGE = 16 * _BLOCK  # larger files are known by their size and 16 blocks, evenly spaced: 64 MiB are read in a blink

Span = tuple[float, float]
"""Start and end of a part of a video, s; the whole video is (0, inf)."""
_WHOLE: Span = (0.0, float("inf"))


def content_key(path: str | Path) -> str:
    """Size in bytes and sha256 of a file, `SIZE-HEX`; of a folder of frames, of all its files. "" if it cannot be read.

    Of a file above 64 MiB, the hash covers 16 blocks of 4 MiB, evenly spaced from its start to its end.
    """
    path, digest, size = Path(path), hashlib.sha256(), 0
    try:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if path.is_dir() and file.is_file():
                digest.update(file.name.encode())
            elif path.is_dir():
                continue
            length = file.stat().st_size
            size += length
            with file.open("rb") as stream:
                for start in _block_starts(length):
                    stream.seek(start)
                    digest.update(stream.read(_BLOCK))
    except OSError:
        return ""
    return f"{size}-{digest.hexdigest()}"


def _block_starts(length: int) -> Iterable[int]:
    """Where the blocks of a file of so many bytes begin that are hashed."""
    if length <= _LARGE:
        return range(0, length, _BLOCK)
    return (i * (length - _BLOCK) // 15 for i in range(16))


def splits_csv(splits: Mapping[str, VideoIndex]) -> bytes:
    """Content of a run's splits.csv: absolute path, content, label and split of every video, group, start and end if it has any.

    It is a list of videos itself: `vjepa probe RUN/splits.csv --model MODEL` repeats the same splits.
    """
    keys: dict[str, str] = {}
    rows: list[dict[str, object]] = []
    for name, index in splits.items():
        for record in index.records:
            path = os.path.abspath(record.path)
            if path not in keys:
                keys[path] = content_key(path)
            label = "" if record.label is None else (index.classes or ())[record.label]
            row: dict[str, object] = {"path": path, "content": keys[path], "label": label, "split": name}
            if record.group is not None:
                row["group"] = record.group
            start, end = span_of(record)
            if (start, end) != _WHOLE:
                row |= {"start": f"{start:.6f}", "end": "" if end == _WHOLE[1] else f"{end:.6f}"}
            rows.append(row)
    more = [names for names in (("group",), _TIMES) if any(names[0] in row for row in rows)]
    columns = (*_COLUMNS, *(name for names in more for name in names))
    return csv_text(columns, rows).encode()


def span_of(record: VideoRecord) -> Span:
    """Start and end of the part of a video that a list names, s."""
    return (_WHOLE[0] if record.start is None else record.start), (_WHOLE[1] if record.end is None else record.end)


@dataclass
class Seen:
    """Videos that runs were trained on or chosen with.

    A video counts as seen when its path or its content is among them, and, where lists name parts of videos, when the parts
    overlap.
    """

    paths: dict[str, list[Span]] = field(default_factory=lambda: defaultdict(list))
    """By absolute path."""
    contents: dict[str, list[Span]] = field(default_factory=lambda: defaultdict(list))
    """By `content_key`."""
    _keys: dict[str, str] = field(default_factory=dict[str, str])
    _sizes: set[int] = field(default_factory=set[int])

    def add(self, path: str, content: str, span: Span = _WHOLE) -> None:
        """One more video; `content` is empty where it is not known."""
        self.paths[path].append(span)
        if content:
            self.contents[content].append(span)
            self._sizes.add(int(content.split("-", 1)[0]))

    def add_all(self, other: Seen) -> None:
        """The videos of another one, too."""
        for mine, theirs in ((self.paths, other.paths), (self.contents, other.contents)):
            for key, spans in theirs.items():
                mine[key] += spans
        self._sizes |= other._sizes

    def __contains__(self, record: VideoRecord) -> bool:
        path = os.path.abspath(record.path)
        spans = list(self.paths.get(path, ()))
        if not spans and self._same_size(path):
            if path not in self._keys:
                self._keys[path] = content_key(path)
            spans = self.contents.get(self._keys[path], [])
        start, end = span_of(record)
        return any(start < theirs_end and theirs_start < end for theirs_start, theirs_end in spans)

    def _same_size(self, path: str) -> bool:
        """Whether a video seen is as large; only then is its content read."""
        try:
            size = (
                sum(os.path.getsize(file) for file in Path(path).iterdir() if file.is_file())
                if os.path.isdir(path)
                else os.path.getsize(path)
            )
        except OSError:
            return False
        return size in self._sizes


def read_seen(path: Path) -> Seen:
    """The training and validation videos of a splits.csv.

    Raises:
        DataError: it cannot be read, or is not such a file.
    """
    seen = Seen()
    for row in _rows(path):
        if row["split"] not in ("train", "val"):
            continue
        start, end = (row.get(name) or "" for name in _TIMES)
        try:
            span = (float(start) if start else _WHOLE[0], float(end) if end else _WHOLE[1])
            seen.add(plain_cell(row["path"]), row["content"], span)
        except ValueError as error:
            raise DataError(f"{path}: not the list of videos of a run ({error})") from None
    return seen


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    if not rows or not set(_COLUMNS) <= rows[0].keys() or any(None in row.values() for row in rows):
        raise DataError(f"{path}: not the list of videos of a run: its columns are {', '.join(_COLUMNS)}")
    return rows
