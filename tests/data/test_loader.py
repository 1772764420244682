"""Batches are functions of (seed, step, position): for any number of workers, after a resume, with bad files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from openvjepa.config import DataConfig, MaskConfig, MaskingConfig, ModelConfig, ShapesConfig
from openvjepa.data.clips import ClipSpec
from openvjepa.data.cores import process_count
from openvjepa.data.frame_cache import FrameReader
from openvjepa.data.lists.index import VideoIndex, VideoRecord, read_index
from openvjepa.data.loader import EvalClips, PretrainBatches, PretrainLoader, worker_count
from openvjepa.data.rendered.synthetic import make_shapes
from openvjepa.errors import ConfigError, DataError

DAMAGED = Path(__file__).parents[1] / "fixtures/damaged/h264.mp4"
MODEL = ModelConfig(arch="vit_femto", img_size=32, num_frames=8, patch_size=8)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shapes") / "set"
    make_shapes(ShapesConfig(out=str(out), train=12, val=0, test=4, size=48, frames=12), workers=1)
    return out


def batches(
    sources: Any, *, start: int = 0, steps: int = 4, accumulate: int = 1, rank: int = 0, world: int = 1, **data: Any
) -> list[dict]:
    dataset = PretrainBatches(
        tuple(str(s) for s in sources),
        DataConfig(**{"frame_step": 1, "workers": 0, "label": "motion", **data}),
        MODEL,
        MaskingConfig(),
        seed=5,
        micro_batch=6 // accumulate // world,
        accumulate=accumulate,
        rank=rank,
        world_size=world,
    )
    return list(PretrainLoader(dataset, start_step=start, steps=steps, pin_memory=False))


def assert_same(first: list[dict], second: list[dict]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a["clips"], b["clips"])
        assert torch.equal(a["labels"], b["labels"])
        for kind in ("masks_enc", "masks_pred"):
            assert all(torch.equal(x, y) for x, y in zip(a[kind], b[kind], strict=True))


@pytest.mark.parametrize("workers", [2, 4])
def test_same_batches_for_any_number_of_workers(shapes: Path, workers: int) -> None:
    assert_same(batches([shapes]), batches([shapes], workers=workers))


def test_same_batches_after_a_resume(shapes: Path) -> None:
    assert_same(batches([shapes])[2:], batches([shapes], start=2))


def test_same_batches_with_a_cache(shapes: Path) -> None:
    assert_same(batches([shapes]), batches([shapes], cache=True))


def test_a_cache_that_fills_the_memory_says_so(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(reader: FrameReader, shape: tuple[int, ...]) -> None:
        raise MemoryError

    monkeypatch.setattr(FrameReader, "_array", full)
    with pytest.raises(
        DataError, match=r"out of memory: data.cache keeps every decoded video, and there was room for 0"
    ):
        batches([shapes], cache=True)


def test_same_batches_with_a_cache_of_damaged_videos(tmp_path: Path) -> None:
    shutil.copy(DAMAGED, tmp_path / "damaged.mp4")
    options = {"label": None, "steps": 2, "frame_step": 4}
    assert_same(batches([tmp_path], **options), batches([tmp_path], cache=True, **options))


def test_same_batches_in_spawned_workers(shapes: Path) -> None:
    dataset = PretrainBatches((str(shapes),), DataConfig(frame_step=1), MODEL, MaskingConfig(), seed=0, micro_batch=2)
    spawned = DataLoader(dataset, batch_size=None, sampler=range(2), num_workers=1, multiprocessing_context="spawn")
    assert_same(list(spawned), [dataset[0], dataset[1]])


def test_impossible_masks_and_seeds_fail_before_any_batch(shapes: Path) -> None:
    whole = MaskingConfig((MaskConfig(spatial_scale=(1.0, 1.0), aspect_ratio=(1.0, 1.0)),))
    data = DataConfig(frame_step=1)
    with pytest.raises(ConfigError, match="cover the whole grid"):
        PretrainBatches((str(shapes),), data, MODEL, whole, seed=0, micro_batch=2)
    with pytest.raises(ConfigError, match="seed -1 is negative"):
        PretrainBatches((str(shapes),), data, MODEL, MaskingConfig(), seed=-1, micro_batch=2)


def test_clips_of_a_step_do_not_depend_on_how_it_is_divided(shapes: Path) -> None:
    whole = torch.cat([batch["clips"] for batch in batches([shapes])])
    accumulated = torch.cat([batch["clips"] for batch in batches([shapes], accumulate=3)])
    assert torch.equal(whole, accumulated)
    ranks = [batches([shapes], rank=rank, world=2) for rank in (0, 1)]
    together = torch.cat([part["clips"] for parts in zip(*ranks, strict=True) for part in parts])
    assert torch.equal(whole, together)


def test_an_epoch_shows_every_video_once(shapes: Path) -> None:
    dataset = PretrainBatches((str(shapes),), DataConfig(frame_step=1), MODEL, MaskingConfig(), seed=0, micro_batch=4)
    for epoch in range(3):
        assert sorted(dataset._video_of(12 * epoch + i) for i in range(12)) == list(range(12))
    assert [dataset._video_of(i) for i in range(12)] != [dataset._video_of(12 + i) for i in range(12)]


def test_videos_held_out_are_never_shown(shapes: Path, tmp_path: Path) -> None:
    dataset = PretrainBatches((str(shapes),), DataConfig(frame_step=1), MODEL, MaskingConfig(), seed=0, micro_batch=4)
    assert {record.split for record in dataset.records} == {"train"}
    assert len(dataset.records) == 12 < len(read_index(shapes))
    rows = (shapes / "index.csv").read_text().splitlines()
    held_out = [rows[0], *(row for row in rows[1:] if "test" in row)]
    (shapes / "held-out.csv").write_text("\n".join(held_out))
    with pytest.raises(DataError, match="there are no training videos"):
        PretrainBatches(
            (str(shapes / "held-out.csv"),), DataConfig(frame_step=1), MODEL, MaskingConfig(), seed=0, micro_batch=4
        )


def test_sources_are_mixed_by_weight(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("".join(f"{r.path} 0\n" for r in read_index(shapes).records[:3]))
    data = DataConfig(frame_step=1, mix=(1.0, 3.0))
    dataset = PretrainBatches(
        (str(shapes), str(tmp_path / "few.txt")), data, MODEL, MaskingConfig(), seed=0, micro_batch=4
    )
    drawn = np.array([dataset._video_of(i) for i in range(2000)])
    assert (drawn >= 12).mean() == pytest.approx(0.75, abs=0.04)
    with pytest.raises(ConfigError, match="one positive weight"):
        PretrainBatches((str(shapes),), data, MODEL, MaskingConfig(), seed=0, micro_batch=4)


def test_bad_files_leave_the_weights_of_the_sources_alone(shapes: Path, tmp_path: Path) -> None:
    for i, record in enumerate(read_index(shapes).records[:2]):
        shutil.copy(record.path, tmp_path / f"good{i}.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"x" * 100)
    data = DataConfig(frame_step=1, mix=(1.0, 3.0), cache=True)
    dataset = PretrainBatches((str(shapes), str(tmp_path)), data, MODEL, MaskingConfig(), seed=0, micro_batch=4)
    readable, read = dataset.reader.frames, []
    dataset.reader.frames = lambda record, *rest: (read.append(record.path), readable(record, *rest))[1]  # type: ignore[method-assign]
    for number in range(600):
        dataset._sample(number, {})
    assert len(read) == 600
    assert np.mean([str(tmp_path) in path for path in read]) == pytest.approx(0.75, abs=0.06)


def with_bad(shapes: Path, folder: Path, bad: int) -> Path:
    paths = [record.path for record in read_index(shapes).records]
    for i in range(bad):
        (folder / f"bad{i}.mp4").write_bytes(b"x" * 100)
    paths += [str(folder / f"bad{i}.mp4") for i in range(bad)]
    (folder / "list.csv").write_text("path,label\n" + "".join(f"{path},{i % 2}\n" for i, path in enumerate(paths)))
    return folder / "list.csv"


def test_a_bad_file_is_replaced_counted_and_named(
    shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = with_bad(shapes, tmp_path, 1)
    loaded = batches([source], label=None, steps=6)
    assert caplog.text.count("bad0.mp4") == 1
    assert all(len(batch["clips"]) == 6 for batch in loaded)
    assert_same(loaded, batches([source], label=None, steps=6, workers=2))


def test_too_many_bad_files_stop_the_run(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than max_bad allows"):
        batches([with_bad(shapes, tmp_path, 8)], label=None, steps=20)


def test_nothing_but_bad_files(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").touch()
    with pytest.raises(DataError, match=r"bad\.mp4: the file is empty"):
        batches([tmp_path], label=None)


def test_evaluation_clips(shapes: Path, tmp_path: Path) -> None:
    index = read_index(shapes, label="appearance")
    (tmp_path / "bad.mp4").touch()
    index = VideoIndex((*index.records[:3], VideoRecord(str(tmp_path / "bad.mp4"), 0)), index.classes, "x")
    spec = ClipSpec(8, 1)
    fixed = EvalClips(index, spec, (32, 32), segments=2, views=3)
    clips, number, error = fixed[1]
    assert (clips.shape, number, error) == ((6, 3, 8, 32, 32), 1, "")
    assert fixed[3][2] == "the file is empty"
    parallel = DataLoader(fixed, batch_size=None, num_workers=2)
    assert all(torch.equal(item[0], fixed[i][0]) for i, item in enumerate(parallel))
    random = EvalClips(index, spec, (32, 32), augment=3, seed=1)
    assert torch.equal(random[0][0], EvalClips(index, spec, (32, 32), augment=3, seed=1)[0][0])
    assert not torch.equal(random[0][0], EvalClips(index, spec, (32, 32), augment=3, seed=2)[0][0])


def test_a_bad_file_is_replaced_from_its_own_source_where_some_videos_are_held_out(
    shapes: Path, tmp_path: Path
) -> None:
    """The second source is half test videos, which are not shown: places are counted among those that are."""
    (tmp_path / "bad.mp4").write_text("not a video")
    good = [record.path for record in read_index(shapes).select("train").records]
    rows = [*(f"{path},train" for path in good[:2]), *(f"{path},test" for path in good[2:10]), "bad.mp4,train"]
    (tmp_path / "second.csv").write_text("path,split\n" + "".join(f"{row}\n" for row in rows))
    (tmp_path / "first.csv").write_text("path\n" + "".join(f"{path}\n" for path in good[10:]))
    data = DataConfig(frame_step=1, workers=0, mix=(0.5, 0.5), max_bad=1.0)
    sources = (str(tmp_path / "first.csv"), str(tmp_path / "second.csv"))
    dataset = PretrainBatches(sources, data, MODEL, MaskingConfig(), seed=0, micro_batch=1)
    bad = next(i for i, record in enumerate(dataset.records) if record.path.endswith("bad.mp4"))
    drawn = {dataset.records[dataset._replacement(bad, number, 0)].path for number in range(100)}
    assert drawn == {*good[:2], str(tmp_path / "bad.mp4")}


def test_more_workers_than_the_computer_has_use_for_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    assert worker_count(DataConfig(workers=0)) == 0
    assert worker_count(DataConfig(workers=3)) == 3
    assert process_count(1_000_000, 2_000_000) <= 61
    assert "1000000 workers are more" in caplog.text
    assert process_count(1_000_000, 2) == 2
