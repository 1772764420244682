"""Settings of `vjepa train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from openvjepa.config.parts import ComputeConfig, LoaderConfig, RateConfig, SplitConfig
from openvjepa.config.ranges import AtLeastOne, Few, Range, Text

Minutes = Annotated[float, Range(0.05, 1e6)]


@dataclass(frozen=True)
class ClassifierConfig(SplitConfig, RateConfig, ComputeConfig, LoaderConfig):
    """Everything `vjepa train` does; saved as config.yaml in the run folder."""

    out: Text = "runs/classifier"
    """Run folder. Repeating the command goes on: encoded features and finished candidates are kept."""
    model: tuple[Text, ...] = ()
    """Encoders to compare: run folders, checkpoint files, names that `vjepa models` lists, pixels, untrained:NAME. None: raw
    pixels, an untrained encoder of the preset nano, and every published model that is downloaded and fits the memory."""
    kinds: Annotated[tuple[Literal["grid", "linear", "attentive"], ...], AtLeastOne()] = ("grid", "linear", "attentive")
    """Classifiers to compare on each encoder."""
    minutes: Minutes = 10.0
    """Time to spend; an encoder that would take longer than what is left is not tried."""
    folds: Annotated[int, Range(3, 100)] = 5
    """Parts of the training videos for cross-validation, which chooses the classifier."""
    train_views: Few = 4
    """Clips of each training video: the plain one and random ones with random crops."""
    overwrite: bool = field(default=False, kw_only=True)
    """Delete what an earlier run left in the run folder; encoded features are kept."""
