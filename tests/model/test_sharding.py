"""Encoder and predictor under FSDP2: sharding works by hooks on the call of a module, so they must be called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys, torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from openvjepa.config import ModelConfig
from openvjepa.model.encoder import Encoder
from openvjepa.model.predictor import Predictor

dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
config = ModelConfig(
    arch="vit_femto", img_size=32, num_frames=4, predictor_embed_dim=48, predictor_depth=2, predictor_num_heads=3
)
torch.manual_seed(0)
encoder, predictor = Encoder(config), Predictor(config)
video, ids = torch.randn(2, 3, 4, 32, 32), torch.arange(4)[None].expand(2, -1)
masks = [(ids, ids + 4), (ids + 4, ids)]

def loss():
    contexts = encoder.forward_masks(video, [visible for visible, _ in masks])
    found = [predictor(x, *mask, i).masked for i, (x, mask) in enumerate(zip(contexts, masks))]
    return torch.stack([x.square().mean() for x in found]).sum()

plain = loss()
plain.backward()
gradient = encoder.patch_embed.proj.weight.grad.clone()
encoder.zero_grad()
mesh = dist.init_device_mesh("cpu", (1,))
for module in (*encoder.blocks, encoder, *predictor.predictor_blocks, predictor):
    fully_shard(module, mesh=mesh)
sharded = loss()
sharded.backward()
torch.testing.assert_close(sharded, plain)
torch.testing.assert_close(encoder.patch_embed.proj.weight.grad.full_tensor(), gradient)
print("equal")
dist.destroy_process_group()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="gloo's file store")
def test_sharded_modules_compute_the_same(tmp_path: Path) -> None:
    import torch.distributed.fsdp as fsdp

    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("FSDP2 is not in this torch")
    found = subprocess.run(
        [sys.executable, "-c", CODE, tmp_path / "store"], capture_output=True, text=True, check=False
    )
    assert found.stdout.strip() == "equal", found.stderr
