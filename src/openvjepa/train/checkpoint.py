"""Run state on disk: written atomically, the newest few kept, read without executing code."""

from __future__ import annotations

import logging
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import torch

from openvjepa.archives import check_archive
from openvjepa.atomic import replacing
from openvjepa.errors import CheckpointError

logger = logging.getLogger("openvjepa")

_NAME = re.compile(r"step-\d{8,}\.pt")
# What torch.load raises for damaged files (found by flipping and cutting bytes); RuntimeError is torch's word.
_DAMAGE = (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError)
# What torch's reader of pickles raises for streams that are well formed and make no sense.
_NONSENSE = (TypeError, KeyError, IndexError, AttributeError, AssertionError, OverflowError, MemoryError, struct.error)


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], *, keep_last: int) -> Path:
    """Write state as step-00000500.pt and delete all but the newest `keep_last`.

    The file appears under its name only when it is complete on disk; whatever goes wrong, older ones stay.

    Raises:
        CheckpointError: it cannot be written, for example because the disk is full.
    """
    path = checkpoint_path(folder, step)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob("step-*.part"):  # of a run that was killed while it saved
            leftover.unlink()
        _write(path, state)
        for other in list_checkpoints(folder):
            if _step(other) > step:  # the resume passed it over: damaged, or a disk that failed for a moment
                other.replace(other.with_name(f"{other.name}.unread"))
        older = [other for other in list_checkpoints(folder) if _step(other) < step]
        for other in older[: max(0, len(older) + 1 - keep_last)]:
            other.unlink()
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror or error}); earlier checkpoints are intact: make room and go on "
            "with --resume"
        ) from None
    return path


def _write(path: Path, state: dict[str, Any]) -> None:
    """torch.save that is on disk, and whole, when the file gets its name."""
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # torch hides a failed write in a RuntimeError
            raise error.__context__ from None
        raise


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}.pt"


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted((path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name)), key=_step)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """State of one checkpoint, on the CPU.

    Raises:
        CheckpointError: missing, torn, damaged (every byte is checked) or not a checkpoint.
    """
    try:
        check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (*_DAMAGE, *_NONSENSE) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({reason})") from None
    if not isinstance(state, dict) or "step" not in state or not isinstance(state.get("model"), dict):
        raise CheckpointError(f"{path}: not a checkpoint of openvjepa")
    step = state["step"]
    if type(step) is not int or (_NAME.fullmatch(path.name) and step != _step(path)):
        raise CheckpointError(f"{path}: damaged or not a checkpoint (its step is {str(step)[:40]})")
    return state


def load_newest(folder: Path) -> dict[str, Any]:
    """State of the newest checkpoint that can be read; says which ones could not.

    Raises:
        CheckpointError: there is none.
    """
    for path in reversed(list_checkpoints(folder)):
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            logger.warning("%s: trying the previous one", error)
    raise CheckpointError(f"{folder}: no readable checkpoint to resume from: start again with --overwrite")


def rng_state() -> dict[str, Any]:
    """State of torch's generators (nothing else draws while training)."""
    state: dict[str, Any] = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Put torch's generators back."""
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
