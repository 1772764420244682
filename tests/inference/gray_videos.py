"""Videos whose frames have known gray levels."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

FPS = 10


def render(path: Path, levels: list[int], *, size: tuple[int, int] = (32, 32), times: list[int] | None = None) -> Path:
    """A video with one gray level, 0 to 255, for each frame, and a little noise; frames last 1 / FPS s."""
    rng = np.random.default_rng(len(levels))
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options={"crf": "10", "g": "12"})
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv444p"
        stream.codec_context.time_base = Fraction(1, 100)
        for i, level in enumerate(levels):
            pixels = np.clip(level + rng.integers(-12, 12, (*size, 3)), 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = (times[i] if times else i * 100 // FPS), Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
