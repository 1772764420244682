from .commands.anomalies import AnomalyResult
from .commands.bench import BenchResult, benchmark
from .commands.check import check
from .commands.compare import compare
from .commands.convert import convert
from .commands.decode import DecodeResult, decode_videos
from .commands.demo import DemoResult, demo
from .commands.distill import distill
from .commands.embed import EmbedResult, embed
from .commands.evaluate import evaluate
from .commands.export import export
from .commands.finetune import finetune
from .commands.models import ModelHere, models
from .commands.predict import predict
from .commands.pretrain import pretrain
from .commands.probe import ProbeResult, probe
from .commands.show import ShowResult, show
from .commands.surprise import SurpriseResult, surprise
from .commands.track import TrackResult, track
from .commands.train import train_classifier
from .config import (
    BenchConfig,
    CheckConfig,
    ClassifierConfig,
    ClipProtocol,
    CompareConfig,
    ConvertConfig,
    DataConfig,
    DecodeConfig,
    DemoConfig,
    DistillConfig,
    DivideConfig,
    EmbedConfig,
    EvaluateConfig,
    ExportConfig,
    FinetuneConfig,
    MaskConfig,
    MaskingConfig,
    ModelConfig,
    ModelsConfig,
    ObjectiveConfig,
    OptimConfig,
    PhysicsConfig,
    PredictConfig,
    PrepareConfig,
    PretrainConfig,
    ProbeConfig,
    PropagationConfig,
    ShapesConfig,
    ShowConfig,
    SurpriseConfig,
    TrackConfig,
    TrainConfig,
)
from .data.clips import read_clip
from .data.copies.prepare import PrepareReport, prepare
from .data.lists.check import CheckReport
from .data.lists.index import VideoIndex, VideoRecord, read_index
from .data.rendered.physics import make_physics
from .data.rendered.synthetic import make_shapes
from .data.splitting.listed import SplitReport, split_list
from .errors import CheckpointError, ConfigError, DataError, Interrupted, OpenVJEPAError, VideoError
from .features.encode import encode
from .finetuning.run import FinetuneResult
from .inference.classifier import VideoClassifier, load_classifier
from .inference.evaluation import EvaluateResult
from .inference.predictions import Prediction
from .inference.temporal.evaluation import TemporalResult
from .inference.temporal.live import LiveStream
from .model.encoder import create_model
from .reports.distill import DistillResult
from .reports.runs.compare import RunSummary
from .reports.runs.train import TrainResult
from .seeing.attention import ProbeAttention, attention_rows, probe_attention
from .seeing.clip_map import ClipMap, MappedClip, embed_clips, map_clips
from .seeing.pca import PcaFit, fit_pca, load_fit, save_fit
from .seeing.similarity import cosine_similarity, pack_tokens
from .seeing.tokens import ClipChoice, ClipTokens, see
from .seeing.tracking.segmentation import boundary_accuracy, region_similarity
from .seeing.tracking.track import PointTracks, frame_features, propagate, track_masks, track_points
from .train.trainer import FitResult
from .version import __version__
from .weights.hub import LoadedModel, load_model, save_model
from .weights.probes import load_probe
from .weights.registry import ModelInfo, list_models

__all__ = [
    "AnomalyResult",
    "BenchConfig",
    "BenchResult",
    "CheckConfig",
    "CheckReport",
    "CheckpointError",
    "ClassifierConfig",
    "ClipChoice",
    "ClipMap",
    "ClipProtocol",
    "ClipTokens",
    "CompareConfig",
    "ConfigError",
    "ConvertConfig",
    "DataConfig",
    "DataError",
    "DecodeConfig",
    "DecodeResult",
    "DemoConfig",
    "DemoResult",
    "DistillConfig",
    "DistillResult",
    "DivideConfig",
    "EmbedConfig",
    "EmbedResult",
    "EvaluateConfig",
    "EvaluateResult",
    "ExportConfig",
    "FinetuneConfig",
    "FinetuneResult",
    "FitResult",
    "Interrupted",
    "LiveStream",
    "LoadedModel",
    "MappedClip",
    "MaskConfig",
    "MaskingConfig",
    "ModelConfig",
    "ModelHere",
    "ModelInfo",
    "ModelsConfig",
    "ObjectiveConfig",
    "OpenVJEPAError",
    "OptimConfig",
    "PcaFit",
    "PhysicsConfig",
    "PointTracks",
    "PredictConfig",
    "Prediction",
    "PrepareConfig",
    "PrepareReport",
    "PretrainConfig",
    "ProbeAttention",
    "ProbeConfig",
    "ProbeResult",
    "PropagationConfig",
    "RunSummary",
    "ShapesConfig",
    "ShowConfig",
    "ShowResult",
    "SplitReport",
    "SurpriseConfig",
    "SurpriseResult",
    "TemporalResult",
    "TrackConfig",
    "TrackResult",
    "TrainConfig",
    "TrainResult",
    "VideoClassifier",
    "VideoError",
    "VideoIndex",
    "VideoRecord",
    "__version__",
    "attention_rows",
    "benchmark",
    "boundary_accuracy",
    "check",
    "compare",
    "convert",
    "cosine_similarity",
    "create_model",
    "decode_videos",
    "demo",
    "distill",
    "embed",
    "embed_clips",
    "encode",
    "evaluate",
    "export",
    "finetune",
    "fit_pca",
    "frame_features",
    "list_models",
    "load_classifier",
    "load_fit",
    "load_model",
    "load_probe",
    "make_physics",
    "make_shapes",
    "map_clips",
    "models",
    "pack_tokens",
    "predict",
    "prepare",
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
    "split_list",
    "surprise",
    "track",
    "track_masks",
    "track_points",
    "train_classifier",
]
