"""AdamW, and all schedules of a run as pure functions of the step (Bardes et al. 2024, appendix)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from openvjepa.config import ObjectiveConfig, OptimConfig
from openvjepa.errors import OpenVJEPAError
from openvjepa.train.distributed import Runtime


def learning_rate(step: int, config: OptimConfig, steps: int) -> float:
    """Linear warm-up, then a cosine or line stretched over schedule_scale x steps (so that it ends early, above final_lr).

    Args:
        step: optimizer step, counted from 1 (the value is set before the step).
        config: start_lr, lr, final_lr, warmup, decay, schedule_scale.
        steps: optimizer steps of the run.
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


def lengthened(step: int, before: int, config: OptimConfig, steps: int) -> str:
    """What becomes of the schedules of a run that is lengthened, in words.

    They are functions of the step and the number of steps, so that from here on they are those of a run of so many steps. The
    warm-up is not repeated where it is over; the learning rate jumps up to that of the longer run.

    Args:
        step: finished steps.
        before: steps that the run had.
        config: its schedules.
        steps: steps that it has now.
    """
    rates = [learning_rate(max(1, step), config, before), learning_rate(step + 1, config, steps)]
    decays = [weight_decay(max(1, step), config, before), weight_decay(step + 1, config, steps)]
    momenta = [ema_momentum(max(0, step - 1), config, max(1, before)), ema_momentum(step, config, steps)]
    shown = [f"{a:.3g} -> {b:.3g}" for a, b in (rates, decays)] + [f"{momenta[0]:.5f} -> {momenta[1]:.5f}"]
    return (
        f"Lengthened from {before} to {steps} steps: from step {step + 1} on, all schedules are those of a run of {steps} steps "
        f"(learning rate {shown[0]}, weight decay {shown[1]}, EMA momentum {shown[2]})"
    )


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
    """Write the step's learning rate and weight decay into the optimizer; returns both. `step` counts from 1.

    A group's own learning rate is `lr_scale` times that, where it has one (layer-wise decay).
    """
    lr, decay = learning_rate(step, config, steps), weight_decay(step, config, steps)
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
        group["weight_decay"] = decay if group["decay"] else 0.0
    return lr, decay


_LEAST_SCALE = 2.0**-10
"""Loss scale of fp16 below which it is not the scale that makes gradients infinite; it starts at 2^16 and halves."""


class NotFiniteError(OpenVJEPAError):
    """A loss or a gradient is not finite."""


class Stepper:
    """Clips the gradients, and steps where they and the loss are finite, without a wait for the device.

    A step that is not finite leaves weights and moments as they were. On CUDA that is decided on the device; the program
    learns of it in the next `check`.

    Args:
        optimizer: of `make_optimizer`.
        groups: the task's groups; gradients are clipped by module.
        config: clip_grad, warmup.
        steps: optimizer steps of the run.
        runtime: with fp16, the loss is scaled so that small gradients do not vanish.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        groups: list[dict[str, Any]],
        config: OptimConfig,
        steps: int,
        runtime: Runtime,
    ) -> None:
        self.optimizer, self.limit, self.warmup = optimizer, config.clip_grad, warmup_steps(config, steps)
        self.modules = {
            f"grad_norm_{module}": [p for group in groups if group["module"] == module for p in group["params"]]
            for module in dict.fromkeys(group["module"] for group in groups)
        }
        self.scaler = torch.amp.GradScaler(runtime.device.type) if runtime.dtype == torch.float16 else None
        self.lazy = runtime.device.type == "cuda"
        self._names: tuple[str, ...] = ()
        self._values = self._bad = torch.zeros(0)
        self._first = torch.zeros((), dtype=torch.int64)

    def step(self, number: int, scalars: dict[str, Tensor], *, wait: bool) -> None:
        """Step `number`, counted from 1, with the gradients that the parameters hold, which are dropped afterwards.

        Args:
            number: of the step.
            scalars: its loss and what else is logged, each of shape [].
            wait: whether to wait for the device and check first.

        Raises:
            NotFiniteError: this step or an earlier one is not finite.
        """
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        limit = math.inf if self.limit is None or number <= self.warmup else self.limit
        norms = {name: nn.utils.clip_grad_norm_(params, limit) for name, params in self.modules.items()}
        finite = self._note(number, scalars, norms)
        if wait or not self.lazy:
            self.check()
        if self.scaler is not None:
            self.scaler.step(self.optimizer)  # not where gradients are infinite: the scale is too large then
            self.scaler.update()
        elif self.lazy and not wait:
            self.optimizer.found_inf = (~finite).float()  # pyright: ignore[reportAttributeAccessIssue]
            self.optimizer.step()
            del self.optimizer.found_inf  # pyright: ignore[reportAttributeAccessIssue]
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _note(self, number: int, scalars: dict[str, Tensor], norms: dict[str, Tensor]) -> Tensor:
        """Keep a step's values, and on the device the first ones that are not finite; whether these are, bool []."""
        names = (*scalars, *norms)
        values = torch.stack([value.detach().float() for value in (*scalars.values(), *norms.values())])
        if names != self._names:
            self.check()
            self._names, self._bad = names, values
            self._first = torch.zeros((), dtype=torch.int64, device=values.device)
        judged = values if self.scaler is None else values[: len(scalars)]
        finite = torch.isfinite(judged).all()
        new = ~finite & (self._first == 0)
        self._first = torch.where(new, number, self._first)
        self._bad = torch.where(new, values, self._bad)
        self._values = values
        return finite

    def check(self) -> None:
        """Wait for the device.

        Raises:
            NotFiniteError: a step was not finite; names the first such value.
        """
        first = int(self._first)
        if first:
            named = zip(self._names, self._bad.tolist(), strict=True)
            name, value = next((name, value) for name, value in named if not math.isfinite(value))
            raise NotFiniteError(f"{name} is {value} at step {first}")
        if self.scaler is not None and self.scaler.get_scale() < _LEAST_SCALE:
            raise NotFiniteError("gradients in fp16 are not finite at any loss scale")

    def values(self) -> dict[str, float]:
        """Scalars and norms of the last step, by name; waits for the device.

        Norms that are infinite, as fp16 has them now and then, are left out.
        """
        return {name: v for name, v in zip(self._names, self._values.tolist(), strict=True) if math.isfinite(v)}


def _half_cosine(progress: float) -> float:
    """From 1 at progress 0 to 0 at progress 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def _whole(steps: float) -> int:
    """Rounds down, but not for a rounding error: 40 / 300 of 90,000 is 12,000, not 11,999."""
    return int(round(steps, 6))
