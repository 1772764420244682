"""`vjepa models`: the published checkpoints, and which of them this computer can run."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from openvjepa.config import ModelConfig, ModelsConfig
from openvjepa.errors import ConfigError
from openvjepa.weights.local import downloaded, free_memory_gb, memory_gb
from openvjepa.weights.registry import ModelInfo, find, list_models, suggest


@dataclass(frozen=True)
class ModelHere:
    """A published model on this computer."""

    info: ModelInfo
    memory_gb: float
    """What one clip needs; see `memory_gb`."""
    free_gb: float | None
    """What there is; None: unknown."""
    path: Path | None
    """Where it is; None: not downloaded."""

    @property
    def fits(self) -> bool | None:
        """Whether there is enough memory; None: unknown."""
        return None if self.free_gb is None else self.memory_gb <= self.free_gb

    @property
    def config(self) -> ModelConfig:
        """The encoder and the clip that it was trained with."""
        return ModelConfig(**self.info.arch)

    def to_dict(self) -> dict[str, object]:
        """For JSON; parameters in millions, image size in px."""
        info, config = self.info, self.config
        return {
            "name": info.name,
            "family": info.family,
            "arch": config.arch,
            "parameters_m": info.parameters,
            "img_size": config.image_hw[0],
            "num_frames": config.num_frames,
            "licence": info.licence,
            "accuracy": dict(info.accuracy),
            "memory_gb": round(self.memory_gb, 2),
            "fits": self.fits,
            "path": None if self.path is None else str(self.path),
            "url": info.url,
            "hf_id": info.hf_id,
            "sha256": info.sha256,
            "probes": dict(info.probes),
        }


def models(config: ModelsConfig) -> tuple[ModelHere, ...]:
    """Print the published checkpoints: a table; one of them with all details; or JSON and nothing else on stdout.

    Returns:
        What was printed.

    Raises:
        ConfigError: there is no model of this name.
    """
    chosen = list_models()
    if config.name is not None:
        info = find(config.name)
        if info is None:
            raise ConfigError(f"{config.name}: no published model has this name{suggest(config.name)}")
        chosen = (info,)
    free = free_memory_gb()
    found = tuple(ModelHere(info, memory_gb(ModelConfig(**info.arch)), free, downloaded(info)) for info in chosen)
    if config.json:
        facts = [model.to_dict() for model in found]
        print(json.dumps(facts if config.name is None else facts[0], indent=2))
    else:  # into a file or a pipe, rows stay on one line
        console = Console(width=None if sys.stdout.isatty() else 250)
        console.print(_table(found) if config.name is None else _details(found[0]))
    return found


def _table(found: Sequence[ModelHere]) -> Table:
    free = found[0].free_gb
    caption = "accuracy: attentive probe on the frozen encoder, as published; memory: one clip in float32"
    caption += "" if free is None else f", ! where it is more than the {free:.1f} GB free here"
    table = Table(caption=f"{caption}; `vjepa models NAME` tells more", caption_justify="left")
    for heading in ("name", "family"):
        table.add_column(heading, no_wrap=True)
    for heading in ("M params", "px", "frames", "GB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("here", "licence", "top-1, %"):
        table.add_column(heading)
    for model in found:
        table.add_row(
            model.info.name,
            model.info.family,
            f"{model.info.parameters:.0f}",
            str(model.config.image_hw[0]),
            str(model.config.num_frames),
            f"{model.memory_gb:.1f}{'!' if model.fits is False else ' '}",
            "" if model.path is None else "yes",
            model.info.licence,
            _accuracy(model.info),
        )
    return table


def _accuracy(info: ModelInfo) -> str:
    return ", ".join(f"{benchmark} {value:.1f}" for benchmark, value in info.accuracy.items())


def _details(model: ModelHere) -> Table:
    info, config = model.info, model.config
    have = "" if model.free_gb is None else f"; {model.free_gb:.1f} GB are free here"
    option = next((f', probe="{name}"' for name in info.probes), "")
    rows = {
        "name": info.name,
        "family": info.family,
        "encoder": f"{config.arch}, {info.parameters:.1f} M parameters",
        "clip": f"{config.num_frames} frames of {config.image_hw[0]} px",
        "licence": f"{info.licence} (read it where the files are)",
        "top-1, %": _accuracy(info) or "none published",
        "memory": f"about {model.memory_gb:.1f} GB for one clip in float32{have}",
        **({"file": info.url} if info.url else {}),
        **({"sha256": info.sha256} if info.sha256 else {}),
        **({"Hugging Face": info.hf_id} if info.hf_id else {}),
        **{f"probe {name}": url for name, url in info.probes.items()},
        "here": model.path or "not downloaded yet: comes when it is first used",
        "Python": f'openvjepa.load_model("{info.name}"{option})',
        "command line": f"vjepa probe videos/ --model {info.name}",
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for heading, value in rows.items():
        table.add_row(heading, escape(str(value)))
    return table
