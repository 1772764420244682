"""The record: appended, cut back on resume, never lost to a torn line."""

from __future__ import annotations

import errno
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from openvjepa.errors import CheckpointError
from openvjepa.progress import Work, set_reporter
from openvjepa.train.logs import TIMINGS, Pace, RunLog, read_metrics


def write(run_dir: Path, steps: range, **settings: Any) -> None:
    log = RunLog(run_dir, start_step=steps.start - 1, steps=20, **settings)
    for step in steps:
        log.pace.add(4, 0.5, 0.1)
        log.advance(step, 1.0)
        log.write(step, {"loss": 1.0 / step})
    log.close()


def test_lines_after_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    write(tmp_path, range(1, 6))
    write(tmp_path, range(4, 7))
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in lines] == [1.0 / step for step in range(1, 7)]
    write(tmp_path, range(1, 3))
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    assert not (tmp_path / "metrics.part").exists()


def test_tensorboard_holds_the_same(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (step, pytest.approx(1.0 / step)) for step in (1, 2, 3)
    ]
    assert set(events.Tags()["scalars"]) == {"loss", *TIMINGS}


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo', encoding="utf-8")
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}]
    assert read_metrics(tmp_path / "none.jsonl") == []
    path.write_bytes(b'{"step": 1}\n' + bytes(20) + b"\xff")
    assert read_metrics(path) == [{"step": 1}]


def test_pace_is_over_the_steps_since_the_last_line() -> None:
    pace = Pace()
    assert pace.figures() == {}
    pace.add(8, 1.0, 0.25)
    pace.add(8, 3.0, 0.75)
    assert pace.figures() == {"clips_per_s": 4.0, "seconds_per_step": 2.0, "data_wait": 0.25}
    frozen = Pace()
    frozen.add(8, 0.0, 0.0)
    assert frozen.figures()["data_wait"] == 0.0


def test_progress_counts_from_where_the_run_stands(tmp_path: Path) -> None:
    told: list[Any] = []

    class Recorder:
        def __init__(self, work: Work) -> None:
            told.append(work)

        def update(self, done: int, total: int | None, figures: str) -> None:
            told.append((done, total, figures))

        def close(self) -> None:
            told.append("closed")

    before = set_reporter(Recorder)
    try:
        write(tmp_path, range(8, 10))
    finally:
        set_reporter(before)
    figures = "loss 1.0000  8.0 clips/s  data wait 20%"
    assert told == [Work("training", 20, 7, "steps"), (8, 20, figures), (9, 20, figures), "closed"]


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    write(tmp_path, range(1, 3), enabled=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk_is_one_line(tmp_path: Path) -> None:
    log = RunLog(tmp_path, start_step=0, steps=2)
    log.file.close()
    with open("/dev/full", "w", encoding="utf-8") as full:
        log.file = full
        with pytest.raises(CheckpointError, match=r"cannot be written to \(No space left on device\)"):
            log.write(1, {"loss": 1.0})
        log.close()


@pytest.mark.parametrize("room", [0, 400])
def test_full_disk_in_tensorboards_thread_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    written = 0

    def full(self: Any, data: bytes) -> None:
        nonlocal written
        written += len(data)
        if written > room:
            raise OSError(errno.ENOSPC, "No space left on device")

    def log_until_full() -> None:
        log = RunLog(tmp_path, start_step=0, steps=2)
        try:
            for step in range(1000):
                time.sleep(0.01)
                log.write(step, {"loss": 1.0})
        finally:
            log.close()

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
    others = threading.excepthook
    with pytest.raises(CheckpointError, match="No space left on device"):
        log_until_full()
    assert "Traceback" not in capsys.readouterr().err
    assert threading.excepthook is others


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be written to"):
        RunLog(tmp_path / "missing", start_step=0, steps=1)


def test_the_record_is_json_even_where_a_value_is_not_finite(tmp_path: Path) -> None:
    log = RunLog(tmp_path, start_step=0, steps=1)
    log.write(1, {"loss": 0.5, "knn": float("nan")})
    log.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    values = json.loads(line, parse_constant=pytest.fail)
    assert values["loss"] == 0.5
    assert "knn" not in values
