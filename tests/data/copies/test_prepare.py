"""Copies show what their originals show, at the same times; every state of the folder of copies leads to the same end."""

from __future__ import annotations

import csv
import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from openvjepa.config import DataConfig, MaskingConfig, ModelConfig, PrepareConfig
from openvjepa.data.copies import prepare as module
from openvjepa.data.copies.prepare import PrepareReport, prepare
from openvjepa.data.copies.transcode import copy_video
from openvjepa.data.lists.index import read_index
from openvjepa.data.loader import PretrainBatches
from openvjepa.data.media.video import open_video
from openvjepa.data.rendered.dataset import write_video
from openvjepa.errors import ConfigError, DataError

BARCODES = sorted((Path(__file__).parents[2] / "fixtures" / "video").iterdir())


def scene(frames: int = 20, height: int = 96, width: int = 128, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth world that moves behind the camera, with a bright corner that tells its orientation."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(40, 200, (1, 3, 8, 12))).float()
    world = F.interpolate(coarse, size=(height + 40, width + 40), mode="bicubic")[0].permute(1, 2, 0).clamp(0, 255)
    video = np.stack([world.numpy()[i % 40 : i % 40 + height, i % 40 : i % 40 + width] for i in range(frames)])
    video[:, : height // 4, : width // 4] = (230, 60, 20)
    return video.astype(np.uint8)


def make(path: Path, frames: NDArray[np.uint8] | None = None, fps: int = 25) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, scene() if frames is None else frames, fps=fps)
    return path


def run(source: Path, out: Path, **settings: int) -> PrepareReport:
    return prepare(PrepareConfig(str(source), str(out), **({"workers": 1} | settings)))


def psnr(original: NDArray[np.uint8], copy: NDArray[np.uint8]) -> float:
    """Of a copy against its original, resized by another library's code than the copy was, dB."""
    pixels = torch.from_numpy(np.ascontiguousarray(original)).permute(0, 3, 1, 2)
    resized = F.interpolate(pixels, size=copy.shape[1:3], mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()
    return 10 * np.log10(255**2 / np.mean((resized.astype(float) - copy) ** 2))


def key_frames(path: Path) -> list[int]:
    """Numbers of the key frames' packets, and the number of packets."""
    with av.open(str(path)) as container:
        assert len(container.streams) == 1
        packets = [packet for packet in container.demux(video=0) if packet.size]
    return [*(i for i, packet in enumerate(packets) if packet.is_keyframe), len(packets)]


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; but for the journal, whose lines come in the order in which processes end."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.suffix != ".jsonl"
    }


@pytest.mark.parametrize("path", BARCODES, ids=lambda p: p.name)
def test_same_frames_at_the_same_times(tmp_path: Path, path: Path) -> None:
    """Odd containers and codecs, reordered frames, variable rates, trims: number by number, as the reader counts them."""
    copy = tmp_path / "copy.mp4"
    facts = copy_video(str(path), copy, short_side=256, gop=12, crf=23)
    original, small = open_video(path), open_video(copy)
    assert facts.frames == small.frame_count == original.frame_count
    assert facts.errors == 0
    np.testing.assert_allclose(small.times, original.times, rtol=0, atol=1e-6)
    assert small.fps == pytest.approx(original.fps)
    some = [0, 1, 100, 149, small.frame_count - 1]
    assert psnr(original.frames(some).frames, small.frames(some).frames) > 32
    neighbors = [i + 1 if i < 150 else i - 1 for i in some]  # the bar code of a neighbor is far off
    assert psnr(original.frames(neighbors).frames, small.frames(some).frames) < 28
    assert max(np.diff(key_frames(copy))) <= 12


def test_shrunk_even_sized_without_sound(tmp_path: Path) -> None:
    path = tmp_path / "in" / "wide.mkv"
    path.parent.mkdir()
    video = scene(30, 300, 503)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(30000, 1001))
        stream.width, stream.height, stream.pix_fmt = 503, 300, "bgr0"
        sound = container.add_stream("pcm_s16le", rate=8000)
        for pixels in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
        silence.sample_rate = 8000
        container.mux([*stream.encode(), *sound.encode(silence), *sound.encode()])
    report = run(path.parent, tmp_path / "out", short_side=64, gop=7)
    copy = tmp_path / "out" / "wide.mkv.mp4"
    frames = open_video(copy).all_frames().frames
    assert frames.shape == (30, 64, 108, 3)
    assert psnr(video, frames) > 30
    assert max(np.diff(key_frames(copy))) <= 7
    np.testing.assert_allclose(open_video(copy).times, open_video(path).times, rtol=0, atol=1e-6)
    assert report.bytes_after == copy.stat().st_size < report.bytes_before == path.stat().st_size


def test_small_odd_video_is_not_enlarged(tmp_path: Path) -> None:
    path = tmp_path / "odd.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 63, 45, "bgr0"
        for pixels in scene(5, 45, 63):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    copy_video(str(path), tmp_path / "copy.mp4", short_side=256, gop=12, crf=18)
    frames = open_video(tmp_path / "copy.mp4").all_frames().frames
    assert frames.shape == (5, 44, 62, 3)
    assert psnr(scene(5, 45, 63), frames) > 28


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_video_becomes_upright(tmp_path: Path, degrees: int) -> None:
    """The display matrix is put into the file's track header by hand, as phones do."""
    path = make(tmp_path / "phone.mp4")
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") + 4 + 40  # version and flags, times, ids, layers, volume come before the matrix
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = (cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    data[header : header + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(data)
    copy_video(str(path), tmp_path / "copy.mp4", short_side=256, gop=12, crf=18)
    with av.open(str(tmp_path / "copy.mp4")) as container:
        first = next(container.decode(video=0))
        assert first.rotation == 0
        upright = first.to_ndarray(format="rgb24")
    assert psnr(np.rot90(scene()[:1], -degrees // 90, axes=(1, 2)), upright[None]) > 32


@pytest.mark.parametrize(("format", "full"), [("yuvj420p", True), ("yuv420p", False), ("yuv444p", False)])
def test_colors_stay(tmp_path: Path, format: str, full: bool) -> None:
    """A gray ramp and strong colors, in the full or the limited range of values."""
    ramp = np.zeros((4, 64, 256, 3), np.uint8)
    ramp[:, :32] = np.arange(256)[None, None, :, None]
    for i, color in enumerate([(220, 30, 30), (30, 200, 30), (30, 30, 220), (200, 200, 40)]):
        ramp[:, 32:, 64 * i : 64 * i + 64] = color
    path = tmp_path / ("ramp.avi" if full else "ramp.mp4")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg" if full else "libx264", rate=5, options={} if full else {"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 256, 64, format
        for pixels in ramp:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    copy_video(str(path), tmp_path / "copy.mp4", short_side=256, gop=12, crf=12)
    difference = (
        open_video(path).all_frames().frames.astype(int) - open_video(tmp_path / "copy.mp4").all_frames().frames
    )
    assert np.abs(difference).mean() < 3
    assert np.abs(difference.mean(axis=(0, 1, 2))).max() < 1.5


def test_labels_splits_and_other_columns(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        make(tmp_path / "in" / f"{name}.mp4")
    text = (
        "path,action,scene,split\na.mp4,run,park,train\nb.mp4,jump,,test\nc.mp4,run,street,train\na.mp4,run,park,val\n"
    )
    (tmp_path / "in" / "index.csv").write_text(text)
    report = run(tmp_path / "in", tmp_path / "out")
    assert report.copied == 3
    for label in ("action", "scene"):
        before, after = (read_index(tmp_path / folder, label=label) for folder in ("in", "out"))
        assert (before.classes, before.labels) == (after.classes, after.labels)
        assert [record.split for record in before.records] == [record.split for record in after.records]
    first = read_index(tmp_path / "out").records[0]
    assert (first.frames, first.fps, first.duration) == (20, pytest.approx(25), pytest.approx(0.8))


def test_class_and_split_folders(tmp_path: Path) -> None:
    for name in ("train/run/x", "train/jump/y", "test/run/x"):
        make(tmp_path / "in" / f"{name}.mp4")
    run(tmp_path / "in", tmp_path / "out")
    before, after = read_index(tmp_path / "in"), read_index(tmp_path / "out")
    assert (after.classes, after.labels) == (("jump", "run"), before.labels)
    assert [record.split for record in after.records] == ["test", "train", "train"]
    assert all((tmp_path / "out" / f"{name}.mp4").is_file() for name in ("train/run/x", "train/jump/y", "test/run/x"))


def test_metas_list_with_whole_numbers_and_files_elsewhere(tmp_path: Path) -> None:
    make(tmp_path / "far" / "v 1.mp4")
    make(tmp_path / "lists" / "w.mp4")
    (tmp_path / "lists" / "train.csv").write_text(f"{tmp_path / 'far' / 'v 1.mp4'} 10\nw.mp4 2\n")
    report = run(tmp_path / "lists" / "train.csv", tmp_path / "out")
    index = read_index(tmp_path / "out")
    assert (report.copied, index.classes, index.labels) == (2, ("2", "10"), [1, 0])
    assert all(open_video(record.path).frame_count == 20 for record in index.records)


def test_names_that_collide(tmp_path: Path) -> None:
    make(tmp_path / "in" / "a.mp4", scene(seed=1))
    make(tmp_path / "in" / "a.mkv", scene(seed=2))
    make(tmp_path / "in" / "a.mkv.mp4", scene(seed=3))
    assert run(tmp_path / "in", tmp_path / "out").copied == 3
    records = read_index(tmp_path / "out").records
    assert len({record.path.casefold() for record in records}) == 3
    for before, after in zip(read_index(tmp_path / "in").records, records, strict=True):
        assert psnr(open_video(before.path).all_frames().frames, open_video(after.path).all_frames().frames) > 32


def test_second_run_does_nothing_and_changes_are_redone(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("a", "b", "c"):
        make(source / "x" / f"{name}.mp4", scene(seed=ord(name)))
    run(source, out)
    first, times = snapshot(out), {name: (out / "x" / name).stat().st_mtime_ns for name in ("a.mp4", "b.mp4", "c.mp4")}
    report = run(source, out)
    assert (report.copied, report.skipped) == (0, 3)
    assert times == {name: (out / "x" / name).stat().st_mtime_ns for name in times}
    assert snapshot(out) == first

    make(source / "x" / "b.mp4", scene(seed=9))
    (out / "x" / "c.mp4").write_bytes(b"damaged from outside")
    assert (run(source, out).copied, run(source, out).skipped) == (2, 3)
    assert psnr(scene(seed=9), open_video(out / "x" / "b.mp4").all_frames().frames) > 32
    assert snapshot(out)["x/c.mp4"] == first["x/c.mp4"]

    assert run(source, out, short_side=64).copied == 3
    assert open_video(out / "x" / "a.mp4").frames([0]).frames.shape == (1, 64, 86, 3)
    (source / "x" / "a.mp4").unlink()
    assert run(source, out, short_side=64).skipped == 2
    assert [Path(record.path).name for record in read_index(out).records] == ["b.mp4", "c.mp4"]


def test_killed_run_is_completed(tmp_path: Path) -> None:
    """SIGKILL in the middle, at several moments: no half copies, no index that seems whole, then the same end."""
    source, out = tmp_path / "in", tmp_path / "out"
    for i in range(8):
        make(source / f"{i}.mp4", scene(60, 240, 320, seed=i))
    run(source, tmp_path / "whole")
    command = [sys.executable, "-m", "openvjepa", "data", "prepare", str(source), str(out), "--workers", "2"]
    for least in (1, 4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(list(out.glob("*.mp4"))) < least and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
        if process.wait() == 0:
            continue  # it was done before this loop looked: on a machine that is busy with other things
        time.sleep(0.3)  # its processes end themselves
        assert all(open_video(path).frame_count == 60 for path in out.glob("*.mp4"))
        with pytest.raises(DataError, match="no rows"):
            read_index(out)
    noted = (out / "prepare.jsonl").read_text().count('"job"')
    assert noted > 0
    with (out / "prepare.jsonl").open("a") as journal:
        journal.write('{"job": {"source": "/torn')
    report = run(source, out)
    assert report.copied + report.skipped == 8
    assert report.skipped == noted, "what is noted as done is not copied again"
    assert snapshot(out) == snapshot(tmp_path / "whole")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_interrupt_ends_without_words_and_leaves_no_processes(tmp_path: Path) -> None:
    for i in range(8):
        make(tmp_path / "in" / f"{i}.mp4", scene(60, 240, 320, seed=i))
    command = [sys.executable, "-m", "openvjepa", "data", "prepare", str(tmp_path / "in"), str(tmp_path / "out")]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not list((tmp_path / "out").glob("*.mp4")) and process.poll() is None:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors.strip()) == (130, "vjepa: interrupted: repeat the command to continue")
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_bad_files_are_listed_with_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    make(source / "x" / "good.mp4")
    (source / "x" / "empty.mp4").touch()
    (source / "x" / "text.avi").write_text("no video\n" * 50)
    (source / "x" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    shutil.copy(source / "x" / "good.mp4", source / "x" / "half.mp4")
    os.truncate(source / "x" / "half.mp4", 2000)
    report = run(source, out)
    assert {Path(path).name for path in report.bad} == {"empty.mp4", "text.avi", "bad.png", "half.mp4"}
    with (out / "errors.csv").open() as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    assert rows["empty.mp4"]["reason"] == "the file is empty"
    assert "invalid data" in rows["text.avi"]["reason"]
    assert {row["copied"] for row in rows.values()} == {"no"}
    assert [Path(record.path).name for record in read_index(out).records] == ["good.mp4"]
    assert not list(out.rglob("*.part"))
    assert "empty.mp4: the file is empty" in report.summary()

    for path in report.bad:
        Path(path).unlink()
    run(source, out)
    assert not (out / "errors.csv").exists()


def test_damaged_video_keeps_its_length(tmp_path: Path) -> None:
    """Three packets that cannot be decoded: the copy has every frame number, shows what the reader shows, and is listed."""
    path = make(tmp_path / "in" / "rot.mp4", scene(40))
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for number in (13, 20, 30):
        position, size = packets[number]
        assert position is not None
        data[position : position + size] = b"\xff" * size
    path.write_bytes(data)
    report = run(path.parent, tmp_path / "out")
    assert (report.copied, report.damaged, report.bad) == (1, {str(path): 3}, {})
    seen = open_video(path).all_frames()
    assert seen.lost == 3
    copy = open_video(tmp_path / "out" / "rot.mp4").all_frames().frames
    assert min(psnr(seen.frames[i : i + 1], copy[i : i + 1]) for i in range(40)) > 30
    assert "rot.mp4,yes,3 packets cannot be decoded" in (tmp_path / "out" / "errors.csv").read_text()
    assert run(path.parent, tmp_path / "out").damaged == {str(path): 3}


def test_images_stay_images(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "cat").mkdir(parents=True)
    large, small = scene(1, 300, 420)[0], scene(1, 60, 80)[0]
    Image.fromarray(large).save(source / "cat" / "large.jpg", quality=98)
    Image.fromarray(large).save(source / "cat" / "large.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(large).save(source / "cat" / "turned.jpeg", quality=98, exif=turned)
    Image.fromarray(small).save(source / "cat" / "small.webp", lossless=True)
    report = run(source, out, short_side=100)
    assert (report.copied, report.bad) == (4, {})
    assert read_index(out).classes == ("cat",)
    for name in ("large.jpg", "large.png"):
        copy = open_video(out / "cat" / name)
        assert copy.is_image
        assert psnr(large[None], copy.frames([0]).frames) > 32
        assert copy.frames([0]).frames.shape == (1, 100, 140, 3)
    upright = open_video(out / "cat" / "turned.jpeg").frames([0]).frames
    assert upright.shape == (1, 140, 100, 3)
    assert psnr(np.rot90(large, -1)[None], upright) > 32
    assert (out / "cat" / "small.webp").read_bytes() == (source / "cat" / "small.webp").read_bytes()


def test_folder_of_frames_becomes_a_video(tmp_path: Path) -> None:
    (tmp_path / "in" / "walk").mkdir(parents=True)
    for i, pixels in enumerate(scene(15)):
        Image.fromarray(pixels).save(tmp_path / "in" / "walk" / f"{i:03}.png")
    (tmp_path / "in" / "list.csv").write_text("path,label\nwalk,run\n")
    run(tmp_path / "in" / "list.csv", tmp_path / "out")
    copy = open_video(tmp_path / "out" / "walk.mp4")
    assert (copy.frame_count, copy.fps) == (15, pytest.approx(30))
    assert psnr(scene(15), copy.all_frames().frames) > 32


def test_parallel_equals_serial(tmp_path: Path) -> None:
    for i in range(6):
        make(tmp_path / "in" / f"{i}.mp4", scene(seed=i))
    run(tmp_path / "in", tmp_path / "serial", workers=1)
    run(tmp_path / "in", tmp_path / "parallel", workers=3)
    assert snapshot(tmp_path / "serial") == snapshot(tmp_path / "parallel")


def test_training_reads_the_same_clips_from_copies(tmp_path: Path) -> None:
    """The same moments: the loader draws starts in seconds, and copies have the originals' times."""
    for i in range(3):
        make(tmp_path / "in" / "x" / f"{i}.mp4", scene(40, 128, 192, seed=i))
    run(tmp_path / "in", tmp_path / "out")
    model = ModelConfig(arch="vit_tiny", img_size=64, num_frames=4)
    data = DataConfig(frame_step=3)
    clips = [
        PretrainBatches((str(tmp_path / name),), data, model, MaskingConfig(), seed=0, micro_batch=3)[0]["clips"]
        for name in ("in", "out")
    ]
    difference = (clips[0].float() - clips[1].float()).abs().mean().item()
    shifted = (clips[0][:, :, 1:].float() - clips[1][:, :, :-1].float()).abs().mean().item()
    assert difference < 2
    assert difference < shifted / 3


def test_places_that_are_refused(tmp_path: Path) -> None:
    source = make(tmp_path / "in" / "x" / "a.mp4").parents[1]
    for out in (source, source / "copies", source / "x", tmp_path):
        with pytest.raises(DataError, match="inside the source folder"):
            run(source, out)
    if os.name != "nt":  # links need a privilege there
        (tmp_path / "link").symlink_to(source)
        with pytest.raises(DataError, match="inside the source folder"):
            run(source, tmp_path / "link" / "copies")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        run(source, tmp_path / "full")
    run(source, tmp_path / "out")
    other = make(tmp_path / "other" / "b.mp4").parent
    with pytest.raises(DataError, match=r"holds copies of .*in: choose another folder"):
        run(other, tmp_path / "out")
    assert len(read_index(tmp_path / "out")) == 1


def test_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path / "in" / "a.mp4").parent
    real = Path.open

    def open_or_full(path: Path, *args: object, **kwargs: object) -> object:
        if path.name == "prepare.jsonl":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *args, **kwargs)  # pyright: ignore

    monkeypatch.setattr(Path, "open", open_or_full)
    with pytest.raises(DataError, match="cannot write the copies: the disk is full"):
        run(source, tmp_path / "out")


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_file_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    """A limit on the size of files in the copying processes: an error of writing, not a bad original."""
    make(tmp_path / "in" / "a.mp4", np.random.default_rng(0).integers(0, 255, (30, 240, 320, 3), np.uint8))
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000));"
        "from openvjepa.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "data", "prepare", str(tmp_path / "in"), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert "cannot write the copies" in result.stderr
    assert not list((tmp_path / "out").rglob("*.mp4*"))


@pytest.mark.skipif(
    multiprocessing.get_start_method() != "fork", reason="other processes do not see what is patched here"
)
def test_dead_process_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path / "in" / "a.mp4").parent
    monkeypatch.setattr(module, "copy_video", lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(DataError, match="a copying process was killed"):
        run(source, tmp_path / "out")


@pytest.mark.parametrize(
    "settings", [{"short_side": 255}, {"short_side": 8}, {"gop": 0}, {"crf": 52}, {"crf": -1}, {"workers": 0}]
)
def test_impossible_settings(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        PrepareConfig("in", "out", **settings)


def test_command_line(tmp_path: Path) -> None:
    def vjepa(*args: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "openvjepa", "data", "prepare", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    source = make(tmp_path / "in" / "a.mp4", scene(20, 96, 128)).parent
    good = vjepa(source, tmp_path / "out", "--short-side", "64", "--gop", "6", "--crf", "20")
    assert (good.returncode, good.stderr) == (0, "")
    assert "1 copied, 0 already done, 0 unreadable, 0 damaged; " in good.stdout
    assert open_video(tmp_path / "out" / "a.mp4").frames([0]).frames.shape == (1, 64, 86, 3)
    assert max(np.diff(key_frames(tmp_path / "out" / "a.mp4"))) <= 6
    (source / "b.mp4").touch()
    bad = vjepa(source, tmp_path / "out", "--short-side", "64", "--gop", "6", "--crf", "20")
    assert bad.returncode == 1
    assert "b.mp4: the file is empty" in bad.stdout
    assert "0 copied, 1 already done, 1 unreadable" in bad.stdout
    wrong = vjepa(source, source / "out")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (1, 1)


def test_absolute_paths_keep_what_they_do_not_have_in_common(tmp_path: Path) -> None:
    """Not the whole path from the root of the file system; and names stay when a file from elsewhere is added."""
    for name in ("run/a", "run/b", "jump/a"):
        make(tmp_path / "deep" / "down" / f"{name}.mp4", scene(4))
    source, out = tmp_path / "lists" / "list.csv", tmp_path / "out"
    source.parent.mkdir()
    paths = [tmp_path / "deep" / "down" / f"{name}.mp4" for name in ("run/a", "run/b", "jump/a")]
    source.write_text("path,label\n" + "".join(f"{path},x\n" for path in paths))
    assert run(source, out).copied == 3
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.mp4")) == ["jump/a.mp4", "run/a.mp4", "run/b.mp4"]
    source.write_text(f"path,label\n{paths[0]},x\n{paths[1]},x\n")
    assert (run(source, out).copied, run(source, out).skipped) == (0, 2), "the common parent is deeper now"
    make(tmp_path / "deep" / "z.mp4", scene(4))
    source.write_text("path,label\n" + "".join(f"{path},x\n" for path in [*paths, tmp_path / "deep" / "z.mp4"]))
    assert run(source, out).copied == 4
    assert (out / "down" / "run" / "a.mp4").is_file()


def test_copies_of_an_older_version_keep_their_places(tmp_path: Path) -> None:
    """Its journal does not name the common parent: files from elsewhere have their whole path in the folder."""
    path = make(tmp_path / "in" / "a.mp4", scene(4))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.csv").write_text(f"path\n{path}\n")
    out = tmp_path / "out"
    out.mkdir()
    (out / "prepare.jsonl").write_text(f'{{"source": {json.dumps(str(tmp_path / "lists" / "list.csv"))}}}\n')
    run(tmp_path / "lists" / "list.csv", out)
    assert (out / path.relative_to(path.anchor)).is_file()


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    make(tmp_path / "in" / "a.mp4", scene(4))
    run(tmp_path / "in", tmp_path / "out")
    before = snapshot(tmp_path / "out")
    with FileLock(tmp_path / "out" / ".prepare.lock"), pytest.raises(DataError, match="another `vjepa data prepare`"):
        run(tmp_path / "in", tmp_path / "out", short_side=64)
    assert snapshot(tmp_path / "out") == before
    assert run(tmp_path / "in", tmp_path / "out").skipped == 1


def test_a_second_process_is_turned_away(tmp_path: Path) -> None:
    for i in range(6):
        make(tmp_path / "in" / f"{i}.mp4", scene(60, 240, 320, seed=i))
    command = [sys.executable, "-m", "openvjepa", "data", "prepare", str(tmp_path / "in"), str(tmp_path / "out")]
    first = subprocess.Popen([*command, "--workers", "1"], stdout=subprocess.DEVNULL)
    while not list((tmp_path / "out").glob("*.mp4*")) and first.poll() is None:
        time.sleep(0.005)
    with pytest.raises(DataError, match="another `vjepa data prepare`"):
        run(tmp_path / "in", tmp_path / "out")
    assert first.wait() == 0
    assert len(read_index(tmp_path / "out")) == 6


def test_formulas_and_other_dialects_come_through(tmp_path: Path) -> None:
    make(tmp_path / "in" / "-a.mp4", scene(4))
    (tmp_path / "in" / "list.csv").write_text("Video;label;note\n-a.mp4;=1+1;@x\n")
    run(tmp_path / "in", tmp_path / "out")
    with (tmp_path / "out" / "index.csv").open(newline="") as file:
        ((*_, row),) = [list(csv.DictReader(file))]
    assert (row["path"], row["label"], row["note"]) == ("'-a.mp4", "'=1+1", "'@x")
    index = read_index(tmp_path / "out", label="label")
    assert index.classes == ("=1+1",)
    assert open_video(index.records[0].path).frame_count == 4
