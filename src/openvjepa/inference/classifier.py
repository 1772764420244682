"""A video classifier: frozen encoder, probe, class names, clips to look at; saved as one self-contained folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvjepa.config import from_mapping, to_mapping
from openvjepa.data.index import VideoRecord
from openvjepa.errors import CheckpointError, ConfigError
from openvjepa.features.sampling import ClipPlan, clip_rate, plan_for
from openvjepa.model.encoder import Encoder
from openvjepa.model.pooler import average_softmax
from openvjepa.weights.files import read_metadata
from openvjepa.weights.hub import SETTINGS, WEIGHTS, load_model, save_model
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


def load_classifier(source: str | Path, records: tuple[VideoRecord, ...] = ()) -> VideoClassifier:
    """The classifier of a run of `vjepa probe` or `vjepa finetune`, or of any model that comes with one.

    Args:
        source: a run folder, or what `load_model` reads.
        records: files that will be shown; a model that says nothing about its clips is shown images as one frame where it
            has a path for them.

    Raises:
        CheckpointError: missing or damaged, or there is no classifier.
    """
    folder = Path(source)
    if not (folder / WEIGHTS).exists() and (folder / "results.json").exists():
        raise CheckpointError(f"{folder}: holds no classifier that can predict: probe with --kinds attentive or linear")
    model = load_model(source)
    if model.probe is None:
        raise CheckpointError(f"{source}: an encoder without a classifier: run `vjepa probe {source} VIDEOS` first")
    labels = model.labels or tuple(str(number) for number in range(model.probe.linear.out_features))
    stored = _stored_plan(folder / WEIGHTS) if (folder / SETTINGS).exists() else None
    plan = stored or plan_for(model, records or (VideoRecord("video"),), *clip_rate(str(source), None, None))
    return VideoClassifier(model.encoder, model.probe, labels, plan)


def _stored_plan(weights: Path) -> ClipPlan | None:
    """The clips that a classifier was evaluated with; None where the file does not say."""
    stored = read_metadata(weights).get("classifier", {}).get("plan")
    try:
        return None if stored is None else from_mapping(ClipPlan, stored, where=str(weights))
    except ConfigError as error:
        raise CheckpointError(f"{weights}: its classifier cannot be read ({error})") from None
