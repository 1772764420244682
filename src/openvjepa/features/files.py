"""Rows of a journal as one file: safetensors, npz or parquet, written piece by piece, whatever their size."""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from openvjepa.errors import ConfigError
from openvjepa.features.store import Entry, Part
from openvjepa.weights.files import whole_file

SUFFIXES = (".safetensors", ".npz", ".parquet")
_SAFETENSORS_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_COPY_BYTES = 1 << 24
_TABLE_BYTES = 1 << 26  # of features in one piece of a parquet file


def check_format(path: Path, dtype: str) -> None:
    """Fail before the work if the file cannot be written.

    Raises:
        ConfigError: no such format, one that cannot hold these numbers, or one whose library is missing.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: the file name must end with {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if dtype == "bfloat16" and path.suffix != ".safetensors":
        raise ConfigError(f"{path}: {path.suffix} has no bfloat16: choose .safetensors, or float16")
    if path.suffix == ".parquet":
        _pyarrow("pyarrow")


def write_table(path: Path, parts: Mapping[str, Part], entries: Sequence[Entry], facts: Mapping[str, Any]) -> None:
    """Write all rows, atomically, in the format that the suffix names.

    Safetensors and npz: a tensor [n, *shape] for each part. Parquet: one table with a line for each file that was read
    (path, label, split, shape, and features, flattened). Safetensors and parquet keep `facts`, as JSON, in their metadata.

    Raises:
        CheckpointError: it cannot be written.
    """
    metadata = {name: json.dumps(value) for name, value in facts.items()}
    with whole_file(path) as temporary:
        if path.suffix == ".safetensors":
            _write_safetensors(temporary, parts, metadata)
        elif path.suffix == ".npz":
            _write_npz(temporary, parts)
        else:
            _write_parquet(temporary, parts, entries, metadata)


def _write_safetensors(path: Path, parts: Mapping[str, Part], metadata: Mapping[str, str]) -> None:
    """A length, a JSON header, and the tensors one after the other: https://huggingface.co/docs/safetensors."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, part in parts.items():
        start, end = end, end + part.rows * part.row_bytes
        header[name] = {
            "dtype": _SAFETENSORS_NAMES[part.dtype],
            "shape": [part.rows, *part.shape],
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for part in parts.values():
            _copy(part, file)


def _write_npz(path: Path, parts: Mapping[str, Part]) -> None:
    """What numpy.savez writes, with fixed times: the same rows give the same bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(part.dtype)), "fortran_order": False}
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, {**header, "shape": (part.rows, *part.shape)})
                _copy(part, file)


def _copy(part: Part, target: IO[bytes]) -> None:
    with part.path.open("rb") as source:
        shutil.copyfileobj(source, target, _COPY_BYTES)


def _write_parquet(
    path: Path, parts: Mapping[str, Part], entries: Sequence[Entry], metadata: Mapping[str, str]
) -> None:
    pa, parquet = _pyarrow("pyarrow"), _pyarrow("pyarrow.parquet")
    numbers = {"float32": pa.float32(), "float16": pa.float16()}
    schema = pa.schema(
        {
            "path": pa.string(),
            "label": pa.string(),
            "split": pa.string(),
            "shape": pa.list_(pa.int32()),
            "features": pa.list_(numbers[next(iter(parts.values())).dtype]),
        },
        metadata,
    )
    with parquet.ParquetWriter(path, schema) as writer:
        for chunk, rows in _pieces(parts, entries):
            offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
            columns = {name: [entry[name] for entry in chunk] for name in ("path", "label", "split", "shape")}
            columns["features"] = pa.ListArray.from_arrays(offsets, np.concatenate(rows))
            writer.write_table(pa.table(columns, schema))


def _pieces(
    parts: Mapping[str, Part], entries: Sequence[Entry]
) -> Iterator[tuple[Sequence[Entry], list[NDArray[Any]]]]:
    """Some entries and their features, flattened, at a time."""
    rows = {name: np.memmap(part.path, part.dtype, "r").reshape(part.rows, -1) for name, part in parts.items()}
    size = max(1, _TABLE_BYTES // max(part.row_bytes for part in parts.values()))
    read = [entry for entry in entries if "tensor" in entry]
    for start in range(0, len(read), size):
        chunk = read[start : start + size]
        yield chunk, [rows[entry["tensor"]][entry["row"]] for entry in chunk]


def _pyarrow(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ConfigError('parquet needs pyarrow: pip install "openvjepa[parquet]"') from None
