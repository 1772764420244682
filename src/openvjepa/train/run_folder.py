"""The folder of a run: whether it is in use, what resuming and overwriting do to it, and which files a run writes."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from openvjepa.errors import ConfigError

logger = logging.getLogger("openvjepa")

# Any of these tells that a folder holds a run (patterns).
RUN_MARKS = ("metrics.jsonl", "checkpoints/step-*.pt", "results.json")
# What pretraining, probing and fine-tuning write: what --overwrite deletes.
RUN_FILES = (
    *RUN_MARKS,
    "checkpoints/step-*.part",
    "checkpoints/step-*.pt.unread",
    "metrics.part",
    "tensorboard/events.out.tfevents.*",
    "config.yaml",
    "splits.csv",
    "model.safetensors",
    "model.yaml",
    "novelty.npz",
    "report.html",
    "confusion.png",
    "clips.npy",
)
# Only a folder with this file may be cleared: others have folders called shapes or pretrain, too.
DEMO_MARK = ".vjepa-demo"
DEMO_PARTS = ("shapes", "pretrain", "untrained", "features", "probe-*", "report.html", "results.json")
_CARD, _CARD_START = "README.md", b"---"  # a model card begins with YAML; a README of someone's own does not
_MODEL = ("model.safetensors", "model.yaml")
_LOCK = ".lock"
_LOCK_WAIT = 1.0  # s; a process that is just ending may still hold it

_held: dict[Path, int] = {}  # the folders that this process holds, and the threads that do


@dataclass(frozen=True)
class RunFolder:
    """A run folder that this process holds; see `open_run`."""

    path: Path
    resume: bool
    overwrite: bool
    resumable: bool

    @property
    def holds_run(self) -> bool:
        """Whether an earlier run has left something here."""
        marks = any(next(self.path.glob(pattern), None) for pattern in RUN_MARKS)
        return marks or all((self.path / name).exists() for name in ("config.yaml", "model.yaml"))

    def check(self) -> None:
        """Refuse a folder that holds a run, unless that is to be resumed or overwritten, or a model of another origin.

        Raises:
            ConfigError: with what can be done.
        """
        if self.resume or (self.overwrite and self.holds_run):
            return
        if self.holds_run:
            go_on = "--resume to go on, " if self.resumable else ""
            raise ConfigError(
                f"{self.path}: already holds a run: add {go_on}--overwrite to delete it, or choose another folder"
            )
        if any((self.path / name).exists() for name in _MODEL):
            raise ConfigError(f"{self.path}: holds a model that is not from a run: choose another folder")

    def start(self) -> None:
        """Delete what an earlier run left, if that was asked for; calling it again does nothing.

        Only files that a run writes are deleted, and only in a folder that holds a run.

        Raises:
            ConfigError: a file cannot be deleted.
        """
        if not self.overwrite or not self.holds_run:
            return
        card = self.path / _CARD
        try:
            for path in [path for pattern in RUN_FILES for path in self.path.glob(pattern)]:
                path.unlink()
            if card.is_file() and card.read_bytes()[:3] == _CARD_START:
                card.unlink()
        except OSError as error:
            raise ConfigError(f"{error.filename}: cannot be deleted ({error.strerror or error})") from None


@contextmanager
def open_run(
    path: str | Path, *, resume: bool = False, overwrite: bool = False, resumable: bool = True
) -> Generator[RunFolder]:
    """Make a run folder and hold it, locked against other processes, while the context is open.

    Opening changes no file of an earlier run: `RunFolder.start` does, where that was asked for. A verb and the loop that it
    calls may both open the same folder.

    Args:
        path: the folder.
        resume: whether to resume the run in the folder.
        overwrite: whether to delete the run that it holds.
        resumable: whether the verb has --resume.

    Raises:
        ConfigError: another process runs in it, it holds a run already and neither `resume` nor `overwrite` is set, it
            holds a model that no run has written, or it cannot be made.
    """
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other")
    with locked(Path(path)):
        folder = RunFolder(Path(path), resume, overwrite, resumable)
        folder.check()
        yield folder


@contextmanager
def open_output(path: str | Path, files: Sequence[str], *, overwrite: bool) -> Generator[Path]:
    """Make a folder of results and hold it, locked against other processes, while the context is open.

    Args:
        path: the folder.
        files: what is written into it (patterns).
        overwrite: whether these may be there already.

    Raises:
        ConfigError: another process writes into it, one of the files is there and shall stay, or it cannot be made.
    """
    with locked(Path(path)):
        old = sorted(found.name for pattern in files for found in Path(path).glob(pattern))
        if old and not overwrite:
            raise ConfigError(f"{path}: already holds {old[0]}: choose another --out, or add --overwrite to replace it")
        yield Path(path)


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Make a folder and lock it against other processes, not against the thread that holds it already.

    Raises:
        ConfigError: another process holds it, or it cannot be made.
    """
    key = folder.resolve()
    if _held.get(key) == threading.get_ident():
        yield
        return
    made = not folder.exists()
    lock = FileLock(folder / _LOCK, timeout=_LOCK_WAIT)
    try:
        if not made and not folder.is_dir():
            raise ConfigError(f"{folder}: cannot be used as a run folder (it is a file): choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        if key in _held:
            raise Timeout(lock.lock_file)
        lock.acquire()
    except Timeout:
        raise ConfigError(
            f"{folder}: another run is using this folder: wait until it is done, or choose another folder"
        ) from None
    except NotImplementedError:
        logger.warning("%s: its file system has no locks: make sure that no other process uses it", folder)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be used as a run folder ({error.strerror or error})") from None
    _held[key] = threading.get_ident()
    try:
        yield
    finally:
        del _held[key]
        _release(lock)
        if made:  # by a run that wrote nothing, it is empty
            with contextlib.suppress(OSError):
                folder.rmdir()


def _release(lock: FileLock) -> None:
    """Let the lock go; its file is of no use to anyone. Deleted while it is held: afterwards it may be another process's."""
    deleted = False
    with contextlib.suppress(OSError):  # Windows does not delete a file that is open
        os.unlink(lock.lock_file)
        deleted = True
    lock.release()
    if not deleted:
        with contextlib.suppress(OSError):
            os.unlink(lock.lock_file)


def start_demo(folder: Path) -> None:
    """Mark a folder as a demo's, and delete what an earlier demo wrote into it, and nothing else.

    Raises:
        ConfigError: the folder is in use, and not by a demo; or a file cannot be deleted.
    """
    mark = folder / DEMO_MARK
    if not mark.is_file() and folder.is_dir() and any(path.name != _LOCK for path in folder.iterdir()):
        raise ConfigError(f"{folder}: exists and is not a demo, or one of an earlier version: choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
        for path in [path for pattern in DEMO_PARTS for path in folder.glob(pattern)]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be deleted ({error.strerror or error})") from None
