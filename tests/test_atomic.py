"""A file that replaces another is there whole, or the other one stays."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import pytest

from openvjepa.atomic import check_file, check_folder, json_text, replacing
from openvjepa.errors import ConfigError


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "file"
    with replacing(target) as temporary:
        temporary.write_text("old")
        assert not target.exists()
    with contextlib.suppress(ValueError), replacing(target) as temporary:
        temporary.write_text("half")
        raise ValueError
    assert target.read_text() == "old"
    with replacing(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError), replacing(tmp_path / "file" / "below"):  # noqa: PT011 - the kind differs by system
        pass
    assert (tmp_path / "file").read_text() == "no folder"


def test_places_that_cannot_be_written_are_named_before_the_work(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("here")
    check_folder(tmp_path / "new" / "folder")
    check_file(tmp_path / "new" / "folder" / "x.json")
    check_file(file)
    assert not (tmp_path / "new").exists()
    for call, path, words in (
        (check_folder, file, "file: is a file: pass a folder"),
        (check_folder, file / "a" / "b", "file: is a file: .*/a/b cannot be a folder"),
        (check_file, tmp_path, "is a folder: pass a file"),
        (check_file, file / "x.json", "file: is a file: pass a folder"),
    ):
        with pytest.raises(ConfigError, match=words):
            call(path)


def test_json_has_no_numbers_that_are_not_finite() -> None:
    value = {"a": math.nan, "b": [1.5, math.inf, (2, -math.inf)], "c": "nan", "d": True}
    text = json_text(value, None)
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": None,
        "b": [1.5, None, [2, None]],
        "c": "nan",
        "d": True,
    }
