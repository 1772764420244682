"""The clip that a stored model was made for: from its own settings, or from what older files and other layouts say of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from openvjepa.config import ClipProtocol, ModelConfig, from_mapping
from openvjepa.errors import CheckpointError, ConfigError
from openvjepa.weights.files import read_settings

RUN_SETTINGS = "config.yaml"
log = logging.getLogger("openvjepa")


def stored_clip(values: object, config: ModelConfig, where: str) -> ClipProtocol:
    """The clip of a model, from `ClipProtocol.to_mapping`.

    Raises:
        CheckpointError: an unknown or wrong field.
    """
    shape = {"num_frames": config.num_frames, "size": config.image_hw}
    try:
        if not isinstance(values, Mapping):
            raise ConfigError("not a mapping of settings")
        return from_mapping(ClipProtocol, {**values, **shape}, where="clip")
    except ConfigError as error:
        text = str(error).removeprefix("clip: ")
        raise CheckpointError(f"{where}: the model's clip cannot be read ({text})") from None


def clip_of_settings(settings: object, config: ModelConfig, where: str, *, antialias: bool) -> ClipProtocol:
    """The clip of a run by its own settings (a pretraining has a section `data`, a probe has not), else the published one.

    Raises:
        CheckpointError: the frame rate makes no sense.
    """
    section = settings.get("data", settings) if isinstance(settings, Mapping) else None
    rate = section if isinstance(section, Mapping) else {}
    fps = rate.get("fps")
    values: dict[str, Any] = {"frame_step": None if fps else rate.get("frame_step"), "fps": fps or None}
    known = {} if values == {"frame_step": None, "fps": None} else values
    return replace(stored_clip(known, config, where), antialias=antialias)


def clip_of_run(folder: Path, config: ModelConfig, *, antialias: bool) -> ClipProtocol:
    """The clip of a model whose model.yaml says nothing of it, as before version 0.2: from the run's config.yaml.

    Raises:
        CheckpointError: the frame rate makes no sense.
    """
    path, settings = folder / RUN_SETTINGS, None
    if path.exists():
        try:
            settings = yaml.load(read_settings(path), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except (CheckpointError, yaml.YAMLError, ValueError, RecursionError):
            log.warning(
                "%s: cannot be read: the frame rate of the model's clips is taken as that of published ones", path
            )
    return clip_of_settings(settings, config, str(path), antialias=antialias)
