"""Closed formulas of the operations against torch's own count."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from openvjepa.config import PRESETS, ModelConfig, ObjectiveConfig
from openvjepa.data.masks import sample_masks
from openvjepa.model.encoder import Encoder
from openvjepa.model.flops import encoder_flops, predictor_flops, step_flops
from openvjepa.model.jepa import JEPA
from openvjepa.model.predictor import Predictor

SMALL = ModelConfig(arch="vit_femto", img_size=64, num_frames=8, predictor_embed_dim=48, predictor_depth=3)
IDS = [torch.arange(n)[None] for n in (24, 40)]  # context and predicted, of 64


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("config", [SMALL, ModelConfig(arch="vit_pico", img_size=32, mlp="swiglu", mlp_ratio=2.6)])
def test_encoder(config: ModelConfig) -> None:
    encoder, video = Encoder(config), torch.randn(1, 3, config.num_frames, *config.image_hw)
    assert counted(lambda: encoder(video)) == encoder_flops(config)
    kept = torch.arange(7)[None]
    assert counted(lambda: encoder(video, kept)) == encoder_flops(config, 7)


def test_predictor() -> None:
    context, (enc_ids, pred_ids) = torch.randn(1, 24, 96), IDS
    unused = 2 * 24 * 48 * 96  # the output for visible tokens, which V-JEPA 1 does not train
    ours = predictor_flops(SMALL, 24, 40)
    assert counted(lambda: Predictor(SMALL)(context, enc_ids, pred_ids)) - unused == ours


def test_step_of_two_masks() -> None:
    jepa = JEPA(SMALL, ObjectiveConfig())
    video = torch.randn(1, 3, 8, 64, 64)
    masks = [IDS[0], torch.arange(9)[None]], [IDS[1], torch.arange(30, 50)[None]]
    ours = step_flops(SMALL, [(24, 40), (9, 20)])
    unused = 2 * (24 + 9) * 48 * 96
    assert counted(lambda: jepa(video, *masks)["loss"].backward()) - unused == ours


def test_step_of_the_issue_is_597_gflop() -> None:
    assert step_flops(ModelConfig(), [(416, 968), (48, 1232)]) / 1e9 == pytest.approx(597, abs=1)


def test_a_clip_of_nano_is_eighty_times_cheaper_than_one_of_nano_jepa() -> None:
    nano, masks = PRESETS["nano-masked"]().model, PRESETS["nano-masked"]().masking.masks
    pairs = sample_masks(masks, nano.grid, 8, generator=torch.Generator().manual_seed(0))
    assert len({tuple(context.flatten().tolist()) for context, _ in pairs}) == 4  # of the same clips
    ours = step_flops(nano, [(context.shape[1], predicted.shape[1]) for context, predicted in pairs])
    theirs = step_flops(PRESETS["nano-jepa"]().model, [(416, 968), (48, 1232)])
    assert 80 * ours < theirs
