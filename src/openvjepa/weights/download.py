"""Downloads of published files: Meta's into the torch.hub cache, Hugging Face models into the Hugging Face cache.

Interrupted downloads resume. A partial file of Meta's is `<name>.part`, and its version (ETag or date) `<name>.part.version`: the
request for the rest names the version, and the server sends the whole file if there is a newer one.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from openvjepa.errors import CheckpointError
from openvjepa.progress import Meter
from openvjepa.weights import registry

ATTEMPTS = 5
"""Tries in a row without a single new byte, after which a download is given up."""
log = logging.getLogger("openvjepa")
TIMEOUT = 30.0
"""Seconds without an answer."""
LARGEST = 200 * 10**9
"""Bytes of a file, at most: several times those of the largest published one."""
_SPARE = 10**9  # bytes of the disk that a file of unknown size leaves free
_CHUNK = 1 << 20
_PASSING = (408, 425, 429)  # answers of a server that may be other ones a moment later, beside 5xx
_HF_FILES = ("*.safetensors", "*.json")


class _Dropped(Exception):
    """A connection that failed or ended early, in a way that may pass."""


def fetch_url(url: str, *, sha256: str | None = None) -> Path:
    """A published file in torch.hub's cache ($TORCH_HOME/hub/checkpoints), downloaded if it is not there yet.

    Atomic and resumable; safe while other processes want the same file. Connections that fail are tried again.

    Args:
        url: http or https.
        sha256: what a new download must have, in hex.

    Raises:
        CheckpointError: not there and HF_HUB_OFFLINE is set; refused by the server; the connection fails for good; too
            little space; another checksum.
    """
    path = _place(url)
    if path.exists():
        return path
    if _offline():
        raise CheckpointError(
            f"{url}: not downloaded yet, and HF_HUB_OFFLINE is set: unset it, or save the file as {path}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if not path.exists():  # or another process was quicker
                _download(url, path, sha256)
    except OSError as error:  # of the disk; those of the network are dealt with below
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror or error}): free some space, or set TORCH_HOME to another folder"
        ) from None
    return path


def cached_url(url: str) -> Path | None:
    """The file of `fetch_url`, if it is there."""
    path = _place(url)
    return path if path.exists() else None


def fetch_hf(repo_id: str) -> Path:
    """Folder of a model of Hugging Face in its cache ($HF_HOME), downloaded if it is not there yet: safetensors and JSON.

    HF_ENDPOINT, HF_HUB_OFFLINE and the token of `hf auth login` are respected.

    Raises:
        CheckpointError: no such model, not allowed, not reachable, not there while offline, or without safetensors.
    """
    from huggingface_hub import constants, errors, snapshot_download

    try:
        folder = Path(snapshot_download(repo_id, allow_patterns=list(_HF_FILES)))
    except errors.GatedRepoError:
        page = f"{constants.ENDPOINT}/{repo_id}"
        raise CheckpointError(f"{repo_id}: accept its terms at {page}, then log in with `hf auth login`") from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise CheckpointError(
            f"{repo_id}: no such file or folder, and no such model on Hugging Face (for a private one: `hf auth login`)"
        ) from None
    except (OSError, errors.EntryNotFoundError, errors.HTTPError) as error:  # pyright: ignore[reportPrivateImportUsage]
        if _offline():
            raise CheckpointError(
                f"{repo_id}: not downloaded yet, and HF_HUB_OFFLINE is set: unset it, or give the path of a local folder"
            ) from None
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{repo_id}: not found locally, and the download failed ({reason}): check the name "
            "and the network, and run the command again to resume"
        ) from None
    if next(folder.glob("*.safetensors"), None) is None:
        raise CheckpointError(
            f"{repo_id}: has no .safetensors file (other formats can execute code and are not loaded)"
        )
    return folder


def cached_hf(repo_id: str) -> Path | None:
    """The folder of `fetch_hf`, if all of it is there."""
    from huggingface_hub import errors, snapshot_download

    try:
        folder = Path(snapshot_download(repo_id, allow_patterns=list(_HF_FILES), local_files_only=True))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        return None
    return folder if next(folder.glob("*.safetensors"), None) else None


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _place(url: str) -> Path:
    """Where a file belongs.

    Published models keep their names, so that torch.hub's downloads are found. Names that several addresses share, or that
    differ in case only (V-JEPA 2.1's g and G: one file on macOS and Windows), get a folder of their own.
    """
    cache = os.environ.get("TORCH_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
    folder = Path(cache).expanduser() / "hub" / "checkpoints"
    name = urlsplit(url).path.rpartition("/")[2]
    info = registry.of_file(name)
    if info is not None and info.url == url:
        alike = [other for other in registry.list_models() if (other.file or "").lower() == name.lower()]
        if len(alike) == 1 or (folder.is_dir() and name in os.listdir(folder)):
            return folder / name
    return folder / hashlib.sha256(url.encode()).hexdigest()[:8] / name


@contextmanager
def _alone(path: Path) -> Generator[None]:
    """Wait until no other process downloads this file."""
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        log.info("waiting for another process to download %s", path.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _download(url: str, path: Path, sha256: str | None) -> None:
    part = path.with_name(f"{path.name}.part")
    with _Meter(url, path) as meter:
        most, failures = _size(part), 0
        while True:
            try:
                _transfer(url, part, meter)
                break
            except _Dropped as error:
                failures = failures + 1 if _size(part) <= most else 1
                most = max(most, _size(part))
                if failures == ATTEMPTS:
                    raise CheckpointError(
                        f"{url}: the download failed ({error}): check the network, and run the command again to resume"
                    ) from None
            time.sleep(2.0 ** (failures - 1))
    if sha256 is not None and (found := _sha256(part)) != sha256.lower():
        part.unlink()
        _version_file(part).unlink()
        raise CheckpointError(f"{url}: the downloaded file has sha256 {found}, expected {sha256}; it was deleted")
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    _version_file(part).unlink(missing_ok=True)


def _transfer(url: str, part: Path, meter: _Meter) -> None:
    """Get what is missing of a file, with one request.

    Raises:
        _Dropped: it may work the next time.
        CheckpointError: it will not.
        OSError: of the disk.
    """
    version = _version_file(part).read_text() if _version_file(part).exists() else ""
    have = _size(part) if version else 0
    resume = {"Range": f"bytes={have}-", "If-Range": version} if have else {}
    response = _ask(urllib.request.Request(url, headers={"User-Agent": "openvjepa", **resume}))
    with contextlib.closing(response):
        span = response.headers.get("Content-Range", "")  # "bytes 100-999/1000", or "bytes */1000" after the end
        if response.status == 416 and span == f"bytes */{have}":
            return  # cut off between the last byte and the new name
        wrong = response.status == 206 and not (
            span.startswith(f"bytes {have}-") and _version(response) in ("", version)
        )
        if response.status == 416 or wrong:  # a server may not know If-Range
            part.unlink()
            raise _Dropped("the file has changed, or the server has no such part of it")
        if response.status != 206:
            have = 0
            part.write_bytes(b"")
            _version_file(part).write_text(_version(response))
        length = _length(response)
        total = None if length is None else have + length
        _check_space(part, length or 0)
        meter.start(have, total)
        with part.open("ab") as file:
            while chunk := _read(response):
                file.write(chunk)
                meter.advance(len(chunk))
                have += len(chunk)
                if total is None and (have > LARGEST or shutil.disk_usage(part.parent).free < _SPARE):
                    part.unlink()
                    raise CheckpointError(
                        f"{url}: download aborted after {have / 1e9:.2f} GB: the server sends no file "
                        "size, and the file is too large"
                    )
    if total is not None and _size(part) != total:
        raise _Dropped(f"the connection ended after {_size(part)} of {total} bytes")


def _ask(request: urllib.request.Request) -> http.client.HTTPResponse | urllib.error.HTTPError:
    """The server's answer: the file, a part of it, or 416: there is no such part."""
    url = request.full_url
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return error
        said = f"the server says {error.code} {error.reason}"
        error.close()
        if error.code in _PASSING or error.code >= 500:
            raise _Dropped(said) from None
        raise CheckpointError(f"{url}: the download failed ({said})") from None
    except (OSError, http.client.HTTPException) as error:
        raise _Dropped(getattr(error, "reason", None) or error) from None
    if response.headers.get_content_type() == "text/html":  # a hotel's login page, a proxy's notice
        response.close()
        raise CheckpointError(
            f"{url}: the server sent a web page instead of the file: check the connection in a browser"
        )
    return response


def _read(response: http.client.HTTPResponse | urllib.error.HTTPError) -> bytes:
    try:
        return response.read(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Dropped(error) from None


def _length(response: http.client.HTTPResponse | urllib.error.HTTPError) -> int | None:
    """Bytes that are to come; None: the server does not say.

    Raises:
        CheckpointError: what it says is no size of a file.
    """
    text = response.headers.get("Content-Length")
    if text is None:
        return None
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 16 and int(digits) <= LARGEST):
        raise CheckpointError(f"{response.url}: invalid file size {text[:40]!r} from the server")
    return int(digits)


def _version(response: http.client.HTTPResponse | urllib.error.HTTPError) -> str:
    """What If-Range takes: a strong ETag, or the date of the last change; empty: a server that cannot resume."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_space(part: Path, missing: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if missing > free:
        raise CheckpointError(
            f"{part.parent}: {missing / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free: free some space, or set TORCH_HOME to "
            "another folder"
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class _Meter(Meter):
    """Bytes that have arrived; a message when a download starts."""

    def __init__(self, url: str, path: Path) -> None:
        super().__init__(path.name, None, unit="bytes")
        self.url, self.path, self.told = url, path, False

    def start(self, have: int, total: int | None) -> None:
        """A request was answered: `have` bytes are here, of `total`."""
        self.show(have, total=total)
        if not self.told:
            size = f" ({total / 1e9:.2f} GB, {have / 1e9:.2f} here)" if total else ""
            log.info("downloading %s%s to %s", self.url, size, self.path)
        self.told = True

    def advance(self, count: int) -> None:
        """Bytes have arrived."""
        self.show(self.done + count)
