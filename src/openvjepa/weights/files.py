"""Files of tensors, read without running code in them and written atomically."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from openvjepa.atomic import replacing
from openvjepa.errors import CheckpointError

# What torch.load was seen to raise for damaged files; it refuses code by an UnpicklingError.
_LOAD_ERRORS = (
    OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, AssertionError, OverflowError,
    MemoryError, pickle.UnpicklingError, zipfile.BadZipFile,
)  # fmt: skip


def read_container(path: Path) -> dict[str, Any]:
    """A dictionary that torch saved, memory-mapped, so that only what is used is read; code in it is never run.

    Raises:
        CheckpointError: missing, damaged, or something else than a dictionary of tensors and plain values.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of files that are refused right after
            container = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except _LOAD_ERRORS as error:
        reason = getattr(error, "strerror", None) or "damaged, not a checkpoint, or with code in it, which is never run"
        raise CheckpointError(f"{path}: cannot be read ({reason})") from None
    if not isinstance(container, dict):
        raise CheckpointError(f"{path}: not a checkpoint of V-JEPA")
    return container


def converted_facts(container: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `vjepa convert` adds to a file of Meta's layout, since Meta's own files leave it open; empty: nothing."""
    facts = container.get("openvjepa")
    return facts if isinstance(facts, dict) else {}


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """`replacing` for results: a temporary path to write to, which becomes `path` when the block ends without an error.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        with replacing(path) as temporary:
            yield temporary
    except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: torch.save without space
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path}: cannot be written ({reason}): free some space or choose another place"
        ) from None


def write_tensors(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> Path:
    """Write tensors as safetensors, atomically; metadata is stored as JSON, text as it is.

    Raises:
        CheckpointError: it cannot be written.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (metadata or {}).items()}
    with whole_file(path) as temporary:
        save_file(tensors, temporary, texts)
    return path


def write_file(path: Path, content: bytes) -> Path:
    """Write a small file atomically.

    Raises:
        CheckpointError: it cannot be written.
    """
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
    return path


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        CheckpointError: missing or damaged.
    """
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}, _metadata(file)  # noqa: SIM118 - not a mapping


def read_metadata(path: Path) -> dict[str, Any]:
    """Metadata of a safetensors file.

    Raises:
        CheckpointError: missing or damaged.
    """
    with _opened(path) as file:
        return _metadata(file)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged ({error})") from None


def _metadata(file: Any) -> dict[str, Any]:
    """Values as we store them, in JSON; plain text, as others do, stays as it is."""
    metadata: dict[str, Any] = {}
    for key, value in (file.metadata() or {}).items():
        try:
            metadata[key] = json.loads(value)
        except json.JSONDecodeError:
            metadata[key] = value
    return metadata


def weights_digest(module: nn.Module) -> str:
    """sha256 over the names, types and values of a module's tensors."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict in which every tensor must be present and fit.

    Values are copied: a model must not change, or crash, with the file that it was mapped from.

    Raises:
        CheckpointError: names what is missing, unexpected or of another shape.
    """
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    reshaped = [
        f"{key} is {list(state[key].shape)}, expected {list(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "reshaped": reshaped}
    problems = [f"{len(keys)} {kind}: {', '.join(keys)}" for kind, keys in kinds.items() if keys]
    if problems:
        raise CheckpointError(f"{source}: does not fit the model ({'; '.join(problems)})")
    module.load_state_dict(state)
