"""Named recipes: plain functions that return the configuration of a pretraining or fine-tuning run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from openvjepa.config.pretraining.model import ModelConfig
from openvjepa.config.pretraining.objective import ObjectiveConfig, ViewsConfig
from openvjepa.config.pretraining.pretrain import (
    DataConfig,
    MaskConfig,
    MaskingConfig,
    OptimConfig,
    PretrainConfig,
    TrainConfig,
)
from openvjepa.config.verbs.finetune import FinetuneConfig


def vitl16() -> PretrainConfig:
    """V-JEPA ViT-L/16 at 224 px as published (Bardes et al. 2024, appendix): 300 x 300 steps of 3072 clips."""
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


def vjepa2_vitl() -> PretrainConfig:
    """V-JEPA 2 ViT-L/16 at 256 px, first phase, as released (Assran et al. 2025): constant learning rate after the warm-up."""
    base = vitl16()
    return replace(
        base,
        model=ModelConfig(
            arch="vit_large", img_size=256, positions="rope-tiled", predictor_num_heads=12, num_mask_tokens=10
        ),
        data=DataConfig(frame_step=None, fps=4.0),
        optim=OptimConfig(
            lr=5.25e-4,
            start_lr=1e-4,
            final_lr=5.25e-4,
            warmup=40 / 800,
            final_weight_decay=0.04,
            ema=(0.99925, 0.99925),
            clip_grad=None,
        ),
        train=replace(base.train, steps=240_000, seed=239, activation_checkpointing=True),
    )


def vjepa2_vith() -> PretrainConfig:
    """V-JEPA 2 ViT-H/16 at 256 px, first phase."""
    return _sized(vjepa2_vitl(), "vit_huge")


def vjepa2_vitg() -> PretrainConfig:
    """V-JEPA 2 ViT-g/16 at 256 px, first phase."""
    return _sized(vjepa2_vitl(), "vit_giant_xformers")


def vjepa2_cooldown() -> PretrainConfig:
    """V-JEPA 2's second phase: 64 frames, learning rate down a line; for `--init` with a run of the first (any size).

    Its model settings are those of that run. The published ViT-g-384 is this at 384 px: `--img-size 384`.
    """
    base = vjepa2_vitl()
    return replace(
        base,
        model=replace(base.model, num_frames=64),
        optim=replace(base.optim, final_lr=1e-6, warmup=0.0, decay="linear"),
        train=replace(base.train, steps=12_000, micro_batch=12),
    )


def vjepa21_gigantic() -> PretrainConfig:
    """V-JEPA 2.1 ViT-G/16 at 256 px, primary phase, as in the paper; needs `--images`.

    Half of the loss is of videos and half of images, as with half of Meta's machines on each.
    """
    base = vjepa2_vitl()
    steps = 135_000
    return replace(
        base,
        model=ModelConfig(
            arch="vit_gigantic_xformers",
            img_size=256,
            positions="rope",
            interpolate_rope=True,
            modality_embed=True,
            levels=(11, 23, 37, 47),
            predictor_depth=24,
            predictor_num_heads=12,
            num_mask_tokens=8,
            predictor_levels=4,
            predict_context=True,
            predictor_interpolate_rope=True,
        ),
        data=replace(base.data, image_batch=2304),
        objective=ObjectiveConfig(
            context_coeff=0.5, context_ramp=(15_000 / steps, 30_000 / steps), distance_weighting=True
        ),
        optim=replace(base.optim, warmup=12_000 / steps),
        train=replace(base.train, steps=steps, batch_size=128, micro_batch=8),
    )


def vjepa21_giant() -> PretrainConfig:
    """V-JEPA 2.1 ViT-g/16 at 256 px, primary phase."""
    return _sized(vjepa21_gigantic(), "vit_giant_xformers", levels=(9, 19, 29, 39))


def vjepa21_vitl() -> PretrainConfig:
    """V-JEPA 2.1 ViT-L/16 at 256 px, primary phase from scratch (the released ViT-L is distilled from ViT-G)."""
    return _sized(vjepa21_gigantic(), "vit_large", levels=(5, 11, 17, 23))


def vjepa21_vitb() -> PretrainConfig:
    """V-JEPA 2.1 ViT-B/16 at 256 px, primary phase from scratch (the released ViT-B is distilled from ViT-G)."""
    return _sized(vjepa21_gigantic(), "vit_base", levels=(2, 5, 8, 11), predictor_depth=12)


def vjepa21_cooldown() -> PretrainConfig:
    """V-JEPA 2.1's second phase: 64 frames of 384 px, images of 512 px; for `--init` with a run of the first (any size)."""
    base = vjepa21_gigantic()
    return replace(
        base,
        model=replace(base.model, img_size=384, num_frames=64),
        data=replace(base.data, image_size=512),
        objective=ObjectiveConfig(context_coeff=0.5),
        optim=replace(base.optim, lr=6e-4, final_lr=1e-6, warmup=0.0, decay="linear"),
        train=replace(base.train, steps=12_000),
    )


def _sized(base: PretrainConfig, arch: str, **model: Any) -> PretrainConfig:
    return replace(base, model=replace(base.model, arch=arch, **model))


def nano_jepa() -> PretrainConfig:
    """nano-JEPA's recipe: ViT-T/16 with the full-size predictor on one computer, 4 epochs of 3 steps of 8 clips."""
    base = vitl16()
    return replace(
        base,
        model=ModelConfig(arch="vit_tiny"),
        train=TrainConfig(steps=12, batch_size=8, seed=234, save_every=3, monitor_every=3, log_every=1),
    )


def demo() -> PretrainConfig:
    """Learns moving shapes in minutes on two cores; docs/experiments/learning.md says what it was chosen from.

    Prediction of the next latent, for motion, and agreement of two views, for appearance, with one encoder that looks at
    tubelets of four frames one by one.
    """
    return PretrainConfig(
        model=ModelConfig(
            arch="vit_pico",
            img_size=32,
            patch_size=8,
            tubelet_size=4,
            time_attention="tubelet",
            output_positions=True,
        ),
        data=DataConfig(frame_step=1, crop_scale=(0.7, 1.0), crop_ratio=(0.87, 1.15), hflip=0.0, cache=True),
        views=ViewsConfig(global_scale=(0.7, 1.0)),
        objective=ObjectiveConfig(
            masked_coeff=0.0, next_coeff=1.0, step_sigreg_coeff=0.1, within_coeff=1.0, views_coeff=1.0
        ),
        optim=OptimConfig(
            lr=1e-3,
            start_lr=2e-5,
            warmup=0.05,
            final_lr=1e-6,
            weight_decay=0.01,
            final_weight_decay=0.01,
            ema=(0.98, 1.0),
            schedule_scale=1.0,
            clip_grad=1.0,
        ),
        train=TrainConfig(steps=1200, batch_size=32, save_every=400, monitor_every=300, log_every=20),
    )


def nano() -> PretrainConfig:
    """For a few hundred to a few thousand short clips and ten minutes of one core: the demo's recipe, larger."""
    base = demo()
    return replace(
        base,
        model=replace(base.model, embed_dim=192, num_heads=6, img_size=48),
        data=replace(base.data, frame_step=None, fps=8.0, cache=False),
        train=replace(base.train, steps=900, save_every=300, monitor_every=150),
    )


def nano_images() -> PretrainConfig:
    """For photographs, ten minutes of one core: agreement of global and local views alone (LeJEPA), and an image model."""
    base = nano()
    return replace(
        base,
        model=replace(base.model, num_frames=1, tubelet_size=1, patch_size=6, time_attention="full"),
        data=replace(base.data, frame_step=1, fps=None, crop_ratio=(0.75, 1.33)),
        views=ViewsConfig(global_scale=(0.4, 1.0), local_views=4, local_scale=(0.1, 0.4), local_size=24),
        objective=ObjectiveConfig(masked_coeff=0.0, views_coeff=1.0),
        optim=replace(base.optim, weight_decay=0.05, final_weight_decay=0.05),
        train=replace(base.train, steps=800, batch_size=64),
    )


def small() -> PretrainConfig:
    """Four hours of one core, for thousands of clips: `nano`, deeper and on frames of 64 px. Not run at full length here."""
    base = nano()
    return replace(
        base,
        model=replace(base.model, depth=6, img_size=64),
        train=replace(base.train, steps=9400, batch_size=64, save_every=400, monitor_every=400),
    )


def demo_masked() -> PretrainConfig:
    """The demo's first recipe, masked prediction, kept as a baseline; what it was chosen from is in docs/experiments/recipes.md.

    Against the published recipe: a small encoder, a predictor too weak to do the encoder's work, one mask whose blocks last
    half of the clip, so that something of what moves is always seen, and SIGReg against the collapse of small runs.
    In float32 on all machines, so that they find the same.
    """
    return PretrainConfig(
        model=ModelConfig(arch="vit_pico", img_size=64, predictor_embed_dim=64, predictor_depth=2, num_mask_tokens=1),
        data=DataConfig(frame_step=1, crop_scale=(0.8, 1.0), crop_ratio=(0.9, 1.1), hflip=0.0, cache=True),
        masking=MaskingConfig(masks=(MaskConfig(spatial_scale=(0.3, 0.3), temporal_scale=(0.5, 0.5)),)),
        objective=ObjectiveConfig(sigreg_coeff=20.0),
        optim=OptimConfig(lr=1e-3, start_lr=1e-5, warmup=0.1, final_weight_decay=0.04, ema=(0.998, 1.0)),
        train=TrainConfig(steps=1500, batch_size=16, precision="fp32", save_every=500, monitor_every=150),
    )


def nano_masked() -> PretrainConfig:
    """The first form of `nano`, masked prediction, kept as a baseline; see docs/experiments/recipes.md.

    `demo_masked` with small pictures in fine patches, long tubelets, a wider encoder, and four masks of each clip, which
    share its decoding and its targets. The EMA is slower than the short run needs: a quick one trades motion for shape.
    In runs of this length SIGReg does the work, the prediction next to nothing.
    Its sin-cos positions can be exported to ONNX and Meta's layout, not to transformers: for that, add --positions rope-tiled.
    """
    base = demo_masked()
    return replace(
        base,
        model=replace(
            base.model,
            arch="vit_tiny",
            depth=4,
            num_heads=6,
            img_size=48,
            patch_size=4,
            tubelet_size=8,
            predictor_num_heads=4,
        ),
        data=replace(base.data, frame_step=None, fps=8.0, cache=False),
        masking=MaskingConfig(masks=base.masking.masks * 4),
        optim=replace(base.optim, ema=(0.995, 1.0)),
        train=replace(base.train, steps=200, batch_size=8, precision="auto", save_every=100, monitor_every=50),
    )


PRESETS: dict[str, Callable[[], PretrainConfig]] = {
    "nano": nano,
    "nano-images": nano_images,
    "small": small,
    "demo": demo,
    "demo-masked": demo_masked,
    "nano-masked": nano_masked,
    "vitl16": vitl16,
    "vith16": vith16,
    "vith16-384": vith16_384,
    "vjepa2-vitl": vjepa2_vitl,
    "vjepa2-vith": vjepa2_vith,
    "vjepa2-vitg": vjepa2_vitg,
    "vjepa2-cooldown": vjepa2_cooldown,
    "vjepa2.1-vitb": vjepa21_vitb,
    "vjepa2.1-vitl": vjepa21_vitl,
    "vjepa2.1-vit-giant": vjepa21_giant,
    "vjepa2.1-vit-gigantic": vjepa21_gigantic,
    "vjepa2.1-cooldown": vjepa21_cooldown,
    "nano-jepa": nano_jepa,
}


def hf_card() -> FinetuneConfig:
    """The recipe of Hugging Face's fine-tuning card: frozen encoder, passes of 1 clip, 4 a step, Adam of 1e-5, 5 epochs."""
    return FinetuneConfig(
        head_depth=4,
        epochs=5,
        batch_size=4,
        micro_batch=1,
        lr=1e-5,
        schedule="constant",
        warmup=0.0,
        weight_decay=0.0,
        clip_grad=None,
    )


FINETUNE_PRESETS: dict[str, Callable[[], FinetuneConfig]] = {"hf-card": hf_card}
