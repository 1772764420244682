"""The attention kernels against torch's, and where each is used."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from openvjepa.config import ModelConfig
from openvjepa.grid import TokenGrid
from openvjepa.model.blocks import kernels
from openvjepa.model.blocks.layers import Attention
from openvjepa.model.blocks.positions import rope_of

SHAPES = [(2, 3, 37, 16), (1, 5, 64, 32), (3, 1, 9, 8)]  # clips, heads, tokens, channels


def tensors(shape: tuple[int, int, int, int], dtype: torch.dtype, keys: int | None = None) -> list[Tensor]:
    """q, k, v as a layer makes them: views whose heads lie inside the tokens; then a gradient of the output."""
    b, h, n, d = shape
    generator = torch.Generator().manual_seed(n)
    lengths = (n, keys or n, keys or n, n)
    drawn = [torch.randn(b, length, h, d, generator=generator).to(dtype).transpose(1, 2) for length in lengths]
    return [x.requires_grad_() for x in drawn[:3]] + drawn[3:]


def reference(q: Tensor, k: Tensor, v: Tensor, grad: Tensor, mask: Tensor | None = None) -> list[Tensor]:
    """Output and gradients in float64, written out."""
    q, k, v = (x.detach().double().requires_grad_() for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    out = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1) @ v
    return [out, *torch.autograd.grad(out, (q, k, v), grad.double())]


@pytest.fixture(params=[1, 2**12, 2**30], ids=["pair by pair", "a few", "all at once"])
def chunk_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "CHUNK_BYTES", request.param)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # 6, 5 and 3 pairs: the last chunk is a smaller one


@pytest.mark.usefixtures("chunk_bytes")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("keys", [None, 21])
def test_chunked_float32_is_attention(shape: tuple[int, int, int, int], keys: int | None) -> None:
    q, k, v, grad = tensors(shape, torch.float32, keys)
    with torch.no_grad():
        ours = [kernels.chunked_forward(q, k, v), *kernels.chunked_backward(grad, q, k, v)]
    for mine, true in zip(ours, reference(q, k, v, grad), strict=True):
        torch.testing.assert_close(mine.double(), true, rtol=0, atol=2e-6)


@pytest.mark.usefixtures("chunk_bytes")
@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_is_as_close_as_torch(
    shape: tuple[int, int, int, int], amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_has_amx", lambda: amx)
    q, k, v, grad = tensors(shape, torch.bfloat16)
    out = kernels.attention(q, k, v)
    ours = [out, *torch.autograd.grad(out, (q, k, v), grad)]
    theirs = F.scaled_dot_product_attention(q, k, v)
    for mine, torchs, true in zip(
        ours, [theirs, *torch.autograd.grad(theirs, (q, k, v), grad)], reference(q, k, v, grad), strict=True
    ):
        assert mine.dtype == torch.bfloat16
        assert mine.shape == true.shape
        assert (mine - true).abs().mean() < 2 * (torchs - true).abs().mean() + 1e-4


@pytest.mark.usefixtures("chunk_bytes")
@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_with_a_mask(shape: tuple[int, int, int, int], amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_has_amx", lambda: amx)
    q, k, v, grad = tensors(shape, torch.bfloat16)
    mask = torch.ones(shape[2], shape[2], dtype=torch.bool).tril()
    out = kernels.attention(q, k, v, mask)
    with torch.no_grad():
        assert torch.equal(kernels.attention(q, k, v, mask), out)
    ours = [out, *torch.autograd.grad(out, (q, k, v), grad)]
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    for mine, torchs, true in zip(
        ours, [theirs, *torch.autograd.grad(theirs, (q, k, v), grad)], reference(q, k, v, grad, mask), strict=True
    ):
        assert (mine - true).abs().mean() < 2 * (torchs - true).abs().mean() + 1e-4


@pytest.mark.parametrize("masks", ["none", "one for all", "one for each clip"])
def test_what_uses_torchs_kernel_to_the_bit(masks: str) -> None:
    """float32, and masks that differ from clip to clip."""
    for dtype in [torch.bfloat16, torch.float32] if masks == "one for each clip" else [torch.float32]:
        q, k, v, grad = tensors(SHAPES[0], dtype)
        mask = None if masks == "none" else torch.ones(37, 37, dtype=torch.bool).tril()
        mask = mask.expand(2, 1, 37, 37) if mask is not None and masks == "one for each clip" else mask
        ours, theirs = kernels.attention(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        assert torch.equal(ours, theirs)
        for mine, torchs in zip(
            torch.autograd.grad(ours, (q, k, v), grad), torch.autograd.grad(theirs, (q, k, v), grad), strict=True
        ):
            assert torch.equal(mine, torchs)


def test_layer_with_rope_in_bf16_is_near_float32() -> None:
    torch.manual_seed(0)
    layer, x = Attention(48, 4), torch.randn(2, 32, 48)
    config = ModelConfig(arch="vit_femto", embed_dim=48, num_heads=4, num_frames=4, img_size=64, positions="rope")
    rope = rope_of(config, None, TokenGrid(2, 4, 4), 4, x, interpolate=False)
    grads = []
    for enabled in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            layer(x, rope).float().square().sum().backward()
        grads.append([p.grad.clone() for p in layer.parameters() if p.grad is not None])
    assert len(grads[1]) == 4
    for full, half in zip(*grads, strict=True):
        assert (full - half).norm() < 0.03 * full.norm()


def test_backward_passes_give_the_same_bits_each_time() -> None:
    results = []
    for _ in range(2):
        q, k, v, grad = tensors((2, 3, 130, 64), torch.bfloat16)
        results.append(torch.autograd.grad(kernels.attention(q, k, v), (q, k, v), grad))
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


def test_choice_is_said() -> None:
    cpu = torch.device("cpu")
    assert kernels.describe(cpu, torch.float32) == "torch's attention"
    assert "chunked backward" in kernels.describe(cpu, torch.bfloat16)
