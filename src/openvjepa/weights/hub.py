"""Load and save models: our run folders, Meta's and nano-JEPA's V-JEPA 1 files. Nothing in a file is ever executed."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from openvjepa.config import ModelConfig, from_mapping, to_mapping
from openvjepa.errors import CheckpointError
from openvjepa.model.encoder import Encoder
from openvjepa.model.predictor import Predictor
from openvjepa.weights.convert import config_from_mapping, infer_config, strip_prefixes

WEIGHTS, SETTINGS = "model.safetensors", "model.yaml"
_SECTIONS = ("target_encoder", "encoder")  # the EMA copy is the published model


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode."""

    encoder: Encoder
    """Clip float [B, 3, T, H, W] (normalised) -> tokens [B, N, D]."""
    predictor: Predictor | None
    """Present where the file has one."""
    config: ModelConfig
    source: str
    section: str
    """Part of the file that the encoder comes from."""


def load_model(source: str | Path, *, arch: Mapping[str, object] | None = None) -> LoadedModel:
    """Load a pretrained encoder, and its predictor where there is one.

    Args:
        source: a run folder of `vjepa pretrain` or `vjepa probe`, or a V-JEPA 1 / nano-JEPA checkpoint file.
        arch: ModelConfig fields, for foreign files of a geometry that is not one of the published ones.

    Raises:
        CheckpointError: missing, damaged or not such a file; names every tensor that is missing, unexpected or of
            another shape.
    """
    path = Path(source)
    if path.is_dir():
        return _load_folder(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    container = _read_container(path)
    section = next((name for name in _SECTIONS if name in container), None)
    if section is None:
        raise CheckpointError(f"{path}: no {' or '.join(_SECTIONS)} in it, only {', '.join(map(str, container)) or 'nothing'}")
    encoder_state = strip_prefixes(container[section])
    predictor_state = strip_prefixes(container["predictor"]) if "predictor" in container else None
    if arch is None:
        config = infer_config(encoder_state, predictor_state, str(path))
    else:
        config = config_from_mapping(arch, str(path))
    return _build(config, encoder_state, predictor_state, str(path), section)


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
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: cannot be written ({error})") from None
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
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: cannot be written ({error.strerror})") from None
    return path


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
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict in which every tensor must be present and fit.

    Raises:
        CheckpointError: names what is missing, unexpected or of another shape.
    """
    wanted = module.state_dict()
    problems = [f"missing {key}" for key in wanted if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in wanted]
    problems += [
        f"{key} is {list(state[key].shape)}, expected {list(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise CheckpointError(f"{source}: does not fit the model: {'; '.join(problems[:8])}{more}")
    module.load_state_dict(state)


def _load_folder(path: Path) -> LoadedModel:
    if not (path / WEIGHTS).exists():
        hint = "pretraining has not finished: go on with --resume" if (path / "checkpoints").exists() else f"no {WEIGHTS} in it"
        raise CheckpointError(f"{path}: {hint}")
    try:
        settings = yaml.safe_load((path / SETTINGS).read_text(encoding="utf-8"))
        config = from_mapping(ModelConfig, settings["model"], where=str(path / SETTINGS))
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / SETTINGS}: cannot be read ({error})") from None
    tensors, _ = read_tensors(path / WEIGHTS)
    encoder = _part(tensors, "encoder.")
    return _build(config, encoder, _part(tensors, "predictor.") or None, str(path), "encoder")


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _build(
    config: ModelConfig,
    encoder_state: Mapping[str, Tensor],
    predictor_state: Mapping[str, Tensor] | None,
    source: str,
    section: str,
) -> LoadedModel:
    encoder = Encoder(config).eval().requires_grad_(False)
    load_strictly(encoder, encoder_state, f"{source} ({section})")
    predictor = None
    if predictor_state:
        predictor = Predictor(config).eval().requires_grad_(False)
        load_strictly(predictor, predictor_state, f"{source} (predictor)")
    return LoadedModel(encoder, predictor, config, source, section)


def _read_container(path: Path) -> dict[str, Any]:
    """Meta's dictionary of state dicts, memory-mapped, so that only what is used is read."""
    try:
        container = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise CheckpointError(f"{path}: refused: not a plain checkpoint of tensors (it may hold code)") from None
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({str(error).splitlines()[0][:120]})") from None
    if not isinstance(container, dict):
        raise CheckpointError(f"{path}: not a checkpoint of V-JEPA")
    return container
