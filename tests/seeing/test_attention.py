"""Attention of a probe: an independent computation in NumPy, and relevance against finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import erf, softmax

from openvjepa.errors import ConfigError
from openvjepa.model.blocks.layers import ProbeStyle
from openvjepa.model.pooler import AttentiveClassifier, LinearClassifier
from openvjepa.seeing.attention import probe_attention

D, HEADS, CLASSES = 12, 3, 4


def make(style: ProbeStyle, depth: int = 1, *, complete: bool = True) -> AttentiveClassifier:
    torch.manual_seed(0)
    probe = AttentiveClassifier(D, HEADS, CLASSES, depth=depth, complete_block=complete, style=style).eval()
    for value in probe.parameters():
        value.data = torch.randn_like(value) * 0.5
    return probe.requires_grad_(False)


def norm(x: np.ndarray, layer: Any) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + layer.eps)
    return x * layer.weight.numpy().astype(float) + layer.bias.numpy().astype(float)


def linear(x: np.ndarray, layer: Any) -> np.ndarray:
    return x @ layer.weight.numpy().astype(float).T + layer.bias.numpy().astype(float)


def by_hand(
    probe: AttentiveClassifier, tokens: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Weights [h, N] and logits [C] of one clip [N, D] for a probe of depth 1 with a complete block."""
    block: Any = probe.pooler.cross_attention_block
    query = probe.pooler.query_tokens[0, 0].numpy().astype(float)
    x = norm(tokens, block.norm1)
    q = linear(query, block.xattn.q).reshape(HEADS, -1)
    both = linear(x, block.xattn.kv)
    keys, values = (part.reshape(len(x), HEADS, -1) for part in (both[:, :D], both[:, D:]))
    if weights is None:
        scores = np.stack([keys[:, head] @ q[head] / np.sqrt(D / HEADS) for head in range(HEADS)])
        weights = softmax(scores, axis=1)
    read = np.concatenate([weights[head] @ values[:, head] for head in range(HEADS)])
    if probe.pooler.style == "nano":
        read = linear(read, block.xattn.proj)
    state = query + read
    hidden = linear(norm(state, block.norm2), block.mlp.fc1)
    state = state + linear(hidden * 0.5 * (1 + erf(hidden / np.sqrt(2))), block.mlp.fc2)
    return weights, linear(state, probe.linear)


@pytest.mark.parametrize("style", ["v1", "nano", "v2"])
def test_weights_and_relevance_equal_an_independent_computation(style: ProbeStyle) -> None:
    probe = make(style)
    tokens = torch.randn(2, 7, D, generator=torch.Generator().manual_seed(1))
    found = probe_attention(probe, tokens, classes=(2, 0))
    assert found.heads.shape == (2, HEADS, 7)
    torch.testing.assert_close(found.heads.sum(-1), torch.ones(2, HEADS))
    torch.testing.assert_close(found.classes.sum(-1), torch.ones(2, 2))
    torch.testing.assert_close(found.logits, probe(tokens), rtol=1e-5, atol=1e-5)
    for clip in range(2):
        x = tokens[clip].double().numpy()
        weights, logits = by_hand(probe, x)
        np.testing.assert_allclose(found.heads[clip], weights, atol=1e-5)
        np.testing.assert_allclose(found.mean[clip], weights.mean(0), atol=1e-5)
        np.testing.assert_allclose(found.logits[clip], logits, atol=1e-4)
        gradient, step = np.zeros((CLASSES, HEADS, 7)), 1e-5
        for head in range(HEADS):
            for token in range(7):
                change = np.zeros_like(weights)
                change[head, token] = step
                up, down = (by_hand(probe, x, weights + sign * change)[1] for sign in (1, -1))
                gradient[:, head, token] = (up - down) / (2 * step)
        for row, number in enumerate((2, 0)):
            relevance = np.maximum(gradient[number] * weights, 0).mean(0)
            np.testing.assert_allclose(found.classes[clip, row], relevance / relevance.sum(), atol=1e-4)


@pytest.mark.parametrize("style", ["v1", "nano", "v2"])
@pytest.mark.parametrize("complete", [True, False])
def test_deep_probes(style: ProbeStyle, complete: bool) -> None:
    probe = make(style, depth=3, complete=complete)
    tokens = torch.randn(3, 5, D)
    found = probe_attention(probe, tokens, classes=range(CLASSES))
    torch.testing.assert_close(found.logits, probe(tokens), rtol=1e-4, atol=1e-4)  # so the weights are those it used
    torch.testing.assert_close(found.heads.sum(-1), torch.ones(3, HEADS))
    assert found.chosen == (0, 1, 2, 3)
    assert not found.heads.requires_grad


def test_what_has_no_attention_is_refused() -> None:
    with pytest.raises(ConfigError, match="linear probe has no attention"):
        probe_attention(LinearClassifier(D, CLASSES), torch.zeros(1, 2, D))
    with pytest.raises(ConfigError, match="numbers 0 to 3"):
        probe_attention(make("v1"), torch.zeros(1, 2, D), classes=(4,))
