from .commands.compare import compare
from .commands.embed import embed
from .commands.evaluate import evaluate
from .commands.finetune import finetune
from .commands.predict import predict
from .commands.pretrain import pretrain
from .commands.probe import probe
from .commands.show import show
from .commands.track import track
from .commands.train import train_classifier
from .config import (
    ClipProtocol,
    DataConfig,
    EmbedConfig,
    EvaluateConfig,
    FinetuneConfig,
    MaskConfig,
    MaskingConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    PredictConfig,
    PretrainConfig,
    ProbeConfig,
    PropagationConfig,
    ShapesConfig,
    ShowConfig,
    TrackConfig,
    TrainConfig,
)
from .data.clips import read_clip
from .data.lists.index import VideoIndex, VideoRecord, read_index
from .data.rendered.synthetic import make_shapes
from .errors import CheckpointError, ConfigError, DataError, Interrupted, OpenVJEPAError, VideoError
from .features.encode import encode
from .inference.classifier import VideoClassifier, load_classifier
from .inference.predictions import Prediction
from .model.encoder import create_model
from .seeing.attention import ProbeAttention, attention_rows, probe_attention
from .seeing.clip_map import ClipMap, MappedClip, embed_clips, map_clips
from .seeing.pca import PcaFit, fit_pca, load_fit, save_fit
from .seeing.similarity import cosine_similarity, pack_tokens
from .seeing.tokens import ClipChoice, ClipTokens, see
from .seeing.tracking.segmentation import boundary_accuracy, region_similarity
from .seeing.tracking.track import PointTracks, frame_features, propagate, track_masks, track_points
from .version import __version__
from .weights.hub import LoadedModel, load_model, save_model
from .weights.probes import load_probe
from .weights.registry import ModelInfo, list_models

__all__ = [
    "CheckpointError",
    "ClipChoice",
    "ClipMap",
    "ClipProtocol",
    "ClipTokens",
    "ConfigError",
    "DataConfig",
    "DataError",
    "EmbedConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "Interrupted",
    "LoadedModel",
    "MappedClip",
    "MaskConfig",
    "MaskingConfig",
    "ModelConfig",
    "ModelInfo",
    "ObjectiveConfig",
    "OpenVJEPAError",
    "OptimConfig",
    "PcaFit",
    "PointTracks",
    "PredictConfig",
    "Prediction",
    "PretrainConfig",
    "ProbeAttention",
    "ProbeConfig",
    "PropagationConfig",
    "ShapesConfig",
    "ShowConfig",
    "TrackConfig",
    "TrainConfig",
    "VideoClassifier",
    "VideoError",
    "VideoIndex",
    "VideoRecord",
    "__version__",
    "attention_rows",
    "boundary_accuracy",
    "compare",
    "cosine_similarity",
    "create_model",
    "embed",
    "embed_clips",
    "encode",
    "evaluate",
    "finetune",
    "fit_pca",
    "frame_features",
    "list_models",
    "load_classifier",
    "load_fit",
    "load_model",
    "load_probe",
    "make_shapes",
    "map_clips",
    "pack_tokens",
    "predict",
    "pretrain",
    "probe",
    "probe_attention",
    "propagate",
    "read_clip",
    "read_index",
    "region_similarity",
    "save_fit",
    "save_model",
    "see",
    "show",
    "track",
    "track_masks",
    "track_points",
    "train_classifier",
]
