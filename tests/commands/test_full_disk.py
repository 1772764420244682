"""A disk without space: one line that says so, and no file that is not whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openvjepa.cli.main import main
from openvjepa.errors import CheckpointError
from openvjepa.weights.files import write_file

resource = pytest.importorskip("resource")
LIMIT = 2000  # bytes of a file, for every write of this process


@pytest.fixture
def full() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_limit_works(full: None, tmp_path: Path) -> None:
    write_file(tmp_path / "small", bytes(LIMIT))
    with pytest.raises(CheckpointError, match=r"cannot be written \(File too large\): free some space"):
        write_file(tmp_path / "large", bytes(LIMIT + 1))
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


@pytest.mark.parametrize("verb", ["show", "surprise", "decode", "track"])
def test_one_line_and_no_part_of_a_file(
    verb: str, physics: Path, predictive: Path, tmp_path: Path, full: None, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = [str(path) for path in sorted((physics / "videos").iterdir())]
    mask, out = tmp_path / "mask.png", tmp_path / "out"
    Image.fromarray(np.eye(32, dtype=np.uint8)).save(mask)
    more = {
        "show": [],
        "surprise": ["--annotate"],
        "decode": ["--fit", *videos[:8]],
        "track": ["--mask", str(mask)],
    }
    words = [verb, videos[-1], "--model", str(predictive), "--out", str(out), "--threads", "1", *more[verb]]
    assert main(words) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert "cannot be written (File too large): free some space or choose another folder" in lines[0]
    left = [path for path in out.rglob("*") if path.is_file()] if out.exists() else []
    assert not [path for path in left if path.suffix == ".part" or path.stat().st_size >= LIMIT]
    assert not [path for path in left if path.suffix in (".html", ".mp4")]
    for picture in (path for path in left if path.suffix == ".png"):
        Image.open(picture).load()
