"""Where an attentive probe looks: the attention of its query, and which tokens speak for a class.

Shapes: B clips, N tokens of D channels, h heads, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvjepa.errors import ConfigError
from openvjepa.model.blocks.layers import CrossAttention, CrossAttentionBlock, heads_first
from openvjepa.model.pooler import AttentiveClassifier
from openvjepa.seeing.tokens import ClipTokens
from openvjepa.weights.hub import LoadedModel
from openvjepa.weights.probes import Probe

_LINEAR = "a linear probe has no attention: train one with `vjepa probe --kinds attentive`"


@dataclass(frozen=True, eq=False)
class ProbeAttention:
    """Attention of a probe over the tokens of clips; every row sums to 1."""

    heads: Tensor
    """Softmax weights of each head, [B, h, N]."""
    classes: Tensor
    """Relevance of each token to each chosen class, [B, len(chosen), N]; a row is 0 where no token speaks for the class."""
    chosen: tuple[int, ...]
    """Numbers of the classes."""
    logits: Tensor
    """[B, C]"""

    @property
    def mean(self) -> Tensor:
        """Mean over the heads, [B, N]."""
        return self.heads.mean(1)


def probe_attention(probe: Probe, tokens: Tensor, classes: Sequence[int] = ()) -> ProbeAttention:
    """Attention weights of the query of an attentive probe per head, and the relevance of tokens for classes.

    Relevance is attention times its gradient of the class's logit, where positive, averaged over the heads (Chefer, Gur and
    Wolf 2021, equation 5) and scaled to sum to 1. The attention alone is the same for all classes: the probe has one query.

    Args:
        probe: of a `LoadedModel` or `VideoClassifier`.
        tokens: float [B, N, D], the encoder's output.
        classes: numbers of the classes whose relevance is wanted.

    Raises:
        ConfigError: the probe is linear and has no attention, or there is no such class.
    """
    if not isinstance(probe, AttentiveClassifier):
        raise ConfigError(_LINEAR)
    count = probe.linear.out_features
    if any(not 0 <= number < count for number in classes):
        raise ConfigError(f"classes {list(classes)}: the probe has numbers 0 to {count - 1}")
    pooler = probe.pooler
    device = next(probe.parameters()).device
    with torch.enable_grad():
        x = tokens.to(device).detach()
        if pooler.style == "v2":
            for block in pooler.blocks:
                x = block(x)
        weights, logits = _attend(probe, x.detach())
        rows = [_relevance(logits[:, number], weights) for number in classes]
    relevance = torch.stack(rows, 1) if rows else weights.new_zeros(len(x), 0, x.shape[1])
    return ProbeAttention(
        weights.detach().squeeze(2).cpu(), relevance.detach().cpu(), tuple(classes), logits.detach().cpu()
    )


def _attend(probe: AttentiveClassifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """Attention weights [B, h, N] that the logits [B, C] can be differentiated by; x [B, N, D]."""
    pooler = probe.pooler
    block = pooler.cross_attention_block
    query = pooler.query_tokens.expand(len(x), -1, -1)
    complete = isinstance(block, CrossAttentionBlock)
    attention = block.xattn if complete else block
    assert isinstance(attention, CrossAttention)
    q = heads_first(attention.q(query), attention.num_heads)
    k, v = (
        heads_first(part, attention.num_heads) for part in attention.kv(block.norm1(x) if complete else x).chunk(2, -1)
    )
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)  # [B, h, 1, N]
    weights = weights.detach().requires_grad_()
    read = (weights @ v).transpose(1, 2).flatten(2)
    if attention.style == "nano" and attention.proj is not None:
        read = attention.proj(read)
    if complete:
        query = query + read
        query = query + block.mlp(block.norm2(query))
    else:
        query = read
    if pooler.style != "v2":
        for later in pooler.blocks:
            query = later(query)
    return weights, probe.linear(query[:, 0])


def _relevance(logit: Tensor, weights: Tensor) -> Tensor:
    """Logits [B] of one class, weights [B, h, 1, N] -> relevance [B, N]."""
    (gradient,) = torch.autograd.grad(logit.sum(), weights, retain_graph=True)
    relevance = (gradient * weights.detach()).clamp_min(0).mean(1)[:, 0]
    return relevance / relevance.sum(-1, keepdim=True).clamp_min(1e-30)


def check_probe(model: LoadedModel) -> AttentiveClassifier:
    """The attentive probe of a model.

    Raises:
        ConfigError: it has none.
    """
    if model.probe is None:
        raise ConfigError(f"{model.source}: an encoder without a probe: run `vjepa probe {model.source} VIDEOS` first")
    if not isinstance(model.probe, AttentiveClassifier):
        raise ConfigError(f"{model.source}: {_LINEAR}")
    return model.probe


@dataclass(frozen=True, eq=False)
class AttentionRow:
    """One map over the tokens of a clip; it sums to 1."""

    name: str
    values: NDArray[np.float64]
    """[t, h, w]"""


def attention_rows(
    clip: ClipTokens, model: LoadedModel, kind: Literal["classes", "heads"] = "classes", classes: Sequence[str] = ()
) -> list[AttentionRow]:
    """Attention of a model's probe over a clip: the mean over heads, then one row per class or head.

    Args:
        clip: seen by this model.
        model: with an attentive probe, such as a run of `vjepa probe` or `vjepa finetune`.
        kind: what the rows after the mean are.
        classes: names of the classes; empty: the most probable of this clip.

    Raises:
        ConfigError: the model has no attentive probe, the clip is of another layer than the last, or no such class.
    """
    probe = check_probe(model)
    if clip.layer not in (-1, len(model.encoder.blocks) - 1):
        raise ConfigError(f"a probe reads the last layer, not {clip.layer}: leave layer out")
    labels = list(model.labels or map(str, range(probe.linear.out_features)))
    unknown = [name for name in classes if name not in labels]
    if unknown:
        raise ConfigError(f"no class {unknown[0]!r}: the probe has {', '.join(labels[:20])}")
    tokens = torch.from_numpy(clip.tokens).flatten(0, 2)[None]
    with torch.no_grad():
        share = probe(tokens.to(next(probe.parameters()).device)).softmax(-1)[0].cpu()
    numbers = [labels.index(name) for name in classes] or [int(share.argmax())]
    found = probe_attention(probe, tokens, numbers if kind == "classes" else ())
    grid = clip.grid.shape
    rows = [AttentionRow("attention, mean over the heads", found.mean[0].double().reshape(grid).numpy())]
    if kind == "heads":
        names = [f"attention of head {number + 1}" for number in range(found.heads.shape[1])]
        parts = found.heads[0]
    else:
        names = [f"relevance for {labels[number]} ({100 * share[number]:.0f} % probable)" for number in numbers]
        parts = found.classes[0]
    return rows + [
        AttentionRow(name, part.double().reshape(grid).numpy()) for name, part in zip(names, parts, strict=True)
    ]
