"""What `vjepa decode` shows."""

from __future__ import annotations

from openvjepa.cli.console import say, say_json
from openvjepa.commands.decode import DecodeResult
from openvjepa.config import DecodeConfig


def decode(result: DecodeResult, config: DecodeConfig) -> None:
    """PSNR of each panel, or JSON."""
    if config.json:
        values = {"psnr": result.psnr, "videos": result.videos, "skipped": result.skipped}
        say_json({**values, "files": [str(path) for path in result.files]})
        return
    for name, value in result.psnr.items():
        say(f"{name + ' tokens':<17} {value:6.2f} dB")
    for path, reason in result.skipped.items():
        say(f"skipped {path}: {reason}")
    for path in result.files:
        say(f"wrote {path}")
