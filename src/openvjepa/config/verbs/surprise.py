"""Settings of `vjepa surprise` and `vjepa decode`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from openvjepa.config.parts import ComputeConfig, LabelConfig, RateConfig
from openvjepa.config.ranges import Count, Few, ProperShare, Range, Seconds, Seed, Text
from openvjepa.config.verbs.commands import is_live_name
from openvjepa.errors import ConfigError


@dataclass(frozen=True)
class SurpriseConfig(LabelConfig, RateConfig, ComputeConfig):
    """Settings of `vjepa surprise`."""

    videos: tuple[Text, ...] = ()
    """Videos: files, folders, lists or CSV files; with --benchmark, the folder of the benchmark. Or one live source: the number
    of a camera (0), a URL (rtsp, http, ...), or - for the standard input."""
    model: str = ""
    """Model with a predictor of masked tokens: a run of `vjepa pretrain` with masked prediction (such as --preset
    nano-masked), a checkpoint file, or a name that `vjepa models` lists."""
    out: Text = "runs/surprise"
    """Output folder for surprise.csv and surprise.html."""
    contexts: tuple[Few, ...] = ()
    """Context lengths: visible frames at the start of a window, in whole tubelets; the errors of several are averaged. Empty:
    five lengths from 1/8 to 5/8 of a window (2, 4, 6, 8 and 10 of 16)."""
    stride: Count = 2
    """Sampled frames between the starts of two windows."""
    pooling: Literal["mean", "max"] = "max"
    """Aggregation over the windows of a video. mean: for matched pairs; max: for single videos."""
    benchmark: Literal["pairs", "intphys", "grasp", "inflevel"] | None = None
    """Benchmark of matched possible and impossible videos. pairs: a folder of `vjepa data make-physics`; intphys (dev set),
    grasp, inflevel: folders in the published layouts."""
    split: Text | None = None
    """pairs: use only this split; None: all pairs."""
    annotate: bool = False
    """Write a video of the model input next to its heat map (surprise-NAME.mp4)."""
    pictures: Annotated[int, Range(0, 1000)] = 12
    """Number of videos with images in the report (those with the highest ratio)."""
    limit: Annotated[int, Range(1, 10**6)] | None = None
    """Maximum number of videos, evenly spaced over those given; None: all."""
    batch_size: Count = 8
    """Batch size, in windows."""

    normal: tuple[Text, ...] = ()
    """Detect anomalies: normal videos (files, folders, lists or CSV files) to compare with. The model may lack a predictor."""
    scores: tuple[Literal["distance", "tokens", "ratio", "surprise"], ...] = ()
    """Anomaly scores that trigger events (needs normal). distance: of a window's mean token to normal windows; tokens: of its
    most unusual tokens to normal tokens; ratio and surprise: prediction error. Empty: distance and surprise."""
    quantile: ProperShare = 0.99
    """Threshold of each anomaly score: this quantile of the windows of held-out normal videos."""
    min_run: Few = 2
    """Minimum number of consecutive windows above the threshold for an event."""
    held_out: ProperShare = 0.3
    """Share of the normal videos that is held out to set the thresholds."""
    normal_label: Text = "normal"
    """Label of normal videos, if the videos are labeled; every other label counts as anomalous."""

    stream: bool = False
    """Print a line per window as soon as it is complete, in bounded memory. Implied by cameras, URLs and pipes; a folder is
    watched for new videos."""
    idle: Seconds | None = None
    """Stop after this many seconds without a new file (needs stream and a folder); None: never."""
    drop: bool | None = None
    """Drop frames of a live source when the model is too slow, instead of lagging behind. None: yes for cameras and streams,
    no for recordings (a pipe, a file over HTTP)."""

    seed: Seed = 0
    """Random seed of untrained models, the held-out videos and the bootstrap."""
    json: bool = False
    """Print JSON instead of tables."""
    overwrite: bool = False
    """Replace the files of an earlier run in the output folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.benchmark is not None and len(self.videos) > 1:
            raise ConfigError(f"benchmark {self.benchmark}: give one folder, not {len(self.videos)}")
        if self.split is not None and self.benchmark != "pairs":
            raise ConfigError("split is for benchmark pairs")
        if self.benchmark is not None and (self.normal or self.is_stream):
            raise ConfigError(f"benchmark {self.benchmark} works on its folder alone: leave out normal and stream")
        if self.scores and not self.normal:
            raise ConfigError("scores needs normal: videos to compare with")
        if self.stream and len(self.videos) != 1:
            raise ConfigError("stream reads one source: a camera, a URL, - or a folder")
        if self.idle is not None and not self.stream:
            raise ConfigError("idle needs stream: a folder to watch")

    @property
    def is_stream(self) -> bool:
        """Whether results are printed as they come."""
        return self.stream or self.is_live

    @property
    def is_live(self) -> bool:
        """Whether the one source is a camera, a URL or a pipe."""
        return len(self.videos) == 1 and is_live_name(self.videos[0])


@dataclass(frozen=True)
class DecodeConfig(RateConfig, ComputeConfig):
    """Settings of `vjepa decode`."""

    videos: tuple[Text, ...] = ()
    """Videos to decode: files, folders, lists or CSV files."""
    model: str = ""
    """Model with a predictor of masked tokens: a run of `vjepa pretrain` with masked prediction (such as --preset
    nano-masked), a checkpoint file, or a name that `vjepa models` lists."""
    fit: tuple[Text, ...] = ()
    """Videos to fit the decoder on, different from those to decode: files, folders, lists or CSV files."""
    out: Text = "runs/decode"
    """Output folder for decode.png and decode.html."""
    context: Few | None = None
    """Number of visible frames, in whole tubelets; None: half of a window."""
    decoder: Literal["ridge", "flow"] = "ridge"
    """ridge: linear, in closed form. flow: a small transformer trained by flow matching, whose samples show what the tokens
    determine (the same in all samples) and what they leave open."""
    place: bool = True
    """Give the decoder the position of each token in the grid."""
    samples: Annotated[int, Range(1, 64)] = 4
    """flow: samples of each clip."""
    steps: Count = 1000
    """flow: training steps of 16 windows."""
    minutes: Annotated[float, Range(0.05, 1e6)] | None = None
    """flow: maximum training time, minutes; None: all steps. Ctrl-C ends the training early, too; the decoder is then used
    as it is."""
    sampling_steps: Annotated[int, Range(1, 1000)] = 10
    """flow: Euler steps of a sample."""
    pictures: Annotated[int, Range(1, 100)] = 4
    """Number of videos to draw."""
    limit: Annotated[int, Range(1, 10**6)] | None = None
    """Maximum number of videos to decode, and to fit on, evenly spaced; None: all."""
    batch_size: Count = 8
    """Batch size, in windows."""
    seed: Seed = 0
    """Random seed of untrained models and the flow decoder."""
    json: bool = False
    """Print JSON instead of tables."""
    overwrite: bool = False
    """Replace the files of an earlier run in the output folder."""
