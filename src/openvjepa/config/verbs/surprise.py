"""Settings of `vjepa surprise` and `vjepa decode`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from openvjepa.config.parts import ComputeConfig, LabelConfig, RateConfig
from openvjepa.config.ranges import Count, Few, Range, Seed, Text
from openvjepa.errors import ConfigError


@dataclass(frozen=True)
class SurpriseConfig(LabelConfig, RateConfig, ComputeConfig):
    """Everything `vjepa surprise` does."""

    videos: tuple[Text, ...] = ()
    """Videos: files, folders, lists or CSV files; with benchmark, its folder."""
    model: str = ""
    """Model with predictor: a run folder of `vjepa pretrain`, a checkpoint file, or a name that `vjepa models` lists."""
    out: Text = "runs/surprise"
    """Folder to write: surprise.csv and surprise.html."""
    contexts: tuple[Few, ...] = ()
    """Visible frames at the start of a window, whole tubelets; several are averaged. Empty: five from 1/8 to 5/8 of a window
    (2, 4, 6, 8 and 10 of 16)."""
    stride: Count = 2
    """Sampled frames from the start of a window to that of the next."""
    pooling: Literal["mean", "max"] = "max"
    """One number of a video from its windows. mean: for matched pairs. max: for single videos."""
    benchmark: Literal["pairs", "intphys", "grasp", "inflevel"] | None = None
    """Evaluate on matched possible and impossible videos. pairs: a folder of `vjepa data make-physics`. intphys (dev), grasp
    and inflevel: those sets' own folders."""
    split: Text | None = None
    """pairs: only videos of this split; None: all pairs."""
    annotate: bool = False
    """Write a copy of each video, as the model sees it, beside its heat map (surprise-NAME.mp4)."""
    pictures: Annotated[int, Range(0, 1000)] = 12
    """Videos with pictures in the report: those with the highest ratio."""
    limit: Annotated[int, Range(1, 10**6)] | None = None
    """Most videos that are measured, evenly spread over those given; None: all."""
    batch_size: Count = 8
    """Windows in one pass."""
    seed: Seed = 0
    """Random weights of untrained:MODEL, and draws of the bootstrap, follow from it."""
    json: bool = False
    """Print JSON, for programs."""
    overwrite: bool = False
    """Replace the files of an earlier run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.benchmark is not None and len(self.videos) > 1:
            raise ConfigError(f"benchmark {self.benchmark}: give one folder, not {len(self.videos)}")
        if self.split is not None and self.benchmark != "pairs":
            raise ConfigError("split is for benchmark pairs")


@dataclass(frozen=True)
class DecodeConfig(RateConfig, ComputeConfig):
    """Everything `vjepa decode` does."""

    videos: tuple[Text, ...] = ()
    """Videos to decode: files, folders, lists or CSV files."""
    model: str = ""
    """Model with predictor: a run folder of `vjepa pretrain`, a checkpoint file, or a name that `vjepa models` lists."""
    fit: tuple[Text, ...] = ()
    """Videos to fit the decoder on, apart from those that are decoded: files, folders, lists or CSV files."""
    out: Text = "runs/decode"
    """Folder to write: decode.png and decode.html."""
    context: Few | None = None
    """Visible frames, whole tubelets; None: half of a window."""
    place: bool = True
    """The decoder knows each token's place in the grid."""
    pictures: Annotated[int, Range(1, 100)] = 4
    """Videos in the pictures."""
    limit: Annotated[int, Range(1, 10**6)] | None = None
    """Most videos that are decoded, and most that the decoder is fitted on, evenly spread; None: all."""
    batch_size: Count = 8
    """Windows in one pass."""
    seed: Seed = 0
    """Random weights of untrained:MODEL follow from it."""
    json: bool = False
    """Print JSON, for programs."""
    overwrite: bool = False
    """Replace the files of an earlier run."""
