"""Settings of `vjepa train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from openvjepa.config.parts import ComputeConfig, LoaderConfig, RateConfig, SplitConfig
from openvjepa.config.ranges import AtLeastOne, Few, Range, Text

Minutes = Annotated[float, Range(0.05, 1e6)]


@dataclass(frozen=True)
class ClassifierConfig(SplitConfig, RateConfig, ComputeConfig, LoaderConfig):
    """Settings of `vjepa train`; saved as config.yaml in the run folder."""

    out: Text = "runs/classifier"
    """Run folder. Repeat an interrupted command to resume: cached features and finished candidates are reused."""
    model: tuple[Text, ...] = ()
    """Encoders to compare: run folders, checkpoint files, names that `vjepa models` lists, `pixels`, `untrained:NAME`. Empty:
    pixels, untrained:nano, openvjepa-small, and every published model that is already downloaded and fits in memory."""
    kinds: Annotated[tuple[Literal["grid", "linear", "attentive", "knn"], ...], AtLeastOne()] = (
        "grid",
        "linear",
        "attentive",
        "knn",
    )
    """Classifiers to compare on each encoder."""
    minutes: Minutes = 10.0
    """Time budget, minutes. Encoders that would exceed the remaining time are skipped."""
    folds: Annotated[int, Range(3, 100)] = 5
    """Folds of the cross-validation that selects the classifier."""
    train_views: Few = 4
    """Clips per training video: the center clip plus random clips with random crops."""
    overwrite: bool = field(default=False, kw_only=True)
    """Delete the results of an earlier run in the run folder. Cached features are kept."""
