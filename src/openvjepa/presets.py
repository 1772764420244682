"""Named recipes: plain functions that return the configuration of a pretraining run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from openvjepa.config import (
    DataConfig,
    MaskConfig,
    MaskingConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    PretrainConfig,
    TrainConfig,
)


def vitl16() -> PretrainConfig:
    """V-JEPA ViT-L/16 at 224 px as published (spec section 4): 300 x 300 steps of 3072 clips."""
    return PretrainConfig(
        model=ModelConfig(arch="vit_large"),
        optim=OptimConfig(),
        train=TrainConfig(steps=90_000, batch_size=3072, micro_batch=24, seed=234, save_every=300, monitor_every=300),
    )


def vith16() -> PretrainConfig:
    """V-JEPA ViT-H/16 at 224 px as published."""
    base = vitl16()
    return replace(base, model=replace(base.model, arch="vit_huge"))


def vith16_384() -> PretrainConfig:
    """V-JEPA ViT-H/16 at 384 px as published."""
    base = vitl16()
    return replace(
        base,
        model=replace(base.model, arch="vit_huge", img_size=384),
        train=replace(base.train, batch_size=2400, micro_batch=10),
    )


def nano_jepa() -> PretrainConfig:
    """nano-JEPA's recipe: ViT-T/16 with the full-size predictor on one computer, 4 epochs of 3 steps of 8 clips."""
    base = vitl16()
    return replace(
        base,
        model=ModelConfig(arch="vit_tiny"),
        train=TrainConfig(steps=12, batch_size=8, seed=234, save_every=3, monitor_every=3, log_every=1),
    )


def demo() -> PretrainConfig:
    """Learns moving shapes of 64 px in minutes on two cores; what it was chosen from is in docs/recipes.md.

    Against the published recipe: a small encoder, a predictor too weak to do the encoder's work, one mask whose blocks last
    half of the clip, so that something of what moves is always seen, and SIGReg against the collapse of small runs.
    Products this small gain nothing from bf16.
    """
    return PretrainConfig(
        model=ModelConfig(arch="vit_pico", img_size=64, predictor_embed_dim=64, predictor_depth=2, num_mask_tokens=1),
        data=DataConfig(frame_step=1, crop_scale=(0.8, 1.0), crop_ratio=(0.9, 1.1), hflip=0.0, cache=True),
        masking=MaskingConfig(masks=(MaskConfig(spatial_scale=(0.3, 0.3), temporal_scale=(0.5, 0.5)),)),
        objective=ObjectiveConfig(sigreg_coeff=20.0),
        optim=OptimConfig(lr=1e-3, start_lr=1e-5, warmup=0.1, final_weight_decay=0.04, ema=(0.998, 1.0)),
        train=TrainConfig(steps=1500, batch_size=16, precision="fp32", save_every=500, monitor_every=150),
    )


PRESETS: dict[str, Callable[[], PretrainConfig]] = {
    "demo": demo,
    "vitl16": vitl16,
    "vith16": vith16,
    "vith16-384": vith16_384,
    "nano-jepa": nano_jepa,
}
