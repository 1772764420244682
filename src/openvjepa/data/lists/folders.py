"""Folders of videos and images: class folders, splits of class folders, or files without labels."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from openvjepa.data.lists.records import SPLITS, Row, VideoRecord
from openvjepa.data.media.video import MEDIA_EXTENSIONS
from openvjepa.errors import DataError

_log = logging.getLogger("openvjepa")
BY_FOLDER = "names of the folders directly in the source"


def read_folder(path: Path) -> list[Row]:
    """All videos and images below a folder, with the name of the top folder that they lie in as their label.

    Of a folder that holds only train/, val/ and test/, these are the splits and the folders in them the labels. Files that
    lie in no class folder have no label.

    Raises:
        DataError: there are none.
    """
    folders = _folders(path)
    if folders and {folder.name for folder in folders} <= set(SPLITS):
        rows = [Row(VideoRecord(str(file))) for file in _media(path)]
        rows += [row for folder in folders for row in _classes(folder, split=folder.name)]
    else:
        rows = list(_classes(path))
    if not rows:
        raise DataError(
            f"{path}: no videos or images in this folder or its subfolders (list folders of frames in a text or CSV file)"
        )
    loose = sum(row.label is None for row in rows)
    if 0 < loose < len(rows):
        _log.warning("%s: %d of %d files lie in no class folder and have no label", path, loose, len(rows))
    return rows


def _classes(path: Path, split: str | None = None) -> Iterator[Row]:
    """Files of a folder of class folders: loose ones first, without a label."""
    for file in _media(path):
        yield Row(VideoRecord(str(file), split=split))
    for folder in _folders(path):
        for file in files_below(folder):
            yield Row(VideoRecord(str(file), split=split), folder.name)


def files_below(folder: Path) -> Iterator[Path]:
    """Videos and images of a folder and all folders in it; folders that are links to one that was read are left out."""
    seen, todo = set[str](), [folder]
    while todo:
        here = todo.pop()
        if (real := os.path.realpath(here)) in seen:
            continue
        seen.add(real)
        yield from _media(here)
        todo += reversed(_folders(here))


def _folders(path: Path) -> list[Path]:
    """Folders in a folder, by name, but for hidden ones."""
    return [folder for folder in _entries(path) if folder.is_dir() and not folder.name.startswith(".")]


def _media(folder: Path) -> list[Path]:
    """Videos and images directly in a folder, by name; none of the hidden ones that systems leave beside them."""
    files = [file for file in _entries(folder) if file.suffix.lower() in MEDIA_EXTENSIONS]
    return [file for file in files if file.is_file() and not file.name.startswith(".")]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from None
