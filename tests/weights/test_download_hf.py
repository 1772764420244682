"""Models of Hugging Face, by huggingface_hub itself, from a small server of the same addresses on this computer."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

FIXTURE = Path(__file__).parents[1] / "fixtures" / "vjepa" / "hf_base"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL, PICKLES = "facebook/vjepa2-tiny", "someone/pickles"
# What the child process prints is one line: the folder, or the error.
FETCH = """
import sys
from openvjepa.errors import CheckpointError
from openvjepa.weights.download import cached_hf, fetch_hf
try:
    folder = fetch_hf(sys.argv[1])
    assert cached_hf(sys.argv[1]) == folder
    print(folder)
except CheckpointError as error:
    assert cached_hf(sys.argv[1]) is None
    print("error:", error)
"""


class Hub(BaseHTTPRequestHandler):
    """The API's model and tree, and files with the headers that huggingface_hub asks for."""

    repos: dict[str, dict[str, bytes]]
    asked: list[str]

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        repo = next((name for name in self.repos if name in path), None)
        if "gated/" in path:
            return self._send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "ask for access"})
        if repo is None:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "no such model"})
        files = self.repos[repo]
        if "/revision/" in path:
            siblings = [{"rfilename": name} for name in files]
            return self._json({"id": repo, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False})
        if "/tree/" in path:
            return self._json(
                [{"type": "file", "path": name, "size": len(body), "oid": _sha(body)} for name, body in files.items()]
            )
        body = files[path.rpartition(f"/resolve/{COMMIT}/")[2]]
        return self._send(
            200, body if with_body else b"", {"ETag": f'"{_sha(body)}"', "X-Repo-Commit": COMMIT}, len(body)
        )

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body) if length is None else length)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def _sha(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A server with a model, a model of pickles and a gated one; child processes ask it instead of Hugging Face."""
    model = {name: (FIXTURE / name).read_bytes() for name in ("config.json", "model.safetensors")}
    repos = {
        MODEL: {**model, "pytorch_model.bin": b"never fetched"},
        PICKLES: {"config.json": b"{}", "model.bin": b"x"},
    }
    handler = type("Bound", (Hub,), {"repos": repos, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name, value in {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hf"),
        "no_proxy": "127.0.0.1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def child(program: str, *args: str, **environment: str) -> str:
    """What a program prints."""
    command = [sys.executable, "-c", program, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_model_is_fetched_once_and_then_works_offline(hub: type[Hub], tmp_path: Path) -> None:
    said = child(FETCH, MODEL, HF_HUB_OFFLINE="1")
    assert said == (
        f"error: {MODEL}: not downloaded yet, and HF_HUB_OFFLINE is set: unset it, or give the path of a local folder"
    )
    assert hub.asked == []
    folder = Path(child(FETCH, MODEL))
    assert tmp_path / "hf" in folder.parents
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    for path in folder.iterdir():
        assert path.read_bytes() == (FIXTURE / path.name).read_bytes()
    hub.asked.clear()
    assert child(FETCH, MODEL, HF_HUB_OFFLINE="1") == str(folder)
    assert child(FETCH, MODEL, HF_ENDPOINT="http://127.0.0.1:9") == str(folder)
    assert hub.asked == []


def test_a_model_by_its_id(hub: type[Hub]) -> None:
    """The whole way: id, download, folder, model."""
    program = "import sys, openvjepa; model = openvjepa.load_model(sys.argv[1]); print(model.config.positions)"
    assert child(program, MODEL) == "rope-tiled"


@pytest.mark.parametrize(
    ("repo", "words"),
    [
        ("facebook/none", "no such model on Hugging Face"),
        ("gated/model", "accept its terms at http://127.0.0.1:"),
        (PICKLES, "has no .safetensors file"),
        ("not--an..id/x", "no such model on Hugging Face"),
    ],
)
def test_what_cannot_be_had(hub: type[Hub], repo: str, words: str) -> None:
    said = child(FETCH, repo)
    assert said.startswith(f"error: {repo}: ")
    assert words in said
    assert len(said.splitlines()) == 1


def test_nobody_answers(hub: type[Hub]) -> None:
    said = child(FETCH, MODEL, HF_ENDPOINT="http://127.0.0.1:9")
    assert said.startswith(f"error: {MODEL}: not found locally, and the download failed (")
    assert len(said.splitlines()) == 1
