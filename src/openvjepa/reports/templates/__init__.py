"""Templates of pages and cards (jinja2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent


def rate_text(spec: Mapping[str, Any]) -> str:
    """The frame rate of a clip, in words."""
    if spec.get("fps"):
        return f"{spec['fps']:g} frames per second"
    return "consecutive frames" if spec["frame_step"] == 1 else f"one of {spec['frame_step']} frames"
