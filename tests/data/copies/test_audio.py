"""The sound of copies: packet by packet that of the original, at the same times relative to the frames."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from openvjepa.config import PrepareConfig
from openvjepa.data.copies.prepare import prepare
from openvjepa.data.copies.transcode import copy_video
from openvjepa.data.media.video import open_video
from openvjepa.inference.timeline import Timeline
from openvjepa.reports.video import annotate_video

SECONDS, RATE = 3, 48_000


def render(path: Path, codec: str, *, form: str | None = None, late: float = 0.0) -> Path:
    """A video of 10 frames per second with a tone; its frames begin `late` s after the tone."""
    with av.open(str(path), "w", format=form) as container:
        video = container.add_stream("libx264", rate=10, options={"bf": "2", "g": "10"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream(codec, rate=RATE)
        layout = "mono"
        sound.codec_context.layout = layout
        kind = sound.codec_context.format.name if sound.codec_context.format else "fltp"
        for i in range(SECONDS * 10):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * i, np.uint8), format="rgb24")
            frame.pts = i + round(10 * late)
            container.mux(video.encode(frame))
            tone = np.sin(np.arange(i * RATE // 10, (i + 1) * RATE // 10) * 0.05)[None]
            if kind.startswith("s16"):
                tone = (tone * 20_000).astype(np.int16)
            elif kind.startswith("s32"):
                tone = (tone * 1e9).astype(np.int32)
            samples = av.AudioFrame.from_ndarray(
                tone.astype(np.float32) if kind.startswith("flt") else tone, format=kind, layout=layout
            )
            samples.sample_rate, samples.pts = RATE, i * RATE // 10
            container.mux(sound.encode(samples))
        container.mux(video.encode())
        container.mux(sound.encode())
    return path


def packets(path: Path) -> list[tuple[float, bytes]]:
    """(time since the first frame, content) of every packet of the sound."""
    clock = open_video(path).clock
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return [(float(p.pts * p.time_base) - clock, bytes(p)) for p in container.demux(stream) if p.dts is not None]


@pytest.mark.parametrize(
    ("name", "codec", "late"),
    [
        ("a.mp4", "aac", 0.0),
        ("a.mkv", "libmp3lame", 0.0),
        ("b.mkv", "libopus", 0.5),
        ("b.mp4", "aac", 0.4),
        ("c.mkv", "flac", 0),
    ],
)
def test_packets_are_those_of_the_original(tmp_path: Path, name: str, codec: str, late: float) -> None:
    source = render(tmp_path / name, codec, late=late)
    facts = copy_video(str(source), tmp_path / "copy.mp4", short_side=32, gop=12, crf=23, audio=True)
    before, after = packets(source), packets(tmp_path / "copy.mp4")
    assert len(before) == len(after) > 25
    assert [content for _, content in before] == [content for _, content in after]
    np.testing.assert_allclose([time for time, _ in after], [time for time, _ in before], atol=2e-3)
    assert facts.frames == open_video(tmp_path / "copy.mp4").frame_count == 30


def test_sound_of_a_transport_stream_keeps_its_time(tmp_path: Path) -> None:
    source = render(tmp_path / "a.ts", "aac", form="mpegts")
    copy_video(str(source), tmp_path / "copy.mp4", short_side=32, gop=12, crf=23, audio=True)
    before, after = packets(source), packets(tmp_path / "copy.mp4")
    assert len(before) == len(after)
    np.testing.assert_allclose([time for time, _ in after], [time for time, _ in before], atol=2e-3)
    with av.open(str(tmp_path / "copy.mp4")) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert np.abs(sound).max() > 0.5, "it can be decoded"


def test_what_mp4_does_not_hold_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = render(tmp_path / "a.avi", "pcm_s16le")
    copy_video(str(source), tmp_path / "copy.mp4", short_side=32, gop=12, crf=23, audio=True)
    with av.open(str(tmp_path / "copy.mp4")) as container:
        assert not container.streams.audio
    assert "pcm_s16le) is left out" in caplog.text


def test_prepare_keeps_sound_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    source = render(tmp_path / "in" / "a.mp4", "aac")
    prepare(PrepareConfig(str(tmp_path / "in"), str(tmp_path / "out"), workers=1))
    assert [content for _, content in packets(tmp_path / "out" / "a.mp4")] == [
        content for _, content in packets(source)
    ]
    report = prepare(PrepareConfig(str(tmp_path / "in"), str(tmp_path / "out"), workers=1, audio=False))
    assert (report.copied, report.skipped) == (1, 0), "another copy is wanted"
    with av.open(str(tmp_path / "out" / "a.mp4")) as container:
        assert not container.streams.audio


def test_annotated_copies_keep_the_sound_of_their_part(tmp_path: Path) -> None:
    source = render(tmp_path / "a.mp4", "aac")
    spans, shares = ((0.0, 1.0), (1.0, 2.0), (2.0, 3.0)), np.eye(2)[[0, 1, 0]]
    line = Timeline(str(source), 3.0, ("x", "y"), spans, shares, {})
    annotate_video(tmp_path / "whole.mp4", line)
    assert [content for _, content in packets(tmp_path / "whole.mp4")] == [content for _, content in packets(source)]
    part = Timeline(str(source), 1.0, ("x", "y"), ((0.0, 1.0),), shares[:1], {}, start=1.0, end=2.0, offset=1.0)
    annotate_video(tmp_path / "part.mp4", part)
    wanted = [content for time, content in packets(source) if 1 <= time < 2]
    found = packets(tmp_path / "part.mp4")
    assert [content for _, content in found] == wanted
    assert 0 <= found[0][0] < 0.03
