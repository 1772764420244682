"""Frozen features: encoded once, kept on disk, and never mistaken for others."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from openvjepa.data.clips import ClipSpec, read_clip
from openvjepa.data.lists.index import VideoIndex, VideoRecord, read_index
from openvjepa.data.transforms import eval_views, normalize
from openvjepa.errors import ConfigError, DataError
from openvjepa.features import cache as subject
from openvjepa.features.cache import FeatureSet, encode_index
from openvjepa.features.encode import ClipPlan, EncodeSettings, encode
from openvjepa.model.encoder import Encoder
from openvjepa.train.distributed import Runtime

PLAN = ClipPlan(ClipSpec(4, 1, None), (32, 32))
SETTINGS = EncodeSettings(Runtime(torch.device("cpu"), torch.float32, "test"), batch_size=4, workers=0)


class Calls:
    """Counts the clips that go through an encoder."""

    def __init__(self, encoder: Encoder) -> None:
        self.clips = 0
        self.handle = encoder.register_forward_pre_hook(self.count)

    def count(self, module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self.clips += len(args[0])


@pytest.fixture
def index(shapes: Path) -> VideoIndex:
    full = read_index(shapes, label="motion")
    return replace(full, records=full.records[:6])


def run(encoder: Encoder, index: VideoIndex, cache: Path, plan: ClipPlan = PLAN, **settings: object) -> FeatureSet:
    return encode_index(encoder, index, plan, replace(SETTINGS, **settings), cache, name="test")


def test_cached_features_are_those_of_a_direct_forward_pass(
    encoder: Encoder, index: VideoIndex, tmp_path: Path
) -> None:
    found = run(encoder, index, tmp_path, batch_size=1)
    assert found.x.shape == (6, 1, 8, 24)
    assert isinstance(found.x, np.memmap)
    for record, row in zip(index.records, found.x, strict=True):
        frames = read_clip(record.path, num_frames=4, frame_step=1)
        clip = eval_views(frames.numpy(), (32, 32), 1)[0]
        with torch.no_grad():
            direct = encoder(normalize(clip[None]))
        assert torch.equal(torch.from_numpy(np.array(row)), direct)


def test_features_are_encoded_once(encoder: Encoder, index: VideoIndex, tmp_path: Path) -> None:
    calls = Calls(encoder)
    first = run(encoder, index, tmp_path)
    assert (calls.clips, first.reused) == (6, False)
    second = run(encoder, index, tmp_path)
    assert (calls.clips, second.reused) == (6, True)
    assert np.array_equal(first.x, second.x)
    other_labels = replace(index, records=tuple(replace(r, label=0, split="val") for r in index.records))
    assert run(encoder, other_labels, tmp_path).reused, "labels and splits do not change features"


def test_whatever_changes_features_makes_new_ones(encoder: Encoder, index: VideoIndex, tmp_path: Path) -> None:
    calls = Calls(encoder)
    plan = replace(PLAN, random=1)
    run(encoder, index, tmp_path, plan)
    before = calls.clips
    for other in (
        replace(plan, spec=ClipSpec(4, None, 4.0)),
        replace(plan, segments=2),
        replace(plan, views=3),
        replace(plan, random=2),
        replace(plan, seed=1),
        replace(plan, crop_scale=(0.4, 1.0)),
    ):
        assert not run(encoder, index, tmp_path, other).reused, other
    assert not run(encoder, index, tmp_path, plan, dtype="float16").reused
    assert not run(encoder, replace(index, records=index.records[::-1]), tmp_path, plan).reused
    encoder.norm.weight[0] += 1e-3
    assert not run(encoder, index, tmp_path, plan).reused
    assert calls.clips > before


def test_a_changed_file_makes_new_features(encoder: Encoder, index: VideoIndex, tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    shutil.copy(index.records[0].path, video)
    one = VideoIndex((VideoRecord(str(video)),), None, "one")
    first = run(encoder, one, tmp_path / "cache")
    shutil.copy(index.records[1].path, video)
    second = run(encoder, one, tmp_path / "cache")
    assert not second.reused
    assert not np.array_equal(first.x, second.x)
    os.utime(video, ns=(1, 1))
    assert not run(encoder, one, tmp_path / "cache").reused


def test_a_changed_frame_of_a_folder_makes_new_features(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    for name in ("0.png", "1.png"):
        (tmp_path / "clip" / name).write_bytes(b"x")
    before = subject._file_facts(tmp_path / "clip")
    os.utime(tmp_path / "clip" / "1.png", ns=(5, 5))
    assert subject._file_facts(tmp_path / "clip") != before
    assert subject._file_facts(tmp_path / "missing") == [str(tmp_path / "missing")]


def test_random_views_come_after_the_plain_one(encoder: Encoder, index: VideoIndex, tmp_path: Path) -> None:
    plain = run(encoder, index, tmp_path, batch_size=1).x
    views = run(encoder, index, tmp_path, replace(PLAN, random=2), batch_size=1).x
    assert views.shape == (6, 3, 8, 24)
    assert np.array_equal(views[:, :1], plain)
    assert not np.array_equal(views[:, 1], views[:, 2])


def test_workers_and_batches_change_nothing(encoder: Encoder, shapes: Path, tmp_path: Path) -> None:
    index = read_index(shapes, label="motion").select("val")
    plan = replace(PLAN, random=1)
    alone = run(encoder, index, tmp_path / "a", plan, batch_size=8)
    both = run(encoder, index, tmp_path / "b", plan, batch_size=8, workers=2)
    assert np.array_equal(alone.x, both.x)
    odd = run(encoder, index, tmp_path / "c", plan, batch_size=6)
    np.testing.assert_allclose(odd.x, alone.x, atol=1e-5)


def test_float16_is_the_rounded_float32(encoder: Encoder, index: VideoIndex, tmp_path: Path) -> None:
    full, half = run(encoder, index, tmp_path), run(encoder, index, tmp_path, dtype="float16")
    assert half.x.dtype == np.float16
    assert np.array_equal(half.x, full.x.astype(np.float16))


def test_bad_files_are_named_and_left_out(encoder: Encoder, index: VideoIndex, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"not a video")
    records = (index.records[0], VideoRecord(str(bad)), *index.records[1:], VideoRecord(str(tmp_path / "missing.mp4")))
    mixed = replace(index, records=records)
    found = run(encoder, mixed, tmp_path / "cache", max_bad=0.5)
    assert found.kept == (0, 2, 3, 4, 5, 6)
    assert set(found.skipped) == {str(bad), str(tmp_path / "missing.mp4")}
    assert all(found.skipped.values())
    np.testing.assert_allclose(found.x, run(encoder, index, tmp_path / "cache").x, atol=1e-5)
    again = run(encoder, mixed, tmp_path / "cache", max_bad=0.5)
    assert (again.reused, again.kept, again.skipped) == (True, found.kept, found.skipped)
    with pytest.raises(DataError, match=r"2 of 8 videos cannot be read, more than max_bad allows \(20%\).*bad\.mp4"):
        run(encoder, mixed, tmp_path / "other", max_bad=0.2)
    with pytest.raises(DataError, match="2 of 8 videos cannot be read"):
        run(encoder, mixed, tmp_path / "cache", max_bad=0.2)  # what another run has put there counts no less
    assert not list((tmp_path / "other").iterdir())


def test_encoders_that_saw_different_videos_are_an_error(encoder: Encoder, index: VideoIndex, tmp_path: Path) -> None:
    copy = tmp_path / "copy.mp4"
    shutil.copy(index.records[0].path, copy)
    mixed = replace(index, records=(VideoRecord(str(copy)), *index.records[1:]))
    settings, cache = replace(SETTINGS, max_bad=0.5), tmp_path / "cache"
    run(encoder, mixed, cache, max_bad=0.5)
    before = copy.stat()
    copy.write_bytes(bytes(before.st_size))  # a disk that fails: the file is as new and as long as it was
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    other = Encoder(encoder.config)
    with pytest.raises(DataError, match="hold different videos"):
        subject.encode_together([encoder, other], mixed, PLAN, settings, cache, name="test")


def test_an_interrupted_encode_leaves_nothing(encoder: Encoder, index: VideoIndex, tmp_path: Path) -> None:
    calls = Calls(encoder)

    def interrupt(module: torch.nn.Module, args: object) -> None:
        if calls.clips > 4:
            raise KeyboardInterrupt

    handle = encoder.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(encoder, index, tmp_path)
    assert not list(tmp_path.iterdir())
    handle.remove()
    assert not run(encoder, index, tmp_path).reused


def test_what_a_killed_encode_left_is_not_taken_for_features(
    encoder: Encoder, index: VideoIndex, tmp_path: Path
) -> None:
    folder = finished(encoder, index, tmp_path)
    part = tmp_path / f"{folder.name}.123.part"
    folder.rename(part)
    (part / "meta.json").unlink()
    assert not run(encoder, index, tmp_path).reused
    assert part.exists(), "a part written just now may belong to a running process"
    shutil.rmtree(folder)
    for path in (part, *part.iterdir()):
        os.utime(path, (1, 1))
    assert not run(encoder, index, tmp_path).reused
    assert not part.exists()


@pytest.mark.parametrize("damage", ["cut", "meta", "header", "edited", "flip", "nan"])
def test_damaged_features_are_encoded_again(
    encoder: Encoder, index: VideoIndex, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = np.array(run(encoder, index, tmp_path).x)
    folder = finished(encoder, index, tmp_path)
    if damage == "cut":
        os.truncate(folder / "features.npy", 1000)
    elif damage == "meta":
        (folder / "meta.json").write_text("{")
    elif damage == "edited":
        meta = json.loads((folder / "meta.json").read_text())
        (folder / "meta.json").write_text(json.dumps(meta | {"kept": meta["kept"][::-1]}))
    elif damage in ("flip", "nan"):
        content = bytearray((folder / "features.npy").read_bytes())
        content[-4:] = b"\x00\x00\xc0\x7f" if damage == "nan" else bytes([content[-4] ^ 1, *content[-3:]])
        (folder / "features.npy").write_bytes(content)
    else:
        (folder / "features.npy").write_bytes(b"x" * 500)
    again = run(encoder, index, tmp_path)
    assert not again.reused
    assert np.array_equal(again.x, before)
    assert "damaged: recomputing the features" in caplog.text


def test_features_that_are_not_finite_are_an_error(encoder: Encoder, index: VideoIndex, tmp_path: Path) -> None:
    with torch.no_grad():
        encoder.norm.bias[3] = float("nan")
    with pytest.raises(DataError, match=r"features are not finite"):
        run(encoder, index, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_stops_before_the_work(
    encoder: Encoder, index: VideoIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(encoder)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(subject.shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    big = replace(index, records=index.records * 1000)  # of 8 tokens x 24 channels x 4 bytes
    with pytest.raises(DataError, match=r"6000 videos take 4\.4 MiB, and 1\.0 MiB are free.*--feature-dtype float16"):
        run(encoder, big, tmp_path)
    assert calls.clips == 0
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_is_a_clear_error(
    encoder: Encoder, index: VideoIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **names: object) -> Iterator[object]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(subject, "_write_header", full)
    with pytest.raises(DataError, match="cannot write encoded features: the disk is full; free some space"):
        run(encoder, index, tmp_path)
    assert not list(tmp_path.iterdir())


def test_encode_takes_clips_frames_and_floats(encoder: Encoder, index: VideoIndex) -> None:
    frames = [read_clip(record.path, num_frames=4, frame_step=1) for record in index.records[:3]]
    clips = torch.stack([eval_views(f.numpy(), (32, 32), 1)[0] for f in frames])
    tokens = encode(encoder, clips)
    assert tokens.shape == (3, 8, 24)
    assert torch.equal(encode(encoder, normalize(clips)), tokens)
    assert torch.equal(encode(encoder, torch.stack(frames)), tokens)
    torch.testing.assert_close(encode(encoder, clips, batch_size=1), tokens)
    torch.testing.assert_close(encode(encoder, frames[1])[0], tokens[1])
    assert not tokens.requires_grad


@pytest.mark.parametrize("shape", [(3, 4, 32, 32), (1, 1, 4, 32, 32), (0, 3, 4, 32, 32), (32, 32, 3)])
def test_encode_says_what_shapes_it_takes(encoder: Encoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"cannot encode a torch\.uint8 tensor of shape"):
        encode(encoder, torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(ConfigError, match="does not divide"):
        encode(encoder, torch.zeros(1, 3, 4, 30, 32))


def finished(encoder: Encoder, index: VideoIndex, cache: Path) -> Path:
    """Folder of the features, encoded if they are not there."""
    run(encoder, index, cache)
    (folder,) = [path for path in cache.iterdir() if path.suffix != ".part"]
    assert json.loads((folder / "meta.json").read_text())["kept"] == list(range(6))
    return folder
