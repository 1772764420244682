"""A video classifier: frozen encoder, probe, class names, clips to look at; saved as one self-contained folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from openvjepa.config import from_mapping, to_mapping
from openvjepa.errors import CheckpointError, ConfigError
from openvjepa.model.encoder import Encoder
from openvjepa.model.pooler import AttentiveClassifier
from openvjepa.tasks.features import ClipPlan
from openvjepa.tasks.heads import LinearClassifier, average_softmax
from openvjepa.weights.hub import SETTINGS, WEIGHTS, load_model, load_strictly, read_tensors, write_file, write_tensors

Probe = AttentiveClassifier | LinearClassifier


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
    """Write model.safetensors (encoder.*, classifier.*; classes and clips in its metadata) and model.yaml.

    `load_model` reads the encoder from the same folder.

    Raises:
        CheckpointError: it cannot be written.
    """
    encoder, probe, plan = classifier.encoder, classifier.probe, classifier.plan
    state = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    state |= {f"classifier.{key}": value for key, value in probe.state_dict().items()}
    facts: dict[str, Any] = {"kind": "linear", "classes": classifier.classes}
    if isinstance(probe, AttentiveClassifier):
        block: Any = probe.pooler.cross_attention_block
        facts |= {"kind": "attentive", "num_heads": block.xattn.num_heads}
    settings = {"model": to_mapping(encoder.config)}
    write_file(folder / SETTINGS, yaml.safe_dump(settings, sort_keys=False).encode())
    write_tensors(folder / WEIGHTS, state, {"classifier": {**facts, "plan": to_mapping(replace(plan, random=0))}})


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
    encoder = load_model(folder).encoder
    tensors, metadata = read_tensors(folder / WEIGHTS)
    if "classifier" not in metadata:
        raise CheckpointError(f"{folder}: an encoder without a classifier: run `vjepa probe {folder} VIDEOS` first")
    facts = metadata["classifier"]
    try:
        classes = tuple(facts["classes"])
        plan = from_mapping(ClipPlan, facts["plan"], where=str(folder / WEIGHTS))
        if facts["kind"] == "attentive":
            probe: Probe = AttentiveClassifier(encoder.embed_dim, facts["num_heads"], len(classes))
        else:
            probe = LinearClassifier(encoder.embed_dim, len(classes))
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{folder / WEIGHTS}: its classifier cannot be read ({error})") from None
    state = {key.removeprefix("classifier."): value for key, value in tensors.items() if key.startswith("classifier.")}
    load_strictly(probe, state, f"{folder} (classifier)")
    return VideoClassifier(encoder, probe.eval().requires_grad_(False), classes, plan)
