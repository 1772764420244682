"""Templates of pages and cards (jinja2)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).parent


@cache
def environment(folder: str) -> Environment:
    """Templates of a folder, and what all share; texts are escaped, and a name that is not given is an error."""
    return Environment(
        loader=FileSystemLoader((TEMPLATES / folder, TEMPLATES)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )


def part(name: str, *values: Any, **settings: Any) -> Markup:
    """A part of a report, by the name and the arguments of its macro in report/parts.html; texts are escaped."""
    macro = getattr(environment("report").get_template("parts.html").module, name)
    return Markup(macro(*values, **settings))


def rate_text(spec: Mapping[str, Any]) -> str:
    """The frame rate of a clip, in words."""
    if spec.get("fps"):
        return f"{spec['fps']:g} frames per second"
    return "consecutive frames" if spec["frame_step"] == 1 else f"one of {spec['frame_step']} frames"
