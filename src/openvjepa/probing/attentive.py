"""The attentive probe (Bardes et al. 2024, section 4): many at once, one for each learning rate and weight decay.

Features are arrays [n, V, N, D]: n videos, V clips (views) of each, N tokens, D channels. K probes, C classes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from openvjepa.errors import ConfigError
from openvjepa.metrics import Labels
from openvjepa.model.pooler import PROBE_EPS, AttentiveClassifier, attentive_logits, average_softmax
from openvjepa.probing.features import Features, OnEpoch, Trained, score

CLIP_NORM = 1.0  # largest gradient norm of a probe
LEAST_STEPS = 300  # of an attentive probe whose number of epochs is left open
EPOCHS = 20  # of the published probes
PATIENCE = 10  # epochs without a lower validation loss after which training stops, if they are half of all
ROWS = 256  # clips evaluated together


@dataclass(frozen=True)
class Recipe:
    """How attentive probes are trained: every learning rate with every weight decay."""

    lrs: tuple[float, ...] = (5e-3, 1e-3, 3e-4)
    weight_decays: tuple[float, ...] = (0.01, 0.4)
    epochs: int | None = None
    """None: 20 as published, but at least so many that the probe takes 300 steps (for small data sets)."""
    batch_size: int = 64
    seed: int = 0
    eps: float = PROBE_EPS
    """Of the layer norms."""
    device: torch.device | None = None
    """Where they are trained; None: the CPU."""

    def steps_per_epoch(self, videos: int) -> int:
        """Steps in which every training video is shown once."""
        return math.ceil(videos / self.batch_size)

    def epochs_for(self, videos: int) -> int:
        """Epochs on so many training videos."""
        return self.epochs or max(EPOCHS, math.ceil(LEAST_STEPS / self.steps_per_epoch(videos)))

    @property
    def grid(self) -> list[tuple[float, float]]:
        """(learning rate, weight decay) of each probe."""
        return [(lr, wd) for lr in self.lrs for wd in self.weight_decays]


def train_attentive(
    train_x: Features,
    train_y: Labels,
    val_x: Features,
    val_y: Labels,
    *,
    classes: int,
    num_heads: int,
    recipe: Recipe,
    on_epoch: OnEpoch | None = None,
) -> Trained:
    """Train a grid of attentive probes on one reading of the features; the best on validation is kept.

    AdamW, learning rate on a cosine to 0, no weight decay on biases and norms, gradient norm of each probe at most 1.
    An epoch shows every video once, through one of its views, drawn at random. All probes start from the same weights. Of each
    probe the epoch with the least validation loss counts; training ends when half of all epochs brought no lower one.

    Args:
        train_x, val_x: features [n, V, N, D].
        train_y, val_y: class numbers [n].
        classes: C.
        num_heads: attention heads; divides D.
        recipe: the grid and its schedule.
        on_epoch: called with the number of finished epochs and metrics (loss, accuracies in percent).

    Raises:
        ConfigError: D does not divide into the attention heads.
    """
    heads = make_heads(train_x.shape[-1], num_heads, classes, recipe)
    device = recipe.device or torch.device("cpu")
    for head in heads:
        head.to(device)
    epochs, steps = recipe.epochs_for(len(train_x)), recipe.steps_per_epoch(len(train_x))
    optimizer = _optimizer(heads, recipe, device)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    losses, stop = list[NDArray[np.float64]](), _EarlyStopping(heads, max(PATIENCE, epochs // 2))
    for epoch in range(epochs):
        loss, hits = _epoch(heads, (train_x, train_y), recipe, epoch, optimizer, schedule)
        losses.append(loss.double().numpy())
        scores = [score(p, val_y) for p in _grid_probabilities(heads, val_x, device)]
        stop.look(scores)
        if on_epoch:
            train_top1 = 100 * hits.numpy() / len(train_x)
            on_epoch(epoch + 1, _epoch_metrics(recipe, losses[-1], train_top1, [s[0] for s in scores]))
        if stop.done:
            break
    best = stop.restore()
    module = heads[best].cpu().eval().requires_grad_(False)
    lr, decay = recipe.grid[best]
    return Trained(
        lambda x: _grid_probabilities([module], x, torch.device("cpu"))[0],
        {"lr": lr, "weight_decay": decay, "epoch": stop.epochs[best], "val_top1": stop.scores[best][0]},
        module,
        np.stack(losses),
    )


def _epoch(
    heads: Sequence[AttentiveClassifier],
    train: tuple[Features, Labels],
    recipe: Recipe,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> tuple[Tensor, Tensor]:
    """Show every training video once; mean loss and number of right answers of each probe, [K]."""
    (x, y), device = train, next(heads[0].parameters()).device
    rng = np.random.default_rng((recipe.seed, epoch))
    order, views = rng.permutation(len(x)), rng.integers(x.shape[1], size=len(x))
    loss, hits = torch.zeros(len(heads)), torch.zeros(len(heads))
    for rows in np.array_split(order, recipe.steps_per_epoch(len(x))):
        labels = torch.from_numpy(y[rows]).to(device)
        batch_loss, batch_hits = _step(heads, _to(x[rows, views[rows]], device), labels, optimizer)
        schedule.step()
        loss += batch_loss * len(rows) / len(x)
        hits += batch_hits
    return loss, hits


def _optimizer(heads: Sequence[AttentiveClassifier], recipe: Recipe, device: torch.device) -> torch.optim.AdamW:
    groups = [_groups(head, lr, decay) for head, (lr, decay) in zip(heads, recipe.grid, strict=True)]
    fused = device.type != "mps"  # several times faster for many small tensors
    return torch.optim.AdamW([group for pair in groups for group in pair], fused=fused)


class _EarlyStopping:
    """Keeps the weights of each probe from the epoch with the least validation loss.

    Attributes:
        scores: (accuracy, -loss) of each probe in its best epoch.
        epochs: number of that epoch, from 1.
        done: whether no probe has become better for `patience` epochs.
    """

    def __init__(self, heads: Sequence[AttentiveClassifier], patience: int) -> None:
        self.heads, self.patience, self.number = heads, patience, 0
        self.scores, self.epochs = [(0.0, -math.inf)] * len(heads), [0] * len(heads)
        self._states: list[dict[str, Tensor]] = [{} for _ in heads]

    def look(self, scores: Sequence[tuple[float, float]]) -> None:
        """An epoch has ended with these scores."""
        self.number += 1
        for i, found in enumerate(scores):
            value = (0.0, -math.inf) if math.isnan(found[1]) else found  # nothing compares greater than NaN
            if value[1] > self.scores[i][1] or not self.epochs[i]:
                self.scores[i], self.epochs[i] = value, self.number
                self._states[i] = {name: tensor.clone() for name, tensor in self.heads[i].state_dict().items()}

    @property
    def done(self) -> bool:
        return self.number - max(self.epochs) >= self.patience

    def restore(self) -> int:
        """Give every probe its best weights; the number of the best probe."""
        for head, state in zip(self.heads, self._states, strict=True):
            head.load_state_dict(state)
        return max(range(len(self.heads)), key=lambda i: self.scores[i])


def make_heads(embed_dim: int, num_heads: int, classes: int, recipe: Recipe) -> list[AttentiveClassifier]:
    """One attentive probe for each point of the grid, with equal weights that follow from the seed."""
    if embed_dim % num_heads:
        raise ConfigError(f"features of {embed_dim} channels do not divide into {num_heads} attention heads")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        first = AttentiveClassifier(embed_dim, num_heads, classes, eps=recipe.eps)
    return [copy.deepcopy(first) for _ in recipe.grid]


def _groups(head: AttentiveClassifier, lr: float, decay: float) -> list[dict[str, Any]]:
    # The output projection of the cross-attention is in Meta's files, but no forward pass of V-JEPA 1 uses it.
    used = [p for name, p in head.named_parameters() if "xattn.proj" not in name]
    return [
        {"params": [p for p in used if p.ndim > 1], "lr": lr, "weight_decay": decay},
        {"params": [p for p in used if p.ndim <= 1], "lr": lr, "weight_decay": 0.0},
    ]


def _step(
    heads: Sequence[AttentiveClassifier], tokens: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer
) -> tuple[Tensor, Tensor]:
    """One step of every probe; their losses and numbers of right answers, [K] each."""
    logits = attentive_logits(heads, tokens)
    losses = torch.stack([F.cross_entropy(part, labels) for part in logits])
    optimizer.zero_grad(set_to_none=True)
    losses.sum().backward()
    for head in heads:
        nn.utils.clip_grad_norm_(head.parameters(), CLIP_NORM)
    optimizer.step()
    return losses.detach().cpu(), (logits.argmax(-1) == labels).sum(1).cpu()


@torch.inference_mode()
def _grid_probabilities(heads: Sequence[AttentiveClassifier], x: Features, device: torch.device) -> NDArray[np.float64]:
    """Class probabilities of every probe, averaged over the clips of each video: [n, V, N, D] -> [K, n, C]."""
    clips = x.shape[1]
    videos = max(1, ROWS // clips)
    parts: list[Tensor] = []
    for start in range(0, len(x), videos):
        tokens = _to(x[start : start + videos], device).flatten(0, 1)
        parts.append(average_softmax(attentive_logits(heads, tokens), clips).double().cpu())
    return torch.cat(parts, dim=1).numpy()


def _epoch_metrics(
    recipe: Recipe, losses: NDArray[np.float64], train_top1: NDArray[Any], val_top1: list[float]
) -> dict[str, float]:
    """Metrics of an epoch: those of the probe that leads on validation, then the accuracy of each."""
    best = int(np.argmax(val_top1))
    values = {"loss": float(losses[best]), "train_top1": float(train_top1[best]), "val_top1": val_top1[best]}
    return values | {f"val_top1_lr{lr:g}_wd{wd:g}": top1 for (lr, wd), top1 in zip(recipe.grid, val_top1, strict=True)}


def _to(x: Features, device: torch.device) -> Tensor:
    """A copy in float32 on the device (memory-mapped features cannot be written to)."""
    return torch.from_numpy(np.array(x, dtype=np.float32)).to(device)
