"""What `vjepa finetune` shows: pictures for TensorBoard, report.html, and the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix
from torch.utils.tensorboard import SummaryWriter

from openvjepa.config import TrainConfig
from openvjepa.data.index import VideoIndex
from openvjepa.data.loader import EvalClips
from openvjepa.features.sampling import ClipPlan
from openvjepa.reports import charts as figures
from openvjepa.reports import pages as report
from openvjepa.reports.confusion import confusion_figure, draw_confusion
from openvjepa.version import __version__
from openvjepa.weights.files import write_file

SAMPLES = 8  # videos whose predictions are shown
LOOKS = 5  # times that pictures are written in a run
_RIGHT, _WRONG = (22, 163, 74), (220, 38, 38)  # colours
WATTS, GPU_WATTS = 100.0, 400.0  # of a desktop or server share at work, and with one GPU
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
    clips = EvalClips(index, plan.spec, plan.size, antialias=plan.antialias)
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
            colour = np.array(_RIGHT if best == truth else _WRONG, dtype=np.uint8)
            picture = figures.strip(figures.enlarge(frames[chosen], 64))
            framed = np.broadcast_to(colour, (picture.shape[0] + 8, picture.shape[1] + 8, 3)).copy()
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
        f"{outcome['test_top1']:.1f} % of {results['videos']['test']} test videos are classified correctly (chance "
        f"level {results['chance']:.1f} %)."
    )
    report.write_report(out / "report.html", "Fine-tuning", sections, lead=lead)
    write_file(out / "README.md", model_card(results, config).encode())


def _accuracy(kind: str, outcome: Mapping[str, Any], results: Mapping[str, Any]) -> report.Section:
    """Accuracy on the test videos beside that of always naming the commonest class."""
    found = {
        f"fine-tuned ({results['tune']})": {kind: outcome["test_top1"]},
        "majority class": {kind: results["majority"]},
    }
    label = results["label"] or "test videos"
    return report.accuracy_table({label: found}, {label: results["chance"]})


def _training(rows: Sequence[Mapping[str, float]]) -> report.Section:
    charts = []
    for key, (title, smooth) in _CURVES.items():
        points = [(row["step"], row[key]) for row in rows if key in row]
        if len(points) > 1:
            steps, values = zip(*points, strict=True)
            charts.append(figures.line_chart(title, steps, {key: values}, smooth=smooth))
    return report.Section("Training", f'<div class="charts">{"".join(charts)}</div>')


def model_card(results: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """README.md of a run: data, recipe, figures, limits and emissions, in Markdown.

    Args:
        results: what results.json holds.
        config: the settings.
    """
    base, source = (_last_name(results[key]) for key in ("model", "source"))
    front = {"library_name": "openvjepa", "pipeline_tag": "video-classification", "tags": ["video", "v-jepa"]}
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {base}, fine-tuned on {source}",
        f"A classifier of videos into {len(results['classes'])} classes, made by openvjepa {__version__} from `{base}`.",
        '## Use\n\n```python\nfrom openvjepa import load_model\n\nmodel = load_model(".")  # .encoder, .probe, .labels\n'
        "```\n\n`vjepa predict . video.mp4` names the likeliest classes; `vjepa export . --out hf --to hf` writes it for "
        "transformers.",
        _data(results, source),
        _recipe(results, config),
        _metrics(results),
        _limits(results),
        _emissions(results, config),
        "## Licence\n\nNot known to the tool that wrote this card: those of the model and of the videos hold.",
    ]
    return "\n\n".join(parts) + "\n"


def _last_name(path: str) -> str:
    """Without the folders above, which are nobody else's business."""
    return Path(path).name or path


def _data(results: Mapping[str, Any], source: str) -> str:
    videos, skipped = results["videos"], results["skipped"]
    counts = ", ".join(f"{count} {name}" for name, count in videos.items())
    left_out = f" {len(skipped)} files could not be read and were left out." if skipped else ""
    return f"## Data\n\n`{source}`: {counts} videos.{left_out} Classes: {', '.join(results['classes'])}."


def _recipe(results: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    trained = {
        "head": "the classifier; the encoder is frozen",
        "last": f"the classifier and the last {config['last_blocks']} blocks of the encoder",
        "lora": f"the classifier and low-rank adapters (rank {config['lora_rank']}), merged into the encoder afterwards",
        "all": "the classifier and the whole encoder",
    }[config["tune"]]
    spec = results["clips"]["spec"]
    rate = f"{spec['fps']:g} a second" if spec["fps"] else f"every {spec['frame_step']}. one"
    facts = {
        "trained": trained,
        "classifier to start from": results["head"],
        "epochs": f"{results['epochs']}, the best on validation is number {results['best_epoch']}",
        "clips in a step": results["batch_size"],
        "learning rate": f"{config['lr']:g}, {config['schedule']}",
        "weight decay": f"{config['weight_decay']:g}",
        "class weights": config["class_weights"],
        "mixup, RandAugment, erasing, flips": ", ".join(
            f"{config[name]:g}" for name in ("mixup", "randaugment", "erasing", "hflip")
        ),
        "frames of a clip": f"{spec['num_frames']}, {rate}, {results['clips']['size'][1]} x {results['clips']['size'][0]} px",
        "seed": config["seed"],
    }
    lines = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"## Recipe\n\n| | |\n|---|---|\n{lines}\n\nAll settings are in config.yaml."


def _metrics(results: Mapping[str, Any]) -> str:
    outcome, clips = next(iter(results["probes"].values())), results["clips"]
    top5 = "" if outcome["test_top5"] is None else f"\n| test, top-5 | {outcome['test_top5']:.1f} % |"
    classes = "\n".join(
        f"| {name} | {'no test videos' if share is None else f'{share:.1f} %'} |"
        for name, share in outcome["per_class"].items()
    )
    return (
        f"## Metrics\n\n| accuracy | |\n|---|---|\n| test, {results['videos']['test']} videos | "
        f"{outcome['test_top1']:.1f} % |{top5}\n| validation, {results['videos']['val']} videos (chose the epoch) | "
        f"{outcome['val_top1']:.1f} % |\n| chance level | {results['chance']:.1f} % |\n| majority class | "
        f"{results['majority']:.1f} % |\n\nThe softmax of {clips['segments']} clips x {clips['views']} views of a video is "
        f"averaged.\n\n| class | recall |\n|---|---|\n{classes}"
    )


def _limits(results: Mapping[str, Any]) -> str:
    share, count = next(iter(results["probes"].values()))["test_top1"] / 100, results["videos"]["test"]
    error = 196 * (share * (1 - share) / count) ** 0.5
    return (
        f"## Limits\n\n- With {count} test videos the accuracy is known within about {error:.0f} points (95 %).\n"
        "- It knows nothing but its classes: every video gets one of them, whatever it shows.\n"
        "- Videos from other cameras, places or people than the training videos may be classified less accurately; nothing was "
        "tested beyond the split above.\n"
        "- Its probabilities were not calibrated."
    )


def _emissions(results: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    seconds = sum(results["seconds"].values())
    watts = config["watts"] or (GPU_WATTS if results["device"].startswith("cuda") else WATTS)
    kwh = seconds / 3600 * watts / 1000
    return (
        f"## Emissions\n\nAbout {kwh * config['grams_per_kwh']:.2g} g of CO2: measured were {seconds:.0f} s on "
        f"{results['device'].split(',')[0]}; assumed are {watts:g} W for the whole computer and "
        f"{config['grams_per_kwh']:g} g of CO2 a kWh. Pretraining of the encoder is not counted."
    )
