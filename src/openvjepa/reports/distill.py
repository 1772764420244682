"""report.html and results.json of a distillation: what the student's features are worth beside its teacher's."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from openvjepa.config import DistillConfig, to_mapping
from openvjepa.data.lists.index import VideoIndex
from openvjepa.errors import OpenVJEPAError
from openvjepa.features.sampling import plan_for
from openvjepa.model.encoder import Encoder
from openvjepa.probing.probes import probe_features
from openvjepa.reports import pages as report
from openvjepa.reports.runs.pretrain import MOST_VIDEOS, PROBES, labeled_videos, mean_features, thinned_splits
from openvjepa.train.distributed import Runtime
from openvjepa.train.logs import read_metrics
from openvjepa.train.trainer import FitResult
from openvjepa.version import versions
from openvjepa.weights.files import write_file
from openvjepa.weights.loaded import LoadedModel

log = logging.getLogger("openvjepa")


@dataclass(frozen=True)
class DistillResult:
    """Result of a distillation."""

    out: Path
    steps: int
    seconds: float
    """Of training."""
    gflops: Mapping[str, float]
    """Forward pass of a clip, by formula: teacher, student."""
    accuracy: Mapping[str, Mapping[str, float]]
    """student, teacher, untrained student -> probe -> test top-1, percent; empty without labels."""
    chance: float | None
    """100 / classes; None without labels."""

    @property
    def sentence(self) -> str:
        """The result in words."""
        share = self.gflops["student"] / self.gflops["teacher"]
        text = f"the student takes {100 * share:.1f} % of the teacher's operations for a clip"
        if not self.accuracy:
            return f"{text}; no labels to compare their features"
        kept = 100 * self.accuracy["student"]["linear"] / max(1e-9, self.accuracy["teacher"]["linear"])
        shown = ", ".join(f"{name} {row['linear']:.1f} %" for name, row in self.accuracy.items())
        return (
            f"{text} and keeps {kept:.0f} % of its accuracy (linear probe: {shown}, chance level {self.chance:.1f} %)"
        )


def compare_features(
    models: Mapping[str, LoadedModel], sources: Sequence[VideoIndex], runtime: Runtime, *, seed: int
) -> tuple[dict[str, dict[str, float]], float] | None:
    """Test accuracy of probes on the mean token of several encoders, by name, and the chance level; None without labels."""
    labeled = [index for index in sources if index.classes is not None and len(index.classes) > 1]
    splits = thinned_splits(labeled_videos(labeled[0]), MOST_VIDEOS, seed) if labeled else None
    if splits is None:
        return None
    classes, found = labeled[0].classes or (), {}
    for name, model in models.items():
        plan = plan_for(model, labeled[0].records)
        encoder = model.encoder.to(runtime.device)
        x = [mean_features(encoder, splits[part], plan, runtime, f"{part} videos, {name}") for part in splits]
        outcomes = probe_features(*x[0], *x[1], *x[2], classes=classes, num_heads=1, kinds=PROBES)
        found[name] = {kind: outcome.test_top1 for kind, outcome in outcomes.items()}
    return found, 100 / len(classes)


def report_distillation(
    config: DistillConfig,
    initial: Encoder,
    student: LoadedModel,
    teacher: LoadedModel,
    sources: Sequence[VideoIndex],
    runtime: Runtime,
    result: FitResult,
    gflops: Mapping[str, float],
) -> DistillResult:
    """Compare untrained student, student and teacher, and write report and results; a comparison that fails is logged."""
    models = {"student": student, "teacher": teacher, "untrained student": replace(student, encoder=initial)}
    try:
        compared = compare_features(models, sources, runtime, seed=config.seed)
    except OpenVJEPAError as error:
        log.warning("no comparison of student and teacher: %s", error)
        compared = None
    accuracy, chance = compared or ({}, None)
    out = Path(config.out)
    found = DistillResult(out, result.step, result.seconds, gflops, accuracy, chance)
    sections = []
    if accuracy and chance is not None:
        note = (
            "Probes on the mean token of the frozen encoders: test top-1 accuracy in percent, chance level as a mark."
        )
        sections.append(report.accuracy_table({"test videos": accuracy}, {"test videos": chance}, note=note))
    facts = {"seconds": result.seconds, "computed on": str(runtime), "GFLOP of a clip": dict(gflops)}
    sections += [
        report.training_curves(read_metrics(out / "metrics.jsonl")),
        report.run_facts({**facts, "settings": to_mapping(config), "versions": versions()}),
    ]
    lead = found.sentence[0].upper() + found.sentence[1:] + "."
    report.write_report(out / "report.html", "Distillation", sections, lead=lead)
    values = {name: value for name, value in vars(found).items() if name != "out"}
    write_file(out / "results.json", json.dumps(values | {"settings": to_mapping(config)}, indent=1).encode())
    return found
