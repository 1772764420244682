"""`vjepa predict`: the likeliest classes of videos, by classifiers that `vjepa probe` or `vjepa finetune` trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from openvjepa.atomic import check_file
from openvjepa.commands.live import predict_live
from openvjepa.config import PredictConfig, command
from openvjepa.data.lists.index import VideoIndex, VideoRecord, read_index
from openvjepa.errors import ConfigError, DataError, VideoError
from openvjepa.features.encode import EncodeSettings
from openvjepa.inference.ensemble import (
    Member,
    answers_of,
    ask,
    check_combinable,
    load_members,
    to_device,
)
from openvjepa.inference.predictions import Answer, Prediction, best_of
from openvjepa.inference.temporal.live import LiveStream
from openvjepa.inference.temporal.segments import refined, write_segments
from openvjepa.inference.timeline import Timeline, write_csv
from openvjepa.inference.windows import follow
from openvjepa.reports.video import annotate_video, draw_timeline
from openvjepa.train.distributed import Runtime, make_runtime

LISTS = (".txt", ".csv", ".tsv", ".json")


@command(PredictConfig, "videos")
def predict(config: PredictConfig) -> list[Prediction] | LiveStream:
    """Classify videos.

    The softmax of all clips of a video is averaged, as in the probe's evaluation. Runs with the same classes are combined;
    those with one and the same encoder share its pass. A video that cannot be read gets an error and does not stop the
    others; the command line exits with 1 only when there is no video that could be read.

    Returns:
        One prediction for each video, in the order given; folders and lists are expanded. Of a camera, stream, pipe or growing
        folder, the answers as they come (`LiveStream`).

    Raises:
        ConfigError: no videos are given, or runs with different classes are to be combined.
        CheckpointError: a run cannot be read or holds no classifier, or a file cannot be written.
    """
    if not config.videos:
        raise ConfigError("no videos given: pass files, folders or lists")
    if not config.model:
        raise ConfigError("no model given: pass --model with a run folder of vjepa train, probe or finetune")
    if config.is_live or config.follow:
        return predict_live(config)
    return predict_videos(config)


def predict_videos(config: PredictConfig) -> list[Prediction]:
    """As `predict`, for files, folders and lists alone: one prediction for each video."""
    wanted = list(_expand(config.videos))
    records = tuple(record for record, error in wanted if error is None)
    _check_files(config, [record for record, _ in wanted])
    clips = config if config.window is None else replace(config, segments=config.segments or 1)
    members = load_members(config.model, records, clips)
    if config.combine is not None or config.window is not None:
        check_combinable(members)
    with make_runtime(config) as runtime:
        to_device(members, runtime)
        predictions = _predict(config, members, wanted, records, runtime)
    if config.window is not None:
        _write(config, [prediction.timeline for prediction in predictions if prediction.timeline is not None])
    return predictions


def _check_files(config: PredictConfig, records: Sequence[VideoRecord]) -> None:
    """Fail before the work when the files of a long video, or parts of videos, cannot be meant."""
    paths = [record.path for record in records]
    inputs = {Path(path).resolve() for path in (*paths, *config.videos)}
    for name, suffix in (("csv", ".csv"), ("windows_csv", ".csv"), ("timeline", ".png"), ("annotate", ".mp4")):
        target = getattr(config, name)
        if target is None:
            continue
        if Path(target).suffix.lower() != suffix:
            raise ConfigError(f"{name} {target}: the file name must end with {suffix}")
        check_file(target)
        if suffix != ".csv" and len(paths) != 1:
            raise ConfigError(
                f"{name} needs a single video, but {len(paths)} are given: use csv, or pass one video at a time"
            )
        if Path(target).resolve() in inputs:
            raise ConfigError(f"{name} {target}: is an input or another output: choose another name")
        inputs.add(Path(target).resolve())


def _predict(
    config: PredictConfig,
    members: Sequence[Member],
    wanted: Sequence[tuple[VideoRecord, str | None]],
    records: tuple[VideoRecord, ...],
    runtime: Runtime,
) -> list[Prediction]:
    """Predictions in the order of `wanted`, (video, why it cannot be used)."""
    if config.window is None:
        found = _classify(config, members, records, runtime)
    else:
        found = (_follow(config, members, record, runtime) for record in records)
    return [Prediction(record.name, (), error) if error else next(found) for record, error in wanted]


def _classify(
    config: PredictConfig, members: Sequence[Member], records: tuple[VideoRecord, ...], runtime: Runtime
) -> Iterator[Prediction]:
    """Predictions in the order of the records."""
    index = VideoIndex(records, None, "videos")
    said = ask(members, index, EncodeSettings(runtime, workers=config.workers))
    answers = answers_of(members, said.probabilities, config.combine or "mean", config.top)
    for place, (record, answer) in enumerate(zip(records, answers, strict=True)):
        reason = said.skipped.get(place)
        yield Prediction(
            record.name, () if reason else answer, reason, distance=None if reason else said.distance(place)
        )


def _follow(config: PredictConfig, members: Sequence[Member], record: VideoRecord, runtime: Runtime) -> Prediction:
    """One video, or a part of it, in windows; its own answer is the mean over them."""
    assert config.window is not None
    stride = config.stride or config.window / 2
    try:
        timeline = follow(members, record, config.window, stride, runtime, config.combine or "mean")
    except VideoError as error:
        return Prediction(record.name, (), error.reason)
    answer = Answer(tuple(member.name for member in members), best_of(timeline.mean, timeline.classes, config.top))
    line = refined(timeline, smooth=config.smooth, min_length=config.min_length)
    return Prediction(record.name, (answer,), None, line)


def _write(config: PredictConfig, timelines: Sequence[Timeline]) -> None:
    """The files that were asked for."""
    if config.csv is not None:
        write_segments(Path(config.csv), timelines)
    if config.windows_csv is not None:
        write_csv(Path(config.windows_csv), timelines)
    if not timelines or not (config.timeline or config.annotate):
        return
    if config.timeline is not None:
        draw_timeline(Path(config.timeline), timelines[0])
    if config.annotate is not None:
        annotate_video(Path(config.annotate), timelines[0])


def _expand(videos: Sequence[str]) -> Iterator[tuple[VideoRecord, str | None]]:
    """(video, why it cannot be used, if so) of every video in files, folders and lists."""
    for name in videos:
        path = Path(name)
        if not path.is_dir() and path.suffix.lower() not in LISTS:
            yield VideoRecord(name), None
            continue
        try:
            records = read_index(path).records
        except DataError as error:
            yield VideoRecord(name), str(error).removeprefix(f"{path}: ")
            continue
        for record in records:
            yield record, None
