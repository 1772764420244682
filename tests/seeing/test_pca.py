"""PCA of tokens: scikit-learn's components, fixed signs, one scale for all clips, a foreground, a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from openvjepa.errors import CheckpointError, ConfigError
from openvjepa.seeing.pca import FitFacts, Moments, fit_pca, load_fit, otsu, per_frame, save_fit
from openvjepa.weights.files import write_file


def clips(seed: int = 0, channels: int = 12) -> list[np.ndarray]:
    """Three clips of different grids with a large common mean and a few strong directions."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(channels, channels)) * np.linspace(3, 0.1, channels)[:, None]
    return [
        (rng.normal(size=(t, h, w, channels)) @ mix + 50).astype(np.float32)
        for t, h, w in ((2, 3, 4), (1, 5, 5), (4, 2, 3))
    ]


def test_components_are_those_of_scikit_learn_up_to_sign() -> None:
    data = clips()
    fit = fit_pca(data, components=5)
    flat = np.concatenate([clip.reshape(-1, 12) for clip in data]).astype(np.float64)
    truth = PCA(5, svd_solver="full").fit(flat)
    signs = np.sign((fit.components * truth.components_).sum(1))
    np.testing.assert_allclose(fit.components, truth.components_ * signs[:, None], atol=1e-9)
    np.testing.assert_allclose(fit.mean, truth.mean_, rtol=1e-12)
    np.testing.assert_allclose(fit.variance, truth.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(fit.explained, truth.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_allclose(
        fit.project(data[1]), (truth.transform(data[1].reshape(-1, 12)) * signs).reshape(1, 5, 5, 5), atol=1e-6
    )
    low, high = np.percentile(truth.transform(flat) * signs, (1, 99), axis=0)
    np.testing.assert_allclose(fit.low, low, atol=1e-6)
    np.testing.assert_allclose(fit.high, high, atol=1e-6)


def test_signs_are_fixed_and_the_order_of_clips_changes_nothing() -> None:
    data = clips()
    fit, again, other = fit_pca(data), fit_pca(data), fit_pca(data[::-1])
    for clip in data:
        np.testing.assert_array_equal(fit.colors(clip), again.colors(clip))
        assert np.abs(fit.colors(clip).astype(int) - other.colors(clip)).max() <= 1
    largest = np.abs(fit.components).argmax(1)
    assert (fit.components[range(3), largest] > 0).all()


def test_moments_in_pieces_are_those_of_the_whole() -> None:
    flat = np.concatenate([clip.reshape(-1, 12) for clip in clips()]) + 1e5
    moments = Moments(12)
    for piece in np.array_split(flat, [0, 1, 7, 30]):
        moments.add(piece)
    np.testing.assert_allclose(
        moments.scatter / (len(flat) - 1), np.cov(flat.T.astype(np.float64)), rtol=1e-6, atol=1e-6
    )
    assert moments.count == len(flat)


def test_the_same_token_has_the_same_color_in_every_clip() -> None:
    data = clips()
    data[1][0, 2, 2] = data[0][1, 1, 1]
    fit = fit_pca(data)
    np.testing.assert_array_equal(fit.colors(data[1])[0, 2, 2], fit.colors(data[0])[1, 1, 1])


def test_colors_run_between_the_percentiles() -> None:
    data = clips()
    fit = fit_pca(data, percentiles=(10, 90))
    values = np.concatenate([fit.project(clip).reshape(-1, 3) for clip in data])
    colors = np.concatenate([fit.colors(clip).reshape(-1, 3) for clip in data])
    low, high = np.percentile(values, (10, 90), axis=0)
    np.testing.assert_array_equal(colors, np.rint(255 * np.clip((values - low) / (high - low), 0, 1)))
    assert (colors == 0).any()
    assert (colors == 255).any()


def test_tokens_that_are_all_the_same_are_gray_not_noise() -> None:
    still = np.full((2, 3, 3, 4), 7.3, np.float32)
    assert (fit_pca([still]).colors(still) == 128).all()
    fit = fit_pca([still], foreground=True)
    assert fit.foreground is None
    assert "no foreground" in fit.notes[0]
    line = np.zeros((1, 4, 4, 3), np.float32)
    line[..., 0] = np.arange(16).reshape(1, 4, 4)
    colors = fit_pca([line]).colors(line)
    assert len(np.unique(colors[..., 0])) > 8
    assert (colors[..., 1:] == 128).all()


def test_fewer_channels_than_colors() -> None:
    data = np.random.default_rng(0).normal(size=(2, 3, 3, 2))
    colors = fit_pca([data]).colors(data)
    assert colors.shape == (2, 3, 3, 3)
    assert (colors[..., 2] == 128).all()


def object_clip(sign: float, seed: int) -> np.ndarray:
    """A square that is set apart from the background along one channel, and varies along two others."""
    rng = np.random.default_rng(seed)
    clip = rng.normal(scale=0.1, size=(2, 8, 8, 6))
    clip[:, 2:6, 3:6, 0] += 5 * sign
    clip[:, 2:6, 3:6, 1:3] += rng.normal(size=(2, 4, 3, 2))
    return clip


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_foreground_is_the_side_away_from_the_border(sign: float) -> None:
    data = [object_clip(sign, seed) for seed in (1, 2)]
    fit = fit_pca(data, foreground=True)
    assert fit.foreground is not None
    expected = np.zeros((2, 8, 8), bool)
    expected[:, 2:6, 3:6] = True
    for clip in data:
        np.testing.assert_array_equal(fit.foreground.of(clip), expected)
        assert (fit.colors(clip)[~expected] == 0).all()
    inside = np.concatenate([clip[expected] for clip in data])
    truth = PCA(3, svd_solver="full").fit(inside)
    np.testing.assert_allclose(np.abs(fit.components @ truth.components_.T).diagonal(), 1, atol=1e-9)
    # Another video without such an object: nothing passes, and nothing breaks.
    empty = np.random.default_rng(9).normal(scale=0.1, size=(1, 4, 4, 6))
    assert (fit.colors(empty) == 0).all()


def test_otsu_is_the_best_of_all_thresholds() -> None:
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(0, 1, 300), rng.normal(6, 0.5, 100)])

    def within(threshold: float) -> float:
        parts = values[values <= threshold], values[values > threshold]
        return sum(part.var() * len(part) for part in parts if len(part))

    best = min(within(t) for t in np.linspace(values.min(), values.max(), 2000))
    assert within(otsu(values)) <= best * 1.001


def test_a_fit_is_saved_and_applied_to_other_videos(tmp_path: Path) -> None:
    data = [object_clip(1.0, 5)]
    fit = fit_pca(data, foreground=True, facts=FitFacts("m", "abc", 3, ("a.mp4",)))
    loaded = load_fit(save_fit(tmp_path / "fit.safetensors", fit))
    other = object_clip(1.0, 6)
    np.testing.assert_array_equal(loaded.colors(other), fit.colors(other))
    assert loaded.facts == fit.facts
    assert fit.facts.tokens == 24
    assert str(fit.facts) == "1 clip of a.mp4"
    with pytest.raises(ConfigError, match="6 channels, these have 5"):
        loaded.colors(other[..., :5])
    write_file(tmp_path / "broken.safetensors", b"nothing")
    with pytest.raises(CheckpointError, match="damaged"):
        load_fit(tmp_path / "broken.safetensors")


def test_wrong_clips_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs clips"):
        fit_pca([])
    with pytest.raises(ConfigError, match="same D"):
        fit_pca([np.zeros((1, 2, 2, 3)), np.zeros((1, 2, 2, 4))])


def test_a_tubelets_map_is_shown_for_each_of_its_frames() -> None:
    maps = np.arange(8).reshape(2, 2, 2)
    shown = per_frame(maps, 6)
    np.testing.assert_array_equal(shown, maps[[0, 0, 0, 1, 1, 1]])
    with pytest.raises(ConfigError, match="do not divide"):
        per_frame(maps, 5)
