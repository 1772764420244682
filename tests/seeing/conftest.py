"""Small videos that move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openvjepa.reports.video import write_video


def moving(frames: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """A bright textured square that moves 1 px a frame over a dark textured ground, uint8 [T, H, W, 3]."""
    rng = np.random.default_rng(seed)
    video = np.repeat(rng.integers(0, 60, (1, height, width, 3)), frames, 0)
    patch = rng.integers(120, 255, (16, 16, 3))
    for t in range(frames):
        video[t, 16:32, 8 + t % 32 : 24 + t % 32] = patch
    return video.astype(np.uint8)


@pytest.fixture
def clips_folder(tmp_path: Path) -> Path:
    """Two videos of 24 frames at 12 a second, a short one, a picture, and a file that is none of these."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for name, frames in (("a.mp4", 24), ("b.mp4", 24), ("short.mp4", 3)):
        write_video(folder / name, iter(moving(frames, seed=ord(name[0]))), np.arange(frames) / 12)
    Image.fromarray(moving(1)[0]).save(folder / "still.png")
    (folder / "broken.mp4").write_bytes(b"not a video")
    return folder
