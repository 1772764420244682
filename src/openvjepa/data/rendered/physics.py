"""Rendered intuitive physics: matched pairs of possible and impossible videos, and possible videos for training.

The two videos of a pair are the same pixels up to the event. Behind an occluder an object vanishes, changes its shape or
its color, or jumps; in mid-air a ball stops, turns back, or falls upwards. Each video shows one object.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openvjepa.config import PhysicsConfig
from openvjepa.data.rendered.dataset import write_dataset, write_video
from openvjepa.data.rendered.synthetic import SHAPES, draw_background, draw_shape
from openvjepa.errors import DataError

KINDS = {
    "vanish": "occluder",
    "shape": "occluder",
    "color": "occluder",
    "jump": "occluder",
    "stop": "flight",
    "turn": "flight",
    "gravity": "flight",
}
"""What happens in the impossible video of a pair -> the scene it happens in."""
SCENES = ("occluder", "flight")
COLUMNS = ("path", "scene", "pair", "possible", "kind", "split")

_FLOOR = 0.85  # where the floor begins, from the top
_MAX_DRAWS = 1000


@dataclass(frozen=True)
class _Look:
    """Outline and hue (0..1) of an object."""

    shape: str
    hue: float

    @property
    def colors(self) -> NDArray[np.float64]:
        """Of its two halves, [2, 3]."""
        halves = (colorsys.hsv_to_rgb(self.hue, 0.75, value) for value in (1.0, 0.6))
        return 255 * np.array(list(halves))


@dataclass(frozen=True)
class _Motion:
    """Path of an object over F frames, in shares of the frame and rad, and when it can break the rules."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    angle: NDArray[np.float64]
    event: int
    """First frame that may differ."""


def render_physics(
    kind: str, *, possible: bool, size: int, frames: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], int]:
    """One video and its event.

    The draws do not depend on `possible`: generators of the same state give the two videos of a pair.

    Args:
        kind: one of KINDS.
        possible: the video obeys the rules, and nothing happens at the event.
        size: height and width, px.
        frames: length.
        rng: source of all draws.

    Returns:
        uint8 [frames, size, size, 3], and the number of the first frame in which the two videos of the pair may differ.
    """
    render = _occluder if KINDS[kind] == "occluder" else _flight
    return render(kind, possible, size, frames, rng)


def _occluder(
    kind: str, possible: bool, size: int, frames: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], int]:
    """An object rolls along the floor, behind a screen that hides it completely, and out again."""
    scenery = _scenery(size, rng)
    look = _Look(list(SHAPES)[rng.integers(len(SHAPES))], rng.uniform())
    others = [name for name in SHAPES if name != look.shape]
    changed = {
        "shape": replace(look, shape=others[rng.integers(len(others))]),
        "color": replace(look, hue=(look.hue + rng.uniform(1 / 3, 2 / 3)) % 1),
    }.get(kind, look)
    radius, middle = rng.uniform(0.09, 0.12), rng.uniform(0.45, 0.55)
    half = 1.25 * radius + rng.uniform(0.05, 0.09)  # the widest outline is 1.25 radii
    direction = rng.choice([-1.0, 1.0])
    event = int(rng.integers(round(0.4 * frames), round(0.6 * frames) + 1))
    step = rng.uniform(0.9, 1.15) / frames
    x = middle + direction * step * (np.arange(frames) - event + rng.uniform(0, 1))
    y = np.full(frames, _FLOOR - radius)
    jump = direction * rng.uniform(0.2, 0.28)
    motion = _Motion(x, y, x / radius, event)
    before = _paint(scenery, look, motion, radius)
    if possible:
        video = before
    elif kind == "vanish":
        video = np.where((np.arange(frames) >= event)[:, None, None, None], scenery, before)
    elif kind == "jump":
        video = _after(event, before, _paint(scenery, look, replace(motion, x=x + jump), radius))
    else:
        video = _after(event, before, _paint(scenery, changed, motion, radius))
    return _as_bytes(_screen(video, middle, half, rng)), event


def _flight(
    kind: str, possible: bool, size: int, frames: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], int]:
    """A ball is thrown, falls and bounces; the event finds it in mid-air."""
    scenery = _scenery(size, rng)
    look, radius = _Look("circle", rng.uniform()), rng.uniform(0.09, 0.12)
    event = int(rng.integers(round(0.4 * frames), round(0.6 * frames) + 1))
    spin, phase = rng.uniform(-0.3, 0.3), rng.uniform(0, 2 * np.pi)
    for _ in range(_MAX_DRAWS):
        start = np.array([rng.uniform(0.1, 0.9), rng.uniform(0.15, 0.6)])
        speed = np.array([rng.choice([-1.0, 1.0]) * rng.uniform(0.35, 0.9), rng.uniform(-1.5, 0.3)]) / frames
        usual = _throw(start, speed, radius, frames, event, None)
        after = usual[event - 1 : event + 4]
        if np.ptp(after[:, 1]) > 0.03 and (after > 0.12).all() and (after[:, 0] < 0.88).all() and (
            after[:, 1] < _FLOOR - 1.8 * radius
        ).all():  # fmt: skip
            break
    else:
        raise DataError("no throw keeps the ball in the air at the event: choose another seed")
    path = usual if possible else _throw(start, speed, radius, frames, event, kind)
    turned = phase + spin * np.arange(frames, dtype=np.float64)
    if kind == "stop" and not possible:
        turned[event:] = turned[event - 1]
    return _as_bytes(_paint(scenery, look, _Motion(path[:, 0], path[:, 1], turned, event), radius)), event


def _throw(
    start: NDArray[np.float64],
    speed: NDArray[np.float64],
    radius: float,
    frames: int,
    event: int,
    kind: str | None,
) -> NDArray[np.float64]:
    """Path [frames, 2] of a ball (x, y down) under gravity that bounces off the floor; `kind` strikes at the event.

    Args:
        start: of the center, shares of the frame.
        speed: shares of the frame per frame.
        radius: of the ball.
        frames: length.
        event: first frame that differs from an undisturbed flight.
        kind: stop, turn, gravity; None: nothing happens.
    """
    place, velocity, path = start.copy(), speed.copy(), []
    parts, gravity, bounce = 8, 3.6 / frames**2, 0.75  # steps of a frame; shares per frame^2; share of the speed
    for frame in range(frames):
        path.append(place.copy())
        if frame + 1 == event and kind == "stop":
            return np.array(path + [place] * (frames - frame - 1))
        if frame + 1 == event and kind == "turn":
            velocity[0] = -velocity[0]
        if frame + 1 == event and kind == "gravity":
            gravity = -gravity
        for _ in range(parts):
            velocity[1] += gravity / parts
            place = place + velocity / parts
            if place[1] > _FLOOR - radius:
                place[1], velocity[1] = 2 * (_FLOOR - radius) - place[1], -bounce * abs(velocity[1])
    return np.array(path)


def _scenery(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Wall and floor, [size, size, 3]."""
    image = draw_background(size, rng, 0.0)
    image[round(_FLOOR * size) :] = image[round(_FLOOR * size) :] * 0.5 + rng.uniform(25, 60)
    return image


def _paint(scenery: NDArray[np.float64], look: _Look, motion: _Motion, radius: float) -> NDArray[np.float64]:
    """[frames, size, size, 3]."""
    size = np.full(len(motion.x), radius)
    return draw_shape(scenery, look.shape, motion.x, motion.y, size, motion.angle, colors=look.colors)


def _after(event: int, before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([before[:event], after[event:]])


def _screen(video: NDArray[np.float64], middle: float, half: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """The video behind a screen that stands on the floor."""
    size = video.shape[1]
    left, right = round((middle - half) * size), round((middle + half) * size)
    top, bottom = round((_FLOOR - rng.uniform(0.38, 0.5)) * size), round((_FLOOR + 0.03) * size)
    color = rng.uniform(110, 150) + rng.uniform(-12, 12, 3)
    video = video.copy()
    video[:, top:bottom, left:right] = color
    video[:, top : top + 1, left:right] = 1.25 * color
    return video


def _as_bytes(video: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.rint(video), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class _Job:
    """One video to write."""

    path: Path
    kind: str
    possible: bool
    pair: int | None
    split: str
    seed: tuple[int, ...]


def make_physics(config: PhysicsConfig, *, workers: int | None = None) -> Path:
    """Render and write the dataset; all kinds are equally frequent in each split.

    A pair depends on (seed, split, its number) alone. Returns the path of index.csv, which is written last: a folder
    without it is unfinished.

    Args:
        config: how many videos, how large, how long.
        workers: processes; None: one per core, at most 8.

    Raises:
        DataError: the folder holds an index already, or a video cannot be written.
    """
    return write_dataset(
        Path(config.out), config, list(_jobs(config)), _write_job, columns=COLUMNS, row=_row, workers=workers
    )


def _row(job: _Job) -> tuple[object, ...]:
    pair = "" if job.pair is None else job.pair
    return job.path.as_posix(), KINDS[job.kind], pair, int(job.possible), job.kind, job.split


def _jobs(config: PhysicsConfig) -> Iterator[_Job]:
    """Training videos, then the pairs; kinds in turn. The kind of a training video only names its scene."""
    kinds = list(KINDS)
    for i in range(config.train):
        # As many flights as occluders, whatever the number of kinds of each.
        kind = ("vanish", "stop")[i % 2]
        yield _Job(Path("videos") / f"train_{i:05d}.mp4", kind, True, None, "train", (config.seed, 0, i))
    number = 0
    for tag, (split, count) in enumerate((("val", config.val), ("test", config.test)), start=1):
        for i in range(count):
            kind = kinds[i % len(kinds)]
            for possible in (True, False):
                name = f"{split}_{i:05d}_{kind}_{'possible' if possible else 'impossible'}.mp4"
                yield _Job(Path("videos") / name, kind, possible, number, split, (config.seed, tag, i))
            number += 1


def _write_job(config: PhysicsConfig, job: _Job) -> None:
    rng = np.random.default_rng(job.seed)
    video, _ = render_physics(job.kind, possible=job.possible, size=config.size, frames=config.frames, rng=rng)
    write_video(Path(config.out) / job.path, video, fps=config.fps)
