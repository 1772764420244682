"""Class probabilities while a classifier is fine-tuned, and the choice of its best epoch.

Shapes: n videos, V clips of each, N tokens, D channels, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvjepa.data.lists.index import VideoIndex
from openvjepa.data.transforms import normalize
from openvjepa.errors import DataError
from openvjepa.features.sampling import ClipPlan
from openvjepa.finetuning.batches import planned_clips
from openvjepa.finetuning.task import FinetuneTask
from openvjepa.metrics import Labels, accuracy, log_loss
from openvjepa.model.pooler import average_softmax
from openvjepa.train.distributed import Runtime


@torch.no_grad()
def feature_probabilities(
    task: FinetuneTask, x: NDArray[Any], batch_size: int, runtime: Runtime
) -> NDArray[np.float64]:
    """Class probabilities [n, C] of videos with cached features [n, V, N, D]: the softmax of the clips, averaged."""
    parts, step = list[Tensor](), max(1, batch_size // x.shape[1])
    for start in range(0, len(x), step):
        tokens = torch.from_numpy(np.array(x[start : start + step], dtype=np.float32)).to(runtime.device)
        with runtime.autocast():
            logits = task.logits(tokens.flatten(0, 1))
        parts.append(average_softmax(logits.float(), x.shape[1]).double().cpu())
    return torch.cat(parts).numpy()


@torch.no_grad()
def clip_probabilities(
    task: FinetuneTask, index: VideoIndex, plan: ClipPlan, batch_size: int, workers: int | None, runtime: Runtime
) -> NDArray[np.float64]:
    """Class probabilities [n, C] of videos, through the encoder as it is now.

    Raises:
        DataError: a video cannot be read any more.
    """
    parts: list[Tensor] = []
    for clips, places, reasons in planned_clips(index, plan, batch_size=batch_size, workers=workers):
        for place, reason in zip(places, reasons, strict=True):
            if reason:
                raise DataError(f"{index.records[place].name}: {reason}: it could be read when the run started")
        with runtime.autocast():
            logits = task.logits(normalize(clips.flatten(0, 1).to(runtime.device)))
        parts.append(average_softmax(logits.float(), clips.shape[1]).double().cpu())
    return torch.cat(parts).numpy()


class Validation:
    """The trainer's monitor: accuracy on the validation videos after each epoch, the best weights, and when to stop.

    Args:
        task: what is trained.
        evaluate: gives the class probabilities [n, C] of the validation videos.
        labels: their classes [n].
        steps: optimizer steps of an epoch.
        patience: epochs without anything better after which the run ends; None: it never does.
        count_start: whether the weights before training may be the best (they may not where the head is new).
        show: is told (step, epoch, probabilities); for pictures.
        elapsed: seconds that the run has taken before, if it is resumed.
    """

    def __init__(
        self,
        task: FinetuneTask,
        evaluate: Callable[[], NDArray[np.float64]],
        labels: Labels,
        *,
        steps: int,
        patience: int | None,
        count_start: bool,
        show: Callable[[int, int, NDArray[np.float64]], None],
        elapsed: float = 0.0,
    ) -> None:
        self.task, self.evaluate, self.labels, self.steps = task, evaluate, labels, steps
        self.patience, self.count_start, self.show = patience, count_start, show
        self.started = time.monotonic() - elapsed

    def __call__(self, step: int) -> dict[str, float]:
        """Figures of an epoch: its number, accuracy in percent, mean negative log likelihood, seconds since the start."""
        probabilities = self.evaluate()
        top1, loss = accuracy(probabilities, self.labels), log_loss(probabilities, self.labels)
        if step or self.count_start:
            self.task.remember(step, top1, loss)
        epoch = round(step / self.steps)
        self.show(step, epoch, probabilities)
        return {"epoch": epoch, "val_top1": top1, "val_loss": loss, "elapsed": time.monotonic() - self.started}

    def stop(self) -> bool:
        """Whether nothing better came for `patience` epochs."""
        return self.patience is not None and self.task.best.waited >= self.patience
