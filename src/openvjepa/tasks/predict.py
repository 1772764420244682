"""`vjepa predict`: the likeliest classes of videos, by a probe that `vjepa probe` trained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from openvjepa.config import PredictConfig, TrainConfig
from openvjepa.data.index import VideoIndex, VideoRecord, read_index
from openvjepa.errors import ConfigError, DataError
from openvjepa.tasks.classifier import VideoClassifier, load_classifier
from openvjepa.tasks.features import EncodeSettings, encode_videos
from openvjepa.train.distributed import make_runtime

LISTS = (".txt", ".csv")


@dataclass(frozen=True)
class Prediction:
    """What a classifier says about one video."""

    path: str
    top: tuple[tuple[str, float], ...]
    """(class, probability), likeliest first; empty if the video could not be read."""
    error: str | None = None
    """Why it could not be read."""

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        top = [{"class": name, "probability": probability} for name, probability in self.top]
        return {"path": self.path, "top": top, "error": self.error}


def predict(config: PredictConfig) -> list[Prediction]:
    """Classify videos and print the result: a table, or with `json` one JSON list and nothing else on stdout.

    The softmax of all clips of a video is averaged, as in the probe's evaluation. A video that cannot be read gets an
    error and does not stop the others; the command line exits with 1 only when there is no video that could be read.

    Returns:
        One prediction for each video, in the order given; folders and lists are expanded.

    Raises:
        ConfigError: no videos are given.
        CheckpointError: the run cannot be read or holds no classifier.
    """
    if not config.run or not config.videos:
        raise ConfigError("give the run folder of a probe, and videos: files, folders or lists")
    classifier = load_classifier(config.run)
    plan = classifier.plan
    plan = replace(plan, segments=config.segments or plan.segments, views=config.views or plan.views)
    wanted = list(_expand(config.videos))
    paths = [path for path, error in wanted if error is None]
    train = TrainConfig(device=config.device, precision=config.precision, threads=config.threads)
    with make_runtime(train) as runtime:
        settings = EncodeSettings(runtime, workers=config.workers)
        found = iter(_classify(replace(classifier, plan=plan), paths, settings, config.top))
        predictions = [Prediction(path, (), error) if error else next(found) for path, error in wanted]
    if config.json:
        print(json.dumps([prediction.to_dict() for prediction in predictions], indent=1))
    else:
        _print(predictions)
    return predictions


def _classify(
    classifier: VideoClassifier, paths: Sequence[str], settings: EncodeSettings, top: int
) -> Iterator[Prediction]:
    """Predictions in the order of the paths."""
    encoder = classifier.encoder.to(settings.runtime.device)
    classifier.probe.to(settings.runtime.device)
    index = VideoIndex(tuple(VideoRecord(path) for path in paths), None, "videos")
    for item, features in encode_videos(encoder, index, classifier.plan, settings, name="videos"):
        if isinstance(features, str):
            yield Prediction(paths[item], (), features)
        else:
            shares = classifier.probabilities(features)
            best = shares.argsort(kind="stable")[::-1][:top]
            yield Prediction(paths[item], tuple((classifier.classes[i], float(shares[i])) for i in best))


def _expand(videos: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """(path, why it cannot be used, if so) of every video in files, folders and lists."""
    for name in videos:
        path = Path(name)
        if not path.is_dir() and path.suffix.lower() not in LISTS:
            yield name, None
            continue
        try:
            records = read_index(path).records
        except DataError as error:
            yield name, str(error).removeprefix(f"{path}: ")
            continue
        for record in records:
            yield record.path, None


def _print(predictions: Sequence[Prediction]) -> None:
    table = Table(
        Column("video", overflow="fold"), Column("class", overflow="fold"), Column("probability", justify="right")
    )
    for prediction in predictions:
        if prediction.error:
            table.add_row(escape(prediction.path), f"[red]cannot be read: {escape(prediction.error)}[/red]", "")
        for rank, (name, probability) in enumerate(prediction.top):
            table.add_row(escape(prediction.path) if rank == 0 else "", escape(name), f"{100 * probability:.1f} %")
    Console().print(table)
