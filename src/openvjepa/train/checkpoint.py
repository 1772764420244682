"""Run state on disk: written atomically, the newest few kept, read without executing code."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch

from openvjepa.errors import CheckpointError

_NAME = re.compile(r"step-(\d{8})\.pt")


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], *, keep_last: int) -> Path:
    """Write state as step-00000500.pt and delete all but the newest `keep_last`.

    The file appears under its name only when it is complete on disk; whatever goes wrong, older ones stay.

    Raises:
        CheckpointError: it cannot be written, for example because the disk is full.
    """
    path = folder / f"step-{step:08d}.pt"
    temporary = path.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be written ({reason}): free some space; earlier checkpoints are intact") from None
    for old in list_checkpoints(folder)[: -max(1, keep_last)]:
        old.unlink()
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """State of one checkpoint, on the CPU.

    Raises:
        CheckpointError: missing, torn or not a checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as error:  # torch.load raises a dozen kinds for damaged files, none of them documented
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({str(error).splitlines()[0][:120]})") from None
    if not isinstance(state, dict) or "step" not in state or "model" not in state:
        raise CheckpointError(f"{path}: not a checkpoint of openvjepa")
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
            print(f"warning: {error}: trying the one before", flush=True)
    raise CheckpointError(f"{folder}: no readable checkpoint to resume from")


def rng_state() -> dict[str, Any]:
    """State of torch's generators (nothing else draws while training)."""
    state: dict[str, Any] = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Put torch's generators back."""
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
