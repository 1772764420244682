"""The embedded data set: labeled moving shapes, rendered and encoded into real video files.

Each video shows one two-colored shape over a smooth background and carries two independent labels: *appearance*, the
shape, and *motion*, which no single frame tells: position, size and angle have the same distribution at mid-clip
whatever the motion is, and each motion has an opposite that passes through the same frames in reverse.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openvjepa.config import ShapesConfig
from openvjepa.data.rendered.dataset import write_dataset, write_video

# name: (velocity right, velocity down, turns, growth) per clip; velocities in shares of the frame, growth as log2 of the size.
MOTIONS: dict[str, tuple[float, float, float, float]] = {
    "right": (0.5, 0.0, 0.0, 0.0),
    "left": (-0.5, 0.0, 0.0, 0.0),
    "down": (0.0, 0.5, 0.0, 0.0),
    "up": (0.0, -0.5, 0.0, 0.0),
    "clockwise": (0.0, 0.0, 0.75, 0.0),
    "counterclockwise": (0.0, 0.0, -0.75, 0.0),
    "grow": (0.0, 0.0, 0.0, 1.2),
    "shrink": (0.0, 0.0, 0.0, -1.2),
}


def _polygon(angle: NDArray[np.float64], corners: int) -> NDArray[np.float64]:
    sector = 2 * np.pi / corners
    return np.cos(sector / 2) / np.cos(angle % sector - sector / 2)


def _star(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.45 + 0.6 * np.abs((angle / (2 * np.pi) * 5) % 1 * 2 - 1)


def _cross(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    along, across = np.abs(np.cos(angle)), np.abs(np.sin(angle))
    bar = np.minimum(1 / np.maximum(along, 1e-9), 0.33 / np.maximum(across, 1e-9))
    return np.maximum(bar, np.minimum(1 / np.maximum(across, 1e-9), 0.33 / np.maximum(along, 1e-9)))


# name: (outline as radius over angle, radius of the hole)
SHAPES = {
    "circle": (np.ones_like, 0.0),
    "triangle": (lambda angle: 1.25 * _polygon(angle, 3), 0.0),
    "square": (lambda angle: 1.1 * _polygon(angle, 4), 0.0),
    "star": (_star, 0.0),
    "cross": (_cross, 0.0),
    "ring": (np.ones_like, 0.6),
}


def render_shape(
    motion: str,
    appearance: str,
    *,
    size: int,
    frames: int,
    rng: np.random.Generator,
    texture: float = 0.0,
    clutter: int = 0,
) -> NDArray[np.uint8]:
    """Frames of one moving shape, uint8 [frames, size, size, 3]."""
    background = draw_background(size, rng, texture)
    for _ in range(clutter):
        name = list(SHAPES)[rng.integers(len(SHAPES))]
        spot = (rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.03, 0.06), rng.uniform(0, 2 * np.pi))
        background = draw_shape(background, name, *(np.array([value]) for value in spot), colors=_colors(rng))[0]
    right, down, turns, growth = MOTIONS[motion]
    speed = rng.uniform(0.75, 1.25)
    time = (np.linspace(-0.5, 0.5, frames) if frames > 1 else np.zeros(1)) * speed
    x, y = rng.uniform(0.35, 0.65, 2)
    radius = rng.uniform(0.18, 0.26) * 2 ** (growth * time)
    angle = rng.uniform(0, 2 * np.pi) + 2 * np.pi * turns * time
    video = draw_shape(background, appearance, x + right * time, y + down * time, radius, angle, colors=_colors(rng))
    return np.clip(np.rint(video), 0, 255).astype(np.uint8)


def draw_background(size: int, rng: np.random.Generator, texture: float) -> NDArray[np.float64]:
    """A smooth blend of four corner colors near a dark gray, [size, size, 3]."""
    corners = rng.uniform(30, 80) + rng.uniform(-15, 15, (2, 2, 3))
    ramp = np.linspace(0, 1, size)
    rows = corners[0] * (1 - ramp)[:, None, None] + corners[1] * ramp[:, None, None]  # [size, 2, 3]
    image = rows[:, :1] * (1 - ramp)[None, :, None] + rows[:, 1:] * ramp[None, :, None]
    return image + texture * rng.uniform(-60, 60, (size, size, 1))


def _colors(rng: np.random.Generator) -> NDArray[np.float64]:
    """A light and a dimmer color for the halves of a shape, [2, 3]."""
    return np.stack([rng.uniform(200, 255, 3), rng.uniform(115, 170, 3)])


def draw_shape(
    background: NDArray[np.float64],
    appearance: str,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    radius: NDArray[np.float64],
    angle: NDArray[np.float64],
    *,
    colors: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The shape over the background, antialiased; x, y, radius (shares of the frame) and angle (rad) are [frames]."""
    size = len(background)
    pixel = (np.arange(size) + 0.5) / size
    dx = pixel[None, None, :] - x[:, None, None]
    dy = pixel[None, :, None] - y[:, None, None]
    distance = np.hypot(dx, dy) / radius[:, None, None]
    direction = np.arctan2(dy, dx) - angle[:, None, None]
    outline, hole = SHAPES[appearance]
    softness = 1.0 / (size * radius[:, None, None])  # one pixel, in units of the radius
    cover = np.clip((outline(direction) - distance) / softness + 0.5, 0, 1)
    cover = cover * np.clip((distance - hole) / softness + 0.5, 0, 1) if hole else cover
    half = np.clip(np.sin(direction) * distance / softness + 0.5, 0, 1)[..., None]
    paint = colors[0] * half + colors[1] * (1 - half)
    return background + cover[..., None] * (paint - background)


@dataclass(frozen=True)
class _Job:
    """One video to write."""

    path: Path
    motion: str
    appearance: str
    split: str
    number: int


def make_shapes(config: ShapesConfig, *, workers: int | None = None) -> Path:
    """Render and write the dataset; motions and appearances are balanced and independent.

    The file of video i depends on (seed, i) alone. Returns the path of index.csv, which is written last: a folder without
    it is unfinished.

    Args:
        config: how many videos, how large, how hard.
        workers: processes; None: one per core, at most 8.

    Raises:
        DataError: the folder holds an index already, or a video cannot be written.
    """
    return write_dataset(
        Path(config.out),
        config,
        list(_jobs(config)),
        _write_job,
        columns=("path", "motion", "appearance", "split"),
        row=lambda job: (job.path.as_posix(), job.motion, job.appearance, job.split),
        workers=workers,
    )


def _jobs(config: ShapesConfig) -> Iterator[_Job]:
    """Every (motion, appearance) pair in turn, in an order of its own for each split, so that labels stay balanced."""
    number = 0
    for tag, (split, count) in enumerate((("train", config.train), ("val", config.val), ("test", config.test))):
        pairs = list(product(MOTIONS, SHAPES))
        order = np.random.default_rng((config.seed, tag)).permutation(len(pairs))
        for i in range(count):
            motion, appearance = pairs[order[i % len(pairs)]]
            path = Path("videos") / f"{split}_{i:05d}_{motion}_{appearance}.mp4"
            yield _Job(path, motion, appearance, split, number)
            number += 1


def _write_job(config: ShapesConfig, job: _Job) -> None:
    video = render_shape(
        job.motion,
        job.appearance,
        size=config.size,
        frames=config.frames,
        rng=np.random.default_rng((config.seed, job.number, 1)),
        texture=config.texture,
        clutter=config.clutter,
    )
    write_video(Path(config.out) / job.path, video, fps=config.fps)
