"""Settings of Hugging Face's VJEPA2 folders: config.json and video_preprocessor_config.json, read and written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openvjepa.config import ENCODER_SIZES, ClipProtocol, ModelConfig
from openvjepa.config.protocol import EVAL_MARGIN
from openvjepa.errors import CheckpointError
from openvjepa.model.blocks.layers import ENCODER_EPS, hidden_width
from openvjepa.model.pooler import AttentiveClassifier
from openvjepa.weights.files import read_settings
from openvjepa.weights.formats.meta import make_config
from openvjepa.weights.loaded import LoadedModel

SETTINGS, PREPROCESSOR = "config.json", "video_preprocessor_config.json"
TRANSFORMERS = "5.23.0"
"""Version of transformers whose files these are (VJEPA2 came with 4.53)."""
_DEFAULT_LABEL = "LABEL_{}"  # a name that transformers makes up

# Fields of config.json that our model has one value for; theirs by default, and so when a file leaves them out.
_FIXED: dict[str, Any] = {
    "hidden_act": "gelu",
    "in_chans": 3,
    "layer_norm_eps": ENCODER_EPS,
    "pred_mlp_ratio": 4.0,
    "qkv_bias": True,
}
# Without a meaning for a trained model that is only run.
_INERT: dict[str, Any] = {
    "attention_dropout": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
    "dtype": "float32",
    "initializer_range": 0.02,
    "model_type": "vjepa2",
    "pred_zero_init_mask_tokens": True,
    "transformers_version": TRANSFORMERS,
}
# theirs: (ours, their default)
_GEOMETRY: dict[str, tuple[str, int | float]] = {
    "crop_size": ("img_size", 256),
    "frames_per_clip": ("num_frames", 64),
    "patch_size": ("patch_size", 16),
    "tubelet_size": ("tubelet_size", 2),
    "hidden_size": ("embed_dim", 1024),
    "num_hidden_layers": ("depth", 24),
    "num_attention_heads": ("num_heads", 16),
    "mlp_ratio": ("mlp_ratio", 4.0),
    "pred_hidden_size": ("predictor_embed_dim", 384),
    "pred_num_hidden_layers": ("predictor_depth", 12),
    "pred_num_attention_heads": ("predictor_num_heads", 12),
    "pred_num_mask_tokens": ("num_mask_tokens", 10),
}
POOLER_DEPTH = 3  # their default


def hf_config(model: LoadedModel) -> dict[str, Any]:
    """config.json of a model: what transformers' save_pretrained writes for it."""
    config, probe = model.config, model.probe
    dims = config.dims
    ours = {
        "img_size": config.image_hw[0],
        "embed_dim": dims.embed_dim,
        "depth": dims.depth,
        "num_heads": dims.num_heads,
        "mlp_ratio": _ratio(dims.embed_dim, dims.mlp_ratio),
        "predictor_num_heads": config.predictor_heads,
    }
    values = {theirs: ours.get(name, getattr(config, name)) for theirs, (name, _) in _GEOMETRY.items()}
    values |= {**_FIXED, **_INERT, "num_pooler_layers": POOLER_DEPTH, "architectures": ["VJEPA2Model"]}
    if isinstance(probe, AttentiveClassifier):
        values["architectures"] = ["VJEPA2ForVideoClassification"]
        values["num_pooler_layers"] = len(probe.pooler.blocks)
        labels = model.labels or [_DEFAULT_LABEL.format(i) for i in range(probe.linear.out_features)]
        values["id2label"] = {str(i): name for i, name in enumerate(labels)}
        values["label2id"] = {name: i for i, name in enumerate(labels)}
    return values


def read_config(settings: Mapping[str, Any], where: str) -> ModelConfig:
    """ModelConfig of a config.json; fields without a meaning for us are passed over."""
    if settings.get("model_type") != "vjepa2":
        found = repr(settings.get("model_type"))[:40]
        raise CheckpointError(f"{where}: model_type {found}: not a V-JEPA 2 model (vjepa2)")
    for name, value in _FIXED.items():
        if settings.get(name, value) != value:
            raise CheckpointError(f"{where}: {name} is {repr(settings[name])[:40]}, and only {value!r} can be read")
    values = {ours: settings.get(theirs, default) for theirs, (ours, default) in _GEOMETRY.items()}
    for theirs, (ours, _) in _GEOMETRY.items():
        if ours != "mlp_ratio":  # a single frame: the image model of ours, which theirs is not
            whole_number(values[ours], f"{where}: {theirs}", least=2 if ours == "num_frames" else 1)
    if type(ratio := values["mlp_ratio"]) not in (int, float) or not 0 < ratio < 1000:
        raise CheckpointError(f"{where}: mlp_ratio {str(ratio)[:20]}: a number above 0 is needed")
    width = values["embed_dim"]
    values["mlp_ratio"] = int(width * values["mlp_ratio"]) / width  # theirs cuts the hidden width, ours rounds it
    numbers = tuple(values[name] for name in ("embed_dim", "depth", "num_heads", "mlp_ratio"))
    for arch, (dim, depth, heads, ratio) in ENCODER_SIZES.items():
        if numbers == (dim, depth, heads, hidden_width(dim, ratio) / dim):
            values |= {"arch": arch, "embed_dim": None, "depth": None, "num_heads": None, "mlp_ratio": None}
    return make_config({**values, "positions": "rope-tiled"}, where)


def whole_number(value: object, where: str, *, least: int = 0) -> int:
    """The value, if it is a whole number from `least` on.

    Raises:
        CheckpointError: it is not.
    """
    if type(value) is not int or not least <= value < 2**31:
        raise CheckpointError(f"{where} {repr(value)[:24]}: a whole number from {least} on is needed")
    return value


def _ratio(width: int, ratio: float) -> float:
    """The MLP ratio as transformers reads it: it cuts width * ratio to a whole number where ours rounds."""
    hidden = hidden_width(width, ratio)
    return ratio if int(width * ratio) == hidden else math.nextafter(hidden / width, math.inf)


def read_labels(settings: Mapping[str, Any], classes: int, where: str) -> tuple[str, ...] | None:
    """Names of the classes in a config.json; None: none but those that transformers makes up.

    Raises:
        CheckpointError: they do not name as many classes as the classifier has.
    """
    names = settings.get("id2label")
    if names is None:
        return None
    try:
        labels = tuple(names[str(i)] for i in range(len(names)))
    except (KeyError, TypeError):
        labels = ()
    if len(labels) != classes or not all(isinstance(name, str) for name in labels):
        raise CheckpointError(f"{where}: id2label does not name the {classes} classes of the classifier")
    return None if labels == tuple(_DEFAULT_LABEL.format(i) for i in range(classes)) else labels


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping.

    Raises:
        CheckpointError: it is missing, damaged or something else.
    """
    text = read_settings(path)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: not a mapping of settings")
    return values


def preprocessor(clip: ClipProtocol) -> dict[str, Any]:
    """How frames are prepared: resized to cover the crop with a margin, cropped in the center, normalized."""
    crop = clip.size[0]
    return {
        "crop_size": {"height": crop, "width": crop},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(clip.mean),
        "image_std": list(clip.std),
        "resample": 2,  # bilinear
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": int(crop * clip.margin)},
        "video_processor_type": "VJEPA2VideoProcessor",
    }


def read_preprocessor(folder: Path) -> dict[str, Any]:
    """Fields of ClipProtocol that differ from the published ones; none where the folder does not say."""
    path = folder / PREPROCESSOR
    if not path.exists():
        return {}
    values = read_json(path)
    found = {
        ours: values[theirs] for ours, theirs in (("mean", "image_mean"), ("std", "image_std")) if theirs in values
    }
    try:
        edge, crop = values["size"]["shortest_edge"], values["crop_size"]["height"]
        if edge != int(crop * EVAL_MARGIN):
            found["margin"] = (edge + 0.5) / crop  # half a pixel more: rounding down gives the edge again
    except (KeyError, TypeError, ZeroDivisionError):
        pass  # frames of another kind of processor are taken as the published ones are
    return found


def to_json(values: Mapping[str, Any]) -> bytes:
    """Settings as transformers writes them."""
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()
