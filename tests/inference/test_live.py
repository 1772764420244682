"""Cameras, streams, pipes and growing folders: against the same video as a file, with connections that really break."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import socketserver
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gray_videos import render

from openvjepa.cli.render import predict as shown_by
from openvjepa.commands.predict import predict
from openvjepa.config import ClipConfig, PredictConfig
from openvjepa.data.media.growing import new_files
from openvjepa.data.media.stream import FrameSource, LiveFrame
from openvjepa.data.media.video import open_video
from openvjepa.errors import ConfigError, VideoError
from openvjepa.inference.ensemble import load_members
from openvjepa.inference.temporal.live import LiveStream, follow_live, source_for
from openvjepa.train.distributed import Runtime
from remux import remuxed


class Server(ThreadingHTTPServer):
    """Sends a file, of each connection only the next so many bytes; may say how long it is."""

    daemon_threads = True

    def __init__(self, content: bytes, cuts: list[int], *, ranges: bool) -> None:
        self.content, self.cuts, self.ranges, self.requests = content, cuts, ranges, 0
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/video"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        cut = server.cuts[min(server.requests, len(server.cuts) - 1)]
        server.requests += 1
        start = 0
        if server.ranges and (wanted := self.headers.get("Range")):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        if server.ranges:
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(server.content[start : start + cut])
        self.close_connection = True

    def log_message(self, *words: object) -> None:
        pass


def frames_of(source: FrameSource) -> list[LiveFrame]:
    with source:
        return list(source)


@pytest.mark.parametrize(("form", "suffix"), [("mpegts", "ts"), ("matroska", "mkv")])
def test_a_pipe_gives_the_frames_of_the_file(long: Path, tmp_path: Path, piped: Any, form: str, suffix: str) -> None:
    copy = remuxed(long, tmp_path / f"copy.{suffix}", form=form)
    source = FrameSource(piped(copy), queue=4)
    found, truth = frames_of(source), open_video(long)
    assert len(found) == truth.frame_count, "a recording waits: nothing is dropped, though the queue holds four frames"
    np.testing.assert_allclose([frame.time for frame in found], truth.times, atol=2e-3)
    assert np.array_equal(np.stack([frame.pixels for frame in found]), truth.all_frames().frames)
    assert (source.report.dropped, source.report.error) == (0, None)


def test_a_pipe_of_a_fragmented_mp4_is_read_and_of_nothing_is_refused(long: Path, tmp_path: Path, piped: Any) -> None:
    copy = remuxed(long, tmp_path / "f.mp4", form="mp4", options={"movflags": "frag_keyframe+empty_moov"})
    assert len(frames_of(FrameSource(piped(copy)))) == 60
    (tmp_path / "no.ts").write_bytes(b"no video" * 1000)
    with pytest.raises(VideoError):
        frames_of(FrameSource(piped(tmp_path / "no.ts")))


def test_a_cut_stream_is_connected_again_and_its_time_goes_on(long: Path, tmp_path: Path) -> None:
    content = remuxed(long, tmp_path / "s.ts", form="mpegts").read_bytes()
    server = Server(content, [len(content) // 2, len(content), 0], ranges=False)
    source = FrameSource(server.url, retries=2, wait=0.05, timeout=5)
    found = frames_of(source)
    server.shutdown()
    assert source.live
    assert 60 + 20 <= len(found) <= 60 + 35, "half of it, then all of it"
    assert source.report.reconnects >= 3
    assert source.report.error is not None
    assert all(0 < b.time - a.time < 2 for a, b in itertools.pairwise(found)), "ascending, without a jump"
    assert len(source.report.connected) == 2


def test_a_recording_is_continued_where_it_was_cut(long: Path, tmp_path: Path) -> None:
    content = remuxed(long, tmp_path / "s.mkv", form="matroska").read_bytes()
    server = Server(content, [len(content) * 2 // 3, len(content)], ranges=True)
    source = FrameSource(server.url, retries=3, wait=0.05, timeout=5)
    found = frames_of(source)
    server.shutdown()
    assert not source.live
    np.testing.assert_allclose([frame.time for frame in found], open_video(long).times, atol=2e-3)
    assert source.report.error is None


def test_an_address_without_a_server_fails_within_bounds() -> None:
    source = FrameSource("http://127.0.0.1:9/none", retries=2, wait=0.02)
    with pytest.raises(VideoError, match=r"127\.0\.0\.1"):
        frames_of(source)
    assert source.report.reconnects == 2


def test_time_stamps_that_go_back_are_continued(long: Path, tmp_path: Path, piped: Any) -> None:
    once = remuxed(long, tmp_path / "s.ts", form="mpegts").read_bytes()
    (tmp_path / "twice.ts").write_bytes(once + once)  # a camera that rewinds: stamps begin again
    source = FrameSource(piped(tmp_path / "twice.ts"))
    found = frames_of(source)
    assert len(found) >= 115
    steps = np.diff([frame.time for frame in found])
    assert (steps > 0).all()
    assert steps.max() < 0.5
    assert source.report.rewinds >= 1


def test_a_camera_that_is_read_too_slowly_drops_the_oldest_frames() -> None:
    source = FrameSource("testsrc=size=64x48:rate=10:duration=20", input_format="lavfi", queue=5, retries=0)
    with source:
        first = source.get()
        time.sleep(0.5)  # the device is far ahead of us
        rest = list(source)
    assert first is not None
    assert first.pixels.shape == (48, 64, 3)
    assert len(rest) + 1 + source.report.dropped == source.report.frames == 200
    assert len(rest) <= 5 + 1
    assert rest[-1].time == pytest.approx(19.9)


def test_frames_are_thinned_and_made_smaller() -> None:
    source = FrameSource(
        "testsrc=size=1280x720:rate=10:duration=2",
        input_format="lavfi",
        interval=0.3,
        short_side=90,
        drop=False,
        retries=0,
    )
    found = frames_of(source)
    assert [frame.time for frame in found] == pytest.approx([0, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8])
    assert found[0].pixels.shape == (90, 160, 3)


def test_a_camera_that_is_not_there_is_named() -> None:
    with pytest.raises(VideoError):
        frames_of(FrameSource("63", wait=0.01))


def cpu() -> Runtime:
    from openvjepa.config import ComputeConfig
    from openvjepa.train.distributed import make_runtime

    with make_runtime(ComputeConfig(device="cpu")) as runtime:
        return runtime


def test_windows_of_a_pipe_are_those_of_the_file(run: Path, long: Path, tmp_path: Path, piped: Any) -> None:
    config = PredictConfig((str(long),), (str(run),), window=1.0, stride=0.45, workers=0)
    (whole,) = predict(config)
    timeline = whole.timeline
    assert timeline is not None
    copy = remuxed(long, tmp_path / "c.ts", form="mpegts")
    stream = predict(replace(config, videos=(piped(copy),), annotate=str(tmp_path / "seen.mp4")))
    assert isinstance(stream, LiveStream)
    found = list(stream)
    assert [(f.start, f.end) for f in found] == [pytest.approx(span, abs=5e-3) for span in timeline.spans]
    for one, shares in zip(found, timeline.probabilities, strict=True):
        answer = dict(one.answers[0].top)
        np.testing.assert_allclose([answer[name] for name in timeline.classes], shares, atol=1e-4)
    assert all(0 <= one.latency < 60 for one in found)
    assert (found[-1].dropped, found[-1].skipped) == (0, 0)
    seen = open_video(tmp_path / "seen.mp4")
    assert seen.frame_count == 60
    assert seen.all_frames().frames.shape == (60, 72, 96, 3)


def test_a_slow_model_leaves_windows_out_and_stays_at_the_present(run: Path) -> None:
    members = load_members([str(run)], clips=ClipConfig(segments=1))
    source = source_for("testsrc=size=32x32:rate=10:duration=60", members, 1.0, input_format="lavfi", retries=0)
    with source:
        found = []
        for one in follow_live(members, source, window=1.0, stride=0.5, runtime=cpu()):
            found.append(one)
            time.sleep(0.05)  # while the device delivers many seconds
    assert found[-1].skipped > 50
    assert found[-1].end == pytest.approx(60, abs=0.6)
    assert len(found) + found[-1].skipped == pytest.approx(119, abs=3), "every window is answered or counted"
    assert source.report.dropped > 0


def test_json_lines_come_one_by_one(run: Path, long: Path, tmp_path: Path, piped: Any, capsys: Any) -> None:
    copy = remuxed(long, tmp_path / "c.ts", form="mpegts")
    config = PredictConfig((piped(copy),), (str(run),), json=True, window=2.0, stride=2.0, top=1)
    stream = predict(config)
    capsys.readouterr()
    shown_by.predict(stream, config)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["start"] for line in lines] == [0, 2, 4]
    assert [line["top"][0]["class"] for line in lines][::2] == ["dark", "bright"] or len(lines) == 3
    assert {"time", "latency", "dropped_frames", "skipped_windows", "reconnects"} <= set(lines[0])


def test_a_growing_folder_gives_each_file_once_when_it_is_whole(long: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(long, folder / "a.mp4")

    def write() -> None:
        time.sleep(0.1)
        content = long.read_bytes()
        with (folder / "b.mp4").open("wb") as file:
            for part in range(0, len(content), len(content) // 6 + 1):
                file.write(content[part : part + len(content) // 6 + 1])
                file.flush()
                time.sleep(0.03)
        (folder / ".hidden.mp4").write_bytes(content)
        (folder / "notes.txt").write_text("no")

    writer = threading.Thread(target=write)
    writer.start()
    found = [(path.name, open_video(path).frame_count) for path in new_files(folder, idle=1.5, poll=0.1)]
    writer.join()
    assert found == [("a.mp4", 60), ("b.mp4", 60)]


@pytest.mark.timeout(30)
def test_waiting_for_files_ends(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "temporary.mp4").write_bytes(b"being written")
    threading.Timer(0.15, (tmp_path / "temporary.mp4").unlink).start()
    assert list(new_files(tmp_path, idle=0.5, poll=0.1)) == []


def test_a_growing_folder_is_predicted(run: Path, long: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    render(folder / "dark.mp4", [50] * 12)
    (folder / "bad.mp4").write_bytes(b"no video")
    stream = predict(PredictConfig((str(folder),), (str(run),), follow=True, idle=0.5, workers=0))
    assert isinstance(stream, LiveStream)
    found = {Path(one.path).name: one for one in stream}
    assert found["dark.mp4"].top[0][0] == "dark"
    assert found["bad.mp4"].error
    assert stream.answers == 1


def test_what_cannot_be_is_refused(run: Path, long: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="csv needs a whole video"):
        predict(PredictConfig(("rtsp://x/y",), (str(run),), csv="x.csv"))
    with pytest.raises(ConfigError, match="follow watches one folder"):
        predict(PredictConfig((str(long),), (str(run),), follow=True))
    with pytest.raises(ConfigError, match="idle needs follow"):
        PredictConfig((str(long),), (str(run),), idle=2.0)


@pytest.mark.slow
def test_the_command_reads_standard_input(run: Path, long: Path, tmp_path: Path) -> None:
    copy = remuxed(long, tmp_path / "c.ts", form="mpegts")
    words = [sys.executable, "-m", "openvjepa", "predict", "-", "--model", str(run), "--window", "2", "--json"]
    with copy.open("rb") as file, subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE) as cat:
        done = subprocess.run(words, stdin=cat.stdout, capture_output=True, text=True, check=True, timeout=250)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["start"] for line in lines] == [0, 1, 2, 3, 4]
    assert lines[0]["source"] == "-"
    assert "60 frames" in done.stderr


class RtspServer(socketserver.ThreadingTCPServer):
    """Sends an MPEG transport stream (RTP payload 33 in the RTSP connection), of each connection the next so many packets."""

    daemon_threads = allow_reuse_address = True

    def __init__(self, content: bytes, cuts: list[int]) -> None:
        self.packets = [content[i : i + 188 * 7] for i in range(0, len(content), 188 * 7)]
        self.cuts, self.plays = cuts, 0
        super().__init__(("127.0.0.1", 0), RtspHandler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.server_address[1]}/camera"


class RtspHandler(socketserver.StreamRequestHandler):
    server: RtspServer

    def handle(self) -> None:
        while first := self.rfile.readline().decode():
            headers: dict[str, str] = {}
            while line := self.rfile.readline().decode().strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            method, body, more = first.split()[0], "", f"CSeq: {headers['cseq']}\r\nSession: 1\r\n"
            if method == "OPTIONS":
                more += "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            elif method == "DESCRIBE":
                body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track0\r\n"
                more += f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            elif method == "SETUP":
                more += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
            self.wfile.write(f"RTSP/1.0 200 OK\r\n{more}\r\n{body}".encode())
            if method == "PLAY":
                self.play()
                return

    def play(self) -> None:
        cut = self.server.cuts[min(self.server.plays, len(self.server.cuts) - 1)]
        self.server.plays += 1
        for number, packet in enumerate(self.server.packets[:cut]):
            rtp = struct.pack(">BBHII", 0x80, 33, number, number * 3000, 7) + packet
            self.wfile.write(b"$\0" + struct.pack(">H", len(rtp)) + rtp)


def test_a_dropped_rtsp_camera_is_connected_again(long: Path, tmp_path: Path) -> None:
    server = RtspServer(remuxed(long, tmp_path / "s.ts", form="mpegts").read_bytes(), [10_000, 10_000, 0])
    source = FrameSource(server.url, retries=2, wait=0.05, timeout=5)
    found = frames_of(source)
    server.shutdown()
    assert source.live
    assert 100 <= len(found) <= 120, "all frames of two connections"
    assert len(source.report.connected) == 2
    assert source.report.reconnects == 3, "after each of the connections, and once more in vain"
    assert (np.diff([frame.time for frame in found]) > 0).all()
    truth = open_video(long).all_frames().frames
    assert np.array_equal(found[0].pixels, truth[0])
