"""What `vjepa finetune` trains: an encoder with a classifier, or a classifier on features, as the trainer sees it.

Shapes: B clips, V clips of a video, N tokens, D channels, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from openvjepa.config import Head
from openvjepa.data.index import VideoIndex
from openvjepa.data.transforms import normalize
from openvjepa.errors import DataError
from openvjepa.features.sampling import ClipPlan
from openvjepa.finetuning.batches import planned_clips
from openvjepa.model.adapters import layer_groups
from openvjepa.model.encoder import Encoder
from openvjepa.model.layers import CrossAttentionBlock
from openvjepa.model.pooler import AttentiveClassifier, LinearClassifier, probe_eps
from openvjepa.probing.heads import Labels, accuracy, average_softmax, grid_logits, log_loss
from openvjepa.train.distributed import Runtime
from openvjepa.weights.hub import LoadedModel
from openvjepa.weights.probes import Probe


def make_head(model: LoadedModel, kind: Head, depth: int, classes: tuple[str, ...], *, new: bool) -> tuple[Probe, str]:
    """The classifier to start from, and in words where it comes from; random weights are torch's.

    That of the model where it has one of this kind: as it is if it knows the same classes (in any order), with a new last
    layer if it knows others, as Hugging Face's fine-tuning card has it. Otherwise a new one: in V-JEPA 2's style for rotary
    models, so that transformers can hold it, and in V-JEPA 1's for others.
    """
    wanted, labels, probe = set(classes), model.labels, model.probe
    fits = isinstance(probe, AttentiveClassifier if kind == "attentive" else LinearClassifier)
    if probe is not None and not new and not fits:
        print(f"the classifier of {model.source} is not {kind}: a new one is trained", flush=True)
    if probe is None or new or not fits:
        return _new_head(model, kind, depth, len(classes)), "new"
    if labels is not None and len(labels) == len(classes) and set(labels) == wanted:
        order = [labels.index(name) for name in classes]
        with torch.no_grad():
            probe.linear.weight.copy_(probe.linear.weight[order].clone())
            probe.linear.bias.copy_(probe.linear.bias[order].clone())
        return probe, f"of {model.source}"
    theirs = f"{len(labels)} others ({_some(labels)})" if labels else f"{probe.linear.out_features} without names"
    print(
        f"the labels disagree with the checkpoint: {model.source} knows {theirs}, the videos have {len(classes)} "
        f"({_some(classes)}): the last layer of its classifier is made anew",
        flush=True,
    )
    probe.linear = nn.Linear(probe.linear.in_features, len(classes))
    return probe, f"of {model.source}, with a new last layer"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _new_head(model: LoadedModel, kind: Head, depth: int, classes: int) -> Probe:
    width, heads = model.encoder.embed_dim, model.encoder.num_heads
    if kind == "linear":
        return LinearClassifier(width, classes)
    style = "v1" if model.config.positions == "sincos" else "v2"
    return AttentiveClassifier(width, heads, classes, depth=depth, style=style, eps=probe_eps(model.config))


def balanced_weights(labels: Labels, classes: int) -> Tensor:
    """Weight of each class in the loss, n / (C * n_c): every class counts the same, and the mean over the videos is 1."""
    counts = np.bincount(labels, minlength=classes)
    return torch.from_numpy(len(labels) / (classes * counts)).float()


def _is_single(head: Probe) -> TypeGuard[AttentiveClassifier]:
    """Whether `grid_logits` computes it."""
    if not isinstance(head, AttentiveClassifier) or len(head.pooler.blocks) or head.pooler.style == "nano":
        return False
    return isinstance(head.pooler.cross_attention_block, CrossAttentionBlock)


@dataclass
class Best:
    """The weights that did best on validation so far; travels in the run's checkpoints."""

    step: int = -1
    """Where they are from; -1: nothing was looked at yet."""
    top1: float = -1.0
    loss: float = float("inf")
    waited: int = 0
    """Epochs since then."""
    weights: dict[str, Tensor] = field(default_factory=dict)

    def better(self, top1: float, loss: float) -> bool:
        """More accurate, or just as accurate with a lower loss."""
        return (top1, -loss) > (self.top1, -self.loss)


class FinetuneTask(nn.Module):
    """Cross-entropy of a classifier on the tokens of an encoder, or on cached features.

    Its state, for checkpoints, is what is trained and `best`: frozen weights come from the model each time.

    Args:
        encoder: prepared by `set_trainable`; None: batches hold tokens.
        head: the classifier.
        class_weights: float [C], weights of the classes in the loss; None: all 1.
        label_smoothing: share of the target that is spread over all classes.
        encoder_scale: learning rate of the encoder's last block over that of the head.
        layer_decay: see `layer_groups`.
    """

    def __init__(
        self,
        encoder: Encoder | None,
        head: Probe,
        *,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
        encoder_scale: float = 1.0,
        layer_decay: float = 1.0,
    ) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head.requires_grad_(True)
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.label_smoothing, self.encoder_scale, self.layer_decay = label_smoothing, encoder_scale, layer_decay
        self.best = Best()

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss and, in per cent, accuracy of a micro batch: clips uint8 [B, 3, T, H, W] or tokens [B, N, D], labels [B]."""
        targets = F.one_hot(batch["labels"], self.head.linear.out_features).float()
        if self.label_smoothing:
            targets = targets.lerp(torch.full_like(targets, 1 / targets.shape[1]), self.label_smoothing)
        clips = batch["tokens"] if self.encoder is None else normalize(batch["clips"])
        if "share" in batch:
            share = batch["share"].float()
            clips, targets = (share * x + (1 - share) * x[batch["partner"]] for x in (clips, targets))
        logits = self.logits(clips).float()
        # Not divided by the weights of the batch: passes that are added up must give the loss of one large batch.
        weights: Any = self.class_weights
        loss = F.cross_entropy(logits, targets, weight=weights, reduction="none").mean()
        hits = logits.detach().argmax(1) == batch["labels"]
        return {"loss": loss, "train_top1": 100 * hits.float().mean()}

    def logits(self, x: Tensor) -> Tensor:
        """Normalised clips [B, 3, T, H, W], or tokens [B, N, D] where there is no encoder -> [B, C]."""
        tokens = x if self.encoder is None else self.encoder(x)
        # One query: the same numbers for a fraction of the work, where there are no blocks besides.
        return grid_logits([self.head], tokens)[0] if _is_single(self.head) else self.head(tokens)

    def param_groups(self) -> list[dict[str, Any]]:
        """What is trained of the encoder, layer by layer, and the head; biases and 1-D parameters do not decay."""
        own = (
            [] if self.encoder is None else layer_groups(self.encoder, scale=self.encoder_scale, decay=self.layer_decay)
        )
        for decay in (True, False):
            params = [p for p in self.head.parameters() if (p.ndim > 1) == decay]
            own.append({"params": params, "decay": decay, "module": "head", "lr_scale": 1.0})
        return own

    def after_step(self, step: int) -> None:
        """Nothing moves but by the optimiser."""

    def trained(self) -> dict[str, Tensor]:
        """The parameters that are trained, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def remember(self, step: int, top1: float, loss: float) -> None:
        """Keep the present weights if they are the best so far."""
        if self.best.better(top1, loss):
            weights = {name: value.detach().cpu().clone() for name, value in self.trained().items()}
            self.best = Best(step, top1, loss, 0, weights)
        else:
            self.best.waited += 1

    @torch.no_grad()
    def restore_best(self) -> None:
        """Put the best weights in place of the present ones."""
        for name, value in self.trained().items():
            value.copy_(self.best.weights[name])

    def get_extra_state(self) -> dict[str, Any]:
        """`best`, for checkpoints."""
        return dict(vars(self.best))

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Put `best` back."""
        self.best = Best(**state)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What is trained, and `best`."""
        wanted = self.trained().keys() | {"_extra_state"}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in wanted}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Put a state back; a RuntimeError names what is missing or unexpected."""
        frozen = {name: value for name, value in super().state_dict().items() if name not in self.state_dict()}
        return super().load_state_dict(frozen | dict(state_dict), strict, assign)


@torch.no_grad()
def feature_probabilities(
    task: FinetuneTask, x: NDArray[Any], batch_size: int, runtime: Runtime
) -> NDArray[np.float64]:
    """Class probabilities [n, C] of videos with cached features [n, V, N, D]: the softmax of the clips, averaged."""
    parts, step = [], max(1, batch_size // x.shape[1])
    for start in range(0, len(x), step):
        tokens = torch.from_numpy(np.array(x[start : start + step], dtype=np.float32)).to(runtime.device)
        with runtime.autocast():
            logits = task.logits(tokens.flatten(0, 1))
        parts.append(average_softmax(logits.float(), x.shape[1]).double().cpu())
    return torch.cat(parts).numpy()


@torch.no_grad()
def clip_probabilities(
    task: FinetuneTask, index: VideoIndex, plan: ClipPlan, batch_size: int, workers: int | None, runtime: Runtime
) -> NDArray[np.float64]:
    """Class probabilities [n, C] of videos, through the encoder as it is now.

    Raises:
        DataError: a video cannot be read any more.
    """
    parts = []
    for clips, places, reasons in planned_clips(index, plan, batch_size=batch_size, workers=workers):
        for place, reason in zip(places, reasons, strict=True):
            if reason:
                raise DataError(f"{index.records[place].path}: {reason}: it could be read when the run started")
        with runtime.autocast():
            logits = task.logits(normalize(clips.flatten(0, 1).to(runtime.device)))
        parts.append(average_softmax(logits.float(), clips.shape[1]).double().cpu())
    return torch.cat(parts).numpy()


class Validation:
    """The trainer's monitor: accuracy on the validation videos after each epoch, the best weights, and when to stop.

    Args:
        task: what is trained.
        evaluate: gives the class probabilities [n, C] of the validation videos.
        labels: their classes [n].
        steps: optimiser steps of an epoch.
        patience: epochs without anything better after which the run ends; None: it never does.
        count_start: whether the weights before training may be the best (they may not where the head is new).
        show: is told (step, epoch, probabilities); for pictures.
        elapsed: seconds that the run has taken before, if it is resumed.
    """

    def __init__(
        self,
        task: FinetuneTask,
        evaluate: Callable[[], NDArray[np.float64]],
        labels: Labels,
        *,
        steps: int,
        patience: int | None,
        count_start: bool,
        show: Callable[[int, int, NDArray[np.float64]], None],
        elapsed: float = 0.0,
    ) -> None:
        self.task, self.evaluate, self.labels, self.steps = task, evaluate, labels, steps
        self.patience, self.count_start, self.show = patience, count_start, show
        self.started = time.monotonic() - elapsed

    def __call__(self, step: int) -> dict[str, float]:
        """Figures of an epoch: its number, accuracy in per cent, mean negative log likelihood, seconds since the start."""
        probabilities = self.evaluate()
        top1, loss = accuracy(probabilities, self.labels), log_loss(probabilities, self.labels)
        if step or self.count_start:
            self.task.remember(step, top1, loss)
        epoch = round(step / self.steps)
        self.show(step, epoch, probabilities)
        return {"epoch": epoch, "val_top1": top1, "val_loss": loss, "elapsed": time.monotonic() - self.started}

    def stop(self) -> bool:
        """Whether nothing better came for `patience` epochs."""
        return self.patience is not None and self.task.best.waited >= self.patience
