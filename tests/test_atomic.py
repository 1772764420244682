"""A file that replaces another is there whole, or the other one stays."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from openvjepa.atomic import replacing


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
