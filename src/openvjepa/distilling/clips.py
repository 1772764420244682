"""The clips of a distillation: what the teacher is shown, the same parts of the videos for the student, and batches of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openvjepa.config import ModelConfig
from openvjepa.data.clips import ClipSpec
from openvjepa.data.lists.index import VideoIndex
from openvjepa.data.loader import Batch
from openvjepa.data.media.images import is_image
from openvjepa.errors import ConfigError, DataError
from openvjepa.features.encode import EncodeSettings, planned_batches
from openvjepa.features.sampling import ClipPlan

_ORDER = 30  # tag that keeps this stream of random numbers apart


def student_plan(teacher: ClipPlan, student: ModelConfig, index: VideoIndex) -> ClipPlan:
    """The clips of a plan, crop for crop and second for second, in the student's number and size of frames.

    Raises:
        ConfigError: the student's frames cannot span the time of the teacher's, or have another shape.
    """
    height, width = student.image_hw
    if height * teacher.size[1] != width * teacher.size[0]:
        raise ConfigError(
            f"the student's clips are {height} x {width} px and the teacher's {teacher.size[0]} x {teacher.size[1]}: crops "
            "must have one shape; set student_size"
        )
    return replace(teacher, spec=_spanning(teacher.spec, student.num_frames, index), size=student.image_hw)


def _spanning(spec: ClipSpec, frames: int, index: VideoIndex) -> ClipSpec:
    """A clip of so many frames over the same time."""
    if frames == spec.num_frames:
        return spec
    if all(is_image(record.path) for record in index.records):
        return ClipSpec(frames, 1)
    if frames == 1:
        raise ConfigError("a student for single frames cannot learn from clips of videos: choose another student")
    if spec.fps is not None:
        return ClipSpec(frames, None, spec.fps * frames / spec.num_frames)
    step, rest = divmod((spec.frame_step or 1) * spec.num_frames, frames)
    if rest or not step:
        raise ConfigError(
            f"{frames} frames of the student cannot span the teacher's {spec.num_frames}, every {spec.frame_step} of the "
            "video: choose a student whose number of frames divides it"
        )
    return ClipSpec(frames, step)


@dataclass(frozen=True)
class Pairs:
    """Clips of the student and features of the teacher, in the same order."""

    clips: NDArray[np.uint8]
    """[n, 3, T, H, W], n clips of all videos."""
    features: NDArray[Any]
    """[n, M, E]."""

    def batches(self, *, seed: int, size: int, first: int, steps: int) -> Iterator[Batch]:
        """Batches of the steps from `first` on: epochs of a new random order each, which follow from the seed."""
        count, epoch, order = len(self.clips), -1, np.empty(0, np.int64)
        for step in range(first, steps):
            rows = []
            for number in range(step * size, (step + 1) * size):
                if number // count != epoch:
                    epoch = number // count
                    order = np.random.default_rng((seed, _ORDER, epoch)).permutation(count)
                rows.append(order[number % count])
            features = np.stack([self.features[row] for row in rows]).astype(np.float32)
            clips = np.stack([self.clips[row] for row in rows])
            yield {"clips": torch.from_numpy(clips), "features": torch.from_numpy(features)}


def decode_clips(index: VideoIndex, plan: ClipPlan, settings: EncodeSettings, path: Path) -> NDArray[np.uint8]:
    """The planned clips of all videos, uint8 [videos * V, 3, T, H, W], in a file of that name.

    Raises:
        DataError: a video cannot be read now, or the clips do not fit on the disk.
    """
    shape = (len(index) * plan.clips, 3, plan.spec.num_frames, *plan.size)
    try:
        with path.open("wb") as file:
            for places, clips, reasons in planned_batches(index, plan, settings, name="clips of the student"):
                for place, reason in zip(places, reasons, strict=True):
                    if reason:
                        raise DataError(f"{index.records[place].path}: {reason}; the teacher could read it")
                file.write(clips.numpy().tobytes())
        return np.memmap(path, np.uint8, "r", shape=shape)
    except OSError as error:
        raise DataError(f"{path}: cannot keep the clips: {error.strerror or error}: free some space") from None
