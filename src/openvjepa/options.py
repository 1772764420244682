"""Moved to `openvjepa.config`; goes away at the end of the move."""

from openvjepa.config import CheckConfig, DemoConfig, EmbedConfig, PredictConfig, ProbeConfig

__all__ = ["CheckConfig", "DemoConfig", "EmbedConfig", "PredictConfig", "ProbeConfig"]
