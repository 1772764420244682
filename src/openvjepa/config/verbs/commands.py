"""Settings of the commands that use a trained encoder, as frozen dataclasses."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from openvjepa.config.parts import (
    ClassesConfig,
    ClipConfig,
    Combine,
    ComputeConfig,
    LabelSource,
    LoaderConfig,
    Precision,
    Split,
    SplitConfig,
)
from openvjepa.config.pretraining.model import ENCODER_SIZES
from openvjepa.config.ranges import (
    AtLeastOne,
    Config,
    Count,
    Few,
    ProperShare,
    Range,
    Rate,
    Scale,
    Seconds,
    Seed,
    Text,
    Threads,
    choose,
)
from openvjepa.config.verbs.temporal import TemporalConfig
from openvjepa.errors import ConfigError

DEMO_PAIRS = 48
"""Pairs of the demo's 8 motions and 6 shapes, which come in turn."""


@dataclass(frozen=True)
class DemoConfig(Config):
    """Settings of `vjepa demo`."""

    out: Text = "runs/demo"
    """Output folder. Results of an earlier demo in it are deleted."""
    steps: Count = 1200
    """Pretraining steps."""
    videos: Count = 4000
    """Number of videos for pretraining."""
    train: Count = 480
    """Number of labeled training videos for the probes (the first of the pretraining videos)."""
    few: Count = 160
    """Number of labeled training videos in the second, few-label table."""
    val: Count = 192
    """Number of validation videos."""
    test: Count = 384
    """Number of test videos."""
    seed: Seed = 0
    """Random seed of rendering, pretraining and probes."""
    threads: Threads | None = None
    """CPU threads; None: PyTorch's default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("few", "val", "test"):
            if getattr(self, name) < DEMO_PAIRS:
                raise ConfigError(
                    f"{name} {getattr(self, name)}: give at least {DEMO_PAIRS}, so that every motion is seen with every shape"
                )
        if not self.few <= self.train <= self.videos:
            raise ConfigError(
                f"few {self.few}, train {self.train}, videos {self.videos}: few must not exceed train, and train must not "
                "exceed videos"
            )


@dataclass(frozen=True)
class ProbeConfig(SplitConfig, ClipConfig, ComputeConfig, LoaderConfig):
    """Settings of `vjepa probe`; saved as config.yaml in the run folder."""

    model: str = ""
    """Encoder: a name that `vjepa models` lists, a checkpoint file, a Hugging Face folder or id, or a run folder."""
    out: Text = "runs/probe"
    """Run folder."""
    kinds: Annotated[tuple[Literal["grid", "linear", "attentive", "knn"], ...], AtLeastOne()] = (
        "grid",
        "linear",
        "attentive",
        "knn",
    )
    """Classifiers to train. The one with the best validation accuracy is saved (kNN cannot be saved)."""
    train_views: Few = 4
    """Clips per training video: the center clip plus random clips with random crops. Clips are not flipped, because labels
    may depend on left and right."""
    crop_scale: Scale = (0.5, 1.0)
    """Range of the area of the random crop, as a fraction of the frame."""
    segments: Count = field(default=2, kw_only=True)
    """Clips per video at evaluation; their softmax outputs are averaged."""
    views: Count = field(default=1, kw_only=True)
    """Crops per clip (along the longer side) at evaluation; their softmax outputs are averaged."""
    epochs: Count | None = None
    """Epochs of the attentive probe (one view of each training video per epoch); None: 20, or more to reach 300 steps."""
    batch_size: Count = 64
    """Batch size of the attentive probe, in clips."""
    lrs: Annotated[tuple[Rate, ...], AtLeastOne()] = (5e-3, 1e-3, 3e-4)
    """Learning rates of the attentive probe; all combinations with the weight decays are trained at once. Cosine decay to 0."""
    weight_decays: Annotated[tuple[Rate, ...], AtLeastOne()] = (0.01, 0.4)
    """Weight decays of the attentive probe (not applied to biases and norms)."""
    cache_dir: Text | None = None
    """Folder of cached features, which runs can share; None: `features` in the run folder."""
    feature_dtype: Literal["float32", "float16"] = "float32"
    """Data type of the cached features; float16 halves the disk space."""
    encode_batch: Count = 32
    """Batch size of the encoder, in clips."""
    label_fraction: tuple[ProperShare, ...] = ()
    """Also train on these fractions of the training videos, such as 0.05 0.1 0.5 (label efficiency)."""
    draws: Few = 3
    """Random subsets per label fraction; each holds at least one video of every class."""
    folds: Annotated[int, Range(2, 1000)] | None = None
    """Folds of a cross-validation; groups are never divided. None: a single split, or the folds of a list that has
    a column `fold`."""
    labels: tuple[Text, ...] = ()
    """Several CSV columns in place of one `label`: one split, features encoded once, a classifier for each in OUT/COLUMN."""
    seeds: Few = 1
    """Repetitions of the cross-validation with other folds (unless the list has them), initial weights and sample order."""
    baselines: bool = True
    """Also probe raw pixels and the same encoder with random weights (on a CPU only up to 100 M parameters)."""
    overwrite: bool = False
    """Delete the results of an earlier run in the run folder. Cached features are kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds is not None and self.label_fraction:
            raise ConfigError("label_fraction takes a single split: leave out folds")
        if self.folds is not None and self.val_source is not None:
            raise ConfigError("with folds, every training video is a validation video in turn: leave out val_source")
        if self.labels and (self.label is not None or self.folds is not None):
            raise ConfigError("labels take the place of label, and allow no folds: leave these out")
        odd = [name for name in self.labels if set(name) & set("/\\:") or name[0] == "." or name == "features"]
        if odd or len(set(self.labels)) < len(self.labels):
            raise ConfigError("labels: give different columns, whose names can be names of folders")


@dataclass(frozen=True)
class PredictConfig(TemporalConfig, ClipConfig, ComputeConfig, LoaderConfig):
    """Settings of `vjepa predict`."""

    videos: tuple[Text, ...] = ()
    """Videos or images: files, folders, lists or CSV files. Or one live source: the number of a camera (0), a URL (rtsp,
    http, ...), or - for the standard input."""
    model: tuple[Text, ...] = ()
    """Classifiers: run folders of `vjepa train`, `vjepa probe` or `vjepa finetune`, or a Hugging Face folder or id with a
    classifier. Predictions of several are combined."""
    top: Count = 5
    """Classes to show per video."""
    json: bool = False
    """Print JSON, for programs."""
    combine: Literal["mean", "vote"] | None = None
    """How classifiers with the same classes are combined: mean softmax, or majority vote. None: mean; classifiers with
    different classes give separate predictions."""
    csv: Text | None = None
    """CSV file to write (needs window): one row per segment with path, start, end, label and probability, which `vjepa train`
    and `vjepa probe` read."""
    windows_csv: Text | None = None
    """CSV file to write (needs window): one row per window with the probability of every class."""
    timeline: Text | None = None
    """PNG file to write: probabilities over time (needs window and a single video)."""
    annotate: Text | None = None
    """MP4 file to write: a copy of the video with class and probability drawn on it, and its sound (needs window and a
    single video)."""

    follow: bool = False
    """Watch a folder: predict every video that appears in it, until the command is stopped."""
    idle: Seconds | None = None
    """Stop after this many seconds without a new file (needs follow); None: never."""
    drop: bool | None = None
    """Drop frames of a live source when the model is too slow, instead of lagging behind. None: yes for cameras and streams,
    no for recordings (a pipe, a file over HTTP)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.idle is not None and not self.follow:
            raise ConfigError("idle needs follow: a folder to watch")
        if not self.is_live:
            self._need_window("csv", "windows_csv", "timeline", "annotate")

    @property
    def is_live(self) -> bool:
        """Whether the one source is a camera, a URL or a pipe."""
        return len(self.videos) == 1 and is_live_name(self.videos[0])


def is_live_name(name: str) -> bool:
    """Whether a source is a camera, a URL or a pipe."""
    return (
        name == "-" or name.isdigit() or name.startswith("pipe:") or re.match(r"[a-zA-Z][\w+.-]+://", name) is not None
    )


@dataclass(frozen=True)
class EvaluateConfig(LabelSource, ClassesConfig, TemporalConfig, ClipConfig, ComputeConfig, LoaderConfig):
    """Settings of `vjepa evaluate`."""

    model: tuple[Text, ...] = ()
    """Classifiers: run folders of `vjepa train`, `vjepa probe` or `vjepa finetune`, or a Hugging Face folder or id with a
    classifier. Several are evaluated one by one and as an ensemble."""
    out: Text = "runs/evaluate"
    """Output folder for results.json, report.html and predictions.csv."""
    split: Split = "auto"
    """Split to evaluate. auto: `test` if the source marks one, otherwise all videos outside the training and validation sets
    of the classifiers."""
    combine: Combine | None = None
    """How several classifiers are combined: mean softmax, or majority vote. None: mean, if they have the same classes."""
    group: Text | None = None
    """CSV column with the person, camera or source of each video; confidence intervals then treat groups, not videos, as
    independent."""
    background: Text | None = None
    """Class of the time that no labeled segment covers (needs window); None: that time is not evaluated."""
    batch_size: Count = 32
    """Batch size of the encoder, in clips."""
    json: bool = False
    """Print JSON instead of tables."""
    overwrite: bool = False
    """Replace an earlier evaluation in the output folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._need_window("background")


@dataclass(frozen=True)
class EmbedConfig(LabelSource, ClipConfig, ComputeConfig, LoaderConfig):
    """Settings of `vjepa embed`."""

    source: str = ""
    """Videos or images: a file, folder, list or CSV file."""
    model: str = ""
    """Encoder: a name that `vjepa models` lists, a checkpoint file, a Hugging Face folder or id, or a run folder."""
    out: Text = "features.safetensors"
    """Output file: .safetensors, .npz or .parquet. The index is written next to it as NAME.jsonl."""
    what: Literal["pooled", "frames", "grid"] = "pooled"
    """Features per file: pooled: one vector; frames: one vector per time step (tubelet); grid: all tokens, [T', H', W', D]."""
    layer: Annotated[int, Range(-1024, 1023)] = -1
    """Encoder block whose output is used (from 0; negative: from the end), followed by the encoder's norm."""
    segments: Count = field(default=1, kw_only=True)
    """Clips per video. pooled: averaged; otherwise stored separately."""
    views: Count = field(default=1, kw_only=True)
    """Crops per clip, along the longer side. pooled: averaged; otherwise stored separately."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Data type of the features (bfloat16: .safetensors only)."""
    batch_size: Count = 32
    """Batch size of the encoder, in clips."""
    overwrite: bool = False
    """Replace an existing file, and restart an interrupted run from the beginning."""


@dataclass(frozen=True)
class CompareConfig(Config):
    """Settings of `vjepa compare`."""

    runs: tuple[Text, ...] = ()
    """Run folders of pretrain, train, probe, finetune and evaluate."""
    out: Text = "runs/comparison.html"
    """HTML file to write."""
    json: bool = False
    """Print JSON, for programs."""


@dataclass(frozen=True)
class ModelsConfig(Config):
    """Settings of `vjepa models`."""

    name: Text | None = None
    """Model to show in detail; None: list all models."""
    json: bool = False
    """Print JSON, for programs."""


@dataclass(frozen=True)
class ConvertConfig(Config):
    """Settings of `vjepa convert`."""

    source: Text
    """A name that `vjepa models` lists, a checkpoint file, a Hugging Face folder or id, or a run folder."""
    out: Text
    """Output. meta: a file (NAME.pt or NAME.pth.tar; a probe is written to NAME-probe.pt next to it). Otherwise a folder."""
    to: Literal["meta", "hf", "openvjepa"]
    """Layout. meta: Meta's checkpoints. hf: a transformers folder (`vjepa export` also verifies it and adds a model card).
    openvjepa: a folder with model.safetensors and model.yaml."""
    probe: Text | None = None
    """File of an attentive probe that belongs to the model, or of a published model the name of its probe."""
    probe_heads: Few | None = None
    """Attention heads of the probe, where its file does not hold them and they follow from nothing else."""
    geometry: str = ""
    """What a file of a model of your own does not hold, or shall be another: "num_heads: 3, num_frames: 8, img_size: 64"."""
    overwrite: bool = False
    """Replace what is there."""


@dataclass(frozen=True)
class ExportConfig(Config):
    """Settings of `vjepa export`."""

    model: Text
    """A name that `vjepa models` lists, a checkpoint file, a Hugging Face folder or id, or a run folder."""
    out: Text
    """Output folder."""
    to: Literal["hf", "onnx"]
    """hf: a transformers folder with a model card. onnx: model.onnx, and model.json with its inputs and outputs."""
    probe: Text | None = None
    """File of an attentive probe that belongs to the model, or of a published model the name of its probe."""
    probe_heads: Few | None = None
    """Attention heads of the probe, where its file does not hold them and they follow from nothing else."""
    geometry: str = ""
    """What a file of a model of your own does not hold, or shall be another: "num_heads: 3, num_frames: 8, img_size: 64"."""
    overwrite: bool = False
    """Replace what is there."""


@dataclass(frozen=True)
class BenchConfig(ComputeConfig):
    """Settings of `vjepa bench`."""

    models: Annotated[tuple[str, ...], AtLeastOne()] = ("vit_tiny", "vit_small", "vit_base", "vit_large")
    """Encoder sizes to measure, on clips of 16 x 224 x 224 px."""
    quick: bool = False
    """Measure only the first model, with few repetitions (less than a minute)."""
    batch_size: Count | None = None
    """Clips per training step; None: 8 on a GPU; on a CPU 4 for the two smallest models and 1 for larger ones (quick: 2)."""
    out: Text | None = None
    """JSON file to write; None: no file."""
    precision: Precision = field(default="auto", kw_only=True)
    """auto: bf16 autocast if the hardware supports it, fp16 on a GPU without bf16 (V100, T4), else fp32."""
    compile: bool = False
    """Compile the transformer blocks (torch.compile) in the training step, as `vjepa pretrain --compile` does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.models:
            if name not in ENCODER_SIZES:
                raise ConfigError(f"models {name[:40]!r} is unknown: {choose(name, ENCODER_SIZES)}")
