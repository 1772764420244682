"""Features in a file: those of the encoder, in every format, whether or not the run was killed on the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from openvjepa.cli import main
from openvjepa.commands import embed as subject
from openvjepa.commands.embed import EmbedResult, embed
from openvjepa.commands.predict import predict
from openvjepa.commands.probe import probe
from openvjepa.config import EmbedConfig, ModelConfig, PredictConfig, ProbeConfig
from openvjepa.data.clips import ClipSpec, read_clip
from openvjepa.data.lists.index import read_index
from openvjepa.data.loader import EvalClips
from openvjepa.data.transforms import eval_views, normalize
from openvjepa.errors import ConfigError, DataError
from openvjepa.features import encode as features
from openvjepa.features import store as journal
from openvjepa.features.cache import cache_key
from openvjepa.features.encode import EncodeSettings
from openvjepa.features.sampling import ClipPlan
from openvjepa.inference.classifier import load_classifier
from openvjepa.model.encoder import Encoder, create_model
from openvjepa.train.distributed import Runtime
from openvjepa.weights.hub import load_model, save_model


@pytest.fixture
def videos(shapes: Path, tmp_path: Path) -> Path:
    """Folder of 7 videos in two classes."""
    records = read_index(shapes, label="motion").records
    for i in range(7):
        path = tmp_path / "videos" / ("left", "right")[i // 4] / f"{i}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(records[i].path, path)
    return tmp_path / "videos"


@pytest.fixture
def image_model(tmp_path: Path) -> tuple[Encoder, Path]:
    """A model with a path for images."""
    torch.manual_seed(1)
    facts: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": 32, "num_frames": 4}
    config = ModelConfig(positions="rope", modality_embed=True, interpolate_rope=True, levels=(0, 1), **facts)
    model = create_model(config).eval().requires_grad_(False)
    save_model(tmp_path / "model21", model)
    return model, tmp_path / "model21"


def run(source: Path, model: Path, out: Path, **settings: Any) -> EmbedResult:
    options = {"frame_step": 1, "batch_size": 2, "workers": 0, "device": "cpu", **settings}
    return embed(EmbedConfig(source=str(source), model=str(model), out=str(out), **options))


def lines(result: EmbedResult) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.index.read_text(encoding="utf-8").splitlines()]


def direct(encoder: Encoder, source: Path, layer: int = 1, **clips: int) -> torch.Tensor:
    """Tokens [n, V, N, D] of the clips of an index, by the encoder alone."""
    dataset = EvalClips(read_index(source), ClipSpec(4, 1, None), (32, 32), **clips)
    return torch.stack(
        [encoder.forward_intermediates(normalize(dataset[i][0]), [layer])[0] for i in range(len(dataset))]
    )


# -- numbers -----------------------------------------------------------------------------------------------------


def test_pooled_frames_and_grid_are_those_of_a_direct_forward_pass(
    encoder: Encoder, saved: Path, videos: Path, tmp_path: Path
) -> None:
    records = read_index(videos).records
    clips = [eval_views(read_clip(r.path, num_frames=4, frame_step=1).numpy(), (32, 32), 1)[0] for r in records]
    tokens = torch.cat([encoder(normalize(clip[None])) for clip in clips])  # N = 2 x 2 x 2
    truth = {
        "pooled": torch.stack([sum(one) / 8 for one in tokens]),
        "frames": torch.stack([torch.stack([sum(one[:4]) / 4, sum(one[4:]) / 4]) for one in tokens]),
        "grid": tokens.reshape(7, 2, 2, 2, 24),
    }
    for what, expected in truth.items():
        result = run(videos, saved, tmp_path / f"{what}.safetensors", what=what)
        (found,) = load_file(result.out).values()
        assert int.from_bytes(result.out.read_bytes()[:8], "little") % 8 == 0, "rows are aligned"
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert result.shapes == {"features": tuple(expected.shape)}


@pytest.mark.parametrize("layer", [0, -2])
def test_layers(encoder: Encoder, saved: Path, videos: Path, tmp_path: Path, layer: int) -> None:
    found = load_file(run(videos, saved, tmp_path / "a.safetensors", what="grid", layer=layer).out)["features"]
    expected = direct(encoder, videos, layer=0)
    torch.testing.assert_close(found.flatten(1, 3), expected[:, 0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found.flatten(1, 3), direct(encoder, videos)[:, 0], atol=0.1)


def test_a_missing_layer_is_named_and_leaves_nothing(saved: Path, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this encoder has the outputs of blocks 0, 1"):
        run(videos, saved, tmp_path / "out/a.safetensors", layer=2)
    assert not (tmp_path / "out").exists()


def test_segments_and_views_are_averaged_or_kept_apart(
    encoder: Encoder, saved: Path, videos: Path, tmp_path: Path
) -> None:
    tokens = direct(encoder, videos, segments=2, views=3)
    assert tokens.shape == (7, 6, 8, 24)
    settings: dict[str, Any] = {"segments": 2, "views": 3, "batch_size": 12}
    pooled = load_file(run(videos, saved, tmp_path / "p.safetensors", **settings).out)["features"]
    torch.testing.assert_close(pooled, tokens.mean((1, 2)), atol=1e-5, rtol=1e-5)
    grid = load_file(run(videos, saved, tmp_path / "g.safetensors", what="grid", **settings).out)["features"]
    torch.testing.assert_close(grid, tokens.unflatten(2, (2, 2, 2)), atol=1e-5, rtol=1e-5)
    frames = load_file(run(videos, saved, tmp_path / "f.safetensors", what="frames", **settings).out)["features"]
    torch.testing.assert_close(frames, grid.mean((3, 4)), atol=1e-5, rtol=1e-5)


def test_the_model_says_how_frames_are_made_smaller(encoder: Encoder, saved: Path, tmp_path: Path) -> None:
    frames = tmp_path / "clip"
    frames.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (4, 90, 90, 3), dtype=np.uint8)
    for i, frame in enumerate(noise):
        Image.fromarray(frame).save(frames / f"{i}.png")
    (tmp_path / "list.csv").write_text("path\nclip\n")
    settings = (saved / "model.yaml").read_text()
    for antialias in (True, False):
        (saved / "model.yaml").write_text(f"{settings}antialias: {str(antialias).lower()}\n")
        out = run(tmp_path / "list.csv", saved, tmp_path / f"{antialias}.safetensors").out
        (clip,) = eval_views(noise, (32, 32), 1, antialias=antialias)
        expected = encoder(normalize(clip[None])).mean(1)
        torch.testing.assert_close(load_file(out)["features"], expected, atol=1e-5, rtol=1e-5)
    both = [load_file(tmp_path / f"{antialias}.safetensors")["features"] for antialias in (True, False)]
    assert not torch.allclose(*both, atol=1e-2)


# -- images ------------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(videos: Path, tmp_path: Path) -> Path:
    """Folder with a video, two images, and a video."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(videos / "left/0.mp4", folder / "a.mp4")
    for i, name in enumerate(("b.png", "c.png")):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / name)
    shutil.copy(videos / "left/1.mp4", folder / "d.mp4")
    return folder


def test_images_take_their_own_path(image_model: tuple[Encoder, Path], mixed: Path, tmp_path: Path) -> None:
    encoder, model = image_model
    truth = []
    for name, frames in (("a.mp4", 4), ("b.png", 1), ("c.png", 1), ("d.mp4", 4)):
        clip = read_clip(mixed / name, num_frames=frames, frame_step=1).permute(3, 0, 1, 2)
        truth.append(encoder(normalize(clip[None])))
    assert [tokens.shape[1] for tokens in truth] == [8, 4, 4, 8]
    result = run(mixed, model, tmp_path / "grid.safetensors", what="grid", batch_size=8)
    assert result.shapes == {"features": (2, 2, 2, 2, 24), "images": (2, 1, 2, 2, 24)}
    found = load_file(result.out)
    for line, tokens in zip(lines(result), truth, strict=True):
        torch.testing.assert_close(found[line["tensor"]][line["row"]].flatten(0, 2)[None], tokens, atol=1e-5, rtol=1e-5)
    pooled = run(mixed, model, tmp_path / "pooled.safetensors")
    assert pooled.shapes == {"features": (4, 24)}
    expected = torch.stack([tokens.mean((0, 1)) for tokens in truth])
    torch.testing.assert_close(load_file(pooled.out)["features"], expected, atol=1e-5, rtol=1e-5)


def test_images_alone_are_the_features(image_model: tuple[Encoder, Path], mixed: Path, tmp_path: Path) -> None:
    for path in mixed.glob("*.mp4"):
        path.unlink()
    (mixed / "bad.png").write_text("text")
    result = run(mixed, image_model[1], tmp_path / "a.safetensors", what="frames")
    assert result.shapes == {"features": (2, 1, 24)}
    assert list(result.skipped) == [str(mixed / "bad.png")]


def test_other_models_see_a_clip_of_one_image(encoder: Encoder, saved: Path, mixed: Path, tmp_path: Path) -> None:
    result = run(mixed, saved, tmp_path / "a.safetensors", what="grid")
    assert result.shapes == {"features": (4, 2, 2, 2, 24)}
    still = (
        torch.from_numpy(np.array(Image.open(mixed / "b.png")))
        .permute(2, 0, 1)[None, :, None]
        .expand(-1, -1, 4, -1, -1)
    )
    torch.testing.assert_close(
        load_file(result.out)["features"][1].flatten(0, 2)[None], encoder(normalize(still)), atol=1e-5, rtol=1e-5
    )


# -- the other tasks ---------------------------------------------------------------------------------------------


def test_a_probe_keeps_the_preprocessing_of_its_model(saved: Path, videos: Path, tmp_path: Path) -> None:
    with (saved / "model.yaml").open("a") as file:
        file.write("antialias: false\n")
    settings: dict[str, Any] = {"kinds": ("linear",), "train_views": 1, "epochs": 1, "workers": 0, "frame_step": 1}
    out = tmp_path / "probe"
    probe(ProbeConfig(model=str(saved), source=str(videos), out=str(out), test_share=0.3, val_share=0.3, **settings))
    assert load_classifier(out).plan.antialias is False
    assert load_model(out).clip.antialias is False


def test_a_probe_on_images_alone_uses_their_path(image_model: tuple[Encoder, Path], tmp_path: Path) -> None:
    for label in ("x", "y"):
        for i in range(4):
            path = tmp_path / "pictures" / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((32, 32, 3), 60 * i, np.uint8)).save(path)
    settings: dict[str, Any] = {"kinds": ("linear",), "train_views": 2, "epochs": 1, "workers": 0, "baselines": False}
    out = tmp_path / "probe"
    probe(ProbeConfig(model=str(image_model[1]), source=str(tmp_path / "pictures"), out=str(out), **settings))
    assert load_classifier(out).plan.spec.num_frames == 1
    (cached,) = {np.load(path, mmap_mode="r").shape[1:] for path in (out / "features").rglob("*.npy")}
    assert cached == (4, 24), "one frame of 2 x 2 patches"
    (prediction,) = predict(PredictConfig(model=(str(out),), videos=(str(tmp_path / "pictures/x/0.png"),), workers=0))
    assert prediction.error is None


def test_preprocessing_and_layer_are_part_of_the_cache_key(encoder: Encoder, videos: Path) -> None:
    settings = EncodeSettings(Runtime(torch.device("cpu"), torch.float32, "test"))
    plan = ClipPlan(ClipSpec(4, 1, None), (32, 32))
    index = read_index(videos)
    keys = {
        cache_key(encoder, index, *pair)
        for pair in (
            (plan, settings),
            (replace(plan, antialias=False), settings),
            (replace(plan, image_path=True), settings),
            (plan, replace(settings, layer=0)),
        )
    }
    assert len(keys) == 4


# -- formats -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["pooled", "grid"])
def test_all_formats_hold_the_same(saved: Path, videos: Path, tmp_path: Path, what: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    results = {s: run(videos, saved, tmp_path / f"a{s}", what=what, overwrite=True)
               for s in (".safetensors", ".npz", ".parquet")}  # fmt: skip
    truth = load_file(results[".safetensors"].out)["features"].numpy()
    with np.load(results[".npz"].out) as archive:
        assert archive.files == ["features"]
        assert archive["features"].dtype == np.float32
        assert np.array_equal(archive["features"], truth)
    table = parquet.read_table(results[".parquet"].out).to_pylist()
    assert [(row["path"], row["label"], row["split"]) for row in table] == [
        (record.path, ("left", "right")[record.label or 0], None) for record in read_index(videos).records
    ]
    for row, features_ in zip(table, truth, strict=True):
        assert np.array_equal(np.array(row["features"], np.float32).reshape(row["shape"]), features_)


def test_parquet_is_written_in_pieces(
    saved: Path, mixed: Path, image_model: tuple[Encoder, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("openvjepa.features.files._TABLE_BYTES", 1)
    out = run(mixed, image_model[1], tmp_path / "a.parquet", what="grid").out
    assert parquet.ParquetFile(out).num_row_groups == 4
    truth = load_file(run(mixed, image_model[1], tmp_path / "b.safetensors", what="grid").out)
    table = parquet.read_table(out).to_pylist()
    assert [row["shape"][0] for row in table] == [2, 1, 1, 2], "in the order of the index"
    for row, (name, place) in zip(table, (("features", 0), ("images", 0), ("images", 1), ("features", 1)), strict=True):
        assert np.array_equal(np.array(row["features"], np.float32), truth[name][place].flatten().numpy())


def test_without_pyarrow_there_is_a_hint(
    saved: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r'pip install "openvjepa\[parquet\]"'):
        run(videos, saved, tmp_path / "a.parquet")


def test_dtypes_are_the_rounded_float32(saved: Path, videos: Path, tmp_path: Path) -> None:
    full = load_file(run(videos, saved, tmp_path / "a.safetensors", what="frames").out)["features"]
    for dtype in ("float16", "bfloat16"):
        found = load_file(run(videos, saved, tmp_path / f"{dtype}.safetensors", what="frames", dtype=dtype).out)
        assert torch.equal(found["features"], full.to(getattr(torch, dtype)))
    with np.load(run(videos, saved, tmp_path / "a.npz", overwrite=True, what="frames", dtype="float16").out) as archive:
        assert np.array_equal(archive["features"], full.half().numpy())


def test_the_index_names_every_file(saved: Path, videos: Path, tmp_path: Path) -> None:
    (videos / "left/2.mp4").write_bytes(b"not a video")
    result = run(videos, saved, tmp_path / "a.safetensors")
    found = lines(result)
    assert [line["path"] for line in found] == [record.path for record in read_index(videos).records]
    assert [line["label"] for line in found] == ["left"] * 4 + ["right"] * 3
    assert [line.get("row") for line in found] == [0, 1, None, 2, 3, 4, 5]
    bad = found.pop(2)
    assert set(bad) == {"path", "label", "split", "error"}
    assert result.skipped == {bad["path"]: bad["error"]}
    for line in found:
        assert (line["tensor"], line["shape"]) == ("features", [24])
        assert line["seconds"] > 0
    with safe_open(result.out, "np") as file:
        assert json.loads(file.metadata()["what"]) == "pooled"
        assert file.get_slice("features").get_shape() == [6, 24]


def test_when_no_file_can_be_read(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").write_bytes(b"text")
    with pytest.raises(DataError, match=r"none of 1 files can be read, for example .*a\.mp4"):
        run(tmp_path / "videos", saved, tmp_path / "out/a.npz")
    assert not list((tmp_path / "out").iterdir())


# -- resuming ----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Nothing catches it."""


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Make the n-th pass of the encoder fail."""

    def after(passes: int) -> None:
        counter = iter(range(passes))
        original = features.encode

        def encode(*args: Any, **options: Any) -> torch.Tensor:
            if next(counter, None) is None:
                monkeypatch.setattr(features, "encode", original)
                raise Killed
            return original(*args, **options)

        monkeypatch.setattr(features, "encode", encode)

    return after


def same(a: EmbedResult, b: EmbedResult) -> bool:
    facts = [[{**line, "seconds": 0} for line in lines(result)] for result in (a, b)]
    return a.out.read_bytes() == b.out.read_bytes() and facts[0] == facts[1]


@pytest.mark.parametrize("passes", [0, 1, 3])
@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_killed_run_goes_on_to_the_same_result(
    saved: Path, videos: Path, tmp_path: Path, killed: Any, passes: int, suffix: str
) -> None:
    (videos / "left/2.mp4").write_bytes(b"not a video")
    whole = run(videos, saved, tmp_path / f"whole{suffix}", what="grid")
    killed(passes)
    out = tmp_path / f"killed{suffix}"
    with pytest.raises(Killed):
        run(videos, saved, out, what="grid")
    assert not out.exists()
    counted = []
    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, args: counted.append(len(args[0])) if isinstance(module, Encoder) else None
    )
    again = run(videos, saved, out, what="grid")
    handle.remove()
    assert sum(counted) == 6 - [0, 2, 0, 5][passes], "what was done is not done again"
    assert same(whole, again)
    assert sorted(path.name for path in tmp_path.glob("killed*")) == ["killed.jsonl", f"killed{suffix}"]


def test_a_run_killed_again_and_again_while_it_wrote_goes_on(
    mixed: Path, image_model: tuple[Encoder, Path], tmp_path: Path, killed: Any
) -> None:
    """A batch counts from its whole line in the journal on: torn lines and rows without one are forgotten."""
    model = image_model[1]
    whole = run(mixed, model, tmp_path / "whole.safetensors", what="grid", batch_size=1)
    for _ in range(2):
        killed(1)
        with pytest.raises(Killed):
            run(mixed, model, tmp_path / "a.safetensors", what="grid", batch_size=1)
        work = tmp_path / "a.safetensors.parts"
        with (work / journal.LINES).open("ab") as file:
            file.write(b'[{"path": "half a li')
        for name in ("features", "images"):
            with (work / f"{name}.bin").open("ab") as file:
                file.write(b"rows of a batch that was not finished")
    again = run(mixed, model, tmp_path / "a.safetensors", what="grid", batch_size=1)
    assert same(whole, again)
    assert len(lines(again)) == 4


def test_a_run_killed_before_its_index_goes_on(
    saved: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(videos, saved, tmp_path / "whole.safetensors")

    def fail(*args: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(subject, "write_file", fail)
        with pytest.raises(Killed):
            run(videos, saved, tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").exists()
    assert same(whole, run(videos, saved, tmp_path / "a.safetensors"))


def test_another_run_in_the_same_place_is_refused(
    saved: Path, videos: Path, tmp_path: Path, killed: Any, encoder: Encoder
) -> None:
    out = tmp_path / "a.safetensors"
    killed(2)
    with pytest.raises(Killed):
        run(videos, saved, out)
    encoder.norm.bias.add_(1)
    save_model(tmp_path / "other", encoder)
    for words, settings in {
        "layer": {"layer": 0},
        "clips": {"segments": 2},
        "batch size": {"batch_size": 3},
        "dtype": {"dtype": "float16"},
        r"kind of features \(--what\)": {"what": "grid"},
    }.items():
        with pytest.raises(ConfigError, match=f"with different {words}: repeat that run"):
            run(videos, saved, out, **settings)
    with pytest.raises(ConfigError, match="with different weights: repeat that run"):
        run(videos, tmp_path / "other", out)
    shutil.copy(videos / "left/0.mp4", videos / "left/1.mp4")
    with pytest.raises(ConfigError, match=r"with different files: .*or add --overwrite to begin anew"):
        run(videos, saved, out)
    assert run(videos, saved, out, overwrite=True).shapes == {"features": (7, 24)}


def test_two_runs_in_one_folder_are_noticed(saved: Path, videos: Path, tmp_path: Path, killed: Any) -> None:
    killed(1)
    with pytest.raises(Killed):
        run(videos, saved, tmp_path / "a.safetensors")
    work = tmp_path / "a.safetensors.parts"
    plan = json.loads((work / journal.PLAN).read_text())
    book = journal.Journal(work, {}, "float32")
    assert plan
    with (work / "features.bin").open("ab") as file:
        file.write(b"another")
    with pytest.raises(DataError, match="was modified by another process"):
        book.append([({"path": "x", "tensor": "features"}, torch.zeros(24))])


def test_what_is_there_is_not_replaced(saved: Path, videos: Path, tmp_path: Path) -> None:
    for name in ("a.npz", "a.jsonl"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(ConfigError, match=f"{name}: already exists"):
            run(videos, saved, tmp_path / "a.npz")
        (tmp_path / name).unlink()
    (tmp_path / "b.npz").mkdir()
    with pytest.raises(ConfigError, match="is a folder: pass a file"):
        run(videos, saved, tmp_path / "b.npz")


def test_impossible_settings_are_named_before_the_work(saved: Path, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"end with \.safetensors, \.npz or \.parquet"):
        run(videos, saved, tmp_path / "a.csv")
    with pytest.raises(ConfigError, match=r"\.npz has no bfloat16"):
        run(videos, saved, tmp_path / "a.npz", dtype="bfloat16")
    with pytest.raises(ConfigError, match="give videos or images"):
        embed(EmbedConfig(source=str(videos)))
    with pytest.raises(ConfigError, match="frame_step or fps, not both"):
        EmbedConfig(frame_step=1, fps=4.0)


def test_a_disk_without_room_stops_before_the_work(
    saved: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(subject.shutil, "disk_usage", lambda path: usage._replace(free=7 * 24 * 4 * 2 - 1))
    with pytest.raises(DataError, match="features of 7 files take"):
        run(videos, saved, tmp_path / "out/a.npz")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(subject.shutil, "disk_usage", lambda path: usage._replace(free=7 * 24 * 4 * 2))
    assert run(videos, saved, tmp_path / "out/a.npz").shapes


def test_on_the_command_line(saved: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (videos / "left/2.mp4").write_bytes(b"not a video")
    out = tmp_path / "a.npz"
    args = ["embed", str(videos), "--model", str(saved), "--out", str(out), "--workers", "0", "--what", "frames"]
    assert main(args) == 0
    text = capsys.readouterr().out
    assert "wrote features [6, 2, 24]" in text
    assert "unreadable files: 1 of 7" in text
    assert "2.mp4" in text
    assert main(args) == 1
    assert "already exists" in capsys.readouterr().err


def test_workers_change_nothing(saved: Path, videos: Path, tmp_path: Path) -> None:
    alone = run(videos, saved, tmp_path / "a.safetensors")
    assert same(alone, run(videos, saved, tmp_path / "b.safetensors", workers=1))


def test_labels_of_a_csv(saved: Path, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,action,split\nvideos/left/0.mp4,wave,test\nvideos/right/5.mp4,nod,\n")
    result = run(tmp_path / "list.csv", saved, tmp_path / "a.npz", label="action")
    assert [(line["label"], line["split"]) for line in lines(result)] == [("wave", "test"), ("nod", None)]
