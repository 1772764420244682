"""Which kernel computes attention.

In float32, and on GPUs, torch's own does. In bf16 on CPUs its backward pass takes twice the time of plain products, and on
CPUs without AMX its forward pass does, too (figures in docs/experiments/performance.md). The choice follows from type, device and
processor alone and never from a timing, so that a resumed run computes the same bits.

Shapes: B clips, h heads, N queries, M keys, d channels of a head; a pair is one head of one clip.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_BYTES = 4 * 2**20
"""Attention matrices of a thread at a time, one at least: they should stay in the caches."""


CHUNKED = True
"""Whether bf16 on CPUs uses the kernels of this file (benchmarks switch it)."""


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, by the fastest kernel for these tensors.

    Args:
        q: [B, h, N, d].
        k: [B, h, M, d].
        v: [B, h, M, d].
        mask: bool [N, M] or [B, 1, N, M], who may look at whom.

    Returns:
        [B, h, N, d].
    """
    shared = mask is None or mask.ndim == 2
    if CHUNKED and shared and q.device.type == "cpu" and q.dtype == torch.bfloat16:
        bias = None if mask is None else torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, -math.inf)
        if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
            return _ChunkedAttention.apply(q, k, v, bias)  # pyright: ignore[reportReturnType]
        return _forward(q, k, v, bias)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def describe(device: torch.device, dtype: torch.dtype) -> str:
    """The kernels that `attention` chooses, in words."""
    if device.type != "cpu" or dtype != torch.bfloat16:
        return "torch's attention"
    return f"{'torch' if _has_amx() else 'chunked'} attention forward, chunked backward"


def _has_amx() -> bool:
    """Whether torch's bf16 attention computes with AMX tiles; without, it is slower than products of its own."""
    return getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()


def _forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    if _has_amx():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return chunked_forward(q, k, v, bias)


def chunked_forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention as product, softmax, product over a few pairs at a time; shapes as for `attention`.

    `bias` [N, M] is added to the scores: 0, or -inf where a query may not look.
    """
    queries, keys, values = (_pairs(x) for x in (q, k, v))
    out = torch.empty_like(queries)
    for pairs, scores, weights in _chunks(queries, keys):
        _attend(queries[pairs], keys[pairs], bias, scores, weights)
        torch.bmm(weights, values[pairs], out=out[pairs])
    return out.view(q.shape)


def chunked_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for q, k and v, with the attention matrix computed again, a few pairs at a time.

    Args:
        grad: of the output, [B, h, N, d].
        q: as for `attention`, like k and v.
        k: [B, h, M, d].
        v: [B, h, M, d].
        bias: as for `chunked_forward`.
    """
    scale = q.shape[-1] ** -0.5
    grads, queries, keys, values = (_pairs(x) for x in (grad, q, k, v))
    dq, dk, dv = (torch.empty_like(x) for x in (queries, keys, values))
    for pairs, errors, weights in _chunks(queries, keys):
        _attend(queries[pairs], keys[pairs], bias, errors, weights)
        torch.bmm(weights.transpose(1, 2), grads[pairs], out=dv[pairs])
        torch.bmm(grads[pairs], values[pairs].transpose(1, 2), out=errors)
        torch._softmax_backward_data(errors, weights, -1, weights.dtype, grad_input=errors)  # pyright: ignore  # noqa: SLF001
        _scaled_product(errors, keys[pairs], scale, dq[pairs])
        _scaled_product(errors.transpose(1, 2), queries[pairs], scale, dk[pairs])
    return dq.view(q.shape), dk.view(k.shape), dv.view(v.shape)


def _pairs(x: Tensor) -> Tensor:
    """[B, h, N, d] -> [B h, N, d], next to one another in memory: products of slices of it need no copies."""
    return x.flatten(0, 1).contiguous()


def _attend(q: Tensor, k: Tensor, bias: Tensor | None, scores: Tensor, weights: Tensor) -> None:
    """Fills the scores [n, N, M] of n pairs, and their attention matrices."""
    _scaled_product(q, k.transpose(1, 2), q.shape[-1] ** -0.5, scores)
    if bias is not None:
        scores.add_(bias)
    torch.softmax(scores, -1, out=weights)


def _scaled_product(a: Tensor, b: Tensor, scale: float, out: Tensor) -> None:
    """out = scale a b of matrices in batches, without a pass of its own for the scale."""
    torch.baddbmm(out, a, b, beta=0, alpha=scale, out=out)


def _chunks(q: Tensor, k: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Ranges of pairs, of q [pairs, N, d] and k [pairs, M, d], and two matrices [n, N, M] to compute each in.

    These are the same memory each time, which is in the caches then.
    """
    shape = q.shape[1], k.shape[1]
    most = torch.get_num_threads() * max(1, CHUNK_BYTES // (math.prod(shape) * q.element_size()))
    first, second = (q.new_empty(min(most, len(q)), *shape) for _ in range(2))
    for start in range(0, len(q), most):
        together = min(most, len(q) - start)
        yield slice(start, start + together), first[:together], second[:together]


class _ChunkedAttention(torch.autograd.Function):
    """The forward pass keeps nothing but its input; the backward pass is `chunked_backward`."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(q, k, v, bias)
        return _forward(q, k, v, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # pyright: ignore
        return *chunked_backward(grad, *ctx.saved_tensors), None
