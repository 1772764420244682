"""`vjepa track`: masks and points carried through videos by the similarity of features."""

from __future__ import annotations

import csv
import io
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from openvjepa.atomic import json_text
from openvjepa.config import PropagationConfig, TrackConfig, command
from openvjepa.config.parts import part
from openvjepa.data.lists.cells import safe_cell
from openvjepa.data.media.images import is_image_name
from openvjepa.data.media.video import Video, open_video
from openvjepa.errors import ConfigError, DataError, VideoError
from openvjepa.reports.seeing.track import read_masks, write_mask, write_tracked
from openvjepa.seeing.tokens import load_any
from openvjepa.seeing.tracking.segmentation import Agreement, compare, davis_sequences, read_mask
from openvjepa.seeing.tracking.track import PointTracks, frame_features, track_masks, track_points
from openvjepa.train.distributed import Runtime, make_runtime
from openvjepa.train.run_folder import open_output
from openvjepa.weights.files import write_file
from openvjepa.weights.hub import LoadedModel

WRITTEN = ("masks", "points.csv", "track.mp4", "track.png", "scores.json", "scores.csv")
_log = logging.getLogger("openvjepa")


@dataclass(frozen=True)
class TrackResult:
    """Result of `vjepa track`."""

    files: tuple[Path, ...]
    """Files, and folders of masks."""
    scores: tuple[Agreement, ...]
    """J and F of each object, where the true masks are known."""
    skipped: dict[str, str]
    """Videos of a data set that cannot be tracked: name -> reason."""

    @property
    def j_mean(self) -> float:
        """Mean of J over the objects."""
        return float(np.mean([score.j_mean for score in self.scores]))

    @property
    def f_mean(self) -> float:
        """Mean of F over the objects."""
        return float(np.mean([score.f_mean for score in self.scores]))


@command(TrackConfig, "video")
def track(config: TrackConfig) -> TrackResult:
    """Track the objects of a mask, or points, through a video, or through all videos of a DAVIS dataset.

    Of a video are written: masks/NNNNN.png (or points.csv), track.mp4 and track.png; with true masks, scores.json and
    scores.csv. Of a data set: masks/VIDEO/NNNNN.png and the scores.

    Raises:
        ConfigError: settings do not fit together, or the output is there already.
        DataError: a mask cannot be read or belongs to another video, or no video of a data set can be tracked.
        VideoError: the video cannot be read.
        CheckpointError: the model cannot be read, or a file cannot be written.
    """
    points = _check(config)
    _check_kept(config)
    with open_output(config.out, WRITTEN, overwrite=config.overwrite) as out:
        return _track(config, points, out)


def _track(config: TrackConfig, points: np.ndarray | None, out: Path) -> TrackResult:
    model = load_any(config.model, seed=config.seed)
    with make_runtime(config) as runtime:
        model.encoder.to(runtime.device)
        if config.davis is not None:
            return _davis(config, model, runtime, out)
        video = open_video(config.video)
        if points is not None:
            return _points(config, model, video, points, runtime, out)
        assert config.mask is not None
        mask = read_mask(config.mask, _size(video))
        truths = None if config.truth is None else _truths(config.truth, video)
        masks = _masks(config, model, video, mask, runtime, out / "masks")
    written = [out / "masks", *write_tracked(out, video, masks, facts(config, model, mask))]
    if truths is None:
        return TrackResult(tuple(written), (), {})
    scores = compare(read_masks(masks), (read_mask(path, _size(video)) for path in truths), sequence=video.path)
    return TrackResult((*written, *_write_scores(out, scores, {})), tuple(scores), {})


def _check(config: TrackConfig) -> np.ndarray | None:
    """Fail before the work; the points, where there are any."""
    if not config.model or bool(config.video) == (config.davis is not None):
        raise ConfigError("give --model, and a video or --davis")
    if config.davis is None and (config.mask is None) == (not config.points):
        raise ConfigError("give --mask, a picture of the objects in the first frame, or --points x,y ...")
    if config.davis is not None and (config.mask or config.points or config.truth):
        raise ConfigError("--davis uses the masks of the dataset: leave out --mask, --points and --truth")
    if config.points and config.truth:
        raise ConfigError("--truth works with --mask, not with --points: leave out one of them")
    try:
        places = [[float(number) for number in point.split(",")] for point in config.points]
    except ValueError:
        places = list[list[float]]([[]])
    if any(len(place) != 2 or not np.isfinite(place).all() for place in places):
        raise ConfigError(f"points {' '.join(config.points)}: write each as x,y in pixels, such as 120,80")
    return np.array(places) if places else None


def _check_kept(config: TrackConfig) -> None:
    """What is read must not lie in the folder of masks that is replaced."""
    masks = (Path(config.out) / "masks").resolve()
    for name in (config.video, config.mask, config.truth, config.davis):
        if name and Path(name).resolve().is_relative_to(masks):
            raise ConfigError(f"{name}: lies in {masks}, which is replaced: choose another --out")


def _size(video: Video) -> tuple[int, int]:
    """(height, width) of a video's frames, px."""
    height, width = video.frames([0]).frames.shape[1:3]
    return height, width


def _features(config: TrackConfig, model: LoadedModel, video: Video, runtime: Runtime) -> Iterator[Tensor]:
    return frame_features(
        model, video, how=config.frames, short_side=config.short_side, layer=config.layer, runtime=runtime
    )


def _masks(
    config: TrackConfig, model: LoadedModel, video: Video, mask: np.ndarray, runtime: Runtime, folder: Path
) -> list[Path]:
    """Track a mask and write those of all frames; the folder is there whole or not at all."""
    work = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    try:
        features = _features(config, model, video, runtime)
        names = [
            write_mask(work / f"{number:05d}.png", found).name
            for number, found in enumerate(track_masks(features, mask, part(config, PropagationConfig)))
        ]
        shutil.rmtree(folder, ignore_errors=True)
        work.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return [folder / name for name in names]


def _points(
    config: TrackConfig, model: LoadedModel, video: Video, points: np.ndarray, runtime: Runtime, out: Path
) -> TrackResult:
    features = _features(config, model, video, runtime)
    tracks = track_points(features, points, _size(video), part(config, PropagationConfig))
    table = write_file(out / "points.csv", _csv(_point_rows(tracks, video)))
    return TrackResult((table, *write_tracked(out, video, tracks, facts(config, model, points))), (), {})


def _point_rows(tracks: PointTracks, video: Video) -> Iterator[Sequence[object]]:
    yield "frame", "time", "point", "x", "y", "confidence"
    for frame, (places, sure) in enumerate(zip(tracks.places, tracks.confidence, strict=True)):
        for number, ((x, y), share) in enumerate(zip(places, sure, strict=True)):
            yield frame, f"{video.times[frame]:.4f}", number + 1, f"{x:.2f}", f"{y:.2f}", f"{share:.4f}"


def _csv(rows: Iterator[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(safe_cell, row) for row in rows)
    return text.getvalue().encode()


def facts(config: TrackConfig, model: LoadedModel, start: np.ndarray) -> dict[str, str]:
    """What every picture must carry."""
    how = "each frame alone" if config.frames == "still" else "each frame beside those around it"
    radius = "anywhere" if config.radius is None else f"within {config.radius} tokens"
    count = len(start) if config.points else len(np.unique(start[start > 0]))
    objects = f"{count} {'point' if config.points else 'object'}{'' if count == 1 else 's'}"
    return {
        "Model": f"{model.source}, layer {config.layer}, {how}",
        "Tracked": f"{objects} of the first frame, from it and the last {config.context} frames, {radius}, the "
        f"{config.top_k} most similar tokens, temperature {config.temperature:g}",
        "Fit": "none: features as they are",
    }


def _truths(folder: str, video: Video) -> list[Path]:
    path = Path(folder)
    files = sorted(file for file in path.iterdir() if is_image_name(file)) if path.is_dir() else []
    if len(files) != video.frame_count:
        raise DataError(f"{folder}: {len(files)} masks for the {video.frame_count} frames of {video.path}")
    return files


def _davis(config: TrackConfig, model: LoadedModel, runtime: Runtime, out: Path) -> TrackResult:
    assert config.davis is not None
    scores: list[Agreement] = []
    skipped: dict[str, str] = {}
    for sequence in davis_sequences(config.davis, config.split, config.resolution):
        try:
            video = open_video(sequence.frames)
            size = _size(video)
            mask = read_mask(sequence.masks[0], size)
            files = _masks(config, model, video, np.where(mask == 255, 0, mask), runtime, out / "masks" / sequence.name)
            if len(sequence.masks) > 1:
                truths = (read_mask(path, size) for path in sequence.masks)
                scores += compare(read_masks(files), truths, sequence=sequence.name)
                _log.info(
                    "%s: J %.3f", sequence.name, np.mean([s.j_mean for s in scores if s.sequence == sequence.name])
                )
        except (VideoError, DataError) as error:
            skipped[sequence.name] = str(error)
            _log.warning("%s: cannot be tracked: %s", sequence.name, error)
    if not (out / "masks").exists():
        raise DataError(
            f"{config.davis}: none of {len(skipped)} videos can be tracked: {next(iter(skipped.values()), '')}"
        )
    written = _write_scores(out, scores, skipped) if scores else []
    return TrackResult((out / "masks", *written), tuple(scores), skipped)


def _write_scores(out: Path, scores: Sequence[Agreement], skipped: dict[str, str]) -> list[Path]:
    """scores.csv with a line for each object, and scores.json with the means."""
    names = ("j_mean", "j_recall", "j_decay", "f_mean", "f_recall")
    table: list[Sequence[object]] = [("video", "object", *names)]
    table += [(s.sequence, s.object, *(f"{getattr(s, name):.4f}" for name in names)) for s in scores]
    means: dict[str, object] = {name: round(float(np.mean([getattr(s, name) for s in scores])), 4) for name in names}
    j, f = (float(np.mean([getattr(s, name) for s in scores])) for name in ("j_mean", "f_mean"))
    summary = {"j_and_f": round((j + f) / 2, 4), **means, "objects": len(scores), "skipped": skipped}
    return [
        write_file(out / "scores.csv", _csv(iter(table))),
        write_file(out / "scores.json", json_text(summary, 2).encode()),
    ]
