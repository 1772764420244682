"""Lists of videos in text files: CSV with a header, `path label` lines, one path a line; with any usual separator."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

from openvjepa.data.lists.cells import plain_cell
from openvjepa.data.lists.records import SPLITS, Row, VideoRecord, is_whole
from openvjepa.data.media.files import expanded, why_not_readable
from openvjepa.data.media.video import MEDIA_EXTENSIONS
from openvjepa.errors import DataError

PATH_COLUMNS = ("path", "file", "filename", "video", "video_path")
_SYNONYMS = frozenset(
    (*PATH_COLUMNS, "file_name", "filepath", "file_path", "image", "image_path", "videopath", "video_file")
)
_SEPARATORS = (",", ";", "\t")
_NUMBERS = ("fps", "duration", "start", "end")  # columns that describe a video or a part of it, in VideoRecord's order
_OTHER_COLUMNS = frozenset(("path", "split", "fold", "frames", *_NUMBERS))
_EXPECTED = "'path label', a path alone, or in line 1 the header of a CSV with a column 'path'"


@dataclass(frozen=True)
class Table:
    """Rows of a CSV file by their columns; the column of paths is called "path", whatever the file calls it."""

    path: Path
    header: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    lines: tuple[int, ...]
    """Line of each row, from 1."""

    @property
    def candidates(self) -> tuple[str, ...]:
        """Columns that could be labels."""
        return tuple(name for name in self.header if name not in _OTHER_COLUMNS)


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Lines of a text file that are not blank, with their numbers from 1.

    Raises:
        DataError: it is no text file, or empty.
    """
    if reason := why_not_readable(path):
        raise DataError(f"{path}: {reason}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: not a text list of videos ({error})") from None
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise DataError(f"{path}: the list is empty")
    return lines


def read_table(path: Path) -> Table | None:
    """A CSV file; None if its first line names no column of paths.

    Raises:
        DataError: a row has another number of fields than the header.
    """
    (_, first), *lines = read_lines(path)
    for separator in _SEPARATORS:
        header = _fields(first, separator)
        if column := _path_column(header):
            break
    else:
        return None
    header = ["path" if name == column else name for name in header]
    if len(set(header)) < len(header):
        raise DataError(f"{path}: duplicate column names in the header: {', '.join(header)}")
    rows: list[dict[str, str]] = []
    for number, line in lines:
        fields = _fields(line, separator)
        if len(fields) != len(header):
            raise DataError(f"{path}, line {number}: {len(fields)} fields, the header has {len(header)}")
        rows.append(dict(zip(header, fields, strict=True)))
    return Table(path, tuple(header), tuple(rows), tuple(number for number, _ in lines))


def table_rows(table: Table, label: str | None, group: str | None = None) -> list[Row]:
    """The videos of a CSV; paths as the file has them.

    Args:
        table: the file.
        label: column of the label; None: `label`, or the only one that can be one.
        group: column of the groups; None: there are none.

    Raises:
        DataError: no such column, no videos, or a field that means nothing, named by its line.
    """
    if group is not None and group not in table.header:
        raise DataError(f"{table.path}: no column {group!r} for --group: its columns are {', '.join(table.header)}")
    column, rows = _label_column(table, label, group), list[Row]()
    for number, row in zip(table.lines, table.rows, strict=True):
        try:
            record = _record(row)
            if group is not None:
                record = replace(record, group=row[group])
            rows.append(Row(record, row[column] or None if column else None))
        except (ValueError, DataError) as error:
            raise DataError(f"{table.path}, line {number}: {error}") from None
    if not rows:
        raise DataError(f"{table.path}: the list has a header but no rows")
    return rows


def list_rows(path: Path) -> list[Row]:
    """The videos of a list without a header: `path label` lines, or paths alone.

    Raises:
        DataError: a line is neither, or not like the first one; named by its number.
    """
    rows: list[Row] = []
    for number, line in read_lines(path):
        row = _list_row(line.strip(), path.parent)
        if isinstance(row, str) or (rows and (row.label is None) != (rows[0].label is None)):
            wrong = (
                row if isinstance(row, str) else f"expected {_EXPECTED}, found {line.strip()!r}, unlike the first line"
            )
            raise DataError(f"{path}, line {number}: {wrong}")
        rows.append(row)
    return rows


def _list_row(line: str, folder: Path) -> Row | str:
    """The video of a line, or what is wrong with it."""
    for separator in ("::", *_SEPARATORS, " "):
        name, found, label = line.rpartition(separator)
        name, label = _unquoted(name), _unquoted(label)
        if found and name and is_whole(label):
            return Row(VideoRecord(name), label)
        if found and label and separator in _SEPARATORS and _is_media(name) and not _is_media(label):
            return Row(VideoRecord(name), label)  # such as a.mp4;jump
    if _is_media(_unquoted(line)) or beside(folder, line).is_dir():
        return Row(VideoRecord(_unquoted(line)))
    for separator in _SEPARATORS:
        if len(names := _fields(line, separator)) > 1:
            accepted = ", ".join(PATH_COLUMNS)
            return (
                f"no column of paths: the columns are {', '.join(names)}; call the one with the paths one of {accepted}"
            )
    name, found, label = line.rpartition("::" if "::" in line else " ")
    if found and name:
        return f"the label {label.strip()!r} is not a whole number: expected {_EXPECTED}"
    return f"expected {_EXPECTED}, found {line!r}"


def _record(row: dict[str, str]) -> VideoRecord:
    """The video of a row.

    Raises:
        ValueError: a field means nothing.
    """
    split = row.get("split") or None
    if not row["path"]:
        raise ValueError("the path is empty")
    if split and split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    try:
        frames = int(row["frames"]) if row.get("frames") else None
        fps, duration, start, end = (float(row[name]) if row.get(name) else None for name in _NUMBERS)
    except ValueError as error:
        raise ValueError(f"not a number in {', '.join(('frames', *_NUMBERS))}: {error}") from None
    return VideoRecord(row["path"], None, split, frames, fps, duration, start, end, fold=row.get("fold") or None)


def _label_column(table: Table, label: str | None, group: str | None) -> str | None:
    candidates = tuple(name for name in table.candidates if name != group)
    if label is not None:
        if label not in candidates:
            raise DataError(
                f"{table.path}: no label column {label!r}: choose one of {', '.join(candidates) or '(none)'}"
            )
        return label
    if "label" in candidates:
        return "label"
    return candidates[0] if len(candidates) == 1 else None


def _path_column(header: list[str]) -> str | None:
    """The column of paths: `path` before the other names that are usual for it."""
    named = [name for name in header if name.lower() in _SYNONYMS]
    return "path" if "path" in named else next(iter(named), None)


def _fields(line: str, separator: str) -> list[str]:
    return [plain_cell(field.strip()) for field in next(csv.reader([line], delimiter=separator), list[str]())]


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _is_media(name: str) -> bool:
    return Path(name).suffix.lower() in MEDIA_EXTENSIONS


def beside(folder: Path, name: str) -> Path:
    """The file that a list in a folder names: relative to that folder; `~` is the home directory."""
    own = folder / name
    return expanded(name) if name.startswith("~") and not own.exists() else own
