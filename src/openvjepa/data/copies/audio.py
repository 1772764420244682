"""The sound of a video for its copy: packets as they are, at the same times relative to the frames."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from typing import Any

import av
import av.error

# What MP4 holds without being encoded again.
IN_MP4 = frozenset(("aac", "ac3", "alac", "eac3", "flac", "mp2", "mp3", "opus"))

_log = logging.getLogger("openvjepa")


class AudioTracks:
    """All audio streams of a file that fit into an MP4; use it as a context. A file without any has none.

    Args:
        path: the original.
        start: time stamp of the first frame of the copy, s of the original's clock.
        end: end of the last frame, of a copy of a part; None: every packet is copied.
    """

    def __init__(self, path: str, start: float, end: float | None = None) -> None:
        self.path, self.start, self.end = path, start, math.inf if end is None else end
        self._container: Any = None
        self._packets: Iterator[Any] = iter(())
        self._next: Any = None
        self._targets: dict[int, Any] = {}

    def __enter__(self) -> AudioTracks:
        try:
            self._container = None if os.path.isdir(self.path) else av.open(os.path.abspath(self.path))
        except (av.error.FFmpegError, OSError, ValueError):  # the frames are read elsewhere, with words for the error
            self._container = None
        return self

    def __exit__(self, *error: object) -> None:
        if self._container is not None:
            self._container.close()

    def add_to(self, target: Any) -> None:
        """Give the MP4 the same audio streams; to be called before its first packet."""
        if self._container is None:
            return
        for stream in self._container.streams.audio:
            name = stream.codec_context.name if stream.codec_context is not None else "unknown"
            if not any(name.startswith(known) for known in IN_MP4):
                _log.info("%s: its sound (%s) is left out of the copy: MP4 does not hold it", self.path, name)
                continue
            self._targets[stream.index] = target.add_stream_from_template(stream)
        if self._targets:
            self._packets = self._container.demux([self._container.streams[index] for index in self._targets])
            self._advance()

    def mux_until(self, target: Any, time: float) -> None:
        """Write the packets that begin up to a time of the copy, s."""
        while self._next is not None:
            packet = self._next
            if float(packet.dts * packet.time_base) - self.start > time:
                return
            shift = round(self.start / float(packet.time_base))
            begin = float(packet.pts * packet.time_base)
            inside = self.end == math.inf or self.start <= begin < self.end
            source = packet.stream.index
            if inside:
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = self._targets[source]
                target.mux(packet)
            self._advance()

    def _advance(self) -> None:
        """Go to the next packet with time stamps; damage ends the sound."""
        try:
            self._next = next((packet for packet in self._packets if packet.dts is not None), None)
        except av.error.FFmpegError as error:
            _log.info("%s: its sound ends early in the copy: %s", self.path, error.strerror)
            self._next = None
