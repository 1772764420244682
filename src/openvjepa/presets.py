"""Moved to `openvjepa.config.presets`; goes away at the end of the move."""

from openvjepa.config.presets import PRESETS, demo, nano

__all__ = ["PRESETS", "demo", "nano"]
