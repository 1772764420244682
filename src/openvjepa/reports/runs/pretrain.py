"""report.html of a pretraining run: its curves, and whether its encoder is worth more than random weights."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openvjepa.config import PretrainConfig, to_mapping
from openvjepa.data.lists.index import VideoIndex, stratified_split
from openvjepa.errors import OpenVJEPAError
from openvjepa.features.encode import EncodeSettings, encode_videos
from openvjepa.features.sampling import ClipPlan, plan_for
from openvjepa.model.encoder import Encoder
from openvjepa.probing.probes import probe_features
from openvjepa.reports import pages as report
from openvjepa.train.distributed import Runtime
from openvjepa.train.logs import read_metrics
from openvjepa.version import versions
from openvjepa.weights.loaded import LoadedModel

PROBES = ("linear", "knn")
MOST_VIDEOS, LEAST_VIDEOS = 600, 40  # of the labeled videos that are used
_SHARE = 0.05  # of the time of the pretraining that the comparison may take

log = logging.getLogger("openvjepa")


@dataclass(frozen=True)
class Comparison:
    """Test accuracy of probes on the frozen encoder, before and after pretraining; percent."""

    before: dict[str, float]
    after: dict[str, float]
    train_videos: int
    test_videos: int
    classes: int

    @property
    def sentence(self) -> str:
        """The result in words."""
        parts = [f"{kind} {self.after[kind]:.1f} % against {self.before[kind]:.1f} %" for kind in self.after]
        gain = min(self.after[kind] - self.before[kind] for kind in self.after)
        loss = max(self.after[kind] - self.before[kind] for kind in self.after)
        noise = max(_half_width(self.after[kind], self.test_videos) for kind in self.after)
        if gain > noise:
            verdict = "Pretraining improved the features"
        elif loss < -noise:
            verdict = "Pretraining made the features worse"
        else:
            verdict = "No significant difference between the features before and after pretraining"
        return (
            f"{verdict}: {', '.join(parts)} with the weights before pretraining ({self.train_videos} videos to train the "
            f"probes, {self.test_videos} to test them, chance level {100 / self.classes:.1f} %)."
        )


def _half_width(accuracy: float, count: int) -> float:
    """Of a 95 % confidence interval, points."""
    share = (accuracy / 100 * count + 2) / (count + 4)  # Agresti and Coull (1998)
    return float(196 * (share * (1 - share) / (count + 4)) ** 0.5)


def compare_encoders(
    before: Encoder, model: LoadedModel, sources: Sequence[VideoIndex], runtime: Runtime, *, seconds: float, seed: int
) -> Comparison | None:
    """Probe an encoder before and after pretraining on its own labeled videos.

    Args:
        before: with the weights that the pretraining started from.
        model: the pretrained one.
        sources: the lists that it was pretrained on, held-out videos included.
        runtime: how to compute.
        seconds: how long it may take.
        seed: of the splits.

    Returns:
        None without labels, or where there is no time for enough videos.
    """
    labeled = [index for index in sources if index.classes is not None and len(index.classes) > 1]
    if not labeled:
        return None
    index = labeled_videos(labeled[0])
    plan = plan_for(model, index.records)
    count = min(MOST_VIDEOS, len(index), int(seconds / max(1e-3, 2 * _seconds_per_video(model, index, plan, runtime))))
    if count < max(LEAST_VIDEOS, 6 * len(index.classes or ())):
        log.info(
            "not compared with the encoder before pretraining: the time budget allows only %d labeled videos", count
        )
        return None
    splits = thinned_splits(index, count, seed)
    if splits is None:
        return None
    found = {}
    for name, encoder in (("before", before), ("after", model.encoder)):
        encoder.to(runtime.device)
        x = {
            part: mean_features(encoder, split, plan, runtime, f"{part} videos {name}")
            for part, split in splits.items()
        }
        outcomes = probe_features(
            *x["train"], *x["val"], *x["test"], classes=index.classes or (), num_heads=1, kinds=PROBES
        )
        found[name] = {kind: outcome.test_top1 for kind, outcome in outcomes.items()}
    counts = {part: len(split) for part, split in splits.items()}
    return Comparison(found["before"], found["after"], counts["train"], counts["test"], len(index.classes or ()))


def labeled_videos(index: VideoIndex) -> VideoIndex:
    """Those that have a label."""
    return replace(index, records=tuple(record for record in index.records if record.label is not None))


def thinned_splits(index: VideoIndex, count: int, seed: int) -> dict[str, VideoIndex] | None:
    """Train, val and test videos, `count` in all, spread over the list; None where a class would be missing."""
    marked = {part: index.select(part) for part in ("train", "val", "test")}
    if not all(map(len, marked.values())):
        shared = stratified_split(index, val=0.2, test=0.3, seed=seed)
        marked = {part: shared.select(part) for part in ("train", "val", "test")}
    total = sum(map(len, marked.values()))
    rng = np.random.default_rng((seed, 31))
    thinned = {}
    for part, split in marked.items():
        rows = np.sort(rng.permutation(len(split))[: max(1, round(len(split) * count / total))])
        thinned[part] = replace(split, records=tuple(split.records[i] for i in rows))
    return thinned if set(thinned["train"].labels) == set(range(len(index.classes or ()))) else None


def _seconds_per_video(model: LoadedModel, index: VideoIndex, plan: ClipPlan, runtime: Runtime) -> float:
    some = replace(index, records=index.records[:4])
    started = time.monotonic()
    mean_features(model.encoder.to(runtime.device), some, plan, runtime, "")
    return (time.monotonic() - started) / len(some)


def mean_features(
    encoder: Encoder, index: VideoIndex, plan: ClipPlan, runtime: Runtime, name: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Mean token of each video that can be read, [n, 1, 1, D], and labels [n]."""
    rows, labels = [], []
    settings = EncodeSettings(runtime, workers=0)
    for place, features in encode_videos(encoder, index, plan, settings, name=name):
        if isinstance(features, torch.Tensor):
            rows.append(features[:1].mean(1, keepdim=True).numpy())
            labels.append(index.labels[place])
    return np.stack(rows), np.array(labels, dtype=np.int64)


def write_pretraining(
    out: Path, config: PretrainConfig, comparison: Comparison | None, facts: Mapping[str, Any]
) -> Path:
    """Write report.html of a finished run.

    Raises:
        CheckpointError: it cannot be written.
    """
    rows = read_metrics(out / "metrics.jsonl")
    sections = []
    if comparison is not None:
        table = {"test videos": {"pretrained": comparison.after, "before pretraining": comparison.before}}
        note = "Probes on the mean token of the frozen encoder: test top-1 accuracy in percent, chance level as a mark."
        sections.append(
            report.accuracy_table(
                table, {"test videos": 100 / comparison.classes}, note=note, videos=comparison.test_videos
            )
        )
    sections += [
        report.training_curves(rows),
        report.run_facts({**facts, "settings": to_mapping(config), "versions": versions()}),
    ]
    lead = (
        comparison.sentence
        if comparison
        else "Not compared with the encoder before pretraining: there are no labels, or too few labeled videos."
    )
    return report.write_report(out / "report.html", "Pretraining", sections, lead=lead)


def report_pretraining(
    config: PretrainConfig,
    before: Encoder,
    model: LoadedModel,
    sources: Sequence[VideoIndex],
    runtime: Runtime,
    *,
    seconds: float,
) -> Comparison | None:
    """Compare the encoder with its weights before pretraining, and write the report; a comparison that fails is logged."""
    try:
        budget = _SHARE * seconds + 5.0
        comparison = compare_encoders(before, model, sources, runtime, seconds=budget, seed=config.train.seed)
    except OpenVJEPAError as error:
        log.warning("not compared with the encoder before pretraining: %s", error)
        comparison = None
    write_pretraining(Path(config.out), config, comparison, {"seconds": seconds, "computed on": str(runtime)})
    if comparison is not None:
        log.info("%s", comparison.sentence)
    return comparison
