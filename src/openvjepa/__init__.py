"""openvjepa: V-JEPA for the computer you have.

The public names are imported when they are first used, so that `import openvjepa` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openvjepa.config import (
        DataConfig,
        MaskConfig,
        MaskingConfig,
        ModelConfig,
        ObjectiveConfig,
        OptimConfig,
        PretrainConfig,
        TrainConfig,
    )
    from openvjepa.data.clips import read_clip
    from openvjepa.data.index import VideoIndex, VideoRecord, read_index
    from openvjepa.data.synthetic import ShapesConfig, make_shapes
    from openvjepa.errors import CheckpointError, ConfigError, DataError, OpenVJEPAError, VideoError
    from openvjepa.model.encoder import create_model
    from openvjepa.options import EmbedConfig, PredictConfig, ProbeConfig
    from openvjepa.tasks.embed import embed
    from openvjepa.tasks.evaluate import EvaluateConfig, evaluate
    from openvjepa.tasks.features import encode
    from openvjepa.tasks.finetune import FinetuneConfig, finetune
    from openvjepa.tasks.predict import predict
    from openvjepa.tasks.pretrain import pretrain
    from openvjepa.tasks.probe import probe
    from openvjepa.weights.hub import LoadedModel, load_model, save_model
    from openvjepa.weights.probes import load_probe
    from openvjepa.weights.registry import ModelInfo, list_models

    __version__: str

_HOMES = {
    "config": (
        "DataConfig",
        "MaskConfig",
        "MaskingConfig",
        "ModelConfig",
        "ObjectiveConfig",
        "OptimConfig",
        "PretrainConfig",
        "TrainConfig",
    ),
    "data.clips": ("read_clip",),
    "data.index": ("VideoIndex", "VideoRecord", "read_index"),
    "data.synthetic": ("ShapesConfig", "make_shapes"),
    "errors": ("CheckpointError", "ConfigError", "DataError", "OpenVJEPAError", "VideoError"),
    "model.encoder": ("create_model",),
    "options": ("EmbedConfig", "PredictConfig", "ProbeConfig"),
    "tasks.embed": ("embed",),
    "tasks.evaluate": ("EvaluateConfig", "evaluate"),
    "tasks.features": ("encode",),
    "tasks.finetune": ("FinetuneConfig", "finetune"),
    "tasks.predict": ("predict",),
    "tasks.pretrain": ("pretrain",),
    "tasks.probe": ("probe",),
    "weights.hub": ("LoadedModel", "load_model", "save_model"),
    "weights.probes": ("load_probe",),
    "weights.registry": ("ModelInfo", "list_models"),
}
_HOME_OF = {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names}

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataConfig",
    "DataError",
    "EmbedConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "LoadedModel",
    "MaskConfig",
    "MaskingConfig",
    "ModelConfig",
    "ModelInfo",
    "ObjectiveConfig",
    "OpenVJEPAError",
    "OptimConfig",
    "PredictConfig",
    "PretrainConfig",
    "ProbeConfig",
    "ShapesConfig",
    "TrainConfig",
    "VideoError",
    "VideoIndex",
    "VideoRecord",
    "__version__",
    "create_model",
    "embed",
    "encode",
    "evaluate",
    "finetune",
    "list_models",
    "load_model",
    "load_probe",
    "make_shapes",
    "predict",
    "pretrain",
    "probe",
    "read_clip",
    "read_index",
    "save_model",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("openvjepa")
    elif name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
