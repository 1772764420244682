"""Hugging Face's VJEPA2Model and VJEPA2ForVideoClassification: folders read and written without transformers.

Every tensor arrives bit for bit; `hf_names` has the map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openvjepa.config import ModelConfig
from openvjepa.config.protocol import FRAME_STEP
from openvjepa.errors import CheckpointError, shorten
from openvjepa.model.blocks.layers import ENCODER_EPS, CrossAttentionBlock
from openvjepa.model.encoder import Encoder
from openvjepa.model.pooler import AttentiveClassifier
from openvjepa.model.predictor import Predictor
from openvjepa.weights.files import read_tensors, write_file, write_tensors
from openvjepa.weights.formats.hf_names import UNUSED, Shapes, check_tensors, to_ours, to_theirs
from openvjepa.weights.formats.hf_settings import (
    POOLER_DEPTH,
    PREPROCESSOR,
    SETTINGS,
    hf_config,
    preprocessor,
    read_config,
    read_json,
    read_labels,
    read_preprocessor,
    to_json,
    whole_number,
)
from openvjepa.weights.formats.meta import check_counts
from openvjepa.weights.loaded import LoadedModel

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

_PREFIX = "vjepa2."  # of encoder and predictor, in a classifier


@dataclass(frozen=True)
class HFModel:
    """What a Hugging Face folder holds, under our names."""

    config: ModelConfig
    encoder: dict[str, Tensor]
    predictor: dict[str, Tensor] | None
    """None: the upload has none (transformers gives it random weights)."""
    probe: dict[str, Tensor] | None
    """None: a model without a classifier."""
    probe_settings: dict[str, Any] | None
    """Arguments of AttentiveClassifier: num_heads, depth, style, eps."""
    preprocessing: dict[str, Any]
    """Fields of ClipProtocol that its video_preprocessor_config.json holds."""
    labels: tuple[str, ...] | None
    """None: no names but those that transformers makes up."""


def read_hf(folder: str | Path) -> HFModel:
    """Read config.json and model.safetensors (or its shards).

    Raises:
        CheckpointError: missing or damaged, something our model cannot be, or tensors that do not fit: every one that is
            missing, unexpected or of another shape is named.
    """
    folder = Path(folder)
    settings, where = read_json(folder / SETTINGS), str(folder / SETTINGS)
    config = read_config(settings, where)
    tensors = _read_weights(folder)
    probe = None
    if any(name.startswith(("pooler.", "classifier.")) for name in tensors):
        depth = 1 + whole_number(settings.get("num_pooler_layers", POOLER_DEPTH), f"{where}: num_pooler_layers")
        probe = {"num_heads": config.dims.num_heads, "depth": depth, "style": "v2", "eps": ENCODER_EPS}
    shapes = _shapes(config, probe, tensors, where)
    check_tensors(shapes, tensors, str(folder))
    found = {part: to_ours(part, names, tensors) for part, names in shapes.items()}
    labels = read_labels(settings, len(found["probe"]["linear.weight"]), where) if probe else None
    return HFModel(
        config, found["encoder"], found.get("predictor"), found.get("probe"), probe, read_preprocessor(folder), labels
    )


def write_hf(folder: str | Path, model: LoadedModel) -> tuple[str, ...]:
    """Write config.json, model.safetensors and video_preprocessor_config.json, as transformers does; each file atomically.

    Returns:
        What a user of the folder should know, a line each.

    Raises:
        CheckpointError: transformers has no such model, or the folder cannot be written.
    """
    folder, notes = Path(folder), check_hf(model)
    probe = model.probe if isinstance(model.probe, AttentiveClassifier) else None
    parts = {"encoder": model.encoder, "predictor": model.predictor, "probe": probe}
    tensors: dict[str, Tensor] = {}
    for part, module in parts.items():
        prefix = _PREFIX if probe and part != "probe" else ""
        for name, value in to_theirs(part, module.state_dict() if module else {}).items():
            tensors[f"{prefix}{name}"] = value
    write_file(folder / PREPROCESSOR, to_json(preprocessor(model.clip)))
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    write_file(folder / SETTINGS, to_json(hf_config(model)))
    return notes


def check_hf(model: LoadedModel) -> tuple[str, ...]:
    """Whether transformers can hold a model: the notes of `write_hf`, or its error.

    Raises:
        CheckpointError: it cannot; says why, and what would work.
    """
    config, probe = model.config, model.probe
    reasons = {
        "its predictor has no mask tokens, or works on actions": model.predictor is not None
        and not (isinstance(model.predictor, Predictor) and config.num_mask_tokens),
    }
    if probe is not None:
        reasons |= _probe_reasons(probe, config.dims.num_heads)
    _refuse(model.source, _config_reasons(config) | reasons)
    return _notes(model)


def check_hf_config(config: ModelConfig, source: str) -> None:
    """Whether transformers can hold an encoder of this configuration: what is known before its weights are read.

    Raises:
        CheckpointError: it cannot; says why, and what would work.
    """
    _refuse(source, _config_reasons(config))


def _config_reasons(config: ModelConfig) -> dict[str, bool]:
    """Why transformers cannot hold an encoder: reason -> whether it is one."""
    return {
        "its positions are the sin-cos codes of V-JEPA 1, and transformers has only V-JEPA 2's rotary ones: pretrain with "
        "--positions rope-tiled": config.positions == "sincos",
        "it is a V-JEPA 2.1 model, which transformers does not have yet": config.positions == "rope"
        or bool(config.levels or config.modality_embed or config.predict_context or config.predictor_out_dim),
        "its tokens do not look at the whole clip (time_attention), and transformers' do": config.time_attention
        != "full",
        "transformers' MLP has no SwiGLU": config.mlp != "gelu",
        "transformers takes square clips only": config.image_hw[0] != config.image_hw[1],
        "it is an image model, and transformers' is one of clips": config.num_frames == 1,
    }


def _refuse(source: str, reasons: Mapping[str, bool]) -> None:
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise CheckpointError(
            f"{source}: cannot be written for transformers: {'; '.join(found)}. ONNX holds it: `vjepa export --to onnx`"
        )


def _probe_reasons(probe: nn.Module, encoder_heads: int) -> dict[str, bool]:
    """Why transformers cannot hold a probe: reason -> whether it is one."""
    if not isinstance(probe, AttentiveClassifier):
        return {"its probe is not attentive, and transformers' is attentive: probe with --kinds attentive": True}
    block, style, depth = probe.pooler.cross_attention_block, probe.pooler.style, 1 + len(probe.pooler.blocks)
    if not isinstance(block, CrossAttentionBlock):
        return {"its probe is a bare cross-attention, without residual and MLP": True}
    heads = block.xattn.num_heads
    return {
        "its probe applies an output projection (nano-JEPA), which transformers' has not": style == "nano",
        f"its probe has {depth} blocks in V-JEPA 1's order: transformers' further blocks work on the tokens": style
        == "v1"
        and depth > 1,
        f"its probe has {heads} attention heads, and transformers gives it the encoder's {encoder_heads}": heads
        != encoder_heads,
    }


def _notes(model: LoadedModel) -> tuple[str, ...]:
    notes: list[str] = []
    if model.predictor is None:
        notes.append(
            "no predictor: transformers says that it gives it random weights; features and classes do not need one"
        )
    if isinstance(model.probe, AttentiveClassifier):
        if any(UNUSED in name for name in model.probe.state_dict()):
            notes.append("the probe's output projection, which no forward pass of V-JEPA 1 uses, is left out")
        if model.probe.pooler.eps != ENCODER_EPS:
            notes.append(
                f"the probe was trained with a layer norm epsilon of {model.probe.pooler.eps:g}, and transformers runs it "
                f"with {ENCODER_EPS:g}: logits differ a little"
            )
    mask_tokens = list[Tensor](model.predictor.mask_tokens if isinstance(model.predictor, Predictor) else [])
    if len(mask_tokens) > 1 and not mask_tokens[1].count_nonzero():
        notes.append("transformers predicts with mask token 1, which was never trained: its predictions mean nothing")
    if (model.clip.frame_step, model.clip.fps) != (FRAME_STEP, None):
        notes.append(f"made for clips of {model.clip}: files for transformers do not hold the frame rate")
    if not model.clip.antialias:
        notes.append("trained on frames resized without antialiasing, and transformers' processor antialiases")
    return tuple(notes)


def _check_counts(
    config: ModelConfig, probe: Mapping[str, Any] | None, tensors: Mapping[str, Tensor], where: str
) -> None:
    """The numbers of layers in config.json are those of the file, which are checked before any layer is built."""
    expected = {"num_hidden_layers": ("encoder.layer", config.dims.depth)}
    if any(name.startswith("predictor.") for name in tensors):
        expected["pred_num_hidden_layers"] = ("predictor.layer", config.predictor_depth)
    if probe is not None:
        expected["num_pooler_layers"] = ("pooler.self_attention_layers", probe["depth"] - 1)
    check_counts(expected, tensors, where)


def _shapes(config: ModelConfig, probe: Mapping[str, Any] | None, tensors: Mapping[str, Tensor], where: str) -> Shapes:
    """Shapes of the model: encoder, predictor where there are tensors for it, probe where there are settings of it."""
    _check_counts(config, probe, tensors, where)
    with torch.device("meta"):
        parts: dict[str, nn.Module] = {"encoder": Encoder(config)}
        if any(name.startswith("predictor.") for name in tensors):
            parts["predictor"] = Predictor(config)
        if probe is not None:
            classes = tensors["classifier.bias"].numel() if "classifier.bias" in tensors else 1
            parts["probe"] = AttentiveClassifier(config.dims.embed_dim, num_classes=classes, **probe)
    return {part: {name: value.shape for name, value in module.state_dict().items()} for part, module in parts.items()}


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Tensors of model.safetensors, or of the shards that its index names, without the prefix of a classifier."""
    tensors: dict[str, Tensor] = {}
    for shard in _shards(folder):
        for name, value in read_tensors(shard)[0].items():
            bare = name.removeprefix(_PREFIX)
            if bare in tensors:
                raise CheckpointError(f"{shard}: {bare} is there twice")
            tensors[bare] = value
    return tensors


def _shards(folder: Path) -> list[Path]:
    """The files of the weights; pickled ones are not read."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if not (folder / INDEX).exists():
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        hint = f" ({pickled[0]} is a pickle, which can hold code: save it as safetensors)" if pickled else ""
        raise CheckpointError(f"{folder / WEIGHTS}: no such file{hint}")
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise CheckpointError(f"{folder / INDEX}: it has no weight_map")
    files = sorted(set(places.values()))
    missing = [file for file in files if Path(file).name != file or not (folder / file).is_file()]
    if missing:
        raise CheckpointError(f"{folder}: {len(missing)} of {len(files)} shards are not in it: {shorten(missing)}")
    return [folder / file for file in files]
