"""Training-friendly copies of all videos and pictures of a list, several at a time, in a folder with an index of its own."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from openvjepa.atomic import replacing
from openvjepa.config import PrepareConfig, command
from openvjepa.data.copies.transcode import Facts, copy_picture, copy_video
from openvjepa.data.cores import process_count, process_pool
from openvjepa.data.lists.cells import csv_text
from openvjepa.data.lists.index import VideoIndex, read_index
from openvjepa.data.lists.tables import read_table
from openvjepa.data.media.files import expanded
from openvjepa.data.media.images import is_image
from openvjepa.data.media.timestamps import pictures, table_of
from openvjepa.data.media.video import MEDIA_EXTENSIONS
from openvjepa.errors import DataError, VideoError, printable
from openvjepa.progress import Meter

INDEX, ERRORS, JOURNAL, LOCK = "index.csv", "errors.csv", "prepare.jsonl", ".prepare.lock"
_MOST_WORKERS = 61  # Windows cannot wait for more processes
_MOST_REASONS = 10  # in the summary; all are in errors.csv


@dataclass(frozen=True)
class PrepareReport:
    """Result of `prepare`."""

    index: Path
    """The list of the copies, for `read_index`."""
    copied: int
    skipped: int
    """Copies that an earlier run had finished."""
    bad: dict[str, str]
    """Original -> reason why there is no copy of it."""
    damaged: dict[str, int]
    """Original -> packets that could not be decoded, where there is a copy all the same."""
    bytes_before: int
    """Size of the originals that have a copy."""
    bytes_after: int
    """Size of their copies."""
    seconds: float
    """How long it took."""

    def summary(self) -> str:
        """The same in a few lines."""
        lines = [printable(f"{path}: {reason}") for path, reason in list(self.bad.items())[:_MOST_REASONS]]
        counts = f"{self.copied} copied, {self.skipped} already done, {len(self.bad)} unreadable, {len(self.damaged)} damaged"
        if self.bad or self.damaged:
            counts += f" (all in {self.index.with_name(ERRORS)})"
        sizes = f"{self.bytes_before / 1e6:.1f} MB -> {self.bytes_after / 1e6:.1f} MB"
        return "\n".join([*lines, f"{counts}; {sizes}; {self.seconds:.1f} s", f"wrote {self.index}"])


@dataclass(frozen=True)
class _Job:
    """An original, its state, its copy in the folder of the copies, and how that is made: equal jobs have equal copies."""

    source: str
    source_bytes: int
    source_mtime_ns: int
    copy: str
    short_side: int
    gop: int
    crf: int
    audio: bool = False


@dataclass(frozen=True)
class _Copy:
    """A finished copy: a line of the journal."""

    job: _Job
    facts: Facts
    bytes: int


@command(PrepareConfig, "source")
def prepare(config: PrepareConfig) -> PrepareReport:
    """Write small copies of all videos and images of a source, with an index.

    A copy appears under its name when it is whole. Finished copies are noted in prepare.jsonl and left alone by later
    runs unless their original or the settings have changed since. index.csv has the source's columns; it lists nothing
    until all is done. Originals that cannot be read, in whole or in part, are listed in errors.csv.

    Raises:
        DataError: the source cannot be read, the folder holds something else or cannot be written, or a process died.
    """
    begin, index, out = time.monotonic(), read_index(config.source), expanded(config.out)
    bad: dict[str, str] = {}
    files = _originals(index, config)
    with _writing(out), _locked(out):
        root = _common_root(config, list(files.values()))
        job_of = _jobs(files, config, root)
        jobs = list(dict.fromkeys(job_of.values()))
        done = _begin(config, jobs, root)
        todo = [job for job in jobs if job not in done]
        with (out / JOURNAL).open("a", encoding="utf-8") as journal, closing(_run(todo, config)) as results:
            for job, result in results:
                if isinstance(result, str):
                    bad[job.source] = result
                    continue
                done[job] = result
                journal.write(json.dumps(asdict(result)) + "\n")
                journal.flush()
        done = {job: done[job] for job in jobs if job in done}  # in the order of the source, not of the processes
        bad = {job.source: bad[job.source] for job in todo if job.source in bad}
        damaged = {job.source: copy.facts.errors for job, copy in done.items() if copy.facts.errors}
        _write_errors(bad, damaged, out / ERRORS)
        _write_index(index, job_of, done, out / INDEX)
    before, after = sum(job.source_bytes for job in done), sum(copy.bytes for copy in done.values())
    skipped, seconds = len(jobs) - len(todo), time.monotonic() - begin
    return PrepareReport(out / INDEX, len(todo) - len(bad), skipped, bad, damaged, before, after, seconds)


@contextlib.contextmanager
def _writing(out: Path) -> Generator[None]:
    """Context in which a failure to write to the folder is a DataError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise DataError(f"{out}: cannot write the copies: {reason}") from None


@contextlib.contextmanager
def _locked(out: Path) -> Generator[None]:
    """Context in which no other process prepares copies in the same folder.

    Raises:
        DataError: one does.
    """
    try:
        with FileLock(out / LOCK, timeout=0):
            yield
    except Timeout:
        raise DataError(
            f"{out}: another `vjepa data prepare` is writing to this folder: wait until it is done, or choose another folder"
        ) from None


def _originals(index: VideoIndex, config: PrepareConfig) -> dict[str, str]:
    """Path in the index -> absolute path.

    Raises:
        DataError: the copies would lie among the originals.
    """
    source, target = expanded(config.source), Path(os.path.realpath(expanded(config.out)))
    files = {record.path: os.path.abspath(record.path) for record in index.records}
    among = source.is_dir() and target.is_relative_to(os.path.realpath(source))
    if among or any(
        Path(os.path.realpath(f)).is_relative_to(target) for f in set(map(os.path.dirname, files.values()))
    ):
        raise DataError(
            f"{config.out}: the output folder is inside the source folder or contains it: choose a separate folder"
        )
    return files


def _source_root(config: PrepareConfig) -> Path:
    """The folder whose files keep their places in it: the source, or the folder of the list."""
    source = expanded(config.source)
    return Path(os.path.abspath(source if source.is_dir() else source.parent))


def _common_root(config: PrepareConfig, files: Sequence[str]) -> str:
    """The folder that the places of files from elsewhere are seen from: "" where there is none (several drives).

    What an earlier run has chosen stays, so that finished copies keep their names, as long as all files lie in it.
    """
    elsewhere = [file for file in files if not Path(file).is_relative_to(_source_root(config))]
    before = _first_line(expanded(config.out) / JOURNAL)
    earlier = before.get("root", "") if before else None
    if earlier is not None and all(Path(file).is_relative_to(earlier or Path(file).anchor) for file in elsewhere):
        return earlier
    try:
        return os.path.commonpath([os.path.dirname(file) for file in elsewhere]) if elsewhere else ""
    except ValueError:
        return ""


def _jobs(files: Mapping[str, str], config: PrepareConfig, common: str) -> dict[str, _Job]:
    """Path in the index -> job; a file that is listed twice has one job."""
    taken, style = set[str](), (config.short_side, config.gop, config.crf, config.audio)
    roots = [_source_root(config), *([Path(common)] if common else [])]
    jobs = {f: _Job(f, *_state(f), _name(Path(f), roots, taken), *style) for f in dict.fromkeys(files.values())}
    return {path: jobs[file] for path, file in files.items()}


def _state(path: str) -> tuple[int, int]:
    """Bytes and time of change of a file, or of all images of a folder; (0, 0) where there is nothing."""
    try:
        stats = [file.stat() for file in pictures(path) or [Path(path)]]
    except (OSError, VideoError):  # reading it will say why
        return 0, 0
    return sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)


def _name(file: Path, roots: Sequence[Path], taken: set[str]) -> str:
    """Where the copy of a file goes: to the same place, seen from the first root that it lies in, or of the file system.

    A video "a.avi" becomes "a.avi.mp4", which no other original's name depends on.
    """
    root = next((root for root in roots if file.is_relative_to(root)), Path(file.anchor))
    place = file.relative_to(root)
    suffix = place.suffix if is_image(file) else ".mp4"
    stem = place.with_suffix("") if place.suffix.lower() == suffix.lower() else place
    # Lists are UTF-8, are read line by line, and lose the blanks around a path.
    stem = "_".join(stem.as_posix().encode("utf-8", "replace").decode().splitlines()).lstrip()
    name, number = f"{stem}{suffix}", 1
    while name.casefold() in taken:  # a.mp4 and A.MP4 are one file on many systems
        number += 1
        name = f"{stem}-{number}{suffix}"
    taken.add(name.casefold())
    return name


def _begin(config: PrepareConfig, jobs: Sequence[_Job], root: str) -> dict[_Job, _Copy]:
    """Make the folder ready, its journal new and its index empty; returns the finished copies.

    Raises:
        DataError: the folder holds something else, or the copies of another source.
    """
    out, source, done = expanded(config.out), os.path.abspath(expanded(config.source)), {}
    journal = out / JOURNAL
    if journal.is_file():
        first, *lines = [_parsed(line) for line in journal.read_text(encoding="utf-8").splitlines()] or [{}]
        if first.get("source") != source:
            raise DataError(f"{out}: holds copies of {first.get('source')}: choose another folder")
        copies = [_Copy(_Job(**line["job"]), Facts(**line["facts"]), line["bytes"]) for line in lines if line]
        known = {copy.job: copy for copy in copies if _size(out / copy.job.copy) == copy.bytes}
        done = {job: known[job] for job in jobs if job in known}
    elif any(not path.name.startswith(".") for path in out.iterdir()):
        raise DataError(f"{out}: is not empty and was not written by `vjepa data prepare`: choose another folder")
    _delete_parts(out)  # what a kill left
    _write(
        journal,
        "".join(f"{json.dumps(line)}\n" for line in [{"source": source, "root": root}, *map(asdict, done.values())]),
    )
    _write_csv(out / INDEX, [])  # else the class folders of an unfinished run would be read as if they were all
    return done


def _delete_parts(out: Path) -> None:
    """Delete copies that are not whole."""
    for part in out.rglob("*.part"):
        part.unlink(missing_ok=True)


def _first_line(journal: Path) -> dict[str, Any]:
    """What a journal says about the whole folder; nothing where there is none."""
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else []
    return _parsed(lines[0]) if lines else {}


def _parsed(line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError:  # a kill tore the last line
        return {}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _run(jobs: Sequence[_Job], config: PrepareConfig) -> Generator[tuple[_Job, _Copy | str]]:
    """Every job with its copy, or with the reason why there is none, in the order in which they end."""
    workers = process_count(config.workers, len(jobs), most=_MOST_WORKERS)
    out, whole = expanded(config.out), False
    try:
        with process_pool(workers) as pool, Meter("copying", len(jobs), unit="files") as meter:
            futures = {pool.submit(_copy, job, str(out)): job for job in jobs}
            for done, future in enumerate(as_completed(futures), start=1):
                yield futures[future], future.result()
                meter.show(done)
        whole = True
    except BrokenProcessPool:
        why = "a copying process was killed, perhaps out of memory: continue with fewer --workers"
        raise DataError(f"{config.source}: {why}") from None
    finally:
        if not whole:
            _delete_parts(out)


def _copy(job: _Job, out: str) -> _Copy | str:
    """Make one copy; returns the reason if its original cannot be copied.

    Raises:
        OSError: the copy cannot be written.
    """
    target = Path(out) / job.copy
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if is_image(job.source):
            facts = copy_picture(job.source, target, short_side=job.short_side)
        else:
            facts = copy_video(job.source, target, short_side=job.short_side, gop=job.gop, crf=job.crf, audio=job.audio)
    except VideoError as error:
        return error.reason if error.path == job.source else str(error)
    finally:
        table_of.cache_clear()  # no file is opened again
    return _Copy(job, facts, _size(target))


def _write_index(index: VideoIndex, job_of: Mapping[str, _Job], done: Mapping[_Job, _Copy], path: Path) -> None:
    """List the copies: all that the source says about each video, and what was found in it."""
    rows: list[dict[str, Any]] = []
    for record, columns in zip(index.records, _columns(index), strict=True):
        if copy := done.get(job_of[record.path]):
            found = {"frames": copy.facts.frames, "fps": copy.facts.fps, "duration": copy.facts.duration}
            rows.append({**columns, "path": copy.job.copy, **found})
    _write_csv(path, rows)


def _columns(index: VideoIndex) -> list[dict[str, str]]:
    """What the source says about each video, column by column: those of a CSV, or path, label and split."""
    source = Path(index.source)
    if source.is_file() and source.suffix.lower() not in {*MEDIA_EXTENSIONS, ".json"} and (table := read_table(source)):
        return list(table.rows)
    names = [*(index.classes or ()), ""]  # the label -1, none, is the last
    found = zip(index.records, index.labels, strict=True)
    rows = [{"path": record.path, "label": names[label], "split": record.split or ""} for record, label in found]
    if any(record.is_part for record in index.records):
        for row, record in zip(rows, index.records, strict=True):
            row |= {"start": _time(record.start), "end": _time(record.end)}
    return rows


def _time(seconds: float | None) -> str:
    return "" if seconds is None else repr(seconds)


def _write_errors(bad: Mapping[str, str], damaged: Mapping[str, int], path: Path) -> None:
    """List the originals without a copy, and those of which a part could not be decoded."""
    rows = [{"path": name, "copied": "no", "reason": reason} for name, reason in bad.items()]
    for name, errors in damaged.items():
        rows.append({"path": name, "copied": "yes", "reason": f"{errors} packets cannot be decoded"})
    _write_csv(path, rows) if rows else path.unlink(missing_ok=True)


def _write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    _write(path, csv_text(list(rows[0]) if rows else ["path"], rows))


def _write(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
