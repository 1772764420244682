"""What every command can be told: frozen dataclasses, named recipes, strict YAML. Imports neither torch nor numpy."""

from openvjepa.config.commands import (
    BenchConfig,
    ConvertConfig,
    DemoConfig,
    EmbedConfig,
    EvaluateConfig,
    ExportConfig,
    ModelsConfig,
    PredictConfig,
    ProbeConfig,
)
from openvjepa.config.data import CheckConfig, PrepareConfig, ShapesConfig
from openvjepa.config.finetune import FinetuneConfig
from openvjepa.config.objective import ObjectiveConfig, ViewsConfig
from openvjepa.config.parts import Combine, Head, Split, Tune
from openvjepa.config.presets import FINETUNE_PRESETS, PRESETS
from openvjepa.config.pretrain import (
    ENCODER_SIZES,
    IMAGE_MASK,
    LONG_RANGE,
    SHORT_RANGE,
    DataConfig,
    EncoderDims,
    MaskConfig,
    MaskingConfig,
    ModelConfig,
    OptimConfig,
    PretrainConfig,
    TrainConfig,
)
from openvjepa.config.ranges import Range, check_ranges
from openvjepa.config.yaml import from_mapping, read_yaml, to_mapping, to_yaml

__all__ = [
    "ENCODER_SIZES",
    "FINETUNE_PRESETS",
    "IMAGE_MASK",
    "LONG_RANGE",
    "PRESETS",
    "SHORT_RANGE",
    "BenchConfig",
    "CheckConfig",
    "Combine",
    "ConvertConfig",
    "DataConfig",
    "DemoConfig",
    "EmbedConfig",
    "EncoderDims",
    "EvaluateConfig",
    "ExportConfig",
    "FinetuneConfig",
    "Head",
    "MaskConfig",
    "MaskingConfig",
    "ModelConfig",
    "ModelsConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "PredictConfig",
    "PrepareConfig",
    "PretrainConfig",
    "ProbeConfig",
    "Range",
    "ShapesConfig",
    "Split",
    "TrainConfig",
    "Tune",
    "ViewsConfig",
    "check_ranges",
    "from_mapping",
    "read_yaml",
    "to_mapping",
    "to_yaml",
]
