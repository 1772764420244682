"""What `vjepa finetune` shows: pictures for TensorBoard, report.html and confusion.png."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix
from torch.utils.tensorboard import SummaryWriter

from openvjepa.config import TrainConfig
from openvjepa.data.lists.index import VideoIndex
from openvjepa.features.sampling import ClipPlan
from openvjepa.reports import charts as figures
from openvjepa.reports import pages as report
from openvjepa.reports.cards.finetune import finetune_card
from openvjepa.reports.confusion import confusion_figure, draw_confusion
from openvjepa.weights.files import write_file

SAMPLES = 8  # videos whose predictions are shown
LOOKS = 5  # times that pictures are written in a run
_RIGHT, _WRONG = (22, 163, 74), (220, 38, 38)  # colors
# key of metrics.jsonl: (title, draw it smoothed)
_CURVES = {
    "loss": ("Loss on training clips", True),
    "val_loss": ("Loss on validation videos", False),
    "train_top1": ("Accuracy on training clips, %", True),
    "val_top1": ("Accuracy on validation videos, %", False),
    "lr": ("Learning rate of the classifier", False),
}

Video = tuple[int, NDArray[np.uint8]]
"""Place in the index, frames [T, H, W, 3] of the plain clip."""


def sample_clips(index: VideoIndex, plan: ClipPlan, count: int = SAMPLES) -> list[Video]:
    """Plain clips of some videos, spread over the index; those that cannot be read are left out."""
    clips = plan.plain(index, segments=1, views=1)
    places = np.linspace(0, len(index) - 1, min(count, len(index))).round().astype(int).tolist()
    found = [clips[place] for place in places]
    return [(place, video[0].permute(1, 2, 3, 0).numpy()) for video, place, reason in found if not reason]


class Pictures:
    """Confusion matrix and sample predictions of the validation videos in TensorBoard, about five times in a run."""

    def __init__(
        self,
        out: Path,
        index: VideoIndex,
        plan: ClipPlan,
        classes: Sequence[str],
        train: TrainConfig,
        epoch_steps: int,
    ) -> None:
        self.index, self.plan, self.classes, self.last = index, plan, classes, train.steps
        self.every = max(1, train.steps // epoch_steps // LOOKS)
        self.folder, self.writer, self.videos = out / "tensorboard", None, []

    def __enter__(self) -> Pictures:
        self.videos = sample_clips(self.index, self.plan)
        return self

    def __exit__(self, *error: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def __call__(self, step: int, epoch: int, probabilities: NDArray[np.float64]) -> None:
        """Write them, if it is time; probabilities [n, C] of all validation videos."""
        if not self.videos or not step or (epoch % self.every and step != self.last):
            return
        self.writer = self.writer or SummaryWriter(str(self.folder))  # not before the loop has made the folder ready
        labels = np.array(self.index.labels)
        counts = confusion_matrix(labels, probabilities.argmax(1), labels=range(probabilities.shape[1]))
        title = f"validation, epoch {epoch}: {100 * np.trace(counts) / counts.sum():.1f} %"
        self.writer.add_figure("confusion", confusion_figure(title, counts, self.classes), step, close=False)
        picture, words = self._samples(labels, probabilities)
        self.writer.add_image("predictions", picture, step, dataformats="HWC")
        self.writer.add_text("predictions", words, step)

    def _samples(self, labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> tuple[NDArray[np.uint8], str]:
        """Frames of some videos one under the other, [H, W, 3], right ones in green and wrong ones in red; in words."""
        rows, lines = [], ["| video | predicted | true |", "|---|---|---|"]
        for place, frames in self.videos:
            chosen = np.linspace(0, len(frames) - 1, min(6, len(frames))).round().astype(int)
            best, truth = int(probabilities[place].argmax()), int(labels[place])
            color = np.array(_RIGHT if best == truth else _WRONG, dtype=np.uint8)
            picture = figures.strip(figures.enlarge(frames[chosen], 64))
            framed = np.broadcast_to(color, (picture.shape[0] + 8, picture.shape[1] + 8, 3)).copy()
            framed[4:-4, 4:-4] = picture
            rows.append(framed)
            name = Path(self.index.records[place].path).name
            lines.append(
                f"| {name} | {self.classes[best]} ({probabilities[place, best]:.0%}) | {self.classes[truth]} |"
            )
        return np.concatenate(rows), "\n".join(lines)


def write_documents(
    out: Path,
    results: Mapping[str, Any],
    config: Mapping[str, Any],
    rows: Sequence[Mapping[str, float]],
    probabilities: NDArray[np.float64],
    index: VideoIndex,
    plan: ClipPlan,
) -> None:
    """Write confusion.png, report.html and README.md.

    Args:
        out: run folder.
        results: what results.json holds.
        config: the settings.
        rows: of metrics.jsonl.
        probabilities: [n, C] of the test videos.
        index: the test videos.
        plan: their clips.

    Raises:
        CheckpointError: they cannot be written.
    """
    (kind, outcome), classes = next(iter(results["probes"].items())), results["classes"]
    counts = np.array(outcome["confusion"])
    title = f"{kind}: {outcome['test_top1']:.1f} % of {results['videos']['test']} test videos"
    draw_confusion(out / "confusion.png", title, counts, classes)
    shown = sample_clips(index, replace(plan, segments=1, views=1))
    videos = [
        report.Prediction(
            Path(index.records[place].path).name,
            frames,
            [(classes[int(i)], float(probabilities[place, i])) for i in probabilities[place].argsort()[::-1][:5]],
            classes[index.labels[place]],
        )
        for place, frames in shown
    ]
    sections = [
        _accuracy(kind, outcome, results),
        _training(rows),
        report.confusion_matrices({title: (counts, classes)}),
        report.predictions(videos),
        report.run_facts({**results, "settings": config}),
    ]
    lead = (
        f"{results['model']} fine-tuned on {results['videos']['train']} videos of {len(classes)} classes: "
        f"{outcome['test_top1']:.1f} % ({_interval(outcome)}) of {results['videos']['test']} test videos are classified "
        f"correctly (chance level {results['chance']:.1f} %)."
    )
    report.write_report(out / "report.html", "Fine-tuning", sections, lead=lead)
    write_file(out / "README.md", finetune_card(results, config).encode())


def _interval(outcome: Mapping[str, Any]) -> str:
    """Of 95 %, such as "71 - 84"."""
    low, high = outcome["test_top1_interval"]
    return f"{low:.0f} - {high:.0f}"


def _accuracy(kind: str, outcome: Mapping[str, Any], results: Mapping[str, Any]) -> report.Section:
    """Accuracy on the test videos with its interval, beside that of always naming the commonest class."""
    rows = [
        (f"fine-tuned ({results['tune']}), {kind}", f"{outcome['test_top1']:.1f}", _interval(outcome)),
        ("majority class", f"{results['majority']:.1f}", ""),
        ("chance level", f"{results['chance']:.1f}", ""),
    ]
    return report.Section("Accuracy", report.plain_table((results["label"] or "test videos", "top-1 %", "95 %"), rows))


def _training(rows: Sequence[Mapping[str, float]]) -> report.Section:
    charts: list[Markup] = []
    for key, (title, smooth) in _CURVES.items():
        points = [(row["step"], row[key]) for row in rows if key in row]
        if len(points) > 1:
            steps, values = zip(*points, strict=True)
            charts.append(figures.line_chart(title, steps, {key: values}, smooth=smooth))
    return report.Section("Training", report.chart_row(charts))
