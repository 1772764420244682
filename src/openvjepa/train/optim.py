"""AdamW and its schedules: learning rate, weight decay, EMA momentum as pure functions of the step (spec section 4)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from openvjepa.config import OptimConfig


def learning_rate(step: int, config: OptimConfig, steps: int) -> float:
    """Linear warm-up, then a cosine stretched over schedule_scale x steps (so that it ends early, above final_lr).

    Args:
        step: optimiser step, counted from 1 (the value is set before the step).
        config: start_lr, lr, final_lr, warmup, schedule_scale.
        steps: optimiser steps of the run.
    """
    warmup = warmup_steps(config, steps)
    if step < warmup:
        return config.start_lr + step / warmup * (config.lr - config.start_lr)
    progress = (step - warmup) / max(1, schedule_steps(config, steps) - warmup)
    return max(config.final_lr, config.final_lr + (config.lr - config.final_lr) * _half_cosine(progress))


def weight_decay(step: int, config: OptimConfig, steps: int) -> float:
    """Cosine from weight_decay to final_weight_decay over schedule_scale x steps; step counted from 1."""
    first, final = config.weight_decay, config.final_weight_decay
    value = final + (first - final) * _half_cosine(step / max(1, schedule_steps(config, steps)))
    return max(final, value) if final <= first else min(final, value)


def ema_momentum(step: int, config: OptimConfig, steps: int) -> float:
    """Linear from ema[0] to ema[1] over schedule_scale x steps; step counted from 0, as `after_step` is told it."""
    first, last = config.ema
    return first + step * (last - first) / (config.schedule_scale * steps)


def warmup_steps(config: OptimConfig, steps: int) -> int:
    """Steps of the warm-up."""
    return _whole(config.warmup * steps)


def schedule_steps(config: OptimConfig, steps: int) -> int:
    """Steps that the schedules are stretched over."""
    return _whole(config.schedule_scale * steps)


def make_optimizer(groups: Iterable[dict[str, Any]], config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over groups {"params", "decay", "module"}, fused where the device has it."""
    groups = list(groups)
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=devices <= {"cpu", "cuda"})


def set_schedules(optimizer: torch.optim.Optimizer, step: int, config: OptimConfig, steps: int) -> tuple[float, float]:
    """Write the step's learning rate and weight decay into the optimiser; returns both. `step` counts from 1."""
    lr, decay = learning_rate(step, config, steps), weight_decay(step, config, steps)
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["weight_decay"] = decay if group["decay"] else 0.0
    return lr, decay


def _half_cosine(progress: float) -> float:
    """From 1 at progress 0 to 0 at progress 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def _whole(steps: float) -> int:
    """Rounds down, but not for a rounding error: 40 / 300 of 90,000 is 12,000, not 11,999."""
    return int(round(steps, 6))
