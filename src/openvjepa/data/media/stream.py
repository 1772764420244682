"""Frames of cameras, network streams and pipes, as they come.

A thread of its own reads and decodes; whoever uses the frames takes them from a queue of bounded length. Where frames come
faster than they are used, a live source drops the oldest ones and counts them, so that the newest are always at hand.

    with FrameSource("rtsp://camera/stream", short_side=256) as source:
        for frame in source:
            frame.pixels, frame.time
    source.report
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from openvjepa.data.media.container import decode
from openvjepa.data.media.video import ToRGB
from openvjepa.errors import VideoError

_log = logging.getLogger("openvjepa")

_CAMERAS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}  # FFmpeg's name of the system's cameras
_JUMP = 10.0  # s; a longer gap between two frames' stamps is a mistake in the stamps, or a new recording
_LONGEST_WAIT = 30.0  # s between two attempts to connect
SETTLED = 5
"""Frames after which `FrameSource.fps` can be relied on."""
_STEPS = 100  # between frames, of which the rate is the median
_END = 1.0  # s; a recording that ends so close to its length has ended


@dataclass(frozen=True)
class LiveFrame:
    """A frame of a source."""

    pixels: NDArray[np.uint8]
    """[H, W, 3], RGB, upright."""
    time: float
    """s since the first frame, ascending: stamps that go back or jump are continued from the frame before."""
    arrived: float
    """When it was decoded, on the monotonic clock, s."""


@dataclass(frozen=True, kw_only=True)
class LiveAnswer:
    """What a model says about a window of a source; the common part of all of them."""

    source: str
    start: float
    """First time of the window, s since the source's first frame."""
    end: float
    """Last time, s."""
    time: datetime
    """When the last frame was decoded."""
    latency: float
    """s from then to the answer."""
    skipped: int
    """Windows left out so far, because the model was too slow or frames were lost."""
    dropped: int
    """Frames dropped so far, because the model was too slow."""
    reconnects: int
    """Attempts to connect again so far."""

    def line(self, values: dict[str, Any]) -> dict[str, Any]:
        """For a line of JSON, with the values that the model gives."""
        return {
            "source": self.source,
            "start": round(self.start, 4),
            "end": round(self.end, 4),
            "time": self.time.isoformat(timespec="milliseconds"),
            "latency": round(self.latency, 4),
            **values,
            "skipped_windows": self.skipped,
            "dropped_frames": self.dropped,
            "reconnects": self.reconnects,
        }


@dataclass
class SourceReport:
    """What has happened to a source so far."""

    frames: int = 0
    """Frames put into the queue."""
    dropped: int = 0
    """Of these, frames that were dropped from the queue because the reader of the queue was too slow."""
    reconnects: int = 0
    """Attempts to connect again."""
    rewinds: int = 0
    """Stamps that went back, or jumped ahead by more than ten seconds."""
    damaged: int = 0
    """Packets that could not be decoded."""
    error: str | None = None
    """Why the source ended early; None where it came to its end, or goes on."""
    connected: list[float] = field(default_factory=list[float])
    """Times of the connections, s of the frames."""

    def __str__(self) -> str:
        """For people."""
        counts = {"dropped": self.dropped, "damaged packets": self.damaged, "time stamps gone back": self.rewinds}
        parts = [f"{count} {name}" for name, count in counts.items() if count]
        parts += [f"{self.reconnects} reconnections"] if self.reconnects else []
        return ", ".join([f"{self.frames} frames", *parts]) + (f"; {self.error}" if self.error else "")


class FrameSource:
    """A camera, network stream or pipe; use it as a context.

    Attributes:
        name: as it was given.
        report: what has happened so far.
        live: whether frames come at their own pace: cameras, RTSP and other streams without an end. A recording (a file over
            HTTP, a pipe) waits until its frames are used.

    Args:
        name: number of a camera (0 is the first), a URL (rtsp, http, udp, ...), "-" for the standard input, "pipe:N".
        short_side: frames with a short side above 400 px are shrunk to this one, px (no larger than 400 px are left alone).
        interval: s; frames that are nearer to the one before are left out without being converted.
        queue: most frames that wait to be used.
        drop: whether frames are dropped when the queue is full; None: only those of live sources.
        retries: attempts to connect, one after the other, before the source counts as ended. A success resets the count.
        wait: s before the first of them; doubled for each further one, at most 30 s.
        timeout: s without data after which a connection counts as lost.
        input_format: FFmpeg's name of the input format or device; None: from the name.
    """

    def __init__(
        self,
        name: str,
        *,
        short_side: int | None = None,
        interval: float = 0.0,
        queue: int = 64,
        drop: bool | None = None,
        retries: int = 6,
        wait: float = 0.5,
        timeout: float = 10.0,
        input_format: str | None = None,
    ) -> None:
        self.name, self.interval = name, interval
        self.drop, self.retries, self.wait, self.timeout = drop, retries, wait, timeout
        self.report = SourceReport()
        self.live = not name.startswith(("-", "pipe:", "http"))
        self._camera = name.isdigit()
        self._target, self._format = _target(name, input_format)
        self._frames: deque[LiveFrame] = deque()
        self._room, self._changed = max(2, queue), threading.Condition()
        self._stop, self._ended = threading.Event(), False
        self._rgb = ToRGB(short_side)
        self._nominal, self._steps = 30.0, deque[float](maxlen=_STEPS)
        self._last, self._kept, self._arrived = -1.0, -1.0, 0.0
        self._stamp: float | None = None  # the source's own, of the last frame
        self._thread = threading.Thread(target=self._run, name=f"reading {name}", daemon=True)

    @property
    def fps(self) -> float:
        """Frames per second: by the last frames' times, where there are some; what streams state is often wrong."""
        steps = list(self._steps)
        return 1 / float(np.median(steps)) if len(steps) >= SETTLED - 1 else self._nominal

    def __enter__(self) -> FrameSource:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the reading; frames that wait are given up."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout=2.0)  # a read that blocks ends with the process

    def __iter__(self) -> Iterator[LiveFrame]:
        """Frames until the source ends.

        Raises:
            VideoError: it ended before its first frame.
        """
        while (frame := self.get()) is not None:
            yield frame

    def get(self) -> LiveFrame | None:
        """The next frame, once it is there; None when the source has ended.

        Raises:
            VideoError: it ended before its first frame.
        """
        with self._changed:
            while not self._frames:
                if self._ended or self._stop.is_set():
                    if not self.report.frames and self.report.error:
                        raise VideoError(self.name, self.report.error)
                    return None
                self._changed.wait(0.5)  # a signal is seen between two waits
            frame = self._frames.popleft()
            self._changed.notify_all()
        return frame

    def waiting(self) -> int:
        """How many frames wait in the queue."""
        return len(self._frames)

    def answered(self, start: float, end: float, arrived: float, skipped: int) -> dict[str, Any]:
        """Fields of a `LiveAnswer` that is given now, about a window whose last frame arrived then (on the monotonic clock)."""
        latency = time.monotonic() - arrived
        return {
            "source": self.name,
            "start": start,
            "end": end,
            "time": datetime.fromtimestamp(time.time() - latency, timezone.utc),
            "latency": latency,
            "skipped": skipped,
            "dropped": self.report.dropped,
            "reconnects": self.report.reconnects,
        }

    def newest(self) -> float | None:
        """Time of the newest frame in the queue, s; None where it is empty."""
        with self._changed:
            return self._frames[-1].time if self._frames else None

    def _put(self, frame: LiveFrame) -> None:
        drop = self.live if self.drop is None else self.drop
        with self._changed:
            while len(self._frames) >= self._room and not drop and not self._stop.is_set():
                self._changed.wait(0.5)
            if len(self._frames) >= self._room:
                self._frames.popleft()
                self.report.dropped += 1
            self._frames.append(frame)
            self.report.frames += 1
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            self._connect()
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _connect(self) -> None:
        """Read; connect again where that makes sense, with growing waits, until it fails too often."""
        failures = 0
        while not self._stop.is_set():
            before = self.report.frames
            reason = self._read()
            if reason is None:
                return
            failures = 1 if self.report.frames > before else failures + 1
            pipe = self.name.startswith(("-", "pipe:"))
            if pipe or failures > self.retries or (self._camera and not self.report.frames):
                self.report.error = reason
                return
            pause = min(_LONGEST_WAIT, self.wait * 2 ** (failures - 1))
            _log.warning(
                "%s: %s: connecting again in %.1f s (%d of %d)", self.name, reason, pause, failures, self.retries
            )
            self.report.reconnects += 1
            self._stop.wait(pause)

    def _read(self) -> str | None:
        """Read until the connection ends; why it did, None at the end of a recording."""
        errors: list[str] = []
        length: float | None = None
        resume = self._stamp
        try:
            with self._open() as container:
                stream = next((one for one in container.streams.video), None)
                if stream is None:
                    return "no video stream in it"
                self._nominal = float(stream.average_rate or stream.guessed_rate or 30)
                length = None if container.duration is None else container.duration / 1e6
                if self.name.startswith("http"):
                    self.live = length is None
                if not self.live and resume is not None:
                    with contextlib.suppress(av.error.FFmpegError):
                        container.seek(max(0, int((resume - 2) * 1e6)))
                self._take(decode(container, stream, errors=errors), resume)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            return getattr(error, "strerror", None) or str(error) or type(error).__name__
        finally:
            self.report.damaged += len(errors)
        if self._stop.is_set() or self.name.startswith(("-", "pipe:")):
            return None if self.report.frames or self._stop.is_set() else _NOT_READ
        if not self.live and length is not None and self._stamp is not None and self._stamp > length - _END:
            return None
        return f"the connection was lost ({errors[-1]})" if errors else "the connection was lost"

    def _take(self, frames: Iterator[av.VideoFrame], resume: float | None) -> None:
        """Put frames into the queue; of a recording that is continued, those after the last one."""
        gap: float | None = None
        if resume is not None and self.live:  # time goes on while there is no connection
            gap = time.monotonic() - self._arrived
        first: float | None = None
        for frame in frames:
            if self._stop.is_set():
                return
            stamp = None if frame.pts is None else float(frame.time)
            if first is None:
                first = stamp or 0.0
                self.report.connected.append(max(0.0, self._last))
            if resume is not None and not self.live and stamp is not None and stamp <= resume + 1e-6:
                continue
            self._arrived = time.monotonic()
            self._last, gap = self._next_time(stamp, gap), None
            self._stamp = stamp if stamp is not None else self._stamp
            if self._last - self._kept >= self.interval - 1e-3 or self._kept < 0:
                self._kept = self._last
                self._put(LiveFrame(np.ascontiguousarray(self._rgb(frame)), self._last, self._arrived))

    def _next_time(self, stamp: float | None, gap: float | None) -> float:
        """Time of a frame, s: by its stamp, or a frame (after a new connection, the gap) later than the one before."""
        if self._last < 0:
            return 0.0
        if gap is not None:
            return self._last + max(gap, 1 / self._nominal)
        if stamp is None or self._stamp is None:
            return self._last + 1 / self._nominal
        step = stamp - self._stamp
        if not 0 < step < _JUMP:
            self.report.rewinds += 1
            return self._last + 1 / self._nominal
        self._steps.append(step)
        return self._last + step

    def _open(self) -> Any:
        options = {"rtsp_transport": "tcp"} if self.name.startswith("rtsp") else {}
        if self._camera and sys.platform == "darwin":
            options = {"framerate": "30"}
        target = self._target
        if target == "pipe:0" and stat.S_ISREG(os.fstat(0).st_mode):
            return av.open(os.fdopen(os.dup(0), "rb"))  # a file can be sought in
        return av.open(target, format=self._format, options=options, timeout=(self.timeout, self.timeout))


_NOT_READ = (
    "not a video that can be read from a pipe: write MPEG-TS, Matroska or a fragmented MP4 (-movflags frag_keyframe)"
)


def _target(name: str, input_format: str | None) -> tuple[str, str | None]:
    """What FFmpeg opens, and with which input format.

    Raises:
        VideoError: a camera that this build of FFmpeg cannot read.
    """
    if name == "-":
        return "pipe:0", input_format
    if not name.isdigit() or input_format is not None:
        return name, input_format
    kind = _CAMERAS.get(sys.platform, "v4l2")
    if not any(kind in names.split(",") for names in av.formats_available):
        raise VideoError(
            f"camera {name}",
            f"this build of PyAV has no {kind}: install one that has (pip install --no-binary av av), or pipe: "
            f"ffmpeg -f {kind} -i {'/dev/video' if kind == 'v4l2' else ''}{name} -f mpegts - | vjepa predict - ...",
        )
    if kind == "v4l2":
        return f"/dev/video{name}", kind
    return (f"{name}:none" if kind == "avfoundation" else f"video={_dshow_name(int(name))}"), kind


def _dshow_name(number: int) -> str:
    """DirectShow knows cameras by their names."""
    from av.device import enumerate_input_devices

    names = [device.name for device in enumerate_input_devices("dshow")]
    if number >= len(names):
        raise VideoError(f"camera {number}", f"there are {len(names)}: {', '.join(names)}")
    return names[number]
