"""What `vjepa embed` shows."""

from __future__ import annotations

from openvjepa.cli.console import say, say_skipped
from openvjepa.commands.embed import EmbedResult
from openvjepa.config import EmbedConfig


def embed(result: EmbedResult, config: EmbedConfig) -> None:
    """What was written, and what could not be read."""
    say_skipped(result.skipped)
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in result.shapes.items())
    unreadable = f"{len(result.skipped)} of {result.files} files cannot be read"
    say(f"wrote {shapes} into {result.out}, and {result.index}: {unreadable}")
