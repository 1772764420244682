"""AdamW and its schedules: learning rate, weight decay and EMA momentum as pure functions of the step (spec section 4)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from openvjepa.config import OptimConfig


def learning_rate(step: int, config: OptimConfig, steps: int) -> float:
    """Linear warm-up, then a cosine that is stretched over schedule_scale x steps.

    Args:
        step: optimiser step, counted from 1 (the value is set before the step).
        config: start_lr, lr, final_lr, warmup, schedule_scale.
        steps: optimiser steps of the run.
    """
    warmup, total = warmup_steps(config, steps), int(config.schedule_scale * steps)
    if step < warmup:
        return config.start_lr + step / warmup * (config.lr - config.start_lr)
    progress = (step - warmup) / max(1, total - warmup)
    return max(config.final_lr, config.final_lr + (config.lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress)))


def warmup_steps(config: OptimConfig, steps: int) -> int:
    """Steps of the warm-up."""
    return int(round(config.warmup * steps, 6))  # 40 / 300 of 90,000 is 12,000, not 11,999


def weight_decay(step: int, config: OptimConfig, steps: int) -> float:
    """Cosine from weight_decay to final_weight_decay over schedule_scale x steps; step counted from 1."""
    progress = step / max(1, int(config.schedule_scale * steps))
    final = config.final_weight_decay
    value = final + (config.weight_decay - final) * 0.5 * (1 + math.cos(math.pi * progress))
    return max(final, value) if final <= config.weight_decay else min(final, value)


def ema_momentum(step: int, config: OptimConfig, steps: int) -> float:
    """Linear from ema[0] to ema[1] over schedule_scale x steps; step counted from 0, the first one done."""
    first, last = config.ema
    return first + step * (last - first) / (steps * config.schedule_scale)


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
