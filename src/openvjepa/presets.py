"""Named recipes: plain functions that return the configuration of a pretraining run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from openvjepa.config import ModelConfig, OptimConfig, PretrainConfig, TrainConfig


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


PRESETS: dict[str, Callable[[], PretrainConfig]] = {
    "vitl16": vitl16,
    "vith16": vith16,
    "vith16-384": vith16_384,
    "nano-jepa": nano_jepa,
}
