"""Settings of all commands: frozen dataclasses, named recipes, strict YAML. Imports neither torch nor numpy."""

from openvjepa.config.call import command, override
from openvjepa.config.clips import PROTOCOLS, EvalProtocol, Fit, Placement
from openvjepa.config.parts import (
    ClassesConfig,
    ClipConfig,
    Combine,
    ComputeConfig,
    Head,
    LabelConfig,
    LabelSource,
    LoaderConfig,
    Precision,
    RateConfig,
    Split,
    SplitConfig,
    Tune,
    part,
)
from openvjepa.config.presets import FINETUNE_PRESETS, PRESETS
from openvjepa.config.pretraining.distill import DistillConfig
from openvjepa.config.pretraining.model import ENCODER_SIZES, EncoderDims, ModelConfig
from openvjepa.config.pretraining.objective import ObjectiveConfig, ViewsConfig
from openvjepa.config.pretraining.pretrain import (
    IMAGE_MASK,
    LONG_RANGE,
    SHORT_RANGE,
    DataConfig,
    MaskConfig,
    MaskingConfig,
    OptimConfig,
    PretrainConfig,
    TrainConfig,
)
from openvjepa.config.protocol import ClipProtocol
from openvjepa.config.ranges import Config, Range, check_ranges, ranges_of
from openvjepa.config.verbs.commands import (
    BenchConfig,
    CompareConfig,
    ConvertConfig,
    DemoConfig,
    EmbedConfig,
    EvaluateConfig,
    ExportConfig,
    ModelsConfig,
    PredictConfig,
    ProbeConfig,
)
from openvjepa.config.verbs.data import CheckConfig, DivideConfig, PhysicsConfig, PrepareConfig, ShapesConfig
from openvjepa.config.verbs.finetune import FinetuneConfig
from openvjepa.config.verbs.show import PropagationConfig, ShowConfig, TrackConfig
from openvjepa.config.verbs.surprise import DecodeConfig, SurpriseConfig
from openvjepa.config.verbs.train import ClassifierConfig
from openvjepa.config.yaml import from_mapping, read_yaml, to_mapping, to_yaml

__all__ = [
    "ENCODER_SIZES",
    "FINETUNE_PRESETS",
    "IMAGE_MASK",
    "LONG_RANGE",
    "PRESETS",
    "PROTOCOLS",
    "SHORT_RANGE",
    "BenchConfig",
    "CheckConfig",
    "ClassesConfig",
    "ClassifierConfig",
    "ClipConfig",
    "ClipProtocol",
    "Combine",
    "CompareConfig",
    "ComputeConfig",
    "Config",
    "ConvertConfig",
    "DataConfig",
    "DecodeConfig",
    "DemoConfig",
    "DistillConfig",
    "DivideConfig",
    "EmbedConfig",
    "EncoderDims",
    "EvalProtocol",
    "EvaluateConfig",
    "ExportConfig",
    "FinetuneConfig",
    "Fit",
    "Head",
    "LabelConfig",
    "LabelSource",
    "LoaderConfig",
    "MaskConfig",
    "MaskingConfig",
    "ModelConfig",
    "ModelsConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "PhysicsConfig",
    "Placement",
    "Precision",
    "PredictConfig",
    "PrepareConfig",
    "PretrainConfig",
    "ProbeConfig",
    "PropagationConfig",
    "Range",
    "RateConfig",
    "ShapesConfig",
    "ShowConfig",
    "Split",
    "SplitConfig",
    "SurpriseConfig",
    "TrackConfig",
    "TrainConfig",
    "Tune",
    "ViewsConfig",
    "check_ranges",
    "command",
    "from_mapping",
    "override",
    "part",
    "ranges_of",
    "read_yaml",
    "to_mapping",
    "to_yaml",
]
