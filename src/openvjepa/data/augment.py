"""RandAugment and random erasing for clips, from kornia, with the same parameters for all frames of a clip."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from openvjepa.errors import ConfigError

OPERATIONS = 2  # that RandAugment applies one after the other (Cubuk et al. 2020)
LARGEST = 29  # magnitude, of 30


@dataclass(frozen=True)
class Augmentation:
    """How clips are changed beyond crops; nothing by default. Needs kornia (`pip install 'openvjepa[finetune]'`)."""

    magnitude: int = 0
    """Strength of RandAugment's two operations, 1 to 29; 0: none. Rotations and translations are among them, flips are not."""
    erasing: float = 0.0
    """Probability that a random box is blackened, the same in every frame."""

    def __post_init__(self) -> None:
        if not 0 <= self.magnitude <= LARGEST or not 0 <= self.erasing <= 1:
            raise ConfigError(f"randaugment must lie in 0..{LARGEST}, erasing in 0..1")
        if self and importlib.util.find_spec("kornia") is None:
            raise ConfigError("augmentation needs the package kornia: pip install 'openvjepa[finetune]'")

    def __bool__(self) -> bool:
        return bool(self.magnitude or self.erasing)

    def __call__(self, clip: Tensor, generator: torch.Generator) -> Tensor:
        """A changed copy of a clip uint8 [3, T, H, W]; what is drawn follows from the generator."""
        if not self:
            return clip
        seed = int(torch.randint(2**31, (), generator=generator))
        frames = clip.transpose(0, 1).float() / 255
        with torch.random.fork_rng(devices=[]):  # kornia draws from torch's global generator
            torch.manual_seed(seed)
            for operation in self._operations():
                frames = _alike(operation, frames)
        return (frames * 255).round().clamp(0, 255).to(torch.uint8).transpose(0, 1).contiguous()

    def _operations(self) -> list[Any]:
        from kornia.augmentation import RandomErasing
        from kornia.augmentation.auto import RandAugment

        operations: list[Any] = [RandAugment(OPERATIONS, self.magnitude)] if self.magnitude else []
        return [*operations, RandomErasing(p=self.erasing)] if self.erasing else operations


def _alike(operation: Any, frames: Tensor) -> Tensor:
    """An operation of kornia on all frames [T, 3, H, W], with the parameters that it draws for the first one."""
    first, *others = torch.split(frames, 1)
    changed = [operation(first)]
    parameters = operation._params  # noqa: SLF001 (kornia has no public name for them)
    return torch.cat(changed + [operation(frame, params=parameters) for frame in others])
