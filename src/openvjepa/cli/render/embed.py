"""What `vjepa embed` shows."""

from __future__ import annotations

from openvjepa.cli.console import say, say_skipped
from openvjepa.commands.embed import EmbedResult
from openvjepa.config import EmbedConfig


def embed(result: EmbedResult, config: EmbedConfig) -> None:
    """What was written, and what could not be read."""
    say_skipped(result.skipped)
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in result.shapes.items())
    say(f"wrote {shapes} to {result.out}; index in {result.index}")
    if result.skipped:
        say(f"unreadable files: {len(result.skipped)} of {result.files}")
