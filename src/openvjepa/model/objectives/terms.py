"""The terms of a loss: name -> (weight, value). The loss is the weighted sum; the values are logged."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

Terms: TypeAlias = dict[str, tuple[float, Tensor]]


def total(terms: Terms) -> dict[str, Tensor]:
    """The weighted sum as `loss`, which is differentiable, and every term, detached, by its name."""
    loss = torch.stack([weight * term for weight, term in terms.values()]).sum()
    return {"loss": loss, **{name: term.detach() for name, (_, term) in terms.items()}}
