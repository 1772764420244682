"""Downloads from a real server on this computer: cut connections, newer versions, servers that cannot resume, two at once."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from openvjepa.errors import CheckpointError
from openvjepa.weights import download, registry
from openvjepa.weights.download import ATTEMPTS, cached_url, fetch_url
from openvjepa.weights.hub import load_model

FIXTURE = Path(__file__).parents[1] / "fixtures" / "vjepa" / "v1" / "checkpoint.pth.tar"
DATA = bytes(range(256)) * 4096 * 3  # 3 MiB
CHILD = """import logging, sys
from openvjepa.weights.download import fetch_url
logging.basicConfig(level=logging.INFO)
print(fetch_url(sys.argv[1]))"""


@dataclass
class Files:
    """What a server has, how it behaves, and what it was asked."""

    content: bytes = DATA
    etag: str | None = '"first"'
    modified: str | None = None
    ranges: bool = True
    if_range: bool = True
    length: bool = True
    size: str | None = None
    """What the server says of the size in place of the truth."""
    kind: str = "application/octet-stream"
    cuts: list[int] = field(default_factory=list)
    """Bytes after which the connection of each coming request breaks."""
    statuses: list[int] = field(default_factory=list)
    """Answers of the coming requests instead of the file."""
    stall: threading.Event | None = None
    """Half of a file is sent, and the rest once this is set."""
    asked: list[tuple[str | None, int]] = field(default_factory=list)
    """(Range, status) of every request."""
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    """GET with Range and If-Range, as RFC 9110 has them."""

    files: Files
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        files, wanted, start = self.files, self.headers["Range"], 0
        status = files.statuses.pop(0) if files.statuses else 200
        version = files.etag or files.modified
        same = not files.if_range or self.headers["If-Range"] in (None, version)
        if status == 200 and wanted and files.ranges and same:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            status = 206 if start < len(files.content) else 416
        files.asked.append((wanted, status))
        body = files.content[start:] if status in (200, 206) else b""
        self.send_response(status)
        for name, value in (("ETag", files.etag), ("Last-Modified", files.modified), ("Content-Type", files.kind)):
            if value:
                self.send_header(name, value)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(files.content) - 1}/{len(files.content)}")
        if status == 416:
            self.send_header("Content-Range", f"bytes */{len(files.content)}")
        if files.length:
            self.send_header("Content-Length", self.files.size or str(len(body)))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        self._send(body, files.cuts.pop(0) if files.cuts and body else len(body))

    def _send(self, body: bytes, count: int) -> None:
        half = count // 2 if self.files.stall else count
        self.wfile.write(body[:half])
        self.wfile.flush()
        if self.files.stall:
            self.files.stall.wait(30)
            self.wfile.write(body[half:count])
        self.close_connection = self.close_connection or count < len(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


class Server(ThreadingHTTPServer):
    """Does not print of clients that were killed."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Quiet."""


def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Address of a server that runs while the caller has it."""
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def files() -> Iterator[Files]:
    found = Files()
    for address in serving(type("Bound", (Handler,), {"files": found})):
        found.url = f"{address}/models/one.pt"
        yield found


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's cache in a temporary folder, and no proxy."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of every pause between two attempts; none is made."""
    made: list[float] = []
    monkeypatch.setattr(download.time, "sleep", made.append)
    return made


def left_over(cache: Path) -> list[str]:
    """Files beside the finished ones and their locks."""
    return sorted(p.name for p in cache.rglob("*") if p.is_file() and ".part" in p.name)


def child(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", CHILD, url], stdout=-1, stderr=-1, text=True, env=dict(os.environ))


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        threading.Event().wait(0.01)


def test_once(files: Files, cache: Path) -> None:
    path = fetch_url(files.url)
    assert path.read_bytes() == DATA
    assert cache in path.parents
    assert path.name == "one.pt"
    assert fetch_url(files.url) == cached_url(files.url) == path
    assert files.asked == [(None, 200)]
    assert left_over(cache) == []


@pytest.mark.parametrize("mark", [{"etag": '"a"'}, {"etag": None, "modified": "Mon, 02 Mar 2026 10:00:00 GMT"}])
def test_a_cut_connection_goes_on(files: Files, cache: Path, pauses: list[float], mark: dict[str, Any]) -> None:
    files.etag, files.modified = mark["etag"], mark.get("modified")
    files.cuts = [1_000_000, 500_000]
    assert fetch_url(files.url).read_bytes() == DATA
    assert files.asked == [(None, 200), ("bytes=1000000-", 206), ("bytes=1500000-", 206)]
    assert pauses == [1, 1]
    assert left_over(cache) == []


def test_weak_versions_are_not_resumed(files: Files) -> None:
    files.etag, files.cuts = 'W/"weak"', [1_000_000]
    assert fetch_url(files.url).read_bytes() == DATA
    assert files.asked == [(None, 200), (None, 200)]


def test_a_changed_file_starts_again(files: Files) -> None:
    files.cuts = [1_000_000] * ATTEMPTS * 2
    files.ranges = False
    with pytest.raises(CheckpointError, match=r"the download failed \(the connection ended after 1000000 of 3145728"):
        fetch_url(files.url)
    files.content, files.etag, files.cuts, files.ranges = DATA[::-1], '"second"', [], True
    assert fetch_url(files.url).read_bytes() == DATA[::-1]
    assert files.asked[-1] == ("bytes=1000000-", 200)


def test_a_changed_file_of_a_server_without_if_range(files: Files) -> None:
    files.cuts = [1_000_000] * ATTEMPTS
    files.if_range = files.ranges = False
    with pytest.raises(CheckpointError):
        fetch_url(files.url)
    files.content, files.etag, files.cuts, files.ranges = DATA[::-1], '"second"', [], True
    assert fetch_url(files.url).read_bytes() == DATA[::-1]
    assert files.asked[-2:] == [("bytes=1000000-", 206), (None, 200)]


def test_a_server_without_ranges_starts_again(files: Files) -> None:
    files.ranges, files.cuts = False, [2_000_000]
    assert fetch_url(files.url).read_bytes() == DATA
    assert files.asked == [(None, 200), ("bytes=2000000-", 200)]


def test_a_server_without_lengths(files: Files) -> None:
    files.length = False
    assert fetch_url(files.url).read_bytes() == DATA


@pytest.mark.parametrize("size", ["many", "-5", "1e9", "9" * 5000, str(10**13), "\u00b2".encode().decode("latin1")])
def test_a_size_that_is_none(files: Files, cache: Path, pauses: list[float], size: str) -> None:
    files.size = size
    with pytest.raises(CheckpointError, match=r"invalid file size .* from the server") as caught:
        fetch_url(files.url)
    assert len(str(caught.value)) < 200
    assert not pauses


def test_a_body_without_end(files: Files, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.length = False
    monkeypatch.setattr(download, "LARGEST", len(DATA) - 1)
    with pytest.raises(CheckpointError, match=r"download aborted after .* the server sends no file size"):
        fetch_url(files.url)
    assert not list(cache.rglob("*.part"))
    monkeypatch.undo()
    monkeypatch.setattr(download, "_SPARE", 10**18)  # a nearly full disk
    with pytest.raises(CheckpointError, match="download aborted"):
        fetch_url(files.url)


def test_complete_but_not_renamed(files: Files, cache: Path) -> None:
    """Killed after the last byte."""
    path = fetch_url(files.url)
    part = path.rename(path.with_name("one.pt.part"))
    part.with_name("one.pt.part.version").write_text('"first"')
    assert fetch_url(files.url).read_bytes() == DATA
    assert files.asked[1:] == [("bytes=3145728-", 416)]


def test_longer_than_the_file(files: Files) -> None:
    path = fetch_url(files.url)
    path.rename(path.with_name("one.pt.part")).write_bytes(DATA + b"x")
    path.with_name("one.pt.part.version").write_text('"first"')
    assert fetch_url(files.url).read_bytes() == DATA
    assert [status for _, status in files.asked] == [200, 416, 200]


def test_a_busy_server_is_asked_again(files: Files, pauses: list[float]) -> None:
    files.statuses = [503, 429, 500]
    assert fetch_url(files.url).read_bytes() == DATA
    assert pauses == [1, 2, 4]


@pytest.mark.parametrize("status", [404, 403])
def test_a_refusal_is_final(files: Files, cache: Path, pauses: list[float], status: int) -> None:
    files.statuses = [status]
    with pytest.raises(CheckpointError, match=f"{files.url}: the download failed .the server says {status}"):
        fetch_url(files.url)
    assert pauses == []
    assert left_over(cache) == []


def test_nobody_answers(cache: Path, pauses: list[float]) -> None:
    with pytest.raises(CheckpointError, match="refused"):
        fetch_url("http://127.0.0.1:9/one.pt")
    assert pauses == [1, 2, 4, 8]


def test_a_login_page_is_not_a_model(files: Files, cache: Path) -> None:
    files.kind, files.content = "text/html; charset=utf-8", b"<html>Welcome to the hotel</html>"
    with pytest.raises(CheckpointError, match="the server sent a web page instead"):
        fetch_url(files.url)
    assert cached_url(files.url) is None
    assert left_over(cache) == []


def test_checksum(files: Files, cache: Path) -> None:
    with pytest.raises(CheckpointError, match="expected 00"):
        fetch_url(files.url, sha256="00" * 32)
    assert cached_url(files.url) is None
    assert left_over(cache) == []
    assert fetch_url(files.url, sha256=hashlib.sha256(DATA).hexdigest().upper()).read_bytes() == DATA


def test_offline(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set: unset it, or save the file as ") as caught:
        fetch_url(files.url)
    place = Path(str(caught.value).rpartition("save the file as ")[2])
    place.parent.mkdir(parents=True)
    place.write_bytes(b"brought on a stick")
    assert fetch_url(files.url) == place
    assert files.asked == []


def test_too_little_space(files: Files, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil._ntuple_diskusage(10**9, 10**9, 10**6)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: full)
    with pytest.raises(CheckpointError, match=r"0\.00 GB needed, 0\.00 GB free: free some"):
        fetch_url(files.url)
    assert cached_url(files.url) is None


@pytest.mark.skipif(sys.platform != "linux", reason="sets a limit that only Unix has")
def test_a_disk_that_fills_up(files: Files) -> None:
    """A limit of 1 MB on the size of files stands for a full disk; what has arrived serves the next attempt."""
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6)); {CHILD}"
    done = subprocess.run([sys.executable, "-c", limited, files.url], capture_output=True, text=True, check=False)
    assert "cannot be written (File too large): free some space, or set TORCH_HOME" in done.stderr
    assert fetch_url(files.url).read_bytes() == DATA
    assert files.asked[1:] == [("bytes=1000000-", 206)]


def test_a_folder_that_cannot_be_made(files: Files, cache: Path) -> None:
    cache.parents[1].write_text("a file")
    with pytest.raises(CheckpointError, match="cannot be written"):
        fetch_url(files.url)


def test_a_killed_process_is_followed_up(files: Files, cache: Path) -> None:
    files.stall = threading.Event()
    process = child(files.url)
    wait_until(lambda: any(p.stat().st_size >= 1 << 20 for p in cache.rglob("*.part")))
    process.send_signal(signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
    process.communicate()
    files.stall.set()
    files.stall = None
    assert fetch_url(files.url).read_bytes() == DATA
    assert re.fullmatch(r"bytes=1\d{6}-", files.asked[1][0] or "")
    assert files.asked[1][1] == 206


def test_two_at_once_share_one_download(files: Files, cache: Path) -> None:
    files.stall = threading.Event()
    both = [child(files.url) for _ in range(2)]
    wait_until(lambda: bool(files.asked))
    threading.Event().wait(2)  # until the second one waits
    files.stall.set()
    out = [process.communicate(timeout=60) for process in both]
    assert out[0][0] == out[1][0]
    assert Path(out[0][0].strip()).read_bytes() == DATA
    assert files.asked == [(None, 200)]
    assert sum("waiting for another process" in err for _, err in out) == 1
    assert sum("downloading http" in err for _, err in out) == 1


def test_places(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.hub's downloads are used; addresses that share a file name do not meet, on any file system."""
    assert cache.parent == Path(torch.hub.get_dir())
    models = registry.list_models()
    urls = [info.url for info in models if info.url] + [url for info in models for url in info.probes.values()]
    places = [str(download._place(url)).lower() for url in urls]
    assert len(set(places)) == len(urls)
    cache.mkdir(parents=True)
    (cache / "vitl.pt").write_bytes(b"from torch.hub")
    (cache / "vjepa2_1_vitg_384.pt").write_bytes(b"from torch.hub")
    assert cached_url("https://dl.fbaipublicfiles.com/vjepa2/vitl.pt") == cache / "vitl.pt"
    assert cached_url("https://elsewhere.org/vitl.pt") is None
    giant, gigantic = registry.find("vjepa2.1-vit-giant"), registry.find("vjepa2.1-vit-gigantic")
    assert giant is not None
    assert gigantic is not None
    assert cached_url(giant.url or "") == cache / "vjepa2_1_vitg_384.pt"
    assert cached_url(gigantic.url or "") is None
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert download._place(urls[0]).parents[1] == Path(torch.hub.get_dir())
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert download._place(urls[0]).parents[1] == Path(torch.hub.get_dir())


def test_a_model_by_its_name(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way: name, download, file, model."""
    files.content = FIXTURE.read_bytes()
    info = registry.ModelInfo("tiny", "V-JEPA", {"num_heads": 3}, 0.1, "none", url=files.url)
    monkeypatch.setattr(registry, "_MODELS", (info,))
    model = load_model("tiny")
    assert model.section == "target_encoder"
    assert model.predictor is not None
    with pytest.raises(CheckpointError, match="did you mean tiny"):
        load_model("tinny")
