"""`vjepa embed`: features of every video and image of an index, in one file."""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from openvjepa.atomic import check_file
from openvjepa.config import EmbedConfig, command, to_mapping
from openvjepa.data.lists.index import VideoIndex, read_index
from openvjepa.data.media.images import is_image
from openvjepa.errors import ConfigError, DataError
from openvjepa.features.cache import feature_facts
from openvjepa.features.encode import EncodeSettings, encode_batches
from openvjepa.features.files import check_format, write_table
from openvjepa.features.sampling import ClipPlan, plan_for
from openvjepa.features.store import Entry, Journal
from openvjepa.grid import TokenGrid
from openvjepa.machine import size_text
from openvjepa.model.encoder import Encoder
from openvjepa.train.distributed import make_runtime
from openvjepa.weights.files import write_file
from openvjepa.weights.hub import LoadedModel, load_model

logger = logging.getLogger("openvjepa")


@dataclass(frozen=True)
class EmbedResult:
    """Result of `vjepa embed`."""

    out: Path
    index: Path
    """JSON lines, one for each file."""
    shapes: dict[str, tuple[int, ...]]
    """Of the tensors in `out`."""
    skipped: dict[str, str]
    """Files that cannot be read: path -> reason."""
    files: int
    """How many there are, with those that cannot be read."""
    seconds: float
    """Spent encoding, in this run."""


@command(EmbedConfig, "source")
def embed(config: EmbedConfig) -> EmbedResult:
    """Encode videos and images, and save the features to a file, with an index.

    NAME.safetensors and NAME.npz hold a tensor "features" [files, ...], one row for each file that could be read, in the
    order of the index: [D] with what="pooled" (the mean over all tokens and clips), [T', D] with "frames" (the mean over
    each tubelet's patches), [T', H', W', D] with "grid"; of several clips the last two are kept apart, [V, ...] for each.
    A model with a path for images (V-JEPA 2.1) shows an image as one frame; their frames and grids (T' = 1) form a tensor
    "images" of their own when there are videos too. NAME.parquet holds a table. NAME.jsonl has a line for each file: path,
    label, split, tensor, row, shape and the seconds that it took; or path, label, split and the error.

    A run that was ended goes on when it is repeated, with the same result: until the end, rows lie in NAME.SUFFIX.parts.

    Raises:
        ConfigError: the output is in use, or a setting is impossible.
        DataError: the index cannot be read, or none of its files, or the features do not fit on the disk.
        CheckpointError: the model cannot be read, or the output not be written.
    """
    out, work = _check(config)
    index = read_index(config.source, label=config.label)
    model = load_model(config.model)
    logger.info("%s", model)
    plan = _plan(config, model, index)
    with make_runtime(config) as runtime:
        logger.info("embed on %s", runtime)
        settings = EncodeSettings(runtime, config.batch_size, workers=config.workers, layer=config.layer)
        encoder = model.encoder.to(runtime.device)
        journal = Journal(work, _facts(config, encoder, index, plan, settings), config.dtype)
        _check_room(config, encoder, index, plan, out)
        started = time.monotonic()
        _encode(config, encoder, index, plan, settings, journal)
        seconds = time.monotonic() - started
    result = _write(config, journal, plan, out, seconds)
    shutil.rmtree(work)
    return result


def _check(config: EmbedConfig) -> tuple[Path, Path]:
    """Output and work folder; fails before the work when they are in use."""
    if not config.source or not config.model:
        raise ConfigError("give videos or images (a file, folder, list or CSV), and --model")
    out = Path(config.out)
    check_format(out, config.dtype)
    work = out.with_name(f"{out.name}.parts")
    check_file(out)
    if config.overwrite:
        shutil.rmtree(work, ignore_errors=True)
    elif not work.exists():
        for path in (out, out.with_suffix(".jsonl")):
            if path.exists():
                raise ConfigError(f"{path}: already exists: choose another --out, or add --overwrite to replace it")
    return out, work


def _plan(config: EmbedConfig, model: LoadedModel, index: VideoIndex) -> ClipPlan:
    plan = plan_for(model, index.records, config.frame_step, config.fps)
    image_path = model.config.modality_embed and plan.spec.num_frames > 1
    return replace(plan.asked(config), image_path=image_path)


def _facts(
    config: EmbedConfig, encoder: Encoder, index: VideoIndex, plan: ClipPlan, settings: EncodeSettings
) -> dict[str, Any]:
    """Everything that the rows follow from, by the words that an error calls it."""
    facts = feature_facts(encoder, index, plan, settings)
    lines = [_entry(index, place) for place in range(len(index))]
    return {
        "file format": facts["format"],
        "weights": facts["weights"],
        "files": [facts["videos"], lines],
        "clips": facts["plan"],
        "layer": settings.layer,
        "device or precision": facts["computed"],
        "batch size": settings.batch_size,
        "kind of features (--what)": config.what,
        "dtype": config.dtype,
    }


def _encode(
    config: EmbedConfig,
    encoder: Encoder,
    index: VideoIndex,
    plan: ClipPlan,
    settings: EncodeSettings,
    journal: Journal,
) -> None:
    """Encode the batches that the journal lacks."""
    if journal.entries:
        logger.info("resuming after %d of %d files", len(journal.entries), len(index))
    height, width = _grid(encoder, plan).shape[1:]
    last = time.monotonic()
    for batch in encode_batches(encoder, index, plan, settings, name=index.source, first=journal.batches):
        seconds, last = (time.monotonic() - last) / len(batch), time.monotonic()
        rows: list[tuple[Entry, Tensor | None]] = []
        for place, features in batch:
            entry = _entry(index, place)
            if isinstance(features, str):
                rows.append((entry | {"error": features}, None))
                continue
            apart = plan.image_path and config.what != "pooled" and is_image(entry["path"])
            entry |= {"tensor": "images" if apart else "features", "seconds": round(seconds, 4)}
            rows.append((entry, reduce_tokens(features, height, width, config.what)))
        journal.append(rows)


def _entry(index: VideoIndex, place: int) -> Entry:
    record = index.records[place]
    name = None if record.label is None or index.classes is None else index.classes[record.label]
    part = {"start": record.start, "end": record.end} if record.is_part else {}
    return {"path": record.path, "label": name, "split": record.split, **part}


def reduce_tokens(tokens: Tensor, height: int, width: int, what: str) -> Tensor:
    """Tokens of the clips of one file, [V, N, D] -> pooled [D], frames [T', D] or grid [T', H', W', D] (V > 1: [V, ...])."""
    if what == "pooled":
        return tokens.mean((0, 1))
    grid: Tensor = tokens.unflatten(1, (-1, height, width))
    kept: Tensor = grid.mean((2, 3)) if what == "frames" else grid
    return kept[0] if len(kept) == 1 else kept


def _grid(encoder: Encoder, plan: ClipPlan) -> TokenGrid:
    patch, tubelet = encoder.config.patch_size, encoder.config.tubelet_size
    return TokenGrid.of_clip(plan.spec.num_frames, *plan.size, patch_size=patch, tubelet_size=tubelet)


def _check_room(config: EmbedConfig, encoder: Encoder, index: VideoIndex, plan: ClipPlan, out: Path) -> None:
    """Stop before the work when its result cannot fit on the disk, beside the rows that it is made from."""
    grid = _grid(encoder, plan)
    tokens = {"pooled": 1, "frames": plan.clips * grid.t, "grid": plan.clips * grid.tokens}[config.what]
    numbers = len(index) * tokens * encoder.embed_dim
    needed = 2 * numbers * (4 if config.dtype == "float32" else 2)
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{out}: features of {len(index)} files take {size_text(needed)} while they are written, and {size_text(free)} "
            "are free: free some space, or choose another --out, --dtype float16 or --what"
        )


def _write(config: EmbedConfig, journal: Journal, plan: ClipPlan, out: Path, seconds: float) -> EmbedResult:
    """The file, then its index."""
    skipped = {entry["path"]: entry["error"] for entry in journal.entries if "error" in entry}
    parts = journal.parts
    if not parts:
        path, reason = next(iter(skipped.items()))
        shutil.rmtree(journal.folder)
        raise DataError(f"{config.source}: none of {len(skipped)} files can be read, for example {path}: {reason}")
    facts = {"model": config.model, "what": config.what, "layer": config.layer, "clips": to_mapping(plan)}
    write_table(out, parts, journal.entries, facts)
    index = out.with_suffix(".jsonl")
    lines = (json.dumps(entry, ensure_ascii=False) for entry in journal.entries)
    write_file(index, "".join(f"{line}\n" for line in lines).encode())
    shapes = {name: (part.rows, *part.shape) for name, part in parts.items()}
    return EmbedResult(out, index, shapes, skipped, len(journal.entries), seconds)
