"""`vjepa convert`: a model between Meta's files, Hugging Face's folders and ours, every tensor bit for bit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from openvjepa.config import ConvertConfig, command, to_mapping
from openvjepa.errors import ConfigError
from openvjepa.model.pooler import PROBE_EPS, AttentiveClassifier
from openvjepa.weights.files import whole_file
from openvjepa.weights.formats import hf
from openvjepa.weights.formats.hf_settings import PREPROCESSOR
from openvjepa.weights.formats.hf_settings import SETTINGS as HF_SETTINGS
from openvjepa.weights.hub import SETTINGS, WEIGHTS, LoadedModel, known_config, load_model, save_model
from openvjepa.weights.probes import V2_HEADS, probe_settings

logger = logging.getLogger("openvjepa")

META_SUFFIXES = (".pth.tar", ".pt")
CARD = "README.md"
# Of all layouts: what --overwrite deletes, since a folder holds one of them.
OUTPUTS = (
    WEIGHTS, SETTINGS, HF_SETTINGS, hf.INDEX, PREPROCESSOR, CARD, "model.onnx", "model.onnx.data", "model.json"
)  # fmt: skip


@command(ConvertConfig, "source")
def convert(config: ConvertConfig) -> tuple[Path, ...]:
    """Convert a model to another layout. Logs the applied conversion rules.

    Returns:
        The files or the folder written.

    Raises:
        ConfigError: out is in use, or not what the layout needs.
        CheckpointError: the model cannot be read or written, or the layout cannot hold it.
    """
    writers: dict[str, Callable[[Path, LoadedModel], tuple[str, ...]]] = {
        "meta": write_meta, "hf": hf.write_hf, "openvjepa": write_own,
    }  # fmt: skip
    if config.to == "meta":
        written = meta_files(Path(config.out))
        check_files(written, config.source, overwrite=config.overwrite)
    else:
        written = (Path(config.out),)
        check_folder(written[0], config.source, overwrite=config.overwrite)
    known = known_config(config.source, parse_geometry(config.geometry))
    if config.to == "hf" and known is not None:
        hf.check_hf_config(known, config.source)  # before a download of gigabytes
    model = load_model(
        config.source, arch=parse_geometry(config.geometry), probe=config.probe, probe_heads=config.probe_heads
    )
    logger.info("%s", model)
    if config.to == "hf":
        hf.check_hf(model)
    if config.to != "meta":
        clear_folder(written[0])
    for note in writers[config.to](Path(config.out), model):
        logger.info(note)
    return tuple(path for path in written if path.exists())


def write_meta(path: Path, model: LoadedModel) -> tuple[str, ...]:
    """Write a checkpoint as Meta does, and its probe in a file of its own beside it, each atomically.

    What Meta's files leave open is added as one entry `openvjepa`, which Meta's loaders pass over: of the checkpoint
    {"model": fields of ModelConfig, "clip": fields of ClipProtocol}, of the probe {"probe": `probe_settings`, "labels": names or
    None}.

    Returns:
        What a user of the files should know, a line each.

    Raises:
        CheckpointError: it cannot be written.
        ConfigError: a linear probe, for which Meta has no layout, or attention or output that its code does not have.
    """
    if model.config.time_attention != "full" or model.config.output_positions:
        raise ConfigError(
            f"{model.source}: Meta's code supports neither time_attention {model.config.time_attention} nor "
            "output_positions; its features would differ: use --to openvjepa, or `vjepa export --to onnx`"
        )
    files, notes = meta_files(path), list[str]()
    if model.probe is not None and not isinstance(model.probe, AttentiveClassifier):
        raise ConfigError(f"{model.source}: Meta's layout has no linear probe: use `vjepa probe --kinds attentive`")
    encoder = _prefixed(model.encoder, "module.backbone.")
    # The average that distillation keeps beside its student has a name of its own (V-JEPA 2.1 B and L).
    average = "ema_encoder" if model.config.predictor_out_dim else "target_encoder"
    container: dict[str, Any] = {"encoder": encoder, average: encoder, "epoch": 0}
    notes.append(f"encoder and {average} are the same tensors; no optimizer state: not to resume a training from")
    if model.predictor is not None:
        # V-JEPA 2-AC has no wrapper for several masks around its predictor.
        masked = model.config.predictor_kind == "masked"
        container["predictor"] = _prefixed(model.predictor, "module.backbone." if masked else "module.")
    container["openvjepa"] = {"model": to_mapping(model.config), "clip": model.clip.to_mapping()}
    _save(container, files[0])
    if model.probe is not None:
        _save(_probe_container(model.probe, model.labels), files[1])
        notes += _probe_notes(model.probe, model.encoder.num_heads)
    return tuple(notes)


def write_own(folder: Path, model: LoadedModel) -> tuple[str, ...]:
    """Write model.safetensors and model.yaml, as our runs do.

    Raises:
        CheckpointError: it cannot be written.
    """
    save_model(folder, model.encoder, model.predictor, probe=model.probe, labels=model.labels, clip=model.clip)
    if model.probe is not None and model.labels is None:
        return ("the source does not name its classes: they are called by their numbers",)
    return ()


def meta_files(path: Path) -> tuple[Path, Path]:
    """The checkpoint, and the place of its probe: runs/a.pt -> runs/a.pt, runs/a-probe.pt.

    Raises:
        ConfigError: the name does not end as Meta's do.
    """
    for suffix in META_SUFFIXES:
        if path.name.endswith(suffix) and path.name != suffix:
            return path, path.with_name(f"{path.name.removesuffix(suffix)}-probe{suffix}")
    raise ConfigError(f"{path}: the file name must end with {' or '.join(META_SUFFIXES)}")


def parse_geometry(text: str) -> Mapping[str, Any]:
    """Fields of ModelConfig, written as "num_heads: 3, img_size: 64".

    Raises:
        ConfigError: not so written.
    """
    try:
        values = yaml.safe_load(f"{{{text}}}")
    except yaml.YAMLError:
        values = None
    if not isinstance(values, dict) or None in values.values():
        raise ConfigError(f'geometry {text!r}: write it as "num_heads: 3, img_size: 64"')
    return values


def check_files(files: tuple[Path, ...], source: str, *, overwrite: bool) -> None:
    """Fail before the work if a file to be written is there already.

    Raises:
        ConfigError: it is, and shall not be replaced; or is what is read.
    """
    for file in files:
        if file.is_dir():
            raise ConfigError(f"{file}: is a folder: pass a file")
        if file.exists() and (not overwrite or file.resolve() == Path(source).resolve()):
            raise ConfigError(f"{file}: already exists: choose another name, or add --overwrite to replace it")


def check_folder(folder: Path, source: str, *, overwrite: bool) -> None:
    """Fail before the work if a folder to be written is in use.

    Raises:
        ConfigError: it is, and shall not be replaced; or is what is read.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file: pass a folder")
    if folder.exists() and folder.resolve() == Path(source).resolve():
        raise ConfigError(f"{folder}: is the folder of the source model: choose another folder")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise ConfigError(f"{folder}: is not empty: choose another folder, or add --overwrite to replace it")


def clear_folder(folder: Path) -> None:
    """Delete what an earlier conversion or export left: a folder holds one layout."""
    for name in OUTPUTS:
        (folder / name).unlink(missing_ok=True)


def _prefixed(module: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value.detach() for name, value in module.state_dict().items()}


def _probe_container(probe: AttentiveClassifier, labels: tuple[str, ...] | None) -> dict[str, Any]:
    """V-JEPA 2 has a list of probes, V-JEPA 1 one; nano-JEPA's files differ from those by their missing prefix."""
    style = probe.pooler.style
    state = _prefixed(probe, "" if style == "nano" else "module.")
    named = list(labels) if labels else None
    section: dict[str, Any] = {"classifiers": [state]} if style == "v2" else {"classifier": state}
    return {**section, "epoch": 0, "openvjepa": {"probe": probe_settings(probe), "labels": named}}


def _probe_notes(probe: AttentiveClassifier, encoder_heads: int) -> list[str]:
    facts, notes = probe_settings(probe), list[str]()
    heads = V2_HEADS if facts["style"] == "v2" else encoder_heads
    if facts["num_heads"] != heads:
        notes.append(
            f"the probe has {facts['num_heads']} attention heads, and Meta's code gives it {heads}: tell it so"
        )
    if facts["eps"] != PROBE_EPS:
        notes.append(
            f"the probe has a layer norm epsilon of {facts['eps']:g}, and Meta's code runs it with {PROBE_EPS:g}: its logits "
            "differ a little there"
        )
    return notes


def _save(container: Mapping[str, Any], path: Path) -> None:
    with whole_file(path) as temporary:
        torch.save(dict(container), temporary)
