"""`vjepa show`: files that it writes, settings that do not go together, files that cannot be read."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from openvjepa.cli import main
from openvjepa.commands.show import ShowResult, choice_of, gather, show
from openvjepa.config import ClipProtocol, ModelConfig, ShowConfig
from openvjepa.data.clips import ClipSpec
from openvjepa.data.lists.index import read_index
from openvjepa.errors import ConfigError, DataError
from openvjepa.model.encoder import Encoder, create_model
from openvjepa.model.pooler import AttentiveClassifier
from openvjepa.seeing.pca import load_fit
from openvjepa.weights.hub import load_model, save_model


@pytest.fixture
def videos(shapes: Path, tmp_path: Path) -> Path:
    """Folder of 3 videos and a broken one."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for number, record in enumerate(read_index(shapes, label="motion").records[:3]):
        shutil.copy(record.path, folder / f"{number}.mp4")
    (folder / "broken.mp4").write_bytes(b"no")
    return folder


def run(videos: Path, *models: Path | str, out: Path, **settings: Any) -> ShowResult:
    options = {"frame_step": 1, "device": "cpu", **settings}
    return show(ShowConfig(videos=(str(videos),), model=tuple(map(str, models)), out=str(out), **options))


def test_files_of_one_model(videos: Path, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["show", str(videos), "--model", str(saved), "--out", str(out), "--frame-step", "1"]) == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        "pca-0.mp4",
        "pca-1.mp4",
        "pca-2.mp4",
        "pca-fit.safetensors",
        "pca.html",
        "pca.png",
        "similarity.html",
    ]
    text = capsys.readouterr().out
    assert f"wrote {out / 'pca.html'}" in text
    assert "unreadable files: 1" in text


def test_the_same_run_writes_the_same_bytes(videos: Path, saved: Path, tmp_path: Path) -> None:
    first, second = (run(videos, saved, out=tmp_path / name) for name in "ab")
    for ours, theirs in zip(first.files, second.files, strict=True):
        if ours.suffix in (".png", ".html"):
            assert ours.read_bytes() == theirs.read_bytes()
    fits = [load_fit(result.files[0]) for result in (first, second)]
    for name in ("mean", "components", "low", "high"):
        np.testing.assert_array_equal(getattr(fits[0], name), getattr(fits[1], name))


def test_a_saved_fit_colors_other_videos(videos: Path, saved: Path, tmp_path: Path) -> None:
    run(videos, saved, out=tmp_path / "all", what=("pca",))
    fit = tmp_path / "all" / "pca-fit.safetensors"
    again = run(videos / "0.mp4", saved, out=tmp_path / "one", what=("pca",), fit=str(fit))
    assert [path.name for path in again.files] == ["pca.png", "pca.html", "pca-0.mp4"]
    assert "fitted jointly on 3 clips of 3 files" in Image.open(tmp_path / "one" / "pca.png").text["Model: colors"]
    whole, part = (np.asarray(Image.open(tmp_path / name / "pca.png")) for name in ("all", "one"))
    row = slice(2 * 26, 2 * 26 + 96)  # after title and name: the frames of the first clip, then its map
    np.testing.assert_array_equal(whole[row], part[row])
    np.testing.assert_array_equal(whole[176:270], part[176:270])
    assert load_fit(fit).facts.model == str(saved)
    with pytest.raises(ConfigError, match="layer -1, not 0"):
        run(videos, saved, out=tmp_path / "x", fit=str(fit), layer=0)
    with pytest.raises(ConfigError, match="belongs to the weights"):
        run(videos, f"untrained:{saved}", out=tmp_path / "x", fit=str(fit))
    run(videos, saved, out=tmp_path / "y", what=("pca",), fit=str(fit), layer=1)  # the last of two blocks is layer -1


def test_two_models_side_by_side(videos: Path, saved: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = ModelConfig(arch="vit_femto", img_size=48, patch_size=8, num_frames=8, embed_dim=12, depth=1, num_heads=2)
    save_model(tmp_path / "other", create_model(config))
    result = run(videos, saved, tmp_path / "other", f"untrained:{saved}", out=tmp_path / "out")
    names = [path.name for path in result.files]
    assert names[:3] == ["pca-fit.safetensors", "pca-fit-2.safetensors", "pca-fit-3.safetensors"]
    text = Image.open(tmp_path / "out" / "pca.png").text
    assert text["Model 2"] == f"{tmp_path / 'other'}, layer -1"
    assert "untrained" in text["Model 3"]


def test_what_is_refused(videos: Path, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give videos"):
        show(ShowConfig(videos=(str(videos),)))
    with pytest.raises(ConfigError, match="works with a single model"):
        run(videos, saved, saved, out=tmp_path / "o", fit="x")
    run(videos, saved, out=tmp_path / "o", what=("similarity",))
    with pytest.raises(ConfigError, match=r"already holds similarity\.html"):
        run(videos, saved, out=tmp_path / "o")
    run(videos, saved, out=tmp_path / "o", overwrite=True)
    with pytest.raises(DataError, match="none of 1 files"):
        run(videos / "broken.mp4", saved, out=tmp_path / "p")
    with pytest.raises(DataError, match="none of 1 files"):
        run(videos / "missing.mp4", saved, out=tmp_path / "p")
    with pytest.raises(ConfigError, match="this encoder has the outputs of blocks"):
        run(videos, saved, out=tmp_path / "p", layer=9)
    assert not (tmp_path / "p").exists()


def test_sources_with_different_classes_are_refused(tmp_path: Path, videos: Path) -> None:
    for folder, name in (("x", "left"), ("y", "right")):
        (tmp_path / folder / name).mkdir(parents=True)
        shutil.copy(videos / "0.mp4", tmp_path / folder / name / "0.mp4")
    with pytest.raises(ConfigError, match="different classes"):
        gather([str(tmp_path / "x"), str(tmp_path / "y")], None)
    assert len(gather([str(tmp_path / "x"), str(videos / "1.mp4")], None)) == 2


def test_at_most_so_many_files(videos: Path, saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = run(videos, saved, out=tmp_path / "o", what=("pca",), limit=2)
    assert [path.name for path in result.files if path.suffix == ".mp4"] == ["pca-0.mp4"]  # and the broken one
    assert "2 of 4 files" in caplog.text


@pytest.fixture
def classifier(encoder: Encoder, tmp_path: Path) -> Path:
    """Folder of the encoder with an attentive probe of two classes."""
    torch.manual_seed(4)
    probe = AttentiveClassifier(24, 3, 2).eval()
    clip = ClipProtocol(num_frames=4, size=(32, 32), frame_step=None, fps=6.0)
    save_model(tmp_path / "probe", encoder, probe=probe, labels=("cat", "dog"), clip=clip)
    return tmp_path / "probe"


def test_attention_of_a_probe(videos: Path, classifier: Path, saved: Path, tmp_path: Path) -> None:
    options = {"frame_step": None, "what": ("attention",)}
    written = run(videos / "0.mp4", classifier, out=tmp_path / "o", classes=("dog", "cat"), **options)
    assert [path.name for path in written.files] == ["attention.png", "attention.html", "attention-0.mp4"]
    text = (tmp_path / "o" / "attention.html").read_text("utf-8")
    assert text.index("relevance for dog") < text.index("relevance for cat")
    heads = run(videos / "0.mp4", classifier, out=tmp_path / "h", rows="heads", **options)
    assert "attention of head 3" in heads.files[1].read_text("utf-8")
    with pytest.raises(ConfigError, match="an encoder without a probe: run `vjepa probe"):
        run(videos, saved, out=tmp_path / "x", **options)
    with pytest.raises(ConfigError, match="no class 'bird': the probe has cat, dog"):
        run(videos, classifier, out=tmp_path / "x", classes=("bird",), **options)
    with pytest.raises(ConfigError, match="reads the last layer"):
        run(videos, classifier, out=tmp_path / "x", layer=0, **options)
    with pytest.raises(ConfigError, match="classes needs --what attention"):
        run(videos, classifier, out=tmp_path / "x", classes=("dog",), rows="heads", **options)


def test_a_probe_brings_its_rate(classifier: Path, videos: Path) -> None:
    config = ShowConfig(model=(str(classifier),))
    assert choice_of(config, load_model(classifier)).spec == ClipSpec(4, None, 6.0)
    assert choice_of(replace(config, frame_step=2), load_model(classifier)).spec == ClipSpec(4, 2, None)


def test_map_of_a_labeled_set_with_a_query(shapes: Path, saved: Path, videos: Path, tmp_path: Path) -> None:
    options = {
        "what": ("map",),
        "label": "motion",
        "neighbors": 4,
        "query": (str(videos / "1.mp4"), str(videos / "broken.mp4")),
    }
    result = run(shapes, saved, out=tmp_path / "o", **options)
    assert [path.name for path in result.files] == ["map.html", "map.parquet"]
    assert list(result.skipped) == [str(videos / "broken.mp4")]
    text = (tmp_path / "o" / "map.html").read_text("utf-8")
    assert "89 of 89 files, 1 of them queries" in text
    assert "kNN purity" in text
    with pytest.raises(ConfigError, match="map supports a single model"):
        run(shapes, saved, saved, out=tmp_path / "x", **options)
    with pytest.raises(ConfigError, match="query needs --what map"):
        run(shapes, saved, out=tmp_path / "x", query=("a",))
    with pytest.raises(DataError, match="none of 1 files"):
        run(videos / "broken.mp4", saved, out=tmp_path / "x", what=("map",))
