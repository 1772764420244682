"""Classifiers on frozen features: the attentive probe (many at once), the linear probe, nearest neighbours.

Features are arrays [n, V, N, D]: n videos, V clips (views) of each, N tokens, D channels; memory-mapped ones are read
batch by batch. K probes, C classes, h attention heads.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from openvjepa.errors import ConfigError
from openvjepa.model.pooler import PROBE_EPS, AttentiveClassifier, LinearClassifier

Features: TypeAlias = NDArray[Any]
Labels: TypeAlias = NDArray[np.int64]
OnEpoch: TypeAlias = Callable[[int, dict[str, float]], None]

CLIP_NORM = 1.0  # largest gradient norm of a probe (spec section 6)
LEAST_STEPS = 300  # of an attentive probe whose number of epochs is left open
EPOCHS = 20  # of the published probes
INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)  # scikit-learn's C, of the linear probe
SMALL = 10_000_000  # numbers in a matrix that several threads multiply no faster than one
NEIGHBOURS = (1, 5, 10, 20)
ROWS = 256  # clips looked at together where nothing is trained


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


@dataclass(frozen=True)
class Trained:
    """The probe that did best on the validation split.

    `predict` maps features [n, V, N, D] to class probabilities [n, C], averaged over the clips of a video; `module`
    maps tokens [B, N, D] to logits [B, C] where the probe can be saved. `losses` are the mean training losses
    [epochs, K].
    """

    predict: Callable[[Features], NDArray[np.float64]]
    chosen: dict[str, float]
    module: nn.Module | None = None
    losses: NDArray[np.float64] | None = None


def average_softmax(logits: Tensor, clips: int) -> Tensor:
    """Logits of clips [..., n * clips, C], the clips of a video one after the other -> probabilities [..., n, C]."""
    return logits.softmax(-1).unflatten(-2, (-1, clips)).mean(-2)


def accuracy(probabilities: NDArray[np.float64], labels: Labels) -> float:
    """Top-1 accuracy in per cent; probabilities [n, C], labels [n]."""
    return 100.0 * float((probabilities.argmax(1) == labels).mean())


def log_loss(probabilities: NDArray[np.float64], labels: Labels) -> float:
    """Mean negative log likelihood of the labels; it decides between probes of equal accuracy."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())


def grid_logits(heads: Sequence[AttentiveClassifier], tokens: Tensor) -> Tensor:
    """Logits of many attentive probes of depth 1 on the same tokens: [B, N, D] -> [K, B, C].

    The same function as calling each probe, reordered. A probe has one query, so its keys and values need not be made
    for every token: q . (W_k x + b) = (W_k' q) . x + const, where softmax ignores the constant, and
    sum a (W_v x + b) = W_v (sum a x) + b. The weights of the normalisation before them fold in likewise. What is left
    for each token is one scalar product per attention head, D / h times cheaper than keys and values.
    """
    blocks: list[Any] = [head.pooler.cross_attention_block for head in heads]
    num_heads = blocks[0].xattn.num_heads
    x = F.layer_norm(tokens, tokens.shape[-1:], eps=heads[0].pooler.eps)

    def stack(pick: Callable[[Any], Tensor]) -> Tensor:
        return torch.stack([pick(block) for block in blocks])

    scale, shift = stack(lambda b: b.norm1.weight), stack(lambda b: b.norm1.bias)  # [K, D]
    query = torch.stack([head.pooler.query_tokens[0, 0] for head in heads])  # [K, D]
    q = torch.baddbmm(stack(lambda b: b.xattn.q.bias)[..., None], stack(lambda b: b.xattn.q.weight), query[..., None])
    key, value = stack(lambda b: b.xattn.kv.weight).chunk(2, dim=1)  # [K, D, D] each
    value_bias = stack(lambda b: b.xattn.kv.bias).chunk(2, dim=1)[1]
    q, key, value = (part.unflatten(1, (num_heads, -1)) for part in (q[..., 0], key, value))  # [K, h, d(, D)]
    folded = torch.einsum("khd,khdc->khc", q, key) * scale[:, None] / math.sqrt(q.shape[-1])
    attention = (x @ folded.flatten(0, 1).T).softmax(1)  # [B, N, K h]
    pooled = (attention.transpose(1, 2) @ x).unflatten(1, (len(heads), num_heads))  # [B, K, h, D]
    pooled = pooled * scale[:, None] + shift[:, None]
    read = torch.einsum("bkhc,khdc->kbhd", pooled, value).flatten(2) + value_bias[:, None]  # [K, B, D]
    return torch.stack([_after_attention(*parts) for parts in zip(heads, blocks, query, read, strict=True)])


def _after_attention(head: AttentiveClassifier, block: Any, query: Tensor, read: Tensor) -> Tensor:
    """Residual stream, MLP and linear layer of one probe; read [B, D] -> logits [B, C]."""
    state = query + read
    return head.linear(state + block.mlp(block.norm2(state)))


def train_attentive(
    train_x: Features,
    train_y: Labels,
    val_x: Features,
    val_y: Labels,
    *,
    classes: int,
    num_heads: int,
    recipe: Recipe,
    device: torch.device | None = None,
    on_epoch: OnEpoch | None = None,
) -> Trained:
    """Train a grid of attentive probes (spec section 6) on one reading of the features; the best on validation is kept.

    AdamW, learning rate on a cosine to 0, no weight decay on biases and norms, gradient norm of each probe at most 1.
    An epoch shows every video once, through one of its views, drawn anew. All probes start from the same weights.

    Args:
        train_x, val_x: features [n, V, N, D].
        train_y, val_y: class numbers [n].
        classes: C.
        num_heads: attention heads; divides D.
        recipe: the grid and its schedule.
        device: where to train; None: the CPU.
        on_epoch: called with the number of finished epochs and figures (loss, accuracies in per cent).

    Raises:
        ConfigError: D does not divide into the attention heads.
    """
    heads = make_heads(train_x.shape[-1], num_heads, classes, recipe)
    device = device or torch.device("cpu")
    for head in heads:
        head.to(device)
    epochs, steps = recipe.epochs_for(len(train_x)), recipe.steps_per_epoch(len(train_x))
    groups = [_groups(head, lr, decay) for head, (lr, decay) in zip(heads, recipe.grid, strict=True)]
    fused = device.type != "mps"  # several times faster for many small tensors
    optimizer = torch.optim.AdamW([group for pair in groups for group in pair], fused=fused)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    losses, score = [], []
    for epoch in range(epochs):
        rng = np.random.default_rng((recipe.seed, epoch))
        order, views = rng.permutation(len(train_x)), rng.integers(train_x.shape[1], size=len(train_x))
        loss, hits = torch.zeros(len(heads)), torch.zeros(len(heads))
        for rows in np.array_split(order, steps):
            tokens = _to(train_x[rows, views[rows]], device)
            labels = torch.from_numpy(train_y[rows]).to(device)
            batch_loss, batch_hits = _step(heads, tokens, labels, optimizer)
            schedule.step()
            loss += batch_loss * len(rows) / len(train_x)
            hits += batch_hits
        losses.append(loss.double().numpy())
        score = [_score(p, val_y) for p in _grid_probabilities(heads, val_x, device)]
        if on_epoch:
            on_epoch(epoch + 1, _figures(recipe, losses[-1], 100 * hits.numpy() / len(train_x), [s[0] for s in score]))
    best = max(range(len(heads)), key=lambda i: score[i])
    module = heads[best].cpu().eval().requires_grad_(False)
    lr, decay = recipe.grid[best]
    return Trained(
        lambda x: _grid_probabilities([module], x, torch.device("cpu"))[0],
        {"lr": lr, "weight_decay": decay, "val_top1": score[best][0]},
        module,
        np.stack(losses),
    )


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
    logits = grid_logits(heads, tokens)
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
    parts = []
    for start in range(0, len(x), videos):
        tokens = _to(x[start : start + videos], device).flatten(0, 1)
        parts.append(average_softmax(grid_logits(heads, tokens), clips).double().cpu())
    return torch.cat(parts, dim=1).numpy()


def _score(probabilities: NDArray[np.float64], labels: Labels) -> tuple[float, float]:
    """What the best probe has most of: accuracy in per cent, then likelihood."""
    return accuracy(probabilities, labels), -log_loss(probabilities, labels)


def _figures(
    recipe: Recipe, losses: NDArray[np.float64], train_top1: NDArray[Any], val_top1: list[float]
) -> dict[str, float]:
    """Figures of an epoch: those of the probe that leads on validation, then the accuracy of each."""
    best = int(np.argmax(val_top1))
    figures = {"loss": float(losses[best]), "train_top1": float(train_top1[best]), "val_top1": val_top1[best]}
    return figures | {f"val_top1_lr{lr:g}_wd{wd:g}": top1 for (lr, wd), top1 in zip(recipe.grid, val_top1, strict=True)}


def _to(x: Features, device: torch.device) -> Tensor:
    """A copy in float32 on the device (memory-mapped features cannot be written to)."""
    return torch.from_numpy(np.array(x, dtype=np.float32)).to(device)


def mean_tokens(x: Features) -> NDArray[np.float64]:
    """Mean of the tokens of each clip: [n, V, N, D] -> [n, V, D]."""
    return np.stack([np.asarray(video, dtype=np.float64).mean(1) for video in x])


@dataclass(frozen=True)
class Scaler:
    """Takes the mean tokens of the training clips to mean 0 and standard deviation 1, channel by channel."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @classmethod
    def of(cls, train: NDArray[np.float64]) -> Scaler:
        """Statistics of training features [n, V, D], and of nothing else. A constant channel is only centred."""
        std = train.std((0, 1))
        return cls(train.mean((0, 1)), np.where(std > 1e-8, std, 1.0))

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """[n, V, D] -> [n, V, D]."""
        return (x - self.mean) / self.std


def train_linear(
    train_x: NDArray[np.float64], train_y: Labels, val_x: NDArray[np.float64], val_y: Labels, *, classes: int
) -> Trained:
    """Multinomial logistic regression on standardised mean tokens, all views of the training videos.

    The problem is convex and solved to the end (L-BFGS, scikit-learn), so that no learning rate or number of epochs can
    favour one encoder over another; the penalty is chosen on validation.

    Args:
        train_x, val_x: mean tokens [n, V, D].
        train_y, val_y: class numbers [n], every class occurring in train_y.
        classes: C.
    """
    scaler = Scaler.of(train_x)
    rows, labels = scaler(train_x).reshape(-1, train_x.shape[-1]), np.repeat(train_y, train_x.shape[1])
    best: tuple[tuple[float, float], float, LinearClassifier] | None = None
    for penalty in INVERSE_PENALTIES:
        with warnings.catch_warnings(), threadpool_limits(1 if rows.size < SMALL else None):
            warnings.simplefilter("ignore", ConvergenceWarning)  # a loose penalty may need more steps than it is worth
            solved = LogisticRegression(C=penalty, max_iter=1000).fit(rows, labels)
        module = _linear_module(solved, scaler, classes)
        score = _score(_linear_probabilities(module, val_x), val_y)
        if best is None or score > best[0]:
            best = score, penalty, module
    assert best is not None
    score, penalty, module = best
    return Trained(
        lambda x: _linear_probabilities(module, mean_tokens(x)), {"C": penalty, "val_top1": score[0]}, module
    )


def _linear_module(solved: LogisticRegression, scaler: Scaler, classes: int) -> LinearClassifier:
    """The solution as a layer on the mean tokens themselves, with the standardisation folded into its weights."""
    weight, bias = np.asarray(solved.coef_), np.asarray(solved.intercept_)
    if classes == 2:  # scikit-learn keeps one row: the log odds of the second class
        weight, bias = np.stack([np.zeros_like(weight[0]), weight[0]]), np.array([0.0, bias[0]])
    weight = weight / scaler.std
    module = LinearClassifier(weight.shape[1], classes)
    with torch.no_grad():
        module.linear.weight.copy_(torch.from_numpy(weight))
        module.linear.bias.copy_(torch.from_numpy(bias - weight @ scaler.mean))
    return module.eval().requires_grad_(False)


def _linear_probabilities(module: LinearClassifier, means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean tokens [n, V, D] -> probabilities [n, C]."""
    logits = module.linear(torch.from_numpy(means.reshape(-1, means.shape[-1])).float())
    return average_softmax(logits, means.shape[1]).double().numpy()


def train_knn(
    train_x: NDArray[np.float64], train_y: Labels, val_x: NDArray[np.float64], val_y: Labels, *, classes: int
) -> Trained:
    """Vote of the nearest plain training clips by cosine of standardised mean tokens, near ones counting more.

    The number of neighbours is chosen on validation. Arguments as for `train_linear`; the first view of a training
    video is its plain one.
    """
    scaler = Scaler.of(train_x)
    rows = scaler(train_x[:, :1])[:, 0]

    def probabilities(model: KNeighborsClassifier, means: NDArray[np.float64]) -> NDArray[np.float64]:
        votes = np.asarray(model.predict_proba(scaler(means).reshape(-1, means.shape[-1])))
        full = np.zeros((len(votes), classes))
        full[:, model.classes_] = votes
        return full.reshape(len(means), -1, classes).mean(1)

    fitted = {
        k: KNeighborsClassifier(k, metric="cosine", weights="distance").fit(rows, train_y)
        for k in sorted({min(k, len(rows)) for k in NEIGHBOURS})
    }
    scores = {k: _score(probabilities(model, val_x), val_y) for k, model in fitted.items()}
    best = max(scores, key=lambda k: scores[k])
    return Trained(lambda x: probabilities(fitted[best], mean_tokens(x)), {"k": best, "val_top1": scores[best][0]})
