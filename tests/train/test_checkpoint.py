"""Checkpoints: whole or not there, the newest few, the damaged ones passed over."""

from __future__ import annotations

import errno
import io
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from openvjepa.errors import CheckpointError
from openvjepa.train.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    load_newest,
    rng_state,
    save_checkpoint,
    set_rng_state,
)


def state(step: int) -> dict[str, Any]:
    return {
        "model": {"weight": torch.full((50,), float(step))},
        "step": step,
        "config": {"optim": {"betas": (0.9, 0.99)}},
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save_checkpoint(tmp_path, step, state(step), keep_last=2)
    assert names(tmp_path) == ["step-00000010.pt", "step-00000015.pt"]
    loaded = load_newest(tmp_path)
    assert loaded["step"] == 15
    assert loaded["config"]["optim"]["betas"] == (0.9, 0.99)
    assert torch.equal(loaded["model"]["weight"], torch.full((50,), 15.0))


@pytest.mark.parametrize("keep_last", [1, 2, 3, 4, 9])
def test_as_many_are_kept_as_asked_for(tmp_path: Path, keep_last: int) -> None:
    for number, step in enumerate(range(5, 35, 5), start=1):
        save_checkpoint(tmp_path, step, state(step), keep_last=keep_last)
        assert len(list_checkpoints(tmp_path)) == min(number, keep_last)
    assert list_checkpoints(tmp_path)[-1].name == "step-00000030.pt"


def test_order_is_by_step_and_other_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("step-99999999.pt", "step-100000000.pt", "step-final.pt", "notes.txt"):
        (tmp_path / name).write_text("x")
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-99999999.pt", "step-100000000.pt"]
    save_checkpoint(tmp_path, 100000001, state(1), keep_last=1)
    assert names(tmp_path) == ["notes.txt", "step-100000001.pt", "step-final.pt"]


def test_a_damaged_newer_one_does_not_push_out_good_ones(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 5, state(5), keep_last=2)
    (tmp_path / "step-00000012.pt").write_bytes(b"torn")
    save_checkpoint(tmp_path, 10, state(10), keep_last=2)
    unread = "step-00000012.pt.unread"  # the disk may only have failed for a moment
    assert names(tmp_path) == ["step-00000005.pt", "step-00000010.pt", unread]
    assert (tmp_path / unread).read_bytes() == b"torn"
    save_checkpoint(tmp_path, 10, state(10), keep_last=1)
    assert names(tmp_path) == ["step-00000010.pt", unread]


def test_leftover_of_a_killed_save_is_ignored_and_removed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 5, state(5), keep_last=2)
    (tmp_path / "step-00000010.part").write_bytes((tmp_path / "step-00000005.pt").read_bytes()[:100])
    assert load_newest(tmp_path)["step"] == 5
    save_checkpoint(tmp_path, 15, state(15), keep_last=2)
    assert names(tmp_path) == ["step-00000005.pt", "step-00000015.pt"]


class FullDisk(io.BufferedWriter):
    """A file on a disk that is full after 1,000 bytes."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize("size", [1, 100_000])  # fails when the file is closed; in the midst of the tensors
def test_full_disk_leaves_the_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    save_checkpoint(tmp_path, 5, state(5), keep_last=1)
    before = (tmp_path / "step-00000005.pt").read_bytes()
    monkeypatch.setattr(Path, "open", lambda self, mode: FullDisk(io.FileIO(self, mode.replace("b", ""))))
    with pytest.raises(
        CheckpointError, match=r"step-00000010\.pt: cannot be written \(No space left on device\); earlier"
    ):
        save_checkpoint(tmp_path, 10, {"model": torch.zeros(size), "step": 10}, keep_last=1)
    monkeypatch.undo()
    assert names(tmp_path) == ["step-00000005.pt"]
    assert (tmp_path / "step-00000005.pt").read_bytes() == before


def test_interrupted_write_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 10, state(10), keep_last=1)
    assert names(tmp_path) == []


def test_what_cannot_be_pickled_is_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises((AttributeError, TypeError)):
        save_checkpoint(tmp_path, 1, {"step": 1, "model": lambda: None}, keep_last=1)
    assert names(tmp_path) == []


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "checkpoints", 1, state(1), keep_last=1)


def test_any_damage_is_noticed(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 5, state(5), keep_last=1)
    data, draw = path.read_bytes(), random.Random(0)
    noticed = 0
    for _ in range(150):
        broken = bytearray(data)
        broken[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(broken)
        try:
            loaded = load_checkpoint(path)
        except CheckpointError:
            noticed += 1
        else:  # a bit that carries nothing, such as padding
            assert loaded["step"] == 5
            assert torch.equal(loaded["model"]["weight"], torch.full((50,), 5.0))
    assert noticed > 50
    for length in range(0, len(data), len(data) // 40):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
            load_checkpoint(path)


def test_damaged_newest_falls_back_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (5, 10):
        path = save_checkpoint(tmp_path, step, state(step), keep_last=2)
    path.write_bytes(path.read_bytes()[:-200])
    assert load_newest(tmp_path)["step"] == 5
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "step-00000010.pt: damaged" in caplog.text
    (tmp_path / "step-00000005.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no readable checkpoint .* --overwrite"):
        load_newest(tmp_path)


class Evil:
    """Would run code when unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('ran')",)


@pytest.mark.parametrize("content", [{"step": 1, "model": Evil()}, {"weights": 1}, [1, 2]])
def test_foreign_files_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "step-00000001.pt")
    with pytest.raises(CheckpointError, match=r"not a checkpoint"):
        load_checkpoint(tmp_path / "step-00000001.pt")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(tmp_path / "none.pt")


def test_generators_go_back() -> None:
    before = rng_state()
    drawn = torch.rand(4)
    set_rng_state(before)
    assert torch.equal(torch.rand(4), drawn)


def test_the_generator_of_mps_goes_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not run on a Mac here: what torch is asked for."""
    given: list[torch.Tensor] = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: torch.tensor([3], dtype=torch.uint8))
    monkeypatch.setattr(torch.mps, "set_rng_state", given.append)
    state = rng_state()
    assert state["mps"].tolist() == [3]
    set_rng_state(state)
    assert [value.tolist() for value in given] == [[3]]
