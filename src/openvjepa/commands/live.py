"""`vjepa predict` on what has no end: cameras, streams, pipes, and folders that grow."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openvjepa.config import PredictConfig
from openvjepa.data.lists.index import VideoIndex, VideoRecord
from openvjepa.data.media.growing import new_files
from openvjepa.data.media.stream import FrameSource, LiveFrame
from openvjepa.errors import ConfigError, OpenVJEPAError, VideoError
from openvjepa.features.encode import EncodeSettings
from openvjepa.inference.ensemble import Member, answers_of, ask, check_combinable, load_members, to_device
from openvjepa.inference.predictions import Answer, Prediction, best_of
from openvjepa.inference.temporal.live import LiveStream, WindowPrediction, follow_live, source_for
from openvjepa.inference.temporal.segments import refined
from openvjepa.inference.windows import follow
from openvjepa.reports.video import OTHER, caption, write_video
from openvjepa.train.distributed import Runtime, make_runtime

_COPY_SIDE = 480  # px; short side of an annotated copy
_COPY_QUEUE = 64  # frames that wait to be written

_log = logging.getLogger("openvjepa")


def predict_live(config: PredictConfig) -> LiveStream:
    """Answers as they come, of a live source or of the files of a growing folder.

    Raises:
        ConfigError: a setting is for files alone, or the folder is not one.
        CheckpointError: a run cannot be read or holds no classifier.
    """
    for name in ("csv", "windows_csv", "timeline", "smooth", "min_length"):
        if getattr(config, name) is not None and (config.is_live or name in ("csv", "windows_csv", "timeline")):
            raise ConfigError(f"{name} needs a whole video: of a live source, use --json and --annotate")
    if config.annotate is not None and (config.follow or Path(config.annotate).suffix.lower() != ".mp4"):
        raise ConfigError(f"annotate {config.annotate}: name one MP4 file, for one live source")
    windows = config.window is not None or not config.follow
    members = load_members(config.model, clips=replace(config, segments=config.segments or 1) if windows else config)
    if config.combine is not None or config.window is not None:
        check_combinable(members)
    if config.follow:
        folders = [Path(name) for name in config.videos]
        if len(folders) != 1 or not folders[0].is_dir():
            raise ConfigError("follow watches one folder: name it, and nothing else")
        return LiveStream(_folder(config, members, folders[0]))
    side = _COPY_SIDE if config.annotate is not None else 0
    source = source_for(config.videos[0], members, config.window, drop=config.drop, short_side=side)
    return LiveStream(_source(config, members, source), source.report)


def _source(config: PredictConfig, members: list[Member], source: FrameSource) -> Iterator[WindowPrediction]:
    """Window after window; at the end, says what was dropped."""
    with contextlib.ExitStack() as stack:
        runtime = stack.enter_context(make_runtime(config))
        to_device(members, runtime)
        copy = None if config.annotate is None else stack.enter_context(_Copy(Path(config.annotate)))
        stack.enter_context(source)
        stack.callback(lambda: _log.info("%s: %s", source.name, source.report))
        how, skipped = config.combine or "mean", 0
        for answer in follow_live(
            members,
            source,
            window=config.window,
            stride=config.stride,
            runtime=runtime,
            how=how,
            top=config.top,
            on_frame=None if copy is None else copy.add,
        ):
            if copy is not None:
                copy.text = "{}  {:.0%}".format(*answer.answers[0].top[0])
            if answer.skipped > skipped:
                _log.info("%s: too slow: %d windows left out so far", source.name, answer.skipped)
            skipped = answer.skipped
            yield answer


def _folder(config: PredictConfig, members: list[Member], folder: Path) -> Iterator[Prediction]:
    """File after file."""
    with make_runtime(config) as runtime:
        to_device(members, runtime)
        for path in new_files(folder, idle=config.idle):
            yield _file(config, members, VideoRecord(str(path)), runtime)


def _file(config: PredictConfig, members: list[Member], record: VideoRecord, runtime: Runtime) -> Prediction:
    how = config.combine or "mean"
    if config.window is None:
        said = ask(members, VideoIndex((record,), None, record.path), EncodeSettings(runtime, workers=0))
        reason = said.skipped.get(0)
        (answers,) = answers_of(members, said.probabilities, how, config.top)
        return Prediction(record.name, () if reason else answers, reason)
    try:
        line = follow(members, record, config.window, config.stride or config.window / 2, runtime, how)
    except VideoError as error:
        return Prediction(record.name, (), error.reason)
    answer = Answer(tuple(member.name for member in members), best_of(line.mean, line.classes, config.top))
    return Prediction(record.name, (answer,), None, refined(line, smooth=config.smooth, min_length=config.min_length))


class _Copy:
    """Writes an annotated MP4 while frames come, in a thread of its own.

    Attributes:
        text: what is drawn on the next frames.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.text = path, ""
        self._queue: queue.Queue[tuple[NDArray[np.uint8], float] | None] = queue.Queue(_COPY_QUEUE)
        self._error: OpenVJEPAError | None = None
        self._size: tuple[int, int] | None = None
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> _Copy:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._put(None)
        self._thread.join()
        if self._error is not None and error[0] is None:
            raise self._error

    def add(self, frame: LiveFrame) -> None:
        """Draw the text on a frame and write it; frames of another size than the first are left out."""
        height, width = (side // 2 * 2 for side in frame.pixels.shape[:2])
        self._size = self._size or (height, width)
        if (height, width) == self._size:
            even = frame.pixels[:height, :width]
            self._put((caption(even, self.text, OTHER) if self.text else even, frame.time))

    def _put(self, item: tuple[NDArray[np.uint8], float] | None) -> None:
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.5)
                return

    def _write(self) -> None:
        times: list[float] = []

        def frames() -> Iterator[NDArray[np.uint8]]:
            while (item := self._queue.get()) is not None:
                times.append(item[1])
                yield item[0]

        def stamps() -> Iterator[float]:
            done = 0
            while done < len(times):  # a frame is taken before its time
                yield times[done]
                done += 1

        try:
            write_video(self.path, frames(), stamps(), fps=30.0)
        except OpenVJEPAError as error:
            self._error = error
        except StopIteration:  # there was no frame
            return
