"""Load and save models: our run folders, Meta's and nano-JEPA's V-JEPA 1 files. Nothing in a file is ever executed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from openvjepa.config import ModelConfig, to_mapping
from openvjepa.errors import CheckpointError
from openvjepa.model.encoder import Encoder
from openvjepa.model.pooler import AttentiveClassifier
from openvjepa.model.positions import position_codes
from openvjepa.model.predictor import Predictor
from openvjepa.train.checkpoint import list_checkpoints
from openvjepa.weights.convert import infer_config, make_config, strip_prefixes

WEIGHTS, SETTINGS = "model.safetensors", "model.yaml"
_SECTIONS = ("target_encoder", "encoder")  # the EMA copy is the published model
# What torch.load was seen to raise for damaged files; it refuses code by an UnpicklingError.
_LOAD_ERRORS = (
    OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, AssertionError, OverflowError,
    MemoryError, pickle.UnpicklingError, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode, on the CPU, in float32."""

    encoder: Encoder
    """Clip float [B, 3, T, H, W] (normalised) -> tokens [B, N, D]."""
    predictor: Predictor | None
    """Present where the file has one."""
    config: ModelConfig
    """What encoder and predictor were built from."""
    source: str
    """The folder or file that was asked for."""
    section: str
    """Part of the file that the encoder comes from."""


def load_model(source: str | Path, *, arch: Mapping[str, Any] | None = None) -> LoadedModel:
    """Load a pretrained encoder, and its predictor where there is one.

    Args:
        source: a run folder of `vjepa pretrain` (finished, or with a checkpoint) or `vjepa probe`, one of its
            checkpoints, or a checkpoint file of V-JEPA 1 or nano-JEPA.
        arch: ModelConfig fields that replace what the source says, for example {"num_heads": 3} for a foreign file of
            an unknown size, or {"img_size": 384}: position codes of another clip shape are made anew.

    Raises:
        CheckpointError: missing, damaged or not such a file; names every tensor that is missing, unexpected or of
            another shape.
    """
    path, arch = Path(source), arch or {}
    if path.is_dir() and (path / WEIGHTS).exists():
        return _load_folder(path, arch)
    if path.is_dir():
        checkpoints = list_checkpoints(path / "checkpoints")
        if not checkpoints:
            raise CheckpointError(f"{path}: no {WEIGHTS} and no checkpoints in it: not the folder of a run")
        path = checkpoints[-1]
    container = read_container(path)
    if {"model", "step", "config"} <= container.keys():
        return _load_checkpoint(container, arch, str(path))
    section = next((name for name in _SECTIONS if name in container), None)
    if section is None:
        raise CheckpointError(f"{path}: no {' or '.join(_SECTIONS)} in it, only {_names(container)}")
    encoder = strip_prefixes(container[section], f"{path} ({section})")
    predictor = strip_prefixes(container["predictor"], f"{path} (predictor)") if "predictor" in container else None
    config = infer_config(encoder, predictor, arch, str(path))
    return _build(config, encoder, predictor, str(path), section)


def load_probe(source: str | Path, *, num_heads: int, apply_projection: bool = False) -> AttentiveClassifier:
    """Load an attentive probe of V-JEPA 1 or nano-JEPA (`...-probe-latest.pth.tar`), in eval mode.

    Args:
        source: the file.
        num_heads: attention heads, which the file does not hold: as many as the encoder has.
        apply_projection: True for probes that nano-JEPA trained: they apply the output projection that Meta's skip,
            while the files look alike (spec section 6).

    Raises:
        CheckpointError: missing, damaged, not such a file, or with tensors that do not fit.
    """
    container = read_container(Path(source))
    if "classifier" not in container:
        raise CheckpointError(f"{source}: no classifier in it, only {_names(container)}")
    state = strip_prefixes(container["classifier"], str(source))
    if "linear.weight" not in state or state["linear.weight"].ndim != 2:
        raise CheckpointError(f"{source}: no linear.weight [classes, D]: not an attentive probe")
    num_classes, embed_dim = state["linear.weight"].shape
    if num_heads < 1 or embed_dim % num_heads:
        raise CheckpointError(f"{source}: a probe of width {embed_dim} cannot have {num_heads} heads")
    blocks = {key.split(".")[2] for key in state if key.startswith("pooler.blocks.")}
    complete = any(key.startswith("pooler.cross_attention_block.mlp.") for key in state)
    probe = AttentiveClassifier(
        embed_dim,
        num_heads,
        num_classes,
        depth=1 + len(blocks),
        complete_block=complete,
        apply_projection=apply_projection,
    )
    load_strictly(probe, state, str(source))
    return probe.eval().requires_grad_(False)


def save_model(folder: str | Path, encoder: Encoder, predictor: Predictor | None = None) -> Path:
    """Write an encoder (and predictor) as model.safetensors and model.yaml; atomic, each file complete or absent.

    Raises:
        CheckpointError: it cannot be written.
    """
    state = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    if predictor is not None:
        state |= {f"predictor.{key}": value for key, value in predictor.state_dict().items()}
    settings = yaml.safe_dump({"model": to_mapping(encoder.config)}, sort_keys=False)
    write_file(Path(folder) / SETTINGS, settings.encode())
    return write_tensors(Path(folder) / WEIGHTS, state)


def write_tensors(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> Path:
    """Write tensors as safetensors, atomically; metadata values are stored as JSON.

    Raises:
        CheckpointError: it cannot be written.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    temporary = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, {key: json.dumps(value) for key, value in (metadata or {}).items()})
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        _discard(temporary)
        raise CheckpointError(
            f"{path}: cannot be written ({error}): free some space or choose another folder"
        ) from None
    return path


def write_file(path: Path, content: bytes) -> Path:
    """Write a small file atomically.

    Raises:
        CheckpointError: it cannot be written.
    """
    temporary = path.with_suffix(path.suffix + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        _discard(temporary)
        raise CheckpointError(f"{path}: cannot be written ({error.strerror})") from None
    return path


def _discard(path: Path) -> None:
    """Delete what was half written, if there is anything, and let the first error be the one that is told."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        CheckpointError: missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118 - not a mapping
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: damaged ({error})") from None


def weights_digest(module: nn.Module) -> str:
    """sha256 over the names, types and values of a module's tensors."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict in which every tensor must be present and fit.

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


def _load_folder(path: Path, arch: Mapping[str, Any]) -> LoadedModel:
    try:
        settings = yaml.safe_load((path / SETTINGS).read_text(encoding="utf-8"))
        values = {**settings["model"], **arch}
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path / SETTINGS}: cannot be read ({reason})") from None
    config = make_config(values, str(path / SETTINGS))
    tensors, _ = read_tensors(path / WEIGHTS)
    encoder, predictor = _part(tensors, "encoder."), _part(tensors, "predictor.")
    return _build(config, encoder, predictor or None, str(path), "encoder")


def _load_checkpoint(container: Mapping[str, Any], arch: Mapping[str, Any], source: str) -> LoadedModel:
    """A model out of the state of a pretraining run (`PretrainTask.state_dict`)."""
    settings, section = container["config"], _SECTIONS[0]
    state = strip_prefixes(container["model"], source)
    encoder, predictor = _part(state, f"jepa.{section}."), _part(state, "jepa.predictor.")
    if not encoder or not isinstance(settings, dict) or not isinstance(settings.get("model"), dict):
        raise CheckpointError(f"{source}: not a checkpoint of a pretraining run")
    config = make_config({**settings["model"], **arch}, source)
    return _build(config, encoder, predictor, source, section)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _names(container: Mapping[str, Any]) -> str:
    return ", ".join(map(str, container)) or "nothing"


def _build(
    config: ModelConfig,
    encoder_state: Mapping[str, Tensor],
    predictor_state: Mapping[str, Tensor] | None,
    source: str,
    section: str,
) -> LoadedModel:
    with torch.device("meta"):  # no time for initial values that the file replaces
        encoder = Encoder(config)
        predictor = Predictor(config) if predictor_state else None
    codes = position_codes(config.dims.embed_dim, config)
    _fill(encoder, _with_codes(encoder_state, "pos_embed", codes), f"{source} ({section})")
    if predictor is not None and predictor_state:
        codes = position_codes(config.predictor_embed_dim, config)
        _fill(predictor, _with_codes(predictor_state, "predictor_pos_embed", codes), f"{source} (predictor)")
    return LoadedModel(encoder, predictor, config, source, section)


def _fill(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    load_strictly(module.to_empty(device="cpu"), state, source)
    module.eval().requires_grad_(False)


def _with_codes(state: Mapping[str, Tensor], name: str, codes: Tensor) -> dict[str, Tensor]:
    """The one rule by which a tensor of another shape is no error: codes of another clip shape are made anew."""
    stored = state.get(name)
    other_grid = stored is not None and stored.ndim == 3 and stored.shape[1] != codes.shape[1]
    return {**state, name: codes} if other_grid else dict(state)
