"""ActivityNet's JSON: segments of videos with labels, as THUMOS and HACS have them too."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from openvjepa.data.lists.folders import files_below
from openvjepa.data.lists.records import Row, VideoRecord
from openvjepa.data.media.files import why_not_readable
from openvjepa.errors import DataError

_log = logging.getLogger("openvjepa")
_SUBSETS = {"training": "train", "train": "train", "validation": "val", "val": "val", "testing": "test", "test": "test"}


def read_activitynet(path: Path) -> list[Row]:
    """Every segment of every video that is there; videos without annotations are whole and have no label.

    Files are found by their names, ID or v_ID with any suffix, in the folder of the JSON file and those below it. Videos of the
    list that are missing are counted in a warning: many are gone from where they were published.

    Raises:
        DataError: not such a file; a segment means nothing, named by the video; or no video is there.
    """
    database = _database(path)
    files = {file.stem: file for file in files_below(path.parent)}
    rows, missing = list[Row](), list[str]()
    for name, entry in database.items():
        file = files.get(f"v_{name}", files.get(name))
        if file is None:
            missing.append(name)
        else:
            rows += _rows(path, name, file, entry)
    if not rows:
        raise DataError(f"{path}: none of its {len(database)} videos is in {path.parent}, such as {missing[0]}.mp4")
    if missing:
        _log.warning("%s: %d of %d videos are not there, such as %s", path, len(missing), len(database), missing[0])
    return rows


def _database(path: Path) -> Mapping[str, Any]:
    if reason := why_not_readable(path):
        raise DataError(f"{path}: {reason}")
    try:
        database = json.loads(path.read_text(encoding="utf-8-sig"))["database"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: not a list of segments as ActivityNet has them ({error!r})") from None
    if not isinstance(database, dict) or not database:
        raise DataError(f"{path}: its database names no videos")
    return database


def _rows(path: Path, name: str, file: Path, entry: Any) -> Iterator[Row]:
    try:
        subset = entry.get("subset")
        if subset is not None and str(subset).lower() not in _SUBSETS:
            raise ValueError(f"the subset {subset!r} is not one of training, validation, testing")
        split = None if subset is None else _SUBSETS[str(subset).lower()]
        length = None if entry.get("duration") is None else float(entry["duration"])
        segments: list[Any] = entry.get("annotations") or []
        if not segments:
            yield Row(VideoRecord(str(file.absolute()), None, split, duration=length))
        for segment in segments:
            start, end = map(float, segment["segment"])
            record = VideoRecord(str(file.absolute()), None, split, duration=length, start=start, end=end)
            yield Row(record, str(segment["label"]))
    except (ValueError, KeyError, TypeError, AttributeError, DataError) as error:
        raise DataError(f"{path}, video {name}: {error if str(error) else type(error).__name__}") from None
