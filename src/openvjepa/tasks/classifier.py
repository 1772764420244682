"""A video classifier: frozen encoder, probe, class names, clips to look at; saved as one self-contained folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvjepa.config import from_mapping, to_mapping
from openvjepa.errors import CheckpointError, ConfigError
from openvjepa.model.encoder import Encoder
from openvjepa.tasks.heads import average_softmax
from openvjepa.tasks.plans import ClipPlan
from openvjepa.weights.files import read_metadata
from openvjepa.weights.hub import WEIGHTS, load_model, save_model
from openvjepa.weights.probes import Probe


@dataclass(frozen=True)
class VideoClassifier:
    """Encoder and probe in eval mode, the names of the classes, and the clips of a video that are averaged."""

    encoder: Encoder
    probe: Probe
    classes: tuple[str, ...]
    plan: ClipPlan

    @torch.no_grad()
    def probabilities(self, features: Tensor) -> NDArray[np.float64]:
        """Tokens of the clips of one video [V, N, D] -> probabilities [C]: the softmax of each clip, averaged."""
        device = next(self.probe.parameters()).device
        return average_softmax(self.probe(features.to(device)), len(features))[0].double().cpu().numpy()


def save_classifier(folder: Path, classifier: VideoClassifier) -> None:
    """Write a run folder that `load_model` and `load_classifier` read.

    Raises:
        CheckpointError: it cannot be written.
    """
    save_model(
        folder,
        classifier.encoder,
        probe=classifier.probe,
        labels=classifier.classes,
        plan=to_mapping(replace(classifier.plan, random=0)),
        antialias=classifier.plan.antialias,
    )


def load_classifier(run: str | Path) -> VideoClassifier:
    """The classifier of a probe's run folder.

    Raises:
        CheckpointError: missing or damaged, or the folder holds no classifier.
    """
    folder = Path(run)
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise CheckpointError(f"{folder}: {what}: give the run folder of `vjepa probe`")
    if not (folder / WEIGHTS).exists() and (folder / "results.json").exists():
        raise CheckpointError(f"{folder}: holds no classifier that can predict: probe with --kinds attentive or linear")
    model = load_model(folder)
    if model.probe is None or model.labels is None:
        raise CheckpointError(f"{folder}: an encoder without a classifier: run `vjepa probe {folder} VIDEOS` first")
    try:
        plan = from_mapping(
            ClipPlan, read_metadata(folder / WEIGHTS)["classifier"]["plan"], where=str(folder / WEIGHTS)
        )
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{folder / WEIGHTS}: its classifier cannot be read ({error})") from None
    return VideoClassifier(model.encoder, model.probe, model.labels, plan)
