"""A model in memory, with what it knows of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from openvjepa.config import ClipProtocol, ModelConfig
from openvjepa.errors import ConfigError
from openvjepa.model.action import ActionPredictor
from openvjepa.model.encoder import Encoder
from openvjepa.model.predictor import Predictor
from openvjepa.train.devices import choose_device
from openvjepa.weights.encoding import Clip, encode_clips
from openvjepa.weights.probes import Probe


@dataclass(frozen=True, repr=False)
class LoadedModel:
    """A loaded model: encoder, and predictor and probe if available. In eval mode, float32, initially on the CPU."""

    encoder: Encoder
    """Clip float [B, 3, T, H, W] (normalized) -> tokens [B, N, D]."""
    predictor: Predictor | ActionPredictor | None
    """Present where the file has one."""
    config: ModelConfig
    """What encoder and predictor were built from."""
    source: str
    """What was asked for."""
    section: str
    """Part of the file that the encoder comes from."""
    clip: ClipProtocol
    """Frames, frame rate, size and preprocessing of the clips that it was made for."""
    probe: Probe | None = None
    """Tokens [B, N, D] -> logits [B, classes], where the source has one."""
    labels: tuple[str, ...] | None = None
    """Names of the probe's classes, where they are known."""
    plan: Mapping[str, Any] | None = None
    """The clips that the probe was evaluated with, as plain values, where the source says so."""
    notes: tuple[str, ...] = ()
    """What was done to tensors that do not fit as they are: one line for each named rule that was applied."""

    def encode(self, clips: Clip | Sequence[Clip], *, batch_size: int = 8, layer: int = -1) -> Tensor:
        """Tokens of clips, which are read, resized and normalized as `clip` says.

        Args:
            clips: a video, image or folder of frames, whose clip in the middle is taken; or frames, uint8 [T, H, W, 3] of a
                clip or [B, T, H, W, 3] of several (numpy or torch, RGB, any size), all of which are used; or a list of
                these, or of frames [H, W, 3]. Or clips that are resized already: uint8 [B, 3, T, H, W], or float of that
                shape, normalized.
            batch_size: clips in one pass.
            layer: block whose output is wanted (after the encoder's norm), from 0, or negative from the end.

        Returns:
            float32 [B, N, D] on the CPU, N = (T / tubelet) * (height / patch) * (width / patch), frame by frame, row by row.

        Raises:
            DataError: something else, frames of another type or shape, clips of different lengths, or values that are not
                finite.
            VideoError: a file cannot be read.
            ConfigError: T does not divide into whole tubelets; no such layer; `batch_size` is not positive.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size}: give the clips of one pass, at least 1")
        return encode_clips(self.encoder, self.clip, clips, batch_size=batch_size, layer=layer)

    @property
    def antialias(self) -> bool:
        """Whether frames are made smaller with antialiasing, as `clip` says."""
        return self.clip.antialias

    def to(self, device: str | torch.device) -> LoadedModel:
        """This model, with all its parts moved to a device.

        Raises:
            ConfigError: this machine has no such device.
        """
        if isinstance(device, str) and device != "meta":
            device = choose_device(device)
        for part in (self.encoder, self.predictor, self.probe):
            if part is not None:
                part.to(device)
        return self

    def __str__(self) -> str:
        """One line for people: what was loaded, and from which part of what."""
        size = sum(parameter.numel() for parameter in self.encoder.parameters()) / 1e6
        parts = [f"encoder {size:.1f} M ({self.section})"]
        parts += [] if self.predictor is None else ["predictor"]
        parts += [] if self.probe is None else [f"probe of {self.probe.linear.out_features} classes"]
        return "; ".join([f"{self.source}: {', '.join(parts)}, {self.clip}", *self.notes])

    def __repr__(self) -> str:
        return f"<LoadedModel {self}>"
