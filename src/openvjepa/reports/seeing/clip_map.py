"""The map of clips: map.html works offline, map.parquet opens in FiftyOne, Spotlight and Embedding Atlas."""

from __future__ import annotations

import io
import logging
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from openvjepa.reports.seeing.page import encode_image, jpeg_url, write_page
from openvjepa.seeing.clip_map import ClipMap
from openvjepa.weights.files import whole_file

_log = logging.getLogger("openvjepa")


def map_facts(found: ClipMap, model: str, layer: int) -> dict[str, str]:
    """What the map must carry: model, layer, clips, how places and neighbors were found."""
    near, queries = found.neighbors, sum(clip.query for clip in found.clips)
    files = len({clip.path for clip in found.clips})
    facts = {
        "Model": f"{model}, layer {layer}; each clip is the mean of its tokens",
        "Clips": f"{len(found.clips)} of {files} files" + (f", {queries} of them queries" if queries else ""),
        "Places": "; ".join(found.notes) + ("; queries are placed afterwards" if queries else ""),
        "Neighbors": f"{near.numbers.shape[1]} nearest by cosine similarity"
        + ("" if near.own_file else "; clips of the same file are left out"),
    }
    if near.purity is not None and near.chance is not None:
        facts["kNN purity"] = (
            f"{100 * near.purity:.1f} % of a clip's neighbors have its label (chance level {100 * near.chance:.1f} %)"
        )
    return facts


def write_map(out: Path, found: ClipMap, model: str, layer: int) -> list[Path]:
    """Write map.html, and map.parquet where pyarrow is installed.

    Args:
        out: folder.
        found: the map.
        model: name of the model.
        layer: the layer.

    Raises:
        CheckpointError: a file cannot be written.
    """
    pictures = [encode_image(clip.thumbnail) for clip in found.clips]
    labels = sorted({clip.label for clip in found.clips if clip.label is not None})
    near = found.neighbors
    clips = [
        {
            "name": Path(clip.path).name,
            "times": [round(clip.start, 3), round(clip.end, 3)],
            "label": labels.index(clip.label) if clip.label is not None else -1,
            "place": [float(f"{number:.6g}") for number in place],
            "query": clip.query,
            "picture": jpeg_url(picture),
            "near": [[int(n), round(float(s), 4)] for n, s in zip(numbers, scores, strict=True) if n >= 0],
        }
        for clip, picture, place, numbers, scores in zip(
            found.clips, pictures, found.places, near.numbers, near.similarity, strict=True
        )
    ]
    counts = Counter(clip.label for clip in found.clips)
    facts = map_facts(found, model, layer)
    values = {
        "labels": [(name, counts[name]) for name in labels],
        "unlabeled": counts[None],
        "purity": facts.get("kNN purity"),
    }
    page = write_page(
        out / "map.html", "map", "Map of clips", {"clips": clips, "labels": labels}, facts, found.skipped, values
    )
    table = write_parquet(out / "map.parquet", found, pictures, facts)
    return [page] if table is None else [page, table]


def write_parquet(path: Path, found: ClipMap, pictures: list[bytes], facts: dict[str, str]) -> Path | None:
    """Write id, path, start, end, label, x, y and thumbnail (a JPEG file) of each clip; None where pyarrow is missing.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        pa: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        _log.info('%s is left out: it needs pyarrow (pip install "openvjepa[parquet]")', path)
        return None
    clips = found.clips
    columns = {
        "id": pa.array(range(len(clips)), pa.int64()),
        "path": pa.array([clip.path for clip in clips], pa.string()),
        "start": pa.array([clip.start for clip in clips], pa.float64()),
        "end": pa.array([clip.end for clip in clips], pa.float64()),
        "label": pa.array([clip.label for clip in clips], pa.string()),
        "x": pa.array(np.asarray(found.places[:, 0]), pa.float64()),
        "y": pa.array(np.asarray(found.places[:, 1]), pa.float64()),
        "thumbnail": pa.array(pictures, pa.binary()),
    }
    table = pa.table(columns).replace_schema_metadata(facts)
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    with whole_file(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return path
