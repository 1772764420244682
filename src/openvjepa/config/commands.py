"""Settings of the commands around a trained encoder, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from openvjepa.config.parts import Combine, Split
from openvjepa.config.pretrain import ENCODER_SIZES
from openvjepa.errors import ConfigError


@dataclass(frozen=True)
class DemoConfig:
    """What `vjepa demo` can be told."""

    out: str = "runs/demo"
    """Folder to write; what an earlier demo left there is deleted."""
    steps: int = 1500
    """Steps of the pretraining."""
    train: int = 768
    """Videos to pretrain and train probes on."""
    val: int = 192
    """Videos to choose probes with."""
    test: int = 384
    """Videos to report accuracy on."""
    seed: int = 0
    """Videos, pretraining and probes follow from it."""
    threads: int | None = None
    """CPU threads; None: torch's choice."""


@dataclass(frozen=True)
class ProbeConfig:
    """Everything `vjepa probe` does; saved as config.yaml in the run folder."""

    model: str = ""
    """Encoder: the run folder of a pretraining or a checkpoint file."""
    source: str = ""
    """Folder, list or CSV file of labelled videos: those to train on, or all of them."""
    val_source: str | None = None
    """Videos to choose the best probe with; None: the split `val` of source, or a part of its training videos."""
    test_source: str | None = None
    """Videos to report the accuracy of; None: the split `test` of source, or a part of its training videos."""
    out: str = "runs/probe"
    """Run folder."""
    label: str | None = None
    """Column of a CSV that holds the label; None: the column `label`, or the only one there is."""
    kinds: tuple[Literal["attentive", "linear", "knn"], ...] = ("attentive", "linear", "knn")
    """Classifiers to train."""
    val_share: float = 0.15
    """Share of the training videos of each class that becomes the split val where none is given."""
    test_share: float = 0.15
    """Share of the training videos of each class that becomes the split test where none is given."""
    frame_step: int | None = None
    """Every n-th frame of the video; None, and fps None too: as in pretraining, else 4."""
    fps: float | None = None
    """Frames per second of a clip, by time; not together with frame_step."""
    train_views: int = 4
    """Clips of each training video: the plain centre view, and random clips with random crops (never flipped, as labels
    may tell left from right)."""
    crop_scale: tuple[float, float] = (0.5, 1.0)
    """Area of the random crop as a share of the frame, least and most."""
    segments: int = 2
    """Clips along a video at evaluation; their softmax is averaged."""
    views: int = 1
    """Crops along the longer side of each clip at evaluation; their softmax is averaged."""
    epochs: int | None = None
    """Epochs of the attentive probe, each of one view of every training video; None: 20, more for small sets (300 steps)."""
    batch_size: int = 64
    """Clips in a step of the attentive probe."""
    lrs: tuple[float, ...] = (5e-3, 1e-3, 3e-4)
    """Learning rates of the attentive probe, all trained at once with each weight decay; cosine to 0."""
    weight_decays: tuple[float, ...] = (0.01, 0.4)
    """Weight decays of the attentive probe (none on biases and norms)."""
    cache_dir: str | None = None
    """Folder of encoded features, which runs can share; None: features in the run folder."""
    feature_dtype: Literal["float32", "float16"] = "float32"
    """Number format of the encoded features on disk; float16 takes half the space."""
    encode_batch: int = 32
    """Clips in one pass of the encoder."""
    max_bad: float = 0.1
    """Share of unreadable videos at which the run stops."""
    seed: int = 0
    """Splits, views, initial weights and sample order follow from it."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Precision of the encoder; auto: bf16 autocast where the hardware has it."""
    threads: int | None = None
    """CPU threads of the model; None: torch's choice."""
    workers: int | None = None
    """Processes that load data; None: one fewer than the cores, at most 8."""
    label_fraction: tuple[float, ...] = ()
    """Also train with these shares of the training videos, such as 0.05 0.1 0.5: how few labels are enough?"""
    draws: int = 3
    """Random choices of training videos for each share; at least one of each class is in each."""
    overwrite: bool = False
    """Delete what an earlier run left in the run folder; encoded features are kept."""

    def __post_init__(self) -> None:
        if self.frame_step is not None and self.fps is not None:
            raise ConfigError("give frame_step or fps, not both")
        if not self.kinds:
            raise ConfigError("kinds is empty: name at least one of attentive, linear, knn")
        if not self.lrs or not self.weight_decays:
            raise ConfigError("lrs and weight_decays must each hold at least one number")
        for name in ("train_views", "segments", "views", "epochs", "batch_size", "encode_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1")
        if not all(0 < fraction < 1 for fraction in self.label_fraction) or self.draws < 1:
            raise ConfigError(
                "label_fraction must be above 0 and below 1 (all videos are always used too), draws at least 1"
            )
        if not (0 < self.val_share < 1 and 0 < self.test_share < 1 and self.val_share + self.test_share < 1):
            raise ConfigError("val_share and test_share must be above 0, and their sum below 1")


@dataclass(frozen=True)
class PredictConfig:
    """Everything `vjepa predict` does."""

    run: str = ""
    """Run folder of `vjepa probe` or `vjepa finetune`, or a model that comes with a classifier (a Hugging Face folder or id).
    More runs may follow; their answers are combined."""
    videos: tuple[str, ...] = ()
    """Video files, folders of them, lists or CSV files; model folders that stand before them are more runs."""
    top: int = 5
    """Classes shown for each video."""
    json: bool = False
    """Print JSON, for programs."""
    combine: Literal["mean", "vote"] | None = None
    """How runs with the same classes are combined: mean of their softmax, or votes. None: mean, and where classes differ an
    answer for each set of classes."""
    window: float | None = None
    """Seconds: follow long videos over time, with an answer for each window of this length."""
    stride: float | None = None
    """Seconds from the start of a window to that of the next; None: half a window."""
    csv: str | None = None
    """With window: a CSV file to write, a line for each window."""
    timeline: str | None = None
    """With window and one video: a PNG picture to write, the probabilities over time."""
    annotate: str | None = None
    """With window and one video: an MP4 file to write, a copy of the video with class and probability drawn on it (no sound)."""
    segments: int | None = None
    """Clips along a video, or a window; None: as many as the probe was evaluated with (in a window: 1)."""
    views: int | None = None
    """Crops along the longer side of each clip; None: as many as the probe was evaluated with."""
    frame_step: int | None = None
    """Every n-th frame of the video; None, and fps None too: as the probe was evaluated with, else 4."""
    fps: float | None = None
    """Frames per second of a clip, by time; not together with frame_step."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """auto: bf16 autocast where the hardware has it."""
    threads: int | None = None
    """CPU threads of the model; None: torch's choice."""
    workers: int | None = None
    """Processes that load data; None: one fewer than the cores, at most 8."""

    def __post_init__(self) -> None:
        if any(value is not None and value < 1 for value in (self.top, self.segments, self.views)):
            raise ConfigError("top, segments and views must be at least 1")
        if self.frame_step is not None and self.fps is not None:
            raise ConfigError("give frame_step or fps, not both")
        for name in ("stride", "csv", "timeline", "annotate"):
            if getattr(self, name) is not None and self.window is None:
                raise ConfigError(f"{name} is for long videos: give window, the seconds of one answer, too")
        for name in ("window", "stride"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name} {value} must be a number of seconds above 0")


@dataclass(frozen=True)
class EvaluateConfig:
    """Everything `vjepa evaluate` does."""

    runs: tuple[str, ...] = ()
    """Run folders of `vjepa probe` or `vjepa finetune`, or models that come with a classifier (a Hugging Face folder or id);
    after them, unless data is given, the labelled videos: a folder, list or CSV file."""
    data: str | None = None
    """Labelled videos; None: what stands last among the runs."""
    out: str = "runs/evaluate"
    """Folder for results.json, report.html and predictions.csv."""
    label: str | None = None
    """Column of a CSV that holds the label; None: the column `label`, or the only one there is."""
    split: Split = "auto"
    """Videos to look at. auto: those that are marked as test, or else all but those that a run was trained on or chosen with."""
    combine: Combine | None = None
    """How several runs are combined: mean of their softmax, or votes. None: mean, if they know the same classes."""
    segments: int | None = None
    """Clips along a video; None: as many as each run was evaluated with. More cost more."""
    views: int | None = None
    """Crops along the longer side of each clip; None: as many as each run was evaluated with. More cost more."""
    frame_step: int | None = None
    """Every n-th frame of the video; None, and fps None too: as each run was evaluated with, else 4."""
    fps: float | None = None
    """Frames per second of a clip, by time; not together with frame_step."""
    batch_size: int = 32
    """Clips in one pass of the encoder."""
    json: bool = False
    """Print JSON, for programs."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """auto: bf16 autocast where the hardware has it."""
    threads: int | None = None
    """CPU threads of the model; None: torch's choice."""
    workers: int | None = None
    """Processes that load data; None: one fewer than the cores, at most 8."""
    overwrite: bool = False
    """Replace an earlier evaluation in the folder."""

    def __post_init__(self) -> None:
        if any(value is not None and value < 1 for value in (self.segments, self.views, self.batch_size)):
            raise ConfigError("segments, views and batch_size must be at least 1")
        if self.frame_step is not None and self.fps is not None:
            raise ConfigError("give frame_step or fps, not both")


@dataclass(frozen=True)
class EmbedConfig:
    """Everything `vjepa embed` does."""

    source: str = ""
    """Video or image, folder, list or CSV file of them."""
    model: str = ""
    """Encoder: a name that `vjepa models` lists, a checkpoint file, a Hugging Face folder or id, or a run folder."""
    out: str = "features.safetensors"
    """File to write; ends with .safetensors, .npz or .parquet. The index is written beside it, as NAME.jsonl."""
    what: Literal["pooled", "frames", "grid"] = "pooled"
    """Of each file: one vector, one for each time step (tubelet), or one for each token, [T', H', W', D]."""
    layer: int = -1
    """Block whose output is wanted, after the encoder's norm; from 0, or negative from the end."""
    label: str | None = None
    """Column of a CSV that holds the label; None: the column `label`, or the only one there is."""
    segments: int = 1
    """Clips along a video; pooled: their mean, else they are kept apart."""
    views: int = 1
    """Crops along the longer side of each clip; pooled: their mean, else they are kept apart."""
    frame_step: int | None = None
    """Every n-th frame of the video; None, and fps None too: as in pretraining, else 4."""
    fps: float | None = None
    """Frames per second of a clip, by time; not together with frame_step."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Number format of the features (bfloat16: .safetensors only)."""
    batch_size: int = 32
    """Clips in one pass of the encoder."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """auto: bf16 autocast where the hardware has it."""
    threads: int | None = None
    """CPU threads of the model; None: torch's choice."""
    workers: int | None = None
    """Processes that load data; None: one fewer than the cores, at most 8."""
    overwrite: bool = False
    """Replace what is there; an unfinished run is begun anew."""

    def __post_init__(self) -> None:
        if self.frame_step is not None and self.fps is not None:
            raise ConfigError("give frame_step or fps, not both")
        if min(self.segments, self.views, self.batch_size) < 1:
            raise ConfigError("segments, views and batch_size must be at least 1")


@dataclass(frozen=True)
class ModelsConfig:
    """Everything `vjepa models` does."""

    name: str | None = None
    """A model, for all there is to know about it; None: one line for each."""
    json: bool = False
    """Print JSON, for programs."""


@dataclass(frozen=True)
class ConvertConfig:
    """Everything `vjepa convert` does."""

    source: str
    """A name that `vjepa models` lists, a checkpoint file, a Hugging Face folder or id, or a run folder."""
    out: str
    """meta: the file to write (NAME.pt or NAME.pth.tar; a probe goes to NAME-probe.pt beside it); else the folder."""
    to: Literal["meta", "hf", "openvjepa"]
    """meta: the layout of Meta's checkpoints. hf: a folder for transformers (`vjepa export` also tries it and adds a model
    card). openvjepa: a folder of ours."""
    probe: str | None = None
    """File of an attentive probe that belongs to the model, or of a published model the name of its probe."""
    geometry: str = ""
    """What a file of a model of your own does not hold, or shall be another: "num_heads: 3, num_frames: 8, img_size: 64"."""
    overwrite: bool = False
    """Replace what is there."""


@dataclass(frozen=True)
class ExportConfig:
    """Everything `vjepa export` does."""

    model: str
    """A name that `vjepa models` lists, a checkpoint file, a Hugging Face folder or id, or a run folder."""
    out: str
    """The folder to write."""
    to: Literal["hf", "onnx"]
    """hf: a folder for transformers, with a model card. onnx: model.onnx with model.json, which says what goes in and out."""
    probe: str | None = None
    """File of an attentive probe that belongs to the model, or of a published model the name of its probe."""
    geometry: str = ""
    """What a file of a model of your own does not hold, or shall be another: "num_heads: 3, num_frames: 8, img_size: 64"."""
    overwrite: bool = False
    """Replace what is there."""


@dataclass(frozen=True)
class BenchConfig:
    """`vjepa bench`: what to measure."""

    models: tuple[str, ...] = ("vit_tiny", "vit_small", "vit_base", "vit_large")
    """Encoder sizes, on clips of 16 frames of 224 px."""
    quick: bool = False
    """Less than a minute: only the first model, few repetitions."""
    batch_size: int | None = None
    """Clips in a training step; None: 8 on a GPU, else 4 for the two smallest models and 1 for larger ones (quick: 2)."""
    out: str | None = None
    """JSON file to write."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the hardware has it."""
    compile: bool = False
    """Compile the transformer blocks of the training step, as `pretrain` does with train.compile."""
    threads: int | None = None
    """CPU threads of the model; None: torch's choice."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.models if name not in ENCODER_SIZES]
        if unknown or not self.models:
            raise ConfigError(f"models {unknown}: choose from {', '.join(ENCODER_SIZES)}")
        if min(n for n in (self.batch_size, self.threads, 1) if n is not None) < 1:
            raise ConfigError("batch_size and threads must be at least 1")
