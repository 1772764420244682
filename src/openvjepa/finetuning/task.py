"""What `vjepa finetune` trains: an encoder with a classifier, or a classifier on features, as the trainer sees it.

Shapes: B clips, V clips of a video, N tokens, D channels, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvjepa.config import Head
from openvjepa.data.transforms import normalize
from openvjepa.metrics import Labels
from openvjepa.model.adapters import layer_groups
from openvjepa.model.blocks.layers import CrossAttentionBlock
from openvjepa.model.encoder import Encoder
from openvjepa.model.pooler import (
    AttentiveClassifier,
    LinearClassifier,
    attentive_logits,
    probe_eps,
)
from openvjepa.train.trainer import Task
from openvjepa.weights.hub import LoadedModel
from openvjepa.weights.probes import Probe

log = logging.getLogger("openvjepa")


def make_head(model: LoadedModel, kind: Head, depth: int, classes: tuple[str, ...], *, new: bool) -> tuple[Probe, str]:
    """The classifier to start from, and in words where it comes from; random weights are torch's.

    That of the model where it has one of this kind: as it is if it knows the same classes (in any order), with a new last
    layer if it knows others, as Hugging Face's fine-tuning card has it. Otherwise a new one: in V-JEPA 2's style for rotary
    models, so that transformers can hold it, and in V-JEPA 1's for others.
    """
    wanted, labels, probe = set(classes), model.labels, model.probe
    fits = isinstance(probe, AttentiveClassifier if kind == "attentive" else LinearClassifier)
    if probe is not None and not new and not fits:
        log.warning("the classifier of %s is not %s: training a new one", model.source, kind)
    if probe is None or new or not fits:
        return _new_head(model, kind, depth, len(classes)), "new"
    if labels is not None and len(labels) == len(classes) and set(labels) == wanted:
        order = [labels.index(name) for name in classes]
        with torch.no_grad():
            probe.linear.weight.copy_(probe.linear.weight[order].clone())
            probe.linear.bias.copy_(probe.linear.bias[order].clone())
        return probe, f"of {model.source}"
    theirs = f"{len(labels)} others ({_some(labels)})" if labels else f"{probe.linear.out_features} without names"
    log.warning(
        "the labels disagree with the checkpoint: %s knows %s, the videos have %d (%s): the last layer of its classifier "
        "starts from random weights",
        model.source,
        theirs,
        len(classes),
        _some(classes),
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
    """Whether `attentive_logits` computes it."""
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
    weights: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def better(self, top1: float, loss: float) -> bool:
        """More accurate, or just as accurate with a lower loss."""
        return (top1, -loss) > (self.top1, -self.loss)


class FinetuneTask(Task):
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
        """Loss and, in percent, accuracy of a micro batch: clips uint8 [B, 3, T, H, W] or tokens [B, N, D], labels [B]."""
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
        """Normalized clips [B, 3, T, H, W], or tokens [B, N, D] where there is no encoder -> [B, C]."""
        tokens = x if self.encoder is None else self.encoder(x)
        # One query: the same numbers for a fraction of the work, where there are no blocks besides.
        return attentive_logits([self.head], tokens)[0] if _is_single(self.head) else self.head(tokens)

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
        """Nothing moves but by the optimizer."""

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
        """Put `best` back.

        Raises:
            ValueError: it does not belong to what is trained.
        """
        best, own = Best(**state), self.trained()
        fits = best.weights.keys() in (set(), own.keys()) and all(
            isinstance(value, Tensor) and value.shape == own[name].shape  # pyright: ignore[reportUnnecessaryIsInstance] (it comes from a file)
            for name, value in best.weights.items()
        )
        if not fits or type(best.step) is not int or type(best.waited) is not int or not best.top1 <= 100:
            raise ValueError("the saved best weights do not match the model")
        self.best = best

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What is trained, and `best`."""
        wanted = self.trained().keys() | {"_extra_state"}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in wanted}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Put a state back; a RuntimeError names what is missing or unexpected."""
        frozen = {name: value for name, value in super().state_dict().items() if name not in self.state_dict()}
        return super().load_state_dict(frozen | dict(state_dict), strict, assign)
