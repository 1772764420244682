"""AdamW, and all schedules of a run as pure functions of the step (spec section 4)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from openvjepa.config import ObjectiveConfig, OptimConfig


def learning_rate(step: int, config: OptimConfig, steps: int) -> float:
    """Linear warm-up, then a cosine or line stretched over schedule_scale x steps (so that it ends early, above final_lr).

    Args:
        step: optimiser step, counted from 1 (the value is set before the step).
        config: start_lr, lr, final_lr, warmup, decay, schedule_scale.
        steps: optimiser steps of the run.
    """
    warmup = warmup_steps(config, steps)
    if step < warmup:
        return config.start_lr + step / warmup * (config.lr - config.start_lr)
    progress = (step - warmup) / max(1, schedule_steps(config, steps) - warmup)
    left = _half_cosine(progress) if config.decay == "cosine" else 1 - progress
    return max(config.final_lr, config.final_lr + (config.lr - config.final_lr) * left)


def weight_decay(step: int, config: OptimConfig, steps: int) -> float:
    """Cosine from weight_decay to final_weight_decay over schedule_scale x steps; step counted from 1."""
    first, final = config.weight_decay, config.final_weight_decay
    value = final + (first - final) * _half_cosine(step / max(1, schedule_steps(config, steps)))
    return max(final, value) if final <= first else min(final, value)


def ema_momentum(step: int, config: OptimConfig, steps: int) -> float:
    """Linear from ema[0] to ema[1] over schedule_scale x steps; step counted from 0, as `after_step` is told it."""
    first, last = config.ema
    return first + step * (last - first) / (config.schedule_scale * steps)


def context_coeff(step: int, config: ObjectiveConfig, steps: int) -> float:
    """Weight of the loss on visible tokens: 0, then linear, then constant (context_ramp); step counted from 0."""
    start, end = (share * steps for share in config.context_ramp)
    grown = 1.0 if step >= end else max(0.0, (step - start) / (end - start))
    return grown * config.context_coeff


def warmup_steps(config: OptimConfig, steps: int) -> int:
    """Steps of the warm-up."""
    return _whole(config.warmup * steps)


def schedule_steps(config: OptimConfig, steps: int) -> int:
    """Steps that the schedules are stretched over."""
    return _whole(config.schedule_scale * steps)


def make_optimizer(groups: Iterable[dict[str, Any]], config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over groups {"params", "decay", "module"} and, if need be, "lr_scale", fused where the device has it."""
    groups = list(groups)
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=devices <= {"cpu", "cuda"})


def set_schedules(optimizer: torch.optim.Optimizer, step: int, config: OptimConfig, steps: int) -> tuple[float, float]:
    """Write the step's learning rate and weight decay into the optimiser; returns both. `step` counts from 1.

    A group's own learning rate is `lr_scale` times that, where it has one (layer-wise decay).
    """
    lr, decay = learning_rate(step, config, steps), weight_decay(step, config, steps)
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
        group["weight_decay"] = decay if group["decay"] else 0.0
    return lr, decay


def _half_cosine(progress: float) -> float:
    """From 1 at progress 0 to 0 at progress 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def _whole(steps: float) -> int:
    """Rounds down, but not for a rounding error: 40 / 300 of 90,000 is 12,000, not 11,999."""
    return int(round(steps, 6))
