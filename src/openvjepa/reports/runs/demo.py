"""report.html of `vjepa demo`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from openvjepa.config import PretrainConfig
from openvjepa.data.clips import ClipSpec
from openvjepa.data.lists.index import VideoIndex, read_index
from openvjepa.data.loader import EvalClips
from openvjepa.features.encode import encode
from openvjepa.inference.predictions import Prediction
from openvjepa.reports import pages as report
from openvjepa.train.logs import read_metrics
from openvjepa.weights.hub import load_model

Results = dict[str, dict[str, dict[str, float]]]
"""label -> features -> probe -> top-1 on the test split, percent."""
Confusions = Mapping[str, tuple[list[list[int]], tuple[str, ...]]]

_NO_SURPRISE = (
    "The model of the demo is trained to predict the next latent and to compare views; it has no predictor of masked tokens, "
    "which vjepa surprise and vjepa decode need. To see predicted features and prediction errors, pretrain with masked "
    "prediction: vjepa pretrain VIDEOS --preset nano-masked, then vjepa surprise and vjepa decode."
)


def write_demo(
    out: Path,
    results: Results,
    chance: Mapping[str, float],
    tested: int,
    confusions: Confusions,
    predictions: Sequence[Prediction],
    videos: VideoIndex,
    recipe: PretrainConfig,
    facts: Mapping[str, Any],
) -> Path:
    """Write report.html.

    Args:
        out: folder of the demo.
        results: test accuracies.
        chance: label -> chance level, percent.
        tested: videos that were tested.
        confusions: title -> counts [C][C], class names.
        predictions: of the motion in some test videos.
        videos: those videos.
        recipe: of the pretraining.
        facts: about the run.

    Raises:
        CheckpointError: it cannot be written.
    """
    sections = [
        report.accuracy_table(results, chance, videos=tested),
        _predicted(predictions, videos, recipe),
        _features_over_clips(out, recipe, videos),
        report.Section("Prediction and surprise", report.paragraph(_NO_SURPRISE)),
        report.confusion_matrices(confusions),
        report.training_curves(read_metrics(out / "pretrain" / "metrics.jsonl")),
        report.run_facts(facts),
    ]
    return report.write_report(out / "report.html", "V-JEPA on moving shapes", sections, lead=lead(results))


def _predicted(predictions: Sequence[Prediction], videos: VideoIndex, recipe: PretrainConfig) -> report.Section:
    """Predictions of some videos beside their frames and true classes."""
    classes = videos.classes or ()
    shown = [
        report.Prediction(Path(p.path).name, _frames(p.path, recipe), p.top, classes[r.label or 0])
        for p, r in zip(predictions, videos.records, strict=True)
    ]
    return report.predictions(shown)


def _plain_clip(path: str, recipe: PretrainConfig) -> Tensor:
    index = read_index(path)
    spec = ClipSpec(recipe.model.num_frames, recipe.data.frame_step, recipe.data.fps)
    return EvalClips(index, spec, recipe.model.image_hw)[0][0]


def _frames(path: str, recipe: PretrainConfig) -> NDArray[np.uint8]:
    """Frames of the plain clip, uint8 [T, H, W, 3]."""
    return _plain_clip(path, recipe)[0].permute(1, 2, 3, 0).numpy()


def _features_over_clips(out: Path, recipe: PretrainConfig, chosen: VideoIndex) -> report.Section:
    models = {
        name: load_model(out / folder) for name, folder in (("pretrained", "pretrain"), ("untrained", "untrained"))
    }
    clips = []
    for record in chosen.records[:3]:
        features = {name: encode(model, _plain_clip(record.path, recipe))[0].numpy() for name, model in models.items()}
        clips.append((Path(record.path).name, _frames(record.path, recipe), features))
    return report.feature_pca(clips, recipe.model.grid)


def lead(results: Results) -> str:
    """The result in a sentence: every probe, won or lost."""
    parts = []
    for label, features in results.items():
        leads = []
        for probe_name, ours in features["pretrained"].items():
            best = max(features["untrained"][probe_name], features["pixels"][probe_name])
            leads.append(f"{probe_name} {ours:.1f} ({ours - best:+.1f})")
        parts.append(f"{label}: {', '.join(leads)}")
    return (
        "Test top-1 of frozen pretrained features in percent, and the lead over the better of untrained features and "
        f"pixels: {'; '.join(parts)}."
    )
