"""Load and save models: registry names, Meta's, nano-JEPA's and Hugging Face's files, our run folders."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from openvjepa.config import ENCODER_SIZES, ClipProtocol, ModelConfig, to_mapping
from openvjepa.config.presets import PRESETS
from openvjepa.errors import CheckpointError, shorten
from openvjepa.model.action import ActionPredictor
from openvjepa.model.blocks.positions import position_codes
from openvjepa.model.encoder import Encoder
from openvjepa.model.pixels import PixelEncoder, pixel_config, untrained
from openvjepa.model.predictor import Predictor
from openvjepa.train.checkpoint import checkpoint_path, list_checkpoints, load_newest
from openvjepa.weights import registry
from openvjepa.weights.download import fetch_hf, fetch_url
from openvjepa.weights.files import (
    check_fit,
    converted_settings,
    load_strictly,
    read_container,
    read_settings,
    read_tensors,
    whole_file,
    write_tensors,
)
from openvjepa.weights.formats.hf import read_hf
from openvjepa.weights.formats.meta import (
    SECTIONS,
    check_counts,
    drop_unused_codes,
    infer_config,
    make_config,
    model_counts,
    strip_prefixes,
)
from openvjepa.weights.loaded import LoadedModel
from openvjepa.weights.probes import Probe, fill_probe, probe_settings, read_probe
from openvjepa.weights.protocols import clip_of_run, clip_of_settings, stored_clip

WEIGHTS, SETTINGS, HF_SETTINGS = "model.safetensors", "model.yaml", "config.json"
PIXELS, UNTRAINED = "pixels", "untrained:"  # sources without a file
_HF_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_model(
    source: str | Path,
    *,
    arch: Mapping[str, Any] | None = None,
    probe: str | Path | None = None,
    probe_heads: int | None = None,
) -> LoadedModel:
    """Load a pretrained encoder, with its predictor and probe if available.

    Args:
        source: a name that `vjepa models` lists; a checkpoint file of V-JEPA 1, 2, 2.1 or nano-JEPA; a Hugging Face folder
            or its id ("facebook/vjepa2-vitl-fpc64-256"); a run folder of `vjepa pretrain` (finished, or with a checkpoint)
            or `vjepa probe`, or one of its checkpoints; `pixels` or `untrained:NAME` (a preset, a size such as vit_tiny, or
            any other source), the baselines.
        arch: ModelConfig fields that replace what the source says: for example {"num_heads": 3} for a foreign file of an
            unknown size, {"num_frames": 16, "img_size": 256} for a V-JEPA 2 file of your own, or {"img_size": 384}: position
            codes of another clip shape are computed.
        probe: an attentive probe's file that belongs to it, or for a name the probe's own ("k400"); see `load_probe`.
        probe_heads: attention heads of the probe, where its file does not hold them and they follow from nothing else.

    Raises:
        CheckpointError: unknown, missing, damaged or not such a file; names the first tensors that are missing, unexpected or
            of another shape, unless a named rule accounts for them (`LoadedModel.notes`).
    """
    if not os.path.exists(source) and (model := _baseline(str(source), arch or {})) is not None:
        return model
    path, known = _locate(source)
    arch = {**known, **(arch or {})}
    model = _load_folder(path, arch) if path.is_dir() else _load_container(read_container(path), path, arch)
    return model if probe is None else _with_probe(model, str(source), probe, probe_heads)


def known_config(source: str | Path, arch: Mapping[str, Any]) -> ModelConfig | None:
    """Configuration of a published model, or of a folder of ours, without a download and without reading its weights.

    Raises:
        CheckpointError: the folder's model.yaml cannot be read, or `arch` does not fit.
    """
    info, folder = registry.find(str(source)), Path(source)
    if (folder / SETTINGS).exists():
        return _read_own_settings(folder, arch)[0]
    return make_config({**info.arch, **arch}, str(source)) if info is not None and not folder.exists() else None


def _with_probe(model: LoadedModel, source: str, probe: str | Path, heads: int | None) -> LoadedModel:
    info = registry.find(source)
    urls = info.probes if info else {}
    path = fetch_url(urls[str(probe)]) if str(probe) in urls else Path(probe)
    loaded, labels = read_probe(path, num_heads=heads, encoder_heads=model.encoder.num_heads)
    if loaded.linear.in_features != model.encoder.embed_dim:
        raise CheckpointError(
            f"{probe}: a probe of width {loaded.linear.in_features}, but the encoder's is {model.encoder.embed_dim}"
        )
    note = f"{probe} read as nano-JEPA's (no prefix `module.`): its output projection is applied"
    notes = (*model.notes, note) if loaded.pooler.style == "nano" else model.notes
    return replace(model, probe=loaded, labels=labels, notes=notes)


def _locate(source: str | Path) -> tuple[Path, Mapping[str, Any]]:
    """File or folder of a source, fetched if need be, and what is known of its architecture."""
    path, name = Path(source), str(source)
    if os.path.exists(path):  # unlike Path.exists, false for names that no file can have
        known = registry.of_file(path.name) if path.is_file() else None
        return path, known.arch if known else {}
    info = registry.find(name)
    if info is not None and info.folder is not None:
        return info.folder, {}
    if info is not None and info.url is not None:
        return fetch_url(info.url, sha256=info.sha256), info.arch
    if info is not None and info.hf_id is not None:
        return fetch_hf(info.hf_id), {}
    if _HF_ID.fullmatch(name) and isinstance(source, str) and not path.suffix:
        _check_not_a_run(path)
        return fetch_hf(name), {}
    raise CheckpointError(f"{name[:200]}: no such file or folder, and no model with this name{registry.suggest(name)}")


def _check_not_a_run(path: Path) -> None:
    """A misspelled run (`runs/mien`) is an error at once, and not looked up on Hugging Face.

    Raises:
        CheckpointError: the folder that the path names holds runs or models, but not this one.
    """
    beside = sorted(settings.parent.name for settings in path.parent.glob("*/*.yaml")) if path.parent.is_dir() else []
    if beside:
        names = list(dict.fromkeys(beside))
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        raise CheckpointError(f"{path}: no such run; {path.parent} has {', '.join(names[:8])}{more}")


def save_model(
    folder: str | Path,
    encoder: Encoder,
    predictor: Predictor | ActionPredictor | None = None,
    *,
    probe: Probe | None = None,
    labels: Sequence[str] | None = None,
    plan: Mapping[str, Any] | None = None,
    clip: ClipProtocol | None = None,
) -> Path:
    """Save a model as model.safetensors and model.yaml (atomic).

    Args:
        folder: where to.
        encoder, predictor, probe: its parts.
        labels: names of the probe's classes; None: their numbers.
        plan: the clips that the probe was evaluated on, as plain values.
        clip: the clip that the model was made for; None: unknown, and taken as that of the published models.

    Raises:
        CheckpointError: it cannot be written.
    """
    parts = {"encoder": encoder, "predictor": predictor, "classifier": probe}
    modules = {part: module.state_dict() for part, module in parts.items() if module is not None}
    state = {f"{part}.{key}": value for part, tensors in modules.items() for key, value in tensors.items()}
    metadata: dict[str, Any] = {}
    settings: dict[str, Any] = {"model": to_mapping(encoder.config)}
    if isinstance(encoder, PixelEncoder):
        settings["encoder"] = PIXELS
    if clip is not None:
        settings["clip"] = clip.to_mapping()
    if probe is not None:
        metadata["classifier"] = {"probe": probe_settings(probe)} | ({"plan": plan} if plan else {})
        settings["classes"] = list(labels) if labels else [str(i) for i in range(probe.linear.out_features)]
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    with whole_file(Path(folder) / SETTINGS) as temporary:  # both files change within a moment, the small one last
        temporary.write_bytes(text.encode())
        return write_tensors(Path(folder) / WEIGHTS, state, metadata)


def _load_folder(path: Path, arch: Mapping[str, Any]) -> LoadedModel:
    checkpoints = list_checkpoints(path / "checkpoints")
    if (path / SETTINGS).exists() and ((path / WEIGHTS).exists() or not checkpoints):  # else left by an earlier run
        return _load_own(path, arch)
    if (path / HF_SETTINGS).exists():
        return _load_hf(path, arch)
    if checkpoints:
        return _load_unfinished(path, arch)
    raise CheckpointError(
        f"{path}: no {WEIGHTS} with {SETTINGS} or {HF_SETTINGS}, and no checkpoints: not a run or model folder"
    )


def _load_unfinished(path: Path, arch: Mapping[str, Any]) -> LoadedModel:
    """The encoder of an unfinished run, from its latest readable checkpoint."""
    state = load_newest(path / "checkpoints")
    file = checkpoint_path(path / "checkpoints", state["step"])
    if isinstance(state.get("config"), dict) and {"finetune", "distill"} & state["config"].keys():
        raise CheckpointError(f"{path}: the run of finetune or distill is not finished: continue it with --resume")
    model = _load_checkpoint(state, arch, str(file))
    note = f"the run is not finished: using the checkpoint of step {state['step']} ({file.name})"
    logging.getLogger("openvjepa").warning("%s: %s", path, note)
    return replace(model, notes=(*model.notes, note))


def _read_own_settings(path: Path, arch: Mapping[str, Any]) -> tuple[ModelConfig, Mapping[str, Any]]:
    """Configuration and all settings of a folder of ours."""
    text = read_settings(path / SETTINGS)
    try:
        settings = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        values = {**settings["model"], **arch}
    except (ValueError, yaml.YAMLError, KeyError, TypeError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path / SETTINGS}: cannot be read ({reason})") from None
    return make_config(values, str(path / SETTINGS)), settings


def _load_own(path: Path, arch: Mapping[str, Any]) -> LoadedModel:
    config, settings = _read_own_settings(path, arch)
    if settings.get("clip") is not None:
        clip = stored_clip(settings["clip"], config, str(path / SETTINGS))
    else:
        clip = clip_of_run(path, config, antialias=bool(settings.get("antialias", True)))
    tensors, metadata = read_tensors(path / WEIGHTS)
    encoder, predictor, classifier = (_part(tensors, f"{name}.") for name in ("encoder", "predictor", "classifier"))
    if settings.get("encoder") == PIXELS:
        model = _pixels(config, encoder, str(path), clip)
    else:
        model = _build(config, encoder, predictor, str(path), "encoder", clip)
    if not classifier:
        return model
    try:
        stored = metadata["classifier"]["probe"]
        labels = settings.get("classes") or metadata["classifier"]["classes"]  # there before version 0.2
        if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
            raise TypeError("its classes are not a list of names")
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path / WEIGHTS}: its classifier cannot be read ({error})") from None
    probe = fill_probe(stored, config.dims.embed_dim, len(labels), classifier, f"{path} (classifier)")
    return replace(model, probe=probe, labels=tuple(labels), plan=metadata["classifier"].get("plan"))


def _pixels(config: ModelConfig, state: Mapping[str, Tensor], source: str, clip: ClipProtocol) -> LoadedModel:
    encoder = PixelEncoder(config)
    load_strictly(encoder, state, source)
    return LoadedModel(encoder.eval(), None, config, source, PIXELS, clip)


def _baseline(source: str, arch: Mapping[str, Any]) -> LoadedModel | None:
    """What has a name but no file: pixels, and encoders with random weights; None for anything else.

    Raises:
        CheckpointError: untrained: names no preset, size or model.
    """
    if source == PIXELS:
        config = make_config({**to_mapping(pixel_config()), **arch}, source)
        clip = clip_of_settings(None, config, source, antialias=True)
        return LoadedModel(PixelEncoder(config).eval(), None, config, source, PIXELS, clip)
    if not source.startswith(UNTRAINED):
        return None
    name = source.removeprefix(UNTRAINED)
    if name in PRESETS:
        preset = to_mapping(PRESETS[name]())
        config = make_config({**preset["model"], **arch}, source)
        clip = clip_of_settings(preset, config, source, antialias=True)
    elif name in ENCODER_SIZES:
        config = make_config({"arch": name, **arch}, source)
        clip = clip_of_settings(None, config, source, antialias=True)
    else:
        model = load_model(name, arch=arch)
        config, clip = model.config, model.clip
    return LoadedModel(untrained(config), None, config, source, "untrained", clip)


def _load_hf(path: Path, arch: Mapping[str, Any]) -> LoadedModel:
    found = read_hf(path)
    config = make_config({**to_mapping(found.config), **arch}, str(path)) if arch else found.config
    clip = stored_clip(found.preprocessing, config, str(path))
    model = _build(config, found.encoder, found.predictor or {}, str(path), "encoder", clip)
    if found.probe is None or found.probe_settings is None:
        return model
    classes = len(found.probe["linear.weight"])
    stored = {"kind": "attentive", **found.probe_settings}
    probe = fill_probe(stored, config.dims.embed_dim, classes, found.probe, f"{path} (classifier)")
    return replace(model, probe=probe, labels=found.labels)


def _load_container(container: Mapping[str, Any], path: Path, arch: Mapping[str, Any]) -> LoadedModel:
    if {"model", "step", "config"} <= container.keys():
        return _load_checkpoint(container, arch, str(path))
    section = next((name for name in SECTIONS if name in container), None)
    if section is None:
        names = shorten(container) or "nothing"
        raise CheckpointError(f"{path}: no {', '.join(SECTIONS[:-1])} or {SECTIONS[-1]} in it, only {names}")
    encoder = strip_prefixes(container[section], f"{path} ({section})")
    predictor = strip_prefixes(container["predictor"], f"{path} (predictor)") if "predictor" in container else None
    stored = converted_settings(container)
    if isinstance(stored.get("model"), dict):
        config = make_config({**stored["model"], **arch}, str(path))
    else:
        config = infer_config(encoder, predictor, arch, str(path))
    if stored.get("clip") is not None:
        clip = stored_clip(stored["clip"], config, str(path))
    else:
        clip = ClipProtocol.of(config, antialias=bool(stored.get("antialias", False)))
    return _build(config, encoder, predictor or {}, str(path), section, clip)


def _load_checkpoint(container: Mapping[str, Any], arch: Mapping[str, Any], source: str) -> LoadedModel:
    """A model out of the state of a pretraining run (`PretrainTask.state_dict`)."""
    settings, section = container["config"], SECTIONS[0]
    state = strip_prefixes(container["model"], source)
    encoder, predictor = _part(state, f"jepa.{section}."), _part(state, "jepa.predictor.")
    if not encoder or not isinstance(settings, dict) or not isinstance(settings.get("model"), dict):
        raise CheckpointError(f"{source}: not a checkpoint of a pretraining run")
    config = make_config({**settings["model"], **arch}, source)
    clip = clip_of_settings(settings, config, source, antialias=True)
    return _build(config, encoder, predictor, source, section, clip)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _build(
    config: ModelConfig,
    encoder_state: Mapping[str, Tensor],
    predictor_state: Mapping[str, Tensor],
    source: str,
    section: str,
    clip: ClipProtocol,
) -> LoadedModel:
    """A model of this configuration with these tensors; no predictor where there are none for it."""
    of_encoder, of_predictor = model_counts(config)
    check_counts(of_encoder, encoder_state, source)
    if predictor_state:
        check_counts(of_predictor, predictor_state, source)
    with torch.device("meta"):  # no memory and no time for initial values that the file replaces
        encoder = Encoder(config)
        kind = ActionPredictor if config.predictor_kind == "action" else Predictor
        predictor = kind(config) if predictor_state else None
    notes = _fill(encoder, encoder_state, config, "pos_embed", config.dims.embed_dim, f"{source} ({section})")
    if predictor is not None:
        width = config.predictor_embed_dim
        notes += _fill(predictor, predictor_state, config, "predictor_pos_embed", width, f"{source} (predictor)")
    return LoadedModel(encoder, predictor, config, source, section, clip, notes=tuple(notes))


def _fill(
    module: nn.Module, state: Mapping[str, Tensor], config: ModelConfig, codes: str, width: int, source: str
) -> list[str]:
    """Load a module's tensors; the rules by which one may differ: unused codes, and codes of another clip shape."""
    state, notes = drop_unused_codes(state, config)
    stored = state.get(codes)
    if stored is not None and stored.ndim == 3 and stored.shape[1] != config.grid.tokens:
        wanted = module.state_dict()
        state[codes] = wanted[codes]
        check_fit({key: list(value.shape) for key, value in wanted.items()}, state, source, "the model")
        state[codes] = position_codes(width, config)
        notes.append(f"{codes} computed for {config.grid.t} x {config.grid.h} x {config.grid.w} tokens")
    load_strictly(module, state, source)
    module.eval().requires_grad_(False)
    return notes
