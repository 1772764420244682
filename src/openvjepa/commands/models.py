"""`vjepa models`: the published checkpoints, and which of them this computer can run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from openvjepa.config import ModelConfig, ModelsConfig, command
from openvjepa.errors import ConfigError
from openvjepa.weights.local import downloaded, free_memory_gb, memory_gb
from openvjepa.weights.registry import ModelInfo, find, list_models, suggest


@dataclass(frozen=True)
class ModelHere:
    """A published model, its local path and memory requirement."""

    info: ModelInfo
    memory_gb: float
    """What one clip needs; see `memory_gb`."""
    free_gb: float | None
    """Free memory; None: unknown."""
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
            "license": info.license,
            "accuracy": dict(info.accuracy),
            "memory_gb": round(self.memory_gb, 2),
            "fits": self.fits,
            "path": None if self.path is None else str(self.path),
            "url": info.url,
            "hf_id": info.hf_id,
            "sha256": info.sha256,
            "probes": dict(info.probes),
        }


@command(ModelsConfig, "name")
def models(config: ModelsConfig) -> tuple[ModelHere, ...]:
    """The published checkpoints (or one of them), and whether they fit in the memory of this computer.

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
    return tuple(ModelHere(info, memory_gb(ModelConfig(**info.arch)), free, downloaded(info)) for info in chosen)
