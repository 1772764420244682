"""Progress: what reporters are told, and what the command line makes of it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from openvjepa.cli import bars, console, main
from openvjepa.progress import Meter, Work, set_reporter, track


class Recorder:
    """Notes everything that it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def __call__(self, work: Work) -> Recorder:
        self.told.append(work)
        return self

    def update(self, done: int, total: int | None, figures: str) -> None:
        self.told.append((done, total, figures))

    def close(self) -> None:
        self.told.append("closed")


def test_a_reporter_is_told_about_all_work_until_another_is_set() -> None:
    recorder = Recorder()
    before = set_reporter(recorder)
    try:
        with Meter("encoding", None, 2, unit="bytes") as meter:
            meter.show(5)
            meter.show(7, total=9, figures="loss 1")
        assert list(track("ab", "copying", 2, unit="files")) == ["a", "b"]
    finally:
        assert set_reporter(before) is recorder
    with Meter("silent", 3) as meter:
        meter.show(1)
    assert recorder.told == [
        Work("encoding", None, 2, "bytes"), (5, None, ""), (7, 9, "loss 1"), "closed",
        Work("copying", 2, 0, "files"), (1, 2, ""), (2, 2, ""), "closed",
    ]  # fmt: skip


def test_work_that_fails_is_closed() -> None:
    recorder = Recorder()
    before = set_reporter(recorder)
    try:
        with pytest.raises(ValueError, match="bad"), Meter("encoding", 3):
            raise ValueError("bad")
    finally:
        set_reporter(before)
    assert recorder.told[-1] == "closed"


def test_without_a_terminal_there_is_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    with console.messages(), Meter("encoding \x1b[31mx", 100, 10) as meter:
        for done in range(11, 101):
            now[0] += 1.0
            meter.show(done)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 9
    assert lines[0] == "encoding \\x1b[31mx: 20/100 videos, left 0:01:20"
    assert lines[-1] == "encoding \\x1b[31mx: 100/100 videos, left 0:00:00"


def test_short_work_without_a_terminal_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with console.messages(), Meter("encoding", 2) as meter:
        meter.show(2)
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    """Text that goes to a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("unit", "word"), [("videos", "3/5"), ("bytes", "3/5 bytes")])
def test_on_a_terminal_there_is_a_bar(unit: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with console.messages(), Meter("[b]coding", 5, unit=unit) as meter:
        meter.show(3, figures="loss 0.5")
        meter.bar.progress.refresh()  # type: ignore[attr-defined]
    shown = terminal.getvalue()
    for text in ("[b]coding", word, "loss 0.5"):
        assert text in shown


def test_data_check_shows_progress_in_a_pipe(
    shapes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bars, "EVERY", 0.0)
    assert main(["data", "check", str(shapes), "--label", "motion", "--workers", "1"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("decoding: ")]
    assert lines[-1].startswith("decoding: 88/88 files")
    assert len(lines) > 3
