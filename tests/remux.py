"""Videos in other containers, such as those that a pipe can carry."""

from __future__ import annotations

from pathlib import Path

import av


def remuxed(video: Path, target: Path, *, form: str, options: dict[str, str] | None = None) -> Path:
    """The same packets in another container."""
    with av.open(str(video)) as source, av.open(str(target), "w", format=form, options=options or {}) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    return target
