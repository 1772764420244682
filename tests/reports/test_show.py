"""Pictures and pages of `vjepa show`: what stands on them, that nothing is blended, and that pages work offline."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch.nn.functional as F
from PIL import Image
from torch import from_numpy

from openvjepa.data.media.video import open_video
from openvjepa.reports.seeing.attention import attention_panels, write_attention
from openvjepa.reports.seeing.clip_map import write_map
from openvjepa.reports.seeing.page import data_bytes, lookup_table
from openvjepa.reports.seeing.pictures import Panel, Row, fit_to, heat, overlay, strip, write_png
from openvjepa.reports.seeing.show import pca_facts, pca_panels, write_pca, write_similarity
from openvjepa.seeing.attention import AttentionRow
from openvjepa.seeing.clip_map import MappedClip, map_clips
from openvjepa.seeing.pca import FitFacts, fit_pca
from openvjepa.seeing.similarity import pack_tokens
from openvjepa.seeing.tokens import ClipTokens, Sight

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def _offline() -> ModuleType:
    spec = importlib.util.spec_from_file_location("offline", Path(__file__).with_name("offline.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


assert_offline = _offline().assert_offline


def clip(path: str, seed: int, *, still: bool = False, channels: int = 80, model: str = "runs/<mine>") -> ClipTokens:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 255, (4, 32, 48, 3)).astype(np.uint8)
    times = np.zeros(4) if still else seed + np.arange(4) / 8
    mix = np.geomspace(1, 0.01, channels)
    tokens = (rng.normal(size=(2, 2, 3, channels)) * mix + 0.3).astype(np.float32)
    return ClipTokens(path, frames, times, tokens, model, -1)


@pytest.fixture
def sight() -> Sight:
    clips = (
        clip("x/a & <b>.mp4", 1),
        clip("x/a & <b>.mp4", 2),
        clip("y/a & <b>.mp4", 3),
        clip("still.png", 4, still=True),
    )
    return Sight((), (clips,), {"bad<.mp4": "no such file"})


def fit_of(sight: Sight, **options: bool) -> list:
    facts = FitFacts("m", "", -1, ("a.mp4", "still.png"))
    return [fit_pca([clip.tokens for clip in row], facts=facts, **options) for row in sight.clips]


def test_maps_are_repeated_over_their_patch_unless_blending_is_asked_for() -> None:
    colors = np.random.default_rng(0).integers(0, 255, (2, 2, 3, 3)).astype(np.uint8)
    np.testing.assert_array_equal(fit_to(colors, (32, 48)), colors.repeat(16, 1).repeat(16, 2))
    smooth = fit_to(colors, (32, 48), "bilinear")
    truth = F.interpolate(from_numpy(colors).permute(0, 3, 1, 2).double(), size=(32, 48), mode="bilinear")
    assert np.abs(smooth - truth.permute(0, 2, 3, 1).numpy()).max() <= 0.51
    odd = fit_to(colors, (5, 7))  # not a multiple: still only colors of the map
    assert set(map(tuple, odd[0].reshape(-1, 3))) <= set(map(tuple, colors[0].reshape(-1, 3)))


def test_heat_and_overlay() -> None:
    table = lookup_table()
    np.testing.assert_array_equal(heat([0.0, 0.5, 2.0, -1.0], 0, 1), table[[0, 128, 255, 0]])
    np.testing.assert_array_equal(heat([3.0, 3.0], 3, 3), table[[0, 0]])
    gray = np.full((1, 2, 2, 3), 100, np.uint8)
    np.testing.assert_array_equal(overlay(gray, np.zeros_like(gray), 0.6), np.full_like(gray, 40))


def test_every_frame_shows_the_map_of_its_tubelet(sight: Sight) -> None:
    fits = fit_of(sight)
    panels = pca_panels(sight, fits)
    maps = panels[1].rows[1].pictures
    colors = fits[0].colors(sight.clips[0][1].tokens)
    np.testing.assert_array_equal(maps[:, ::16, ::16], colors[[0, 0, 1, 1]])
    np.testing.assert_array_equal(panels[1].rows[0].pictures, sight.clips[0][1].frames)
    assert [len(panel.rows[0].pictures) for panel in panels] == [4, 4, 4, 2]  # a still image: one for each tubelet


def test_every_picture_says_what_it_shows(sight: Sight, tmp_path: Path) -> None:
    fits = fit_of(sight, foreground=True)
    written = write_pca(tmp_path, sight, fits)
    names = sorted(path.name for path in written)
    assert names == ["pca-a & <b>-2.mp4", "pca-a & <b>.mp4", "pca.html", "pca.png"]
    text = Image.open(tmp_path / "pca.png").text
    assert text["Model"] == "runs/<mine>, layer -1"
    assert "fitted jointly on 4 clips of 2 files" in text["Model: colors"]
    assert "nothing is interpolated" in text["Enlargement"]
    assert "bilinear" in pca_facts(sight, fits, "bilinear")["Enlargement"]
    page = assert_offline(tmp_path / "pca.html")
    shown = (tmp_path / "pca.html").read_text("utf-8")
    for words in (
        "runs/&lt;mine&gt;, layer -1",
        "fitted jointly on 4 clips",
        "a &amp; &lt;b&gt;.mp4, 1.00-1.38 s",
        "bad&lt;.mp4",
    ):
        assert words in shown
    assert len(json.loads(page.data)["clips"]) == 4
    video = open_video(tmp_path / "pca-a & <b>.mp4")
    assert video.frame_count == 8  # two clips of the first file
    assert np.diff(video.times) == pytest.approx(1 / 8, abs=1e-3)
    frame = video.frames([0]).frames[0]
    assert frame.shape[1] >= 2 * 256
    pictures = frame[26 : 26 + 256]  # below the names: the frame enlarged 8 times, beside it the map
    assert np.abs(pictures[:, :384].astype(int) - sight.clips[0][0].frames[0].repeat(8, 0).repeat(8, 1)).mean() < 25
    maps = fits[0].colors(sight.clips[0][0].tokens)[0].repeat(128, 0).repeat(128, 1)
    assert np.abs(pictures[:, 384:768].astype(int) - maps).mean() < 12


def test_strips_wrap_and_say_what_they_leave_out() -> None:
    def panel(frames: int) -> Panel:
        return Panel("t", (Row("frames", np.zeros((frames, 96, 96, 3), np.uint8)),))

    one, two = strip([panel(16)], ["c"]), strip([panel(17)], ["c"])
    assert two.shape[0] > one.shape[0]
    assert two.shape[1] == one.shape[1]
    many = strip([panel(1)] * 30, ["c"])
    least = strip([panel(1)] * 24, ["c"])
    assert 0 < many.shape[0] - least.shape[0] < 40  # one more line of caption


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openvjepa.errors import CheckpointError

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(CheckpointError, match="No space left"):
        write_png(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8), {})
    assert not list(tmp_path.iterdir())


def test_similarity_page_carries_its_features_and_its_error(sight: Sight, tmp_path: Path) -> None:
    packed = pack_tokens([clip.tokens for clip in sight.clips[0]])
    (path,) = write_similarity(tmp_path, sight, [packed])
    page = assert_offline(path)
    data = json.loads(page.data)
    assert data["models"][0]["dimensions"] == 64
    assert data["clips"][0]["models"][0]["values"] == data_bytes(packed.clips[0].values)
    assert f"{packed.mean_error:.3f} in the mean" in path.read_text("utf-8")
    assert path.stat().st_size < 200_000


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_computes_what_python_computes(sight: Sight, tmp_path: Path) -> None:
    other = tuple(clip(c.path, i, still=c.is_still, channels=20, model="b") for i, c in enumerate(sight.clips[0], 7))
    both = Sight((), (sight.clips[0], other), {})
    packed = [pack_tokens([clip.tokens for clip in row]) for row in both.clips]
    (path,) = write_similarity(tmp_path, both, packed)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"{path.as_uri()}#1.0.8"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<output id="status"[^>]*>([^<]*)<', dom)
    assert found
    text = found[1]
    assert "frames 3-4 (2.25 s), row 1, column 3" in text
    for name, part in zip(("runs/&lt;mine&gt;, layer -1", "b, layer -1"), packed, strict=True):
        values = np.concatenate([values.ravel() for values in part.similarity(1, 8)])
        values = np.delete(values, 12 + 8)
        assert f"{name}: {values.min():.2f} to {values.max():.2f}" in text


def test_attention_lies_over_the_gray_frames(sight: Sight, tmp_path: Path) -> None:
    values = np.zeros((2, 2, 3))
    values[1, 0, 2], values[0, 1, 1] = 0.6, 0.4
    rows = [[[AttentionRow("head 1", values)] for _ in sight.clips[0]]]
    panel = attention_panels(sight, rows)[0]
    assert panel.rows[1].name == "head 1; brightest 60.0 %, uniform would be 8.3 %"
    picture, gray = panel.rows[1].pictures, sight.clips[0][0].frames @ [0.299, 0.587, 0.114]
    table = lookup_table()
    for (frame, y, x), level in {(3, 0, 40): 255, (0, 20, 20): 170, (0, 0, 40): 0}.items():
        np.testing.assert_array_equal(picture[frame, y, x], np.rint(0.4 * gray[frame, y, x] + 0.6 * table[level]))
    written = write_attention(tmp_path, sight, rows)
    assert [path.name for path in written][:2] == ["attention.png", "attention.html"]
    assert "probe's own weights" in Image.open(written[0]).text["Fit"]
    assert_offline(written[1])


def map_of(count: int = 12) -> list[MappedClip]:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (count, 6, 8, 3)).astype(np.uint8)
    clips = [
        MappedClip(f"v/<{i}>.mp4", 0.5, 2.5, ("cat", "dog")[i % 2], rng.normal(size=5).astype(np.float32), pictures[i])
        for i in range(count)
    ]
    return [*clips, MappedClip("q.mp4", 0, 1, None, rng.normal(size=5).astype(np.float32), pictures[0], True)]


def test_map_page_and_table(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    found = map_clips(map_of(), neighbors=3, skipped={"bad.mp4": "the file is empty"})
    page, table = write_map(tmp_path, found, "runs/mine", -1)
    data = json.loads(assert_offline(page).data)
    assert len(data["clips"]) == 13
    assert data["clips"][12]["query"]
    assert [n for n, _ in data["clips"][4]["near"]] == found.neighbors.numbers[4].tolist()
    text = page.read_text("utf-8")
    assert f"{100 * found.neighbors.purity:.1f} % of a clip" in text  # pyright: ignore
    assert "bad.mp4: the file is empty" in text
    rows = parquet.read_table(table)
    assert rows.column_names == ["id", "path", "start", "end", "label", "x", "y", "thumbnail"]
    np.testing.assert_array_equal(np.stack([rows["x"], rows["y"]], 1), found.places)
    assert rows["label"].to_pylist() == ["cat", "dog"] * 6 + [None]
    assert rows["thumbnail"][0].as_py()[:2] == b"\xff\xd8"  # JPEG
    assert rows.schema.metadata[b"Model"].startswith(b"runs/mine, layer -1")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_map_shows_the_neighbors_of_the_chosen_clip(tmp_path: Path) -> None:
    found = map_clips(map_of(), neighbors=3)
    page = write_map(tmp_path, found, "m", -1)[0]
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"{page.as_uri()}#5"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert '<h3 id="name">&lt;5&gt;.mp4, 0.50-2.50 s</h3>' in dom
    names = re.findall(r"<button type=\"button\"><img[^>]*>(-?[0-9.]+) (\w+): &lt;(\d+)&gt;", dom)
    assert [int(number) for *_, number in names] == found.neighbors.numbers[5].tolist()
    assert [float(score) for score, *_ in names] == pytest.approx(found.neighbors.similarity[5], abs=6e-4)
