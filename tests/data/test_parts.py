"""Parts of videos: what a list says of them, and that every reader cuts its clips from there alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from openvjepa.config import DataConfig, MaskingConfig, ModelConfig, PrepareConfig, SplitConfig, TrainConfig
from openvjepa.data.clips import ClipSpec, read_clip
from openvjepa.data.copies.prepare import prepare
from openvjepa.data.lists.check import check_index
from openvjepa.data.lists.index import VideoIndex, VideoRecord, read_index
from openvjepa.data.lists.seen import Seen, splits_csv
from openvjepa.data.lists.splits import read_splits
from openvjepa.data.loader import EvalClips, PretrainBatches
from openvjepa.data.media.video import open_video
from openvjepa.data.rendered.dataset import write_video
from openvjepa.errors import ConfigError, DataError, VideoError
from openvjepa.features.cache import cache_key
from openvjepa.features.encode import EncodeSettings
from openvjepa.features.sampling import ClipPlan
from openvjepa.model.encoder import create_model
from openvjepa.train.distributed import make_runtime

MODEL = ModelConfig(arch="vit_femto", img_size=32, num_frames=4, patch_size=8)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """4 s: 40 frames at 10 per second whose gray level is 6 x their number."""
    frames = np.repeat(6 * np.arange(40, dtype=np.uint8), 32 * 32 * 3).reshape(40, 32, 32, 3)
    write_video(tmp_path / "video.mp4", frames, fps=10)
    return tmp_path / "video.mp4"


def numbers(frames: np.ndarray | torch.Tensor) -> list[int]:
    """Numbers of frames [T, H, W, 3]."""
    return [round(float(frame.mean()) / 6) for frame in np.asarray(frames, dtype=np.float64)]


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        (1.0, 2.0, 10, 19),
        (1.25, 1.55, 12, 15),
        (None, 0.5, 0, 4),
        (3.5, None, 35, 39),
        (3.5, 4.9, 35, 39),
        (0.7, 0.71, 7, 7),
        (0.0, 4.0, 0, 39),
    ],
)
def test_a_part_has_the_frames_on_screen_in_it(
    video: Path, start: float | None, end: float | None, first: int, last: int
) -> None:
    part = open_video(video, start=start, end=end)
    assert numbers(part.all_frames().frames) == list(range(first, last + 1))
    assert part.frame_count == last - first + 1
    assert part.duration == pytest.approx((last - first + 1) / 10)
    assert part.times[0] == 0
    batch = part.frames([part.frame_count - 1, 0])
    assert numbers(batch.frames) == [last, first]
    assert batch.indices.tolist() == [part.frame_count - 1, 0]
    with pytest.raises(VideoError, match=r"asked for frames"):
        part.frames([part.frame_count])
    with pytest.raises(VideoError, match=r"asked for frames"):
        part.frames([-1])


def test_parts_of_files_that_cannot_be_sought(tmp_path: Path) -> None:
    """A folder of frames, read by other code than a video."""
    for i in range(30):
        Image.fromarray(np.full((16, 16, 3), 6 * i, np.uint8)).save(tmp_path / f"{i:03d}.png")
    assert numbers(open_video(tmp_path, start=0.5, end=0.7).all_frames().frames) == list(range(15, 21))


@pytest.mark.parametrize(("start", "end"), [(4.0, 5.0), (1.0, 5.5), (4.5, None)])
def test_a_part_outside_of_its_video(video: Path, start: float, end: float | None) -> None:
    with pytest.raises(VideoError, match=r"has no part from .*: it lasts 4.00 s"):
        open_video(video, start=start, end=end)


@pytest.mark.parametrize(
    ("start", "end"),
    [(-1.0, 2.0), (2.0, 2.0), (2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf")), (0.0, float("nan"))],
)
def test_impossible_parts(start: float, end: float) -> None:
    with pytest.raises(DataError, match="must be seconds from 0 on, the end after the start"):
        VideoRecord("a.mp4", start=start, end=end)


def index_of(video: Path, *parts: tuple[float, float]) -> VideoIndex:
    return VideoIndex(tuple(VideoRecord(str(video), start=a, end=b) for a, b in parts), None, "test")


def test_clips_of_an_evaluation_lie_in_their_part(video: Path) -> None:
    clips = EvalClips(index_of(video, (1, 2), (3, 4)), ClipSpec(4, 2), (32, 32), segments=2, placement="ends")
    for item, expected in ((0, [[10, 12, 14, 16], [13, 15, 17, 19]]), (1, [[30, 32, 34, 36], [33, 35, 37, 39]])):
        found, _, reason = clips[item]
        assert not reason
        assert [numbers(clip.permute(1, 2, 3, 0)) for clip in found] == expected
    random = EvalClips(index_of(video, (1, 2)), ClipSpec(4, 2), (32, 32), augment=40)
    seen = {number for clip in random[0][0] for number in numbers(clip.permute(1, 2, 3, 0))}
    assert seen == set(range(10, 20))


def test_read_clip_of_a_part(video: Path) -> None:
    assert numbers(read_clip(video, num_frames=4, frame_step=2, part=(1, 2))) == [12, 14, 16, 18]
    assert numbers(read_clip(video, num_frames=4, frame_step=1, part=(1, 2), start=0.5)) == [15, 16, 17, 18]
    assert numbers(read_clip(video, num_frames=4, frame_step=4, part=(1, 2))) == [10, 14, 18, 19], (
        "its end stands still"
    )


@pytest.mark.parametrize("cache", [False, True])
def test_pretraining_shows_parts_alone(video: Path, tmp_path: Path, cache: bool) -> None:
    (tmp_path / "list.csv").write_text("path,start,end\nvideo.mp4,1,2\nvideo.mp4,3,3.8\n")
    data = DataConfig(frame_step=1, workers=0, cache=cache, crop_scale=(1, 1), crop_ratio=(1, 1))
    batches = PretrainBatches((str(tmp_path / "list.csv"),), data, MODEL, MaskingConfig(), seed=0, micro_batch=2)
    seen = {n for step in range(40) for clip in batches[step]["clips"] for n in numbers(clip.permute(1, 2, 3, 0))}
    assert seen == {*range(10, 20), *range(30, 38)}


def test_parts_in_a_csv(video: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("path,start,end,label\nvideo.mp4,0,1.5,walk\nvideo.mp4,1.5,,run\nvideo.mp4,,2,walk\n")
    index = read_index(table)
    assert [(r.start, r.end) for r in index.records] == [(0.0, 1.5), (1.5, None), (None, 2.0)]
    assert index.labels == [1, 0, 1]
    assert [Path(r.name).name for r in index.records] == [
        "video.mp4 [0-1.5 s]",
        "video.mp4 [1.5- s]",
        "video.mp4 [0-2 s]",
    ]
    for row, reason in (
        ("2,1,,x", "end after the start"),
        ("-1,1,,x", "from 0 on"),
        ("nan,1,,x", "from 0 on"),
        ("0,x,,x", "not a number"),
        ("3,9,4,x", "outside of its duration"),
    ):
        table.write_text(f"path,start,end,duration,label\nvideo.mp4,{row}\n")
        with pytest.raises(DataError, match=rf"list.csv, line 2: .*{reason}"):
            read_index(table)


def test_two_labels_of_the_same_frames(video: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("path,label\nvideo.mp4,walk\nvideo.mp4,walk\n")
    assert len(read_index(table)) == 2
    table.write_text("path,label\nvideo.mp4,walk\nvideo.mp4,run\n")
    with pytest.raises(DataError, match=r"video.mp4 has the labels 'walk' and 'run': give columns start and end"):
        read_index(table)
    table.write_text("path,start,end,label\nvideo.mp4,0,1,walk\nvideo.mp4,1,2,run\n")
    assert read_index(table).labels == [1, 0]
    table.write_text("path,start,end,label\nvideo.mp4,0,1,walk\nvideo.mp4,0,1,run\n")
    with pytest.raises(DataError, match=r"video.mp4 \[0-1 s\] has the labels"):
        read_index(table)


def test_parts_that_overlap_are_not_trained_and_tested_on(video: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    rows = ["0,1,walk,train", "1,2,run,train", "2,3,walk,test", "3,4,run,test", "2,2.5,walk,val", "3.5,4,run,val"]
    table.write_text("path,start,end,label,split\n" + "".join(f"video.mp4,{row}\n" for row in rows))
    assert [len(index) for index in read_splits(SplitConfig(source=str(table))).values()] == [2, 2, 2]
    rows[2] = "0.9,3,walk,test"
    table.write_text("path,start,end,label,split\n" + "".join(f"video.mp4,{row}\n" for row in rows))
    with pytest.raises(DataError, match=r"1 video is in train and in test, such as .*video.mp4 \[0.9-3 s\]"):
        read_splits(SplitConfig(source=str(table)))


def test_what_a_run_has_seen_of_a_video(video: Path) -> None:
    seen = Seen()
    seen.add(str(video), "", (1.0, 2.0))
    assert VideoRecord(str(video)) in seen
    assert VideoRecord(str(video), start=1.5, end=3) in seen
    assert VideoRecord(str(video), start=2, end=3) not in seen
    text = splits_csv({"train": index_of(video, (1, 2))}).decode()
    assert text.splitlines()[0] == "path,content,label,split,start,end"
    assert text.splitlines()[1].endswith(",train,1.000000,2.000000")


def test_features_of_other_parts_are_other_features(video: Path) -> None:
    encoder, plan = create_model(MODEL), ClipPlan(ClipSpec(4, 1, None), (32, 32))
    whole = VideoIndex((VideoRecord(str(video)),), None, "test")
    indices = [whole, index_of(video, (0, 1)), index_of(video, (0, 2)), index_of(video, (1, 2))]
    with make_runtime(TrainConfig(device="cpu", precision="fp32")) as runtime:
        keys = [cache_key(encoder, index, plan, EncodeSettings(runtime)) for index in indices]
    assert len(set(keys)) == 4


ACTIVITYNET = {
    "database": {
        "one": {
            "duration": 4.0,
            "subset": "training",
            "annotations": [{"segment": [0.0, 1.5], "label": "Walk"}, {"segment": [2.0, 4.04], "label": "Run"}],
        },
        "two": {"duration": 4.0, "subset": "validation", "annotations": [{"segment": [1, 2], "label": "Run"}]},
        "three": {"subset": "testing", "annotations": []},
        "gone": {"subset": "testing", "annotations": []},
    }
}


def test_activitynet(video: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "anet"
    for name in ("videos/v_one.mp4", "videos/v_two.mp4", "videos/deep/three.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, folder / name)
    (folder / "list.json").write_text(json.dumps(ACTIVITYNET))
    index = read_index(folder / "list.json")
    names = [*(index.classes or ()), None]
    found = [
        (Path(r.path).name, names[label], r.split, r.start, r.end)
        for r, label in zip(index.records, index.labels, strict=True)
    ]
    assert found == [
        ("v_one.mp4", "Walk", "train", 0.0, 1.5),
        ("v_one.mp4", "Run", "train", 2.0, 4.04),
        ("v_two.mp4", "Run", "val", 1.0, 2.0),
        ("three.mp4", None, "test", None, None),
    ]
    assert "1 of 4 videos are not there, such as gone" in caplog.text
    assert numbers(index.records[1].open().all_frames().frames) == list(range(20, 40))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"annotations": [{"segment": [2, 1], "label": "x"}]}, "video one: .*the end after the start"),
        ({"annotations": [{"segment": [0, 9], "label": "x"}]}, "video one: .*outside of its duration"),
        ({"annotations": [{"segment": [0], "label": "x"}]}, "video one"),
        ({"annotations": [{"segment": [0, 1]}]}, "video one: 'label'"),
        ({"subset": "dev"}, "video one: the subset 'dev'"),
    ],
)
def test_wrong_segments_are_named_by_their_video(video: Path, tmp_path: Path, change: dict, reason: str) -> None:
    shutil.copy(video, tmp_path / "one.mp4")
    (tmp_path / "list.json").write_text(json.dumps({"database": {"one": ACTIVITYNET["database"]["one"] | change}}))
    with pytest.raises(DataError, match=rf"list.json, {reason}"):
        read_index(tmp_path / "list.json")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"database": []}', '{"database": {}}', '{"videos": {}}'])
def test_other_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(DataError, match=r"list\.json"):
        read_index(tmp_path / "list.json")


def test_check_names_parts_that_are_not_there(video: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,start,end\nvideo.mp4,0,1\nvideo.mp4,3,9\n")
    report = check_index(tmp_path / "list.csv", workers=1)
    assert len(report.good) == 1
    assert list(report.bad) == [f"{video} [3-9 s]"]
    assert "outside of its duration, 4 s" in report.bad[f"{video} [3-9 s]"]


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_prepared_copies_keep_their_parts(video: Path, tmp_path: Path, kind: str) -> None:
    source = tmp_path / "in" / f"list.{kind}"
    source.parent.mkdir()
    shutil.copy(video, source.parent / "one.mp4")
    text = "path,start,end,label\none.mp4,0,1.5,Walk\none.mp4,2,4,Run\n"
    only = {"database": {"one": ACTIVITYNET["database"]["one"]}}
    source.write_text(text if kind == "csv" else json.dumps(only))
    prepare(PrepareConfig(source=str(source), out=str(tmp_path / "out"), workers=1))
    before, after = read_index(source), read_index(tmp_path / "out")
    assert after.classes == before.classes == ("Run", "Walk")
    for old, new in zip(before.records, after.records, strict=True):
        assert replace(new, path=old.path, frames=None, fps=None, duration=None) == replace(old, duration=None)
        assert numbers(new.open().all_frames().frames) == numbers(old.open().all_frames().frames)


def test_read_clip_asks_for_what_there_is(video: Path) -> None:
    for start in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"start -1|start nan|start inf"):
            read_clip(video, num_frames=2, start=start)
    with pytest.raises(VideoError, match=r"asked for a clip at 4 s, and it lasts 4.00 s"):
        read_clip(video, num_frames=2, start=4.0)
    with pytest.raises(VideoError, match=r"asked for a clip at 1.5 s, and it lasts 1.00 s"):
        read_clip(video, num_frames=2, start=1.5, part=(1, 2))
    with pytest.raises(ConfigError, match="num_frames of a clip is 1000000000000: it must be at most 1048576"):
        read_clip(video, num_frames=10**12)
