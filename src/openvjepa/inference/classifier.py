"""A video classifier: frozen encoder, probe, class names, clips to look at; saved as one self-contained folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvjepa.config import PROTOCOLS, ClipProtocol, to_mapping
from openvjepa.data.lists.index import VideoIndex, VideoRecord
from openvjepa.data.transforms import eval_views
from openvjepa.errors import CheckpointError, ConfigError, DataError
from openvjepa.features.encode import PlannedClips, encode
from openvjepa.features.novelty import FILE as NOVELTY
from openvjepa.features.novelty import Novelty, load_novelty
from openvjepa.features.sampling import ClipPlan, plan_for, stored_plan
from openvjepa.inference.predictions import Answer, Prediction, best_of
from openvjepa.model.encoder import Encoder
from openvjepa.model.pooler import average_softmax
from openvjepa.weights.hub import WEIGHTS, load_model, save_model
from openvjepa.weights.loaded import LoadedModel
from openvjepa.weights.probes import Probe

Video: TypeAlias = str | Path | NDArray[np.uint8] | Tensor
"""A file, or frames uint8 [T, H, W, 3]."""

HEADS = "heads.json"
"""In a run folder of several labels: which; each has a folder of its own in it."""


def heads_of(source: str | Path) -> tuple[str, ...]:
    """Label columns of a run with several; none of any other source.

    Raises:
        CheckpointError: the list of them cannot be read.
    """
    path = Path(source) / HEADS
    if not path.is_file():
        return ()
    try:
        return tuple(str(name) for name in json.loads(path.read_text(encoding="utf-8"))["labels"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({type(error).__name__})") from None


@dataclass(frozen=True)
class VideoClassifier:
    """Video classifier: encoder and probe in eval mode, class names, and the clip sampling of a video."""

    encoder: Encoder
    probe: Probe
    classes: tuple[str, ...]
    plan: ClipPlan
    novelty: Novelty | None = None
    """Tells videos that are unlike the training videos; None where the classifier comes without it."""

    def unlikeness(self, features: Tensor) -> float | None:
        """Tokens of the clips of one video [V, N, D] -> its distance to the training videos: above 1 it is unlike them."""
        if self.novelty is None:
            return None
        means = features.float().mean((0, 1)).cpu().numpy()
        return float(self.novelty(means[None])[0])

    @torch.no_grad()
    def probabilities(self, features: Tensor) -> NDArray[np.float64]:
        """Tokens of the clips of one video [V, N, D] -> probabilities [C]: the softmax of each clip, averaged.

        Raises:
            CheckpointError: they are not finite: the weights are damaged, or the training has diverged.
        """
        device = next(self.probe.parameters()).device
        found = average_softmax(self.probe(features.to(device)), len(features))[0].double().cpu().numpy()
        if not np.isfinite(found).all():
            raise CheckpointError(
                "the classifier's probabilities are not finite: its weights are damaged or have diverged"
            )
        return found

    def to(self, device: str | torch.device) -> VideoClassifier:
        """This classifier, with encoder and probe moved to a device."""
        self.encoder.to(device)
        self.probe.to(device)
        return self

    @overload
    def predict(self, videos: Video, *, top: int = 5) -> Prediction: ...
    @overload
    def predict(self, videos: Sequence[Video], *, top: int = 5) -> list[Prediction]: ...
    def predict(self, videos: Video | Sequence[Video], *, top: int = 5) -> Prediction | list[Prediction]:
        """The most probable classes of videos.

        Args:
            videos: a video or image file; or frames uint8 [T, H, W, 3] (numpy or torch), of which as many as a clip has are taken
                at equal distances; or a list of files and frames.
            top: classes of each prediction.

        Returns:
            A Prediction, or for a list a list of them. A file that cannot be read has an `error` and no classes.

        Raises:
            DataError: frames of another type or shape.
            ConfigError: `top` is not positive.
        """
        if top < 1:
            raise ConfigError(f"top {top}: give the number of classes, at least 1")
        if isinstance(videos, (str, Path, np.ndarray, Tensor)):
            return self._predict(videos, top)
        return [self._predict(video, top) for video in videos]

    def _predict(self, video: Video, top: int) -> Prediction:
        if isinstance(video, Tensor):
            video = video.cpu().numpy()
        if isinstance(video, np.ndarray):
            name, clips = "frames", self._clips_of(video)
        else:
            name = str(video)
            index = VideoIndex((VideoRecord(name),), None, name)
            clips, reason = PlannedClips(index, replace(self.plan, random=0))[0]
            if reason:
                return Prediction(name, (), reason)
        features = encode(self.encoder, clips)
        answer = Answer((), best_of(self.probabilities(features), self.classes, top))
        return Prediction(name, (answer,), distance=self.unlikeness(features))

    def _clips_of(self, frames: NDArray[np.uint8]) -> Tensor:
        """Clips uint8 [V, 3, T, H, W] of frames [T', H', W', 3]."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not len(frames):
            raise DataError(
                f"frames of type {frames.dtype} and shape {list(frames.shape)}: give uint8 [T, H, W, 3], RGB, 0 to 255"
            )
        places = np.linspace(0, len(frames) - 1, self.plan.spec.num_frames).round().astype(int)
        chosen = np.ascontiguousarray(frames[places])
        return torch.stack(
            eval_views(chosen, self.plan.size, self.plan.views, antialias=self.plan.antialias, fit=self.plan.fit)
        )


def save_classifier(folder: Path, classifier: VideoClassifier) -> None:
    """Write a run folder that `load_model` and `load_classifier` read.

    Raises:
        CheckpointError: it cannot be written.
    """
    spec = classifier.plan.spec
    save_model(
        folder,
        classifier.encoder,
        probe=classifier.probe,
        labels=classifier.classes,
        plan=to_mapping(replace(classifier.plan, random=0)),
        clip=ClipProtocol.of(
            classifier.encoder.config,
            frame_step=spec.frame_step,
            fps=spec.fps,
            antialias=classifier.plan.antialias,
            fit=classifier.plan.fit,
        ),
    )
    if classifier.novelty is not None:
        classifier.novelty.save(folder)
    else:
        (folder / NOVELTY).unlink(missing_ok=True)  # of an earlier classifier


def load_classifier(source: str | Path, records: tuple[VideoRecord, ...] = ()) -> VideoClassifier:
    """Load the classifier of a run of `vjepa train`, `probe` or `finetune`, or of a Hugging Face model.

    Args:
        source: a run folder, or what `load_model` reads.
        records: files that will be shown; a model that says nothing about its clips is shown images as one frame where it
            has a path for them.

    Raises:
        CheckpointError: missing or damaged, or there is no classifier.
    """
    folder = Path(source)
    if heads := heads_of(folder):
        raise CheckpointError(
            f"{folder}: holds classifiers of {', '.join(heads)}: name one of its folders, such as {folder / heads[0]}"
        )
    if not (folder / WEIGHTS).exists() and (folder / "results.json").exists():
        raise CheckpointError(
            f"{folder}: holds no classifier: run `vjepa probe` with --kinds grid, linear or attentive"
        )
    model = load_model(source)
    if model.probe is None:
        raise CheckpointError(
            f"{source}: an encoder without a classifier: run `vjepa probe VIDEOS --model {source}` first"
        )
    labels = model.labels or tuple(str(number) for number in range(model.probe.linear.out_features))
    novelty = load_novelty(folder, model.encoder.embed_dim)
    return VideoClassifier(model.encoder, model.probe, labels, _plan_of(model, folder / WEIGHTS, records), novelty)


def _plan_of(model: LoadedModel, weights: Path, records: tuple[VideoRecord, ...]) -> ClipPlan:
    """The clips that a classifier was evaluated with; of a published one, those that its accuracy was measured with."""
    if model.plan is None:
        return plan_for(model, records or (VideoRecord("video"),)).under(PROTOCOLS["published"])
    try:
        return stored_plan(model.plan, where=str(weights))
    except ConfigError as error:
        raise CheckpointError(f"{weights}: its classifier cannot be read ({error})") from None
