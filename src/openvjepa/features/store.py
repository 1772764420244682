"""Stores features batch by batch while they are computed, so that an interrupted run can resume."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openvjepa.errors import ConfigError, DataError
from openvjepa.features.cache import digest
from openvjepa.weights.files import write_file

PLAN, LINES = "plan.json", "batches.jsonl"
Entry = dict[str, Any]
"""Line of the index: of a file that was read, the tensor, row and shape of its features; else an error."""


@dataclass(frozen=True)
class Part:
    """Rows of one tensor: a file of raw numbers, row after row."""

    path: Path
    rows: int
    shape: tuple[int, ...]
    """Of a row."""
    dtype: str
    """As torch names it."""

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return prod(self.shape) * getattr(torch, self.dtype).itemsize


class Journal:
    """A work folder: one file of raw rows for each tensor, and a line for each batch, which makes its rows count.

    Attributes:
        batches: how many there are.
        entries: of all their files.
        parts: by name, the tensors that there are rows of.

    Args:
        folder: made with the first batch; read if it is there.
        facts: everything that the rows follow from, by the words that an error calls it.
        dtype: numbers of the rows, as torch names it.

    Raises:
        ConfigError: the folder holds rows that follow from something else.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], dtype: str) -> None:
        self.folder, self.dtype = folder, dtype
        self.facts = {name: digest(value) for name, value in facts.items()}
        self.batches = 0
        self.entries: list[Entry] = []
        self.parts: dict[str, Part] = {}
        if (folder / LINES).exists():
            self._check_facts()
            self._go_on()

    def append(self, batch: Sequence[tuple[Entry, Tensor | None]]) -> None:
        """Keep a batch: entries, with their features where there are any (entries then name the tensor as "tensor").

        Raises:
            DataError: another run works in the same folder.
            OSError: the disk is full.
        """
        if not self.batches:
            shutil.rmtree(self.folder, ignore_errors=True)
            write_file(self.folder / PLAN, json.dumps(self.facts).encode())
        before = dict(self.parts)
        fresh: dict[str, list[bytes]] = {}
        for entry, features in batch:
            if features is not None:
                name = entry["tensor"]
                rows = self.parts[name].rows if name in self.parts else 0
                entry |= {"row": rows, "shape": list(features.shape)}
                fresh.setdefault(name, []).append(_raw(features, self.dtype))
            self._count(entry)
        for name, content in fresh.items():
            part = before.get(name)
            _extend(self.parts[name].path, b"".join(content), at=part.rows * part.row_bytes if part else 0)
        _extend(self.folder / LINES, (json.dumps([entry for entry, _ in batch]) + "\n").encode())
        self.batches += 1

    def _count(self, entry: Entry) -> None:
        self.entries.append(entry)
        if "tensor" in entry:
            path = self.folder / f"{entry['tensor']}.bin"
            self.parts[entry["tensor"]] = Part(path, entry["row"] + 1, tuple(entry["shape"]), self.dtype)

    def _check_facts(self) -> None:
        try:
            stored = json.loads((self.folder / PLAN).read_text(encoding="utf-8"))
            other = [name for name, value in self.facts.items() if stored.get(name) != value]
        except (OSError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"{self.folder}: {PLAN} cannot be read ({error}): delete the folder, or add --overwrite"
            ) from None
        if other:
            raise ConfigError(
                f"{self.folder}: holds an unfinished run with different {', '.join(other)}: repeat that run to "
                "finish it, choose another --out, or add --overwrite to begin anew"
            )

    def _go_on(self) -> None:
        """Read the lines that are whole, and delete what was written after them."""
        lines = (self.folder / LINES).read_bytes()
        whole = lines[: lines.rfind(b"\n") + 1]
        for line in whole.splitlines():
            for entry in json.loads(line):
                self._count(entry)
            self.batches += 1
        os.truncate(self.folder / LINES, len(whole))
        for path in self.folder.glob("*.bin"):
            part = self.parts.get(path.stem)
            os.truncate(path, part.rows * part.row_bytes if part else 0)


def _raw(features: Tensor, dtype: str) -> bytes:
    return features.to(getattr(torch, dtype)).contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _extend(path: Path, content: bytes, *, at: int | None = None) -> None:
    """Append to a file, down to the disk; `at` is the size that it must have."""
    with path.open("ab") as file:
        if at is not None and file.tell() != at:
            raise DataError(f"{path}: was modified by another process: only one run at a time may use a folder")
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
