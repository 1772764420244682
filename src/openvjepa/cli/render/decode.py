"""What `vjepa decode` shows."""

from __future__ import annotations

from openvjepa.cli.console import say, say_json
from openvjepa.commands.decode import DecodeResult
from openvjepa.config import DecodeConfig


def decode(result: DecodeResult, config: DecodeConfig) -> None:
    """PSNR of each panel, or JSON."""
    if config.json:
        values: dict[str, object] = {"psnr": result.psnr, "videos": result.videos, "skipped": result.skipped}
        if result.psnr_of_mean is not None:
            values |= {"psnr_of_mean": result.psnr_of_mean, "spread": result.spread, "steps": result.steps}
        say_json({**values, "files": [str(path) for path in result.files]})
        return
    for name, value in result.psnr.items():
        text = f"{name + ' tokens':<17} {value:6.2f} dB"
        if result.psnr_of_mean is not None and result.spread is not None:
            text += f", mean of samples {result.psnr_of_mean[name]:6.2f} dB, spread {result.spread[name]:.4f}"
        say(text)
    if result.interrupted:
        say(f"interrupted: the decoder was trained for {result.steps} of {config.steps} steps")
    for path, reason in result.skipped.items():
        say(f"skipped {path}: {reason}")
    for path in result.files:
        say(f"wrote {path}")
