"""Settings of commands that follow long videos over time."""

from __future__ import annotations

from dataclasses import dataclass

from openvjepa.config.ranges import Config, Seconds
from openvjepa.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TemporalConfig(Config):
    """Windows over long videos, and the segments that they form."""

    window: Seconds | None = None
    """Window length for long videos, seconds: one prediction per window."""
    stride: Seconds | None = None
    """Seconds between the starts of two windows; None: half a window."""
    smooth: Seconds | None = None
    """Average the probabilities of the windows within this many seconds (needs window); None: no smoothing."""
    min_length: Seconds | None = None
    """Minimum length of a segment, seconds (needs window): of all segmentations without a shorter one, the most probable."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._need_window("stride", "smooth", "min_length")

    def _need_window(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) is not None and self.window is None:
                raise ConfigError(f"{name} needs window: the length of a window in seconds")
