"""Which frames form a clip."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from openvjepa.data.clips import ClipSpec, meta_frame_indices, read_clip
from openvjepa.data.synthetic import write_video
from openvjepa.data.video import open_video
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
    """40 frames at 10 per second whose grey level is 6 x their number."""
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
    clips = [spec.indices(opened, start).tolist() for start in spec.segment_starts(opened, 3)]
    assert clips[0] == [0, 2, 4, 6]
    assert clips[-1] == [33, 35, 37, 39]
    assert len(clips) == 3


def test_random_starts_cover_the_video_evenly(video: Path) -> None:
    spec, opened = ClipSpec(num_frames=4, frame_step=2), open_video(video)
    generator = torch.Generator().manual_seed(0)
    firsts = [spec.indices(opened, spec.random_start(opened, generator))[0] for _ in range(3300)]
    counts = np.bincount(firsts, minlength=34)
    assert len(counts) == 34
    assert counts[1:-1].min() > 60  # 100 expected in each; half of that at the two ends
