"""Which frames form a clip."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from openvjepa.data.clips import ClipSpec, meta_frame_indices, read_clip
from openvjepa.data.media.video import open_video
from openvjepa.data.rendered.dataset import write_video
from openvjepa.errors import ConfigError

FRAMES = Path(__file__).parents[1] / "fixtures/vjepa/frames"
CASES = [
    case
    for version in ("v1", "v2")
    for case in json.loads((FRAMES / f"{version}_frame_indices.json").read_text())
    if case["clip_indices"] is not None  # filtered out as too short, or a rate that the video does not have
]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """40 frames at 10 per second whose gray level is 6 x their number."""
    frames = np.repeat(6 * np.arange(40, dtype=np.uint8), 32 * 32 * 3).reshape(40, 32, 32, 3)
    write_video(tmp_path / "video.mp4", frames, fps=10)
    return tmp_path / "video.mp4"


def numbers(clip: torch.Tensor) -> list[int]:
    return (clip.float().mean((1, 2, 3)) / 6).round().int().tolist()


def frame_step(case: dict) -> int:
    """The stride of a case, which may be given as a duration (V-JEPA 1) or as frames per second (V-JEPA 2)."""
    args = case["args"]
    if "duration" in args:
        return int(args["duration"] * case["avg_fps"] / args["frames_per_clip"])
    return args["frame_step"] if args["frame_step"] else math.ceil(case["avg_fps"]) // args["fps"]


@pytest.mark.parametrize("case", CASES)
def test_meta_parity(case: dict) -> None:
    args = case["args"]
    np.random.seed(case["np_random_seed"])
    clips = meta_frame_indices(
        case["num_frames"],
        frames_per_clip=args["frames_per_clip"],
        frame_step=frame_step(case),
        num_clips=args["num_clips"],
        random_sampling=args.get("random_clip_sampling", True),
        allow_overlap=args.get("allow_clip_overlap", False),
    )
    assert [clip.tolist() for clip in clips] == case["clip_indices"]


def test_by_frame_step(video: Path) -> None:
    assert numbers(read_clip(video, num_frames=4, frame_step=3, start=0.5)) == [5, 8, 11, 14]


@dataclass(frozen=True)
class Clock:
    """The times of a video, as a clip sees them."""

    times: np.ndarray
    fps: float

    @property
    def frame_count(self) -> int:
        return len(self.times)


@pytest.mark.parametrize("fps", [10, 12, 15.01, 20, 24000 / 1001, 25, 30000 / 1001, 30, 50, 60])
@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_steps_are_even_wherever_a_clip_starts(fps: float, step: int) -> None:
    """The middle of a video is often just between two frames, where sums of times fall on either side."""
    spec = ClipSpec(num_frames=16, frame_step=step)
    for count in range(16 * step, 16 * step + 80):
        for times in (np.arange(count) / fps, np.round(np.arange(count) / fps, 3)):  # exact; and in milliseconds
            clock = Clock(times, (count - 1) / times[-1])
            for start in spec.segment_starts(clock, 1) + spec.segment_starts(clock, 3):  # type: ignore[arg-type]
                assert set(np.diff(spec.indices(clock, start))) == {step}  # type: ignore[arg-type]


@pytest.mark.parametrize(("fps", "rate", "steps"), [(25, 5, {5}), (30, 5, {6}), (10, 2.5, {4}), (25, 10, {2, 3})])
def test_steps_are_even_by_time_where_the_rates_divide(fps: float, rate: float, steps: set[int]) -> None:
    spec = ClipSpec(num_frames=16, frame_step=None, fps=rate)
    for count in range(100, 180):
        clock = Clock(np.arange(count) / fps, fps)
        clip = spec.indices(clock, spec.segment_starts(clock, 1)[0])  # type: ignore[arg-type]
        assert set(np.diff(clip[clip < count - 1])) == steps


def test_time_stamps_in_milliseconds_do_not_decide_between_frames() -> None:
    """Every wanted time meets a border between two frames, on either side of which the rounded stamps lie."""
    rng = np.random.default_rng(0)
    times = np.arange(100) / 25 + rng.choice([-0.001, 0.0, 0.001], 100) * (np.arange(100) % 99 > 0)
    spec = ClipSpec(num_frames=8, frame_step=None, fps=5)
    assert set(np.diff(spec.indices(Clock(times, 25.0), 0.02))) == {5}  # type: ignore[arg-type]


def test_every_fourth_frame_of_a_variable_rate() -> None:
    times = np.cumsum([0.0, *([0.02] * 20), *([0.2] * 20)])
    clock = Clock(times, 40 / times[-1])
    assert ClipSpec(num_frames=8, frame_step=4).indices(clock, 0.0).tolist() == [0, 4, 8, 12, 16, 20, 24, 28]  # type: ignore[arg-type]


def test_by_frames_per_second(video: Path) -> None:
    assert numbers(read_clip(video, num_frames=4, fps=2.5, start=0)) == [0, 4, 8, 12]
    assert numbers(read_clip(video, num_frames=4, fps=20, start=0)) == [0, 1, 1, 2]  # shown twice, half a frame later


def test_the_middle_by_default(video: Path) -> None:
    assert numbers(read_clip(video, num_frames=11, frame_step=1)) == list(range(15, 26))


def test_a_short_video_stands_still_at_its_end(video: Path) -> None:
    assert numbers(read_clip(video, num_frames=8, frame_step=8)) == [0, 8, 16, 24, 32, 39, 39, 39]


@pytest.mark.parametrize(
    "wrong",
    [
        {"frame_step": 0},
        {"frame_step": -4},
        {"fps": 0.0},
        {"fps": -2.0},
        {"fps": math.nan},
        {"num_frames": 0},
        {"frame_step": None},
        {"frame_step": math.nan},
        {"frame_step": 2.5},
        {"frame_step": math.inf},
        {"fps": math.inf},
        {"num_frames": math.nan},
        {"start": -1.0},
        {"start": math.nan},
        {"start": math.inf},
    ],
)
def test_an_impossible_clip_is_an_error(video: Path, wrong: dict) -> None:
    with pytest.raises(ConfigError):
        read_clip(video, **wrong)


def test_a_clip_has_one_rate() -> None:
    with pytest.raises(ConfigError, match="exactly one"):
        ClipSpec(frame_step=4, fps=8)


def test_segments_reach_from_start_to_end(video: Path) -> None:
    spec, opened = ClipSpec(num_frames=4, frame_step=2), open_video(video)
    clips = [spec.indices(opened, start).tolist() for start in spec.segment_starts(opened, 3, "ends")]
    assert clips[0] == [0, 2, 4, 6]
    assert clips[-1] == [33, 35, 37, 39]
    assert len(clips) == 3


def test_segments_lie_at_the_centers_of_equal_parts(video: Path) -> None:
    """mmaction2's SampleFrames in test mode: (free frames + 1) / n wide parts, a clip from the middle of each."""
    spec, opened = ClipSpec(num_frames=4, frame_step=2), open_video(video)
    free = 40 - 8 + 1  # of 40 frames, starts of a clip that spans 8
    for n in (1, 2, 3, 5, 11):
        starts = [spec.indices(opened, start)[0] for start in spec.segment_starts(opened, n)]
        expected = (np.arange(n) + 0.5) * free / n  # mmcv floors these, with which frames on a border may differ by one
        assert np.abs(np.asarray(starts) - expected).max() <= 1
        middles = np.asarray(starts) + 3
        assert np.abs(middles + middles[::-1] - 39).max() <= 1, "as far from the end as from the start"
    assert spec.segment_starts(opened, 1) == spec.segment_starts(opened, 1, "ends") == pytest.approx([3.3 / 2])


def test_two_segments_do_not_lie_at_the_ends(video: Path) -> None:
    spec, opened = ClipSpec(num_frames=4, frame_step=1), open_video(video)
    assert spec.segment_starts(opened, 2) == pytest.approx([0.9, 2.7])
    assert spec.segment_starts(opened, 2, "ends") == pytest.approx([0.0, 3.6])


def test_random_starts_cover_the_video_evenly(video: Path) -> None:
    spec, opened = ClipSpec(num_frames=4, frame_step=2), open_video(video)
    generator = torch.Generator().manual_seed(0)
    firsts = [spec.indices(opened, spec.random_start(opened, generator))[0] for _ in range(3300)]
    counts = np.bincount(firsts, minlength=34)
    assert len(counts) == 34
    assert counts[1:-1].min() > 60  # 100 expected in each; half of that at the two ends
