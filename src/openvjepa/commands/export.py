"""`vjepa export`: exports a model to transformers or ONNX, and verifies the exported copy."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openvjepa.commands.convert import CARD, check_folder, clear_folder, parse_geometry
from openvjepa.config import ExportConfig, command
from openvjepa.errors import CheckpointError
from openvjepa.model.blocks.layers import ENCODER_EPS
from openvjepa.reports.cards.export import model_card, read_results
from openvjepa.weights.files import write_file
from openvjepa.weights.formats import hf
from openvjepa.weights.formats.onnx import check_onnx, largest_difference, write_onnx
from openvjepa.weights.hub import LoadedModel, known_config, load_model

logger = logging.getLogger("openvjepa")

TOLERANCE = 1e-5
"""Largest difference of transformers' numbers to ours, in units of the largest of them where that is above 1."""


@command(ExportConfig, "model")
def export(config: ExportConfig) -> Path:
    """Export an encoder, or a classifier if the model has a probe, to transformers or ONNX.

    Returns:
        The folder.

    Raises:
        ConfigError: out is in use, or a package is missing.
        CheckpointError: the model cannot be read or written, transformers has no such model, or what was written gives other
            numbers than the model.
    """
    folder = Path(config.out)
    check_folder(folder, config.model, overwrite=config.overwrite)
    if config.to == "onnx":
        check_onnx()
    known = known_config(config.model, parse_geometry(config.geometry))
    if config.to == "hf" and known is not None:
        hf.check_hf_config(known, config.model)  # before a download of gigabytes
    loaded = load_model(
        config.model, arch=parse_geometry(config.geometry), probe=config.probe, probe_heads=config.probe_heads
    )
    model = replace(loaded, source=config.model)  # by name, not the place in the cache
    logger.info("%s", model)
    if config.to == "hf":
        hf.check_hf(model)
    clear_folder(folder)
    if config.to == "onnx":
        notes = write_onnx(folder, model)
    else:
        own = not (config.geometry or config.probe)  # the figures of a run hold for what the run has measured
        notes = _write_hf(folder, model, read_results(config.model) if own and model.probe else None)
    for note in notes:
        logger.info(note)
    return folder


def _write_hf(folder: Path, model: LoadedModel, results: dict[str, Any] | None) -> tuple[str, ...]:
    """What `vjepa convert` writes, tried with transformers where that is installed, and then the card."""
    notes = hf.write_hf(folder, model)
    if find_spec("transformers") is None:
        found = "not tried with transformers, which is not installed: pip install 'openvjepa[export]'"
    else:
        try:
            difference = _try_transformers(folder, model)
        except CheckpointError:
            clear_folder(folder)
            raise
        found = f"transformers {version('transformers')} gives our numbers, to {difference:.1e}"
    write_file(folder / CARD, model_card(model, notes, results).encode())
    return (*notes, found)


@torch.no_grad()
def _try_transformers(folder: Path, model: LoadedModel) -> float:
    """Load a folder as its users will; largest difference of its tokens, or logits, to those of the model.

    Raises:
        CheckpointError: it is above 1e-5, the classes have other names, or transformers cannot load it.
    """
    height, width = model.config.image_hw
    clip = torch.randn(1, 3, model.config.num_frames, height, width, generator=torch.Generator().manual_seed(0))
    theirs, pixels = _from_pretrained(folder, classifier=model.probe is not None), clip.transpose(1, 2)
    tokens = model.encoder(clip)
    if model.probe is None:
        difference = largest_difference(tokens, theirs(pixels, skip_predictor=True).last_hidden_state)
    else:
        probe = copy.deepcopy(model.probe)
        for module in probe.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = ENCODER_EPS  # as transformers runs every probe
        difference = largest_difference(probe(tokens), theirs(pixels).logits)
    if not difference <= TOLERANCE:
        raise CheckpointError(f"{folder}: outputs of the exported model in transformers differ by {difference:.1e}")
    if model.labels is not None and theirs.config.id2label != dict(enumerate(model.labels)):
        raise CheckpointError(f"{folder}: class names in transformers differ")
    return difference


def _from_pretrained(folder: Path, *, classifier: bool) -> Any:
    """The model as transformers loads it, without what it says on the way."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        from transformers import AutoModel, AutoModelForVideoClassification

        kind = AutoModelForVideoClassification if classifier else AutoModel
        return kind.from_pretrained(folder).eval()
    except (ImportError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{folder}: transformers {version('transformers')} cannot load it ({reason})") from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
