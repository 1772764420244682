"""Settings of the commands around a trained encoder, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from openvjepa.config.parts import (
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
from openvjepa.errors import ConfigError


@dataclass(frozen=True)
class DemoConfig(Config):
    """What `vjepa demo` can be told."""

    out: Text = "runs/demo"
    """Folder to write; what an earlier demo left there is deleted."""
    steps: Count = 1200
    """Steps of the pretraining."""
    videos: Count = 4000
    """Videos to pretrain on."""
    train: Count = 480
    """Labeled videos to train probes on, the first of those."""
    few: Count = 160
    """Labeled videos to train probes on in a second table."""
    val: Count = 192
    """Videos to choose probes with."""
    test: Count = 384
    """Videos to report accuracy on."""
    seed: Seed = 0
    """Videos, pretraining and probes follow from it."""
    threads: Threads | None = None
    """CPU threads; None: torch's choice."""


@dataclass(frozen=True)
class ProbeConfig(SplitConfig, ClipConfig, ComputeConfig, LoaderConfig):
    """Everything `vjepa probe` does; saved as config.yaml in the run folder."""

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
    """Classifiers to train; the one that is best on validation is saved (kNN cannot be)."""
    train_views: Few = 4
    """Clips of each training video: the plain center view, and random clips with random crops (never flipped, as labels
    may tell left from right)."""
    crop_scale: Scale = (0.5, 1.0)
    """Area of the random crop as a share of the frame, least and most."""
    segments: Count = field(default=2, kw_only=True)
    """Clips along a video at evaluation; their softmax is averaged."""
    views: Count = field(default=1, kw_only=True)
    """Crops along the longer side of each clip at evaluation; their softmax is averaged."""
    epochs: Count | None = None
    """Epochs of the attentive probe, each of one view of every training video; None: 20, more for small sets (300 steps)."""
    batch_size: Count = 64
    """Clips in a step of the attentive probe."""
    lrs: Annotated[tuple[Rate, ...], AtLeastOne()] = (5e-3, 1e-3, 3e-4)
    """Learning rates of the attentive probe, all trained at once with each weight decay; cosine to 0."""
    weight_decays: Annotated[tuple[Rate, ...], AtLeastOne()] = (0.01, 0.4)
    """Weight decays of the attentive probe (none on biases and norms)."""
    cache_dir: Text | None = None
    """Folder of encoded features, which runs can share; None: features in the run folder."""
    feature_dtype: Literal["float32", "float16"] = "float32"
    """Number format of the encoded features on disk; float16 takes half the space."""
    encode_batch: Count = 32
    """Clips in one pass of the encoder."""
    label_fraction: tuple[ProperShare, ...] = ()
    """Also train with these shares of the training videos, such as 0.05 0.1 0.5: how few labels are enough?"""
    draws: Few = 3
    """Random choices of training videos for each share; at least one of each class is in each."""
    baselines: bool = True
    """Also probe raw pixels and the same encoder with random weights (this one not above 100 M parameters on a CPU)."""
    overwrite: bool = False
    """Delete what an earlier run left in the run folder; encoded features are kept."""


@dataclass(frozen=True)
class PredictConfig(ClipConfig, ComputeConfig, LoaderConfig):
    """Everything `vjepa predict` does."""

    videos: tuple[Text, ...] = ()
    """Video files, folders of them, lists or CSV files."""
    model: tuple[Text, ...] = ()
    """Classifiers: run folders of `vjepa probe` or `vjepa finetune`, or models that come with a classifier (a Hugging Face folder
    or id). The answers of several are combined."""
    top: Count = 5
    """Classes shown for each video."""
    json: bool = False
    """Print JSON, for programs."""
    combine: Literal["mean", "vote"] | None = None
    """How runs with the same classes are combined: mean of their softmax, or votes. None: mean, and where classes differ an
    answer for each set of classes."""
    window: Seconds | None = None
    """Seconds: follow long videos over time, with an answer for each window of this length."""
    stride: Seconds | None = None
    """Seconds from the start of a window to that of the next; None: half a window."""
    csv: Text | None = None
    """With window: a CSV file to write, a line for each window."""
    timeline: Text | None = None
    """With window and one video: a PNG picture to write, the probabilities over time."""
    annotate: Text | None = None
    """With window and one video: an MP4 file to write, a copy of the video with class and probability drawn on it (no sound)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("stride", "csv", "timeline", "annotate"):
            if getattr(self, name) is not None and self.window is None:
                raise ConfigError(f"{name} is for long videos: give window, the seconds of one answer, too")


@dataclass(frozen=True)
class EvaluateConfig(LabelSource, ClipConfig, ComputeConfig, LoaderConfig):
    """Everything `vjepa evaluate` does."""

    model: tuple[Text, ...] = ()
    """Classifiers: run folders of `vjepa probe` or `vjepa finetune`, or models that come with a classifier (a Hugging Face folder
    or id). Several are measured alone and together."""
    out: Text = "runs/evaluate"
    """Folder for results.json, report.html and predictions.csv."""
    split: Split = "auto"
    """Videos to look at. auto: those that are marked as test, or else all but those that a run was trained on or chosen with."""
    combine: Combine | None = None
    """How several runs are combined: mean of their softmax, or votes. None: mean, if they know the same classes."""
    group: Text | None = None
    """Column of a CSV that names the person, camera or source of each video: intervals count these in place of videos."""
    batch_size: Count = 32
    """Clips in one pass of the encoder."""
    json: bool = False
    """Print JSON, for programs."""
    overwrite: bool = False
    """Replace an earlier evaluation in the folder."""


@dataclass(frozen=True)
class EmbedConfig(LabelSource, ClipConfig, ComputeConfig, LoaderConfig):
    """Everything `vjepa embed` does."""

    source: str = ""
    """Video or image, folder, list or CSV file of them."""
    model: str = ""
    """Encoder: a name that `vjepa models` lists, a checkpoint file, a Hugging Face folder or id, or a run folder."""
    out: Text = "features.safetensors"
    """File to write; ends with .safetensors, .npz or .parquet. The index is written beside it, as NAME.jsonl."""
    what: Literal["pooled", "frames", "grid"] = "pooled"
    """Of each file: one vector, one for each time step (tubelet), or one for each token, [T', H', W', D]."""
    layer: Annotated[int, Range(-1024, 1023)] = -1
    """Block whose output is wanted, after the encoder's norm; from 0, or negative from the end."""
    segments: Count = field(default=1, kw_only=True)
    """Clips along a video; pooled: their mean, else they are kept apart."""
    views: Count = field(default=1, kw_only=True)
    """Crops along the longer side of each clip; pooled: their mean, else they are kept apart."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Number format of the features (bfloat16: .safetensors only)."""
    batch_size: Count = 32
    """Clips in one pass of the encoder."""
    overwrite: bool = False
    """Replace what is there; an unfinished run starts again."""


@dataclass(frozen=True)
class CompareConfig(Config):
    """What `vjepa compare` can be told."""

    runs: tuple[Text, ...] = ()
    """Run folders of pretrain, probe, finetune and evaluate."""
    out: Text = "runs/comparison.html"
    """HTML page to write."""
    json: bool = False
    """Print JSON, for programs."""


@dataclass(frozen=True)
class ModelsConfig(Config):
    """Everything `vjepa models` does."""

    name: Text | None = None
    """A model, for all there is to know about it; None: one line for each."""
    json: bool = False
    """Print JSON, for programs."""


@dataclass(frozen=True)
class ConvertConfig(Config):
    """Everything `vjepa convert` does."""

    source: Text
    """A name that `vjepa models` lists, a checkpoint file, a Hugging Face folder or id, or a run folder."""
    out: Text
    """meta: the file to write (NAME.pt or NAME.pth.tar; a probe goes to NAME-probe.pt beside it); else the folder."""
    to: Literal["meta", "hf", "openvjepa"]
    """meta: the layout of Meta's checkpoints. hf: a folder for transformers (`vjepa export` also tries it and adds a model
    card). openvjepa: a folder of ours."""
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
    """Everything `vjepa export` does."""

    model: Text
    """A name that `vjepa models` lists, a checkpoint file, a Hugging Face folder or id, or a run folder."""
    out: Text
    """The folder to write."""
    to: Literal["hf", "onnx"]
    """hf: a folder for transformers, with a model card. onnx: model.onnx with model.json, which says what goes in and out."""
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
    """`vjepa bench`: what to measure."""

    models: Annotated[tuple[str, ...], AtLeastOne()] = ("vit_tiny", "vit_small", "vit_base", "vit_large")
    """Encoder sizes, on clips of 16 frames of 224 px."""
    quick: bool = False
    """Less than a minute: only the first model, few repetitions."""
    batch_size: Count | None = None
    """Clips in a training step; None: 8 on a GPU, else 4 for the two smallest models and 1 for larger ones (quick: 2)."""
    out: Text | None = None
    """JSON file to write."""
    precision: Precision = field(default="auto", kw_only=True)
    """auto: bf16 where the hardware has it."""
    compile: bool = False
    """Compile the transformer blocks of the training step, as `pretrain` does with train.compile."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.models:
            if name not in ENCODER_SIZES:
                raise ConfigError(f"models {name[:40]!r} is unknown: {choose(name, ENCODER_SIZES)}")
