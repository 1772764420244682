"""The collapse monitor of pretraining."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openvjepa.config import PretrainConfig
from openvjepa.data.clips import ClipSpec
from openvjepa.data.lists.index import VideoIndex
from openvjepa.data.loader import EvalClips, PretrainBatches
from openvjepa.data.transforms import normalize
from openvjepa.errors import DataError
from openvjepa.metrics import feature_std, knn_accuracy, rankme
from openvjepa.pretraining.task import PretrainTask
from openvjepa.train.distributed import Runtime
from openvjepa.train.logs import read_metrics

LEAST_VAL = 32  # validation videos, below which training videos take their place
MONITOR_CLIPS = 256  # fixed clips that the monitors look at, half of them as the neighbors of kNN
log = logging.getLogger("openvjepa")


class CollapseMonitor:
    """Looks at the target encoder's features of a fixed batch of clips: do they still differ from clip to clip?

    Reports the standard deviation over clips and tokens, the effective rank (RankMe) and, where there are labels, the
    accuracy of a k-nearest-neighbor vote of one half of the clips on the other.
    """

    def __init__(self, task: PretrainTask, index: VideoIndex, config: PretrainConfig, runtime: Runtime) -> None:
        self.task, self.runtime = task, runtime
        clips, labels = _fixed_clips(index, config)
        self.clips, self.labels = clips, labels
        record = read_metrics(Path(config.out) / "metrics.jsonl")  # of the run that is resumed
        self.first = record[0] if record and "feature_std" in record[0] else None

    def __call__(self, step: int) -> dict[str, float]:
        """Monitor values at a step; prints a warning in words when the encoder is collapsing."""
        tokens = self._features()
        pooled = tokens.mean(1)
        values = {"feature_std": feature_std(tokens.flatten(0, 1)), "rankme": rankme(tokens.flatten(0, 1))}
        if self.labels is not None:
            known, asked = halves(self.labels)
            values["knn"] = knn_accuracy(pooled[known], self.labels[known], pooled[asked], self.labels[asked])
        self.first = self.first or values
        warning = collapse_warning(values, self.first)
        if warning:
            log.warning("step %d: %s", step, warning)
        return values

    @torch.no_grad()
    def _features(self) -> Tensor:
        encoder = self.task.jepa.target_encoder
        chunks: list[Tensor] = []
        for clips in torch.split(self.clips, 32):
            with self.runtime.autocast():
                chunks.append(encoder(normalize(clips.to(self.runtime.device))).float().cpu())
        return torch.cat(chunks)


def halves(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Places of the neighbors and of those that they vote on, half of each class: lists may be sorted by class.

    Args:
        labels: class numbers [n].
    """
    order = labels.argsort(stable=True)
    return order[::2], order[1::2]


def collapse_warning(now: dict[str, float], first: dict[str, float]) -> str | None:
    """Says in words that the encoder is collapsing, or None.

    Args:
        now: feature_std and rankme of the target encoder's tokens.
        first: the same before training.
    """
    if now["feature_std"] < 0.1 * first["feature_std"]:
        return (
            f"the encoder is collapsing: the features of different clips and tokens hardly differ any more (std "
            f"{now['feature_std']:.3f}, {first['feature_std']:.3f} at the start). Lower the learning rate, raise the "
            "EMA momentum, or add a regularizer (reg_coeff, sigreg_coeff)."
        )
    if now["rankme"] < max(2.0, 0.05 * first["rankme"]):
        return (
            f"the encoder is collapsing: its features use {now['rankme']:.1f} dimensions ({first['rankme']:.1f} at the "
            "start). Lower the learning rate, or add a regularizer (reg_coeff, sigreg_coeff)."
        )
    return None


def monitor_index(batches: PretrainBatches) -> VideoIndex:
    """Fixed videos for the monitors: of the split val where there is one, else a sample of the training videos."""
    val = batches.indices[0].select("val")
    index = val if len(val) >= LEAST_VAL else batches.shown[0]
    # At random, not every n-th: the classes of a list may take turns.
    chosen = np.sort(np.random.default_rng(0).permutation(len(index))[:MONITOR_CLIPS])
    return replace(index, records=tuple(index.records[i] for i in chosen))


def _fixed_clips(index: VideoIndex, config: PretrainConfig) -> tuple[Tensor, Tensor | None]:
    """Center clips uint8 [n, 3, T, H, W] of the videos that can be read, and their labels."""
    spec = ClipSpec(config.model.num_frames, config.data.frame_step, config.data.fps)
    items = EvalClips(index, spec, config.model.image_hw)
    readable = [(clips[0], index.labels[i]) for clips, i, error in (items[i] for i in range(len(items))) if not error]
    if not readable:
        raise DataError(f"{index.source}: none of the first {len(index)} videos can be read")
    labels = torch.tensor([label for _, label in readable])
    return torch.stack([clip for clip, _ in readable]), labels if labels.min() >= 0 and len(labels) > 3 else None
