"""Files of tensors, read without running code in them and written atomically."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from openvjepa.archives import check_archive
from openvjepa.atomic import replacing
from openvjepa.errors import CheckpointError, shorten

MOST_SETTINGS = 16_000_000
"""Bytes of a file of settings, at most: one that names 100,000 classes is far smaller."""
CHECKSUM = "openvjepa.crc32"
"""Entry of a safetensors file's metadata: checksum of its tensors and of the other entries."""

# What torch.load was seen to raise for damaged files; it refuses code by an UnpicklingError.
_LOAD_ERRORS = (
    OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, AssertionError, OverflowError,
    MemoryError, pickle.UnpicklingError, zipfile.BadZipFile,
)  # fmt: skip


def require_file(path: Path) -> None:
    """Check that a path is a regular file: reading from a pipe or a device may never end.

    Raises:
        CheckpointError: it is missing or something else.
    """
    if not os.path.exists(path):  # unlike Path.exists, false for names that no file can have
        raise CheckpointError(f"{path}: no such file")
    if not path.is_file():
        raise CheckpointError(f"{path}: not a file (a folder, a pipe or a device)")


def read_settings(path: Path) -> str:
    """Text of a small file of settings (YAML or JSON).

    Raises:
        CheckpointError: missing, not a regular file, larger than 16 MB, or not text.
    """
    require_file(path)
    try:
        if (size := path.stat().st_size) > MOST_SETTINGS:
            raise CheckpointError(f"{path}: {size / 1e6:.0f} MB is too large for a settings file")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def read_container(path: Path) -> dict[str, Any]:
    """A dictionary that torch saved, memory-mapped, so that only what is used is read; code in it is never run.

    Raises:
        CheckpointError: missing, damaged, or something else than a dictionary of tensors and plain values.
    """
    require_file(path)
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of files that are refused right after
            container = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except _LOAD_ERRORS as error:
        reason = getattr(error, "strerror", None) or "damaged, not a checkpoint, or with code in it, which is never run"
        raise CheckpointError(f"{path}: cannot be read ({reason})") from None
    if not isinstance(container, dict):
        raise CheckpointError(f"{path}: not a checkpoint of V-JEPA")
    if not all(_is_whole(value) for value in _tensors_in(container)):
        raise CheckpointError(f"{path}: contains meta or sparse tensors: not model weights")
    return container


def _tensors_in(container: object) -> Iterator[Tensor]:
    """Every tensor in nested dictionaries and lists; each of these is visited once, however often it is named."""
    waiting, visited = [container], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in visited:
            visited.add(id(value))
            waiting.extend(value.values() if isinstance(value, Mapping) else value)


def _is_whole(tensor: Tensor) -> bool:
    """Whether each value of a tensor has its own place in memory: a small file must not stand for a huge tensor."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        return False
    return tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()


def converted_settings(container: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `vjepa convert` adds to a file of Meta's layout, since Meta's own files leave it open; empty: nothing."""
    settings = container.get("openvjepa")
    return settings if isinstance(settings, dict) else {}


@contextlib.contextmanager
def whole_file(path: Path) -> Generator[Path]:
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
            f"{path}: cannot be written ({reason}): free some space or choose another folder"
        ) from None


def write_tensors(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> Path:
    """Write tensors as safetensors, atomically, with a checksum; metadata is stored as JSON, text as it is.

    Raises:
        CheckpointError: it cannot be written.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (metadata or {}).items()}
    texts[CHECKSUM] = _checksum(tensors, texts)
    with whole_file(path) as temporary:
        save_file(tensors, temporary, texts)
    return path


def _checksum(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """CRC-32 over names, types, shapes and bytes of tensors, and over metadata; in hex."""
    entries = sorted((key, value) for key, value in texts.items() if key != CHECKSUM)
    total = zlib.crc32(json.dumps(entries).encode())
    for key, value in sorted(tensors.items()):
        total = zlib.crc32(f"{key} {value.dtype} {tuple(value.shape)}".encode(), total)
        total = zlib.crc32(value.flatten().view(torch.uint8).numpy(), total)  # pyright: ignore[reportArgumentType]
    return f"{total:08x}"


def write_file(path: Path, content: bytes) -> Path:
    """Write a small file atomically.

    Raises:
        CheckpointError: it cannot be written.
    """
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
    return path


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a safetensors file; compared with its checksum where it has one.

    Raises:
        CheckpointError: missing or damaged.
    """
    with _opened(path) as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        texts = file.metadata() or {}
    if CHECKSUM in texts and texts[CHECKSUM] != _checksum(tensors, texts):
        raise CheckpointError(f"{path}: damaged (wrong checksum): write or download it again")
    return tensors, _metadata(texts)


def read_metadata(path: Path) -> dict[str, Any]:
    """Metadata of a safetensors file.

    Raises:
        CheckpointError: missing or damaged.
    """
    with _opened(path) as file:
        return _metadata(file.metadata() or {})


@contextlib.contextmanager
def _opened(path: Path) -> Generator[Any]:
    require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (
        SafetensorError,
        OSError,
        ValueError,
        LookupError,
        AttributeError,
    ) as error:  # AttributeError: an unknown dtype
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise CheckpointError(f"{path}: damaged ({reason})") from None


def _metadata(texts: Mapping[str, str]) -> dict[str, Any]:
    """Values as we store them, in JSON; plain text, as others do, stays as it is."""
    metadata: dict[str, Any] = {}
    for key, value in texts.items():
        if key == CHECKSUM:
            continue
        try:
            metadata[key] = json.loads(value)
        except (ValueError, RecursionError):
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

    Values are copied: a model must not change, or crash, with the file that it was mapped from. A module without memory (on
    the device "meta") gets it on the CPU, once it is known that the tensors fit.

    Raises:
        CheckpointError: names what is missing, unexpected or of another shape.
    """
    check_fit({key: list(value.shape) for key, value in module.state_dict().items()}, state, source, "the model")
    whole = [key for key in module.state_dict() if not state[key].is_floating_point()]
    if whole:
        raise CheckpointError(f"{source}: {shorten(whole)} hold {state[whole[0]].dtype}, not floating-point numbers")
    if any(value.is_meta for value in module.state_dict().values()):
        module.to_empty(device="cpu")
    module.load_state_dict(state)


def check_fit(wanted: Mapping[str, list[int]], state: Mapping[str, Tensor], source: str, what: str) -> None:
    """Check that every tensor of a file has its place, every place its tensor, and each its shape.

    Args:
        wanted: name -> shape.
        state: what the file holds.
        source: the file, for errors.
        what: what the tensors are to fit, for errors.

    Raises:
        CheckpointError: counts what is missing, unexpected or of another shape, and names the first ones.
    """
    kinds = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "reshaped": [
            f"{key} is {list(state[key].shape)}, expected {shape}"
            for key, shape in wanted.items()
            if key in state and list(state[key].shape) != shape
        ],
    }
    problems = [f"{len(keys)} {kind}: {shorten(keys)}" for kind, keys in kinds.items() if keys]
    if problems:
        raise CheckpointError(f"{source}: does not fit {what} ({'; '.join(problems)})")
