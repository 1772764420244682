"""Map of clips: neighbors against scikit-learn, purity by hand, queries that change nothing, places of PCA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from openvjepa.data.clips import ClipSpec
from openvjepa.data.media.video import open_video
from openvjepa.data.transforms import eval_views, normalize
from openvjepa.errors import ConfigError, DataError
from openvjepa.seeing.clip_map import MappedClip, embed_clips, map_clips, nearest
from openvjepa.seeing.tokens import ClipChoice
from openvjepa.weights.hub import load_model

PICTURE = np.zeros((2, 2, 3), np.uint8)


def clip(path: str, features: list[float] | np.ndarray, label: str | None = None, *, query: bool = False) -> MappedClip:
    return MappedClip(path, 0.0, 1.0, label, np.asarray(features, np.float32), PICTURE, query)


def test_neighbors_are_those_of_scikit_learn() -> None:
    x = np.random.default_rng(0).normal(size=(600, 7)) + 0.5
    found = nearest(x, [str(i) for i in range(600)], [None] * 600, np.zeros(600, bool), 5)
    distance, truth = NearestNeighbors(n_neighbors=6, metric="cosine", algorithm="brute").fit(x).kneighbors(x)
    np.testing.assert_array_equal(found.numbers, truth[:, 1:])
    np.testing.assert_allclose(found.similarity, 1 - distance[:, 1:], atol=1e-9)
    assert found.purity is None
    assert found.chance is None


def test_purity_and_chance_by_hand() -> None:
    angles = np.deg2rad([0, 10, 20, 90, 100, 15])
    x = np.stack([np.cos(angles), np.sin(angles)], 1)
    labels = ["a", "a", "b", "b", "b", None]
    found = nearest(x, list("uvwxyz"), labels, np.zeros(6, bool), 2)
    np.testing.assert_array_equal(found.numbers[:5], [[1, 5], [5, 0], [5, 1], [4, 2], [3, 2]])
    # labeled neighbors: of 0: a; of 1: a; of 2: a; of 3: b, b; of 4: b, b
    assert found.purity == pytest.approx((1 + 1 + 0 + 1 + 1) / 5)
    assert found.chance == pytest.approx((1 / 4 + 1 / 4 + 2 / 4 + 2 / 4 + 2 / 4) / 5)


def test_clips_of_the_same_file_are_no_neighbors_unless_there_is_only_one_file() -> None:
    x = np.array([[1, 0, 0.5, 0.3], [0, 1, 0.5, 0.3], [0.5, 0.4, 1, 0], [0.2, 0.1, 0, 1]])
    found = nearest(x, ["u", "u", "v", "v"], ["a", "a", "a", "b"], np.zeros(4, bool), 3)
    np.testing.assert_array_equal(found.numbers, [[2, 3, -1], [2, 3, -1], [0, 1, -1], [0, 1, -1]])
    assert np.isnan(found.similarity[:, 2]).all()
    assert found.purity == pytest.approx((0.5 + 0.5 + 1 + 0) / 4)
    assert not found.own_file
    alone = nearest(x, ["u"] * 4, [None] * 4, np.zeros(4, bool), 3)
    assert alone.own_file
    assert (alone.numbers >= 0).all()


def test_a_query_changes_nothing_for_the_others() -> None:
    rng = np.random.default_rng(1)
    data = [clip(f"{i}", rng.normal(size=6), "ab"[i % 2]) for i in range(12)]
    query = clip("q", rng.normal(size=6) + 100, "a", query=True)
    alone, with_query = map_clips(data, neighbors=3), map_clips([*data, query], neighbors=3)
    np.testing.assert_array_equal(alone.places, with_query.places[:12])
    np.testing.assert_array_equal(alone.neighbors.numbers, with_query.neighbors.numbers[:12])
    assert alone.neighbors.purity == with_query.neighbors.purity
    assert (with_query.neighbors.numbers[12] >= 0).all()
    with pytest.raises(DataError, match="no clips to search"):
        map_clips([query])


def test_places_are_the_first_two_components() -> None:
    x = np.random.default_rng(2).normal(size=(30, 8)) * np.linspace(3, 0.1, 8)
    found = map_clips([clip(str(i), row) for i, row in enumerate(x)])
    truth = PCA(2, svd_solver="full").fit_transform(x.astype(np.float32).astype(np.float64))
    signs = np.sign((found.places * truth).sum(0))
    np.testing.assert_allclose(found.places, truth * signs, atol=1e-5)
    assert "PCA" in found.notes[0]
    single = map_clips([clip("a", [1.0])])
    assert single.places.shape == (1, 2)
    assert np.isfinite(single.places).all()


def test_umap_separates_groups_or_says_how_to_install_it() -> None:
    rng = np.random.default_rng(3)
    centers = np.eye(10)[:2] * 10
    data = [clip(str(i), centers[i % 2] + rng.normal(size=10) * 0.1) for i in range(40)]
    try:
        import umap  # noqa: F401  # pyright: ignore
    except ImportError:
        with pytest.raises(ConfigError, match=r"openvjepa\[map\]"):
            map_clips(data, layout="umap")
        return
    first, again = (map_clips(data, layout="umap").places for _ in range(2))
    np.testing.assert_array_equal(first, again)
    inside = np.linalg.norm(first[::2] - first[::2].mean(0), axis=1).max()
    assert np.linalg.norm(first[::2].mean(0) - first[1::2].mean(0)) > inside
    with pytest.raises(ConfigError, match="at least 10 clips"):
        map_clips(data[:5], layout="umap")


def test_features_are_the_mean_tokens_of_each_clip(saved: Path, clips_folder: Path) -> None:
    model = load_model(saved)
    files = [(str(path), path.suffix) for path in sorted(clips_folder.iterdir())]
    clips, skipped = embed_clips(model, files, ClipChoice(ClipSpec(4, 1, None), clips=2), batch_size=3)
    assert [Path(c.path).name for c in clips] == ["a.mp4", "a.mp4", "b.mp4", "b.mp4", "short.mp4", "still.png"]
    assert list(skipped) == [str(clips_folder / "broken.mp4")]
    frames = open_video(clips_folder / "b.mp4").frames(range(12, 16)).frames
    (tokens,) = model.encoder(normalize(eval_views(frames, (32, 32), 1)[0][None]))
    np.testing.assert_allclose(clips[3].features, tokens.mean(0).numpy(), atol=1e-5)
    assert (clips[3].start, clips[3].end) == (pytest.approx(1.0), pytest.approx(16 / 12, abs=1e-4))
    assert (clips[4].start, clips[4].end) == (0, pytest.approx(3 / 12, abs=1e-4))
    assert (clips[5].start, clips[5].end, clips[5].label) == (0, 0, ".png")
    assert clips[0].thumbnail.shape == (48, 64, 3)
    small, _ = embed_clips(model, files[:1], ClipChoice(ClipSpec(4, 1, None)), thumbnail=32)
    assert small[0].thumbnail.shape == (24, 32, 3)
