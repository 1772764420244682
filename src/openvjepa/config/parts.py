"""Settings that several commands share."""

from __future__ import annotations

from typing import Literal

Tune = Literal["head", "last", "lora", "all"]
"""What is trained of an encoder when it is fine-tuned."""
Head = Literal["attentive", "linear"]
"""Classifiers that an encoder is fine-tuned with."""
Combine = Literal["mean", "vote"]
"""How the answers of several classifiers are combined."""
Split = Literal["auto", "train", "val", "test", "all"]
"""Videos that classifiers are evaluated on."""
