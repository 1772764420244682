"""Similarity: the exact cosine against scikit-learn, and what int8 makes of it within a bound that follows from the rounding."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity as cosine_of_sklearn

from openvjepa.errors import ConfigError
from openvjepa.seeing.similarity import cosine_similarity, pack_tokens

GRIDS = ((2, 4, 4), (1, 3, 5))


def clips(channels: int, mean: float = 0.0) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    mix = rng.normal(size=(channels, channels)) * np.geomspace(1, 0.02, channels)[:, None]
    return [(rng.normal(size=(*grid, channels)) @ mix + mean).astype(np.float32) for grid in GRIDS]


def test_exact_cosine() -> None:
    data = clips(10, mean=2.0)
    flat = data[0].reshape(-1, 10).astype(np.float64)
    ours = cosine_similarity(data[0], data[0][1, 2, 3])
    np.testing.assert_allclose(ours.ravel(), cosine_of_sklearn(flat, flat[[27]])[:, 0], atol=1e-12)
    centered = cosine_similarity(data[0], data[0][1, 2, 3], flat.mean(0))
    np.testing.assert_allclose(
        centered.ravel(), cosine_of_sklearn(flat - flat.mean(0), flat[[27]] - flat.mean(0))[:, 0], atol=1e-12
    )
    assert cosine_similarity(np.zeros(3), np.ones(3)) == 0


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_packed_similarity_is_within_the_bound_of_rounding_and_truncation(mean: float, centered: bool) -> None:
    channels, dimensions = 96, 64
    data = clips(channels, mean)
    packed = pack_tokens(data, dimensions=dimensions)
    flat = np.concatenate([clip.reshape(-1, channels) for clip in data]).astype(np.float64)
    middle = flat.mean(0)
    _, _, directions = np.linalg.svd(flat - middle, full_matrices=False)
    inside = (flat - middle) @ directions[:dimensions].T
    rest = np.sqrt(np.maximum(((flat - middle) ** 2).sum(1) - (inside**2).sum(1), 0))
    rounding = np.sqrt(dimensions) * np.abs(inside).max(1) / 127 / 2
    size = np.linalg.norm(inside, axis=1)
    lengths = np.linalg.norm(flat - (middle if centered else 0), axis=1)
    for clip, token in ((0, 5), (0, 31), (1, 7)):
        number = token + 32 * clip
        ours = np.concatenate([part.ravel() for part in packed.similarity(clip, token, centered=centered)])
        exact = cosine_similarity(flat, flat[number], middle if centered else None)
        bound = rounding * size[number] + rounding[number] * size + rounding * rounding[number] + rest * rest[number]
        bound = bound / (lengths * lengths[number]) + 1e-5
        assert (np.abs(ours - exact) <= bound).all()
        assert ours[number] == 1
        others = np.arange(len(ours)) != number
        assert np.abs(ours - exact)[others].max() < 0.02  # and it is far smaller than its worst case


def test_the_reported_error_is_that_of_the_pairs() -> None:
    data = clips(96)
    packed = pack_tokens(data, dimensions=8)
    flat = np.concatenate([clip.reshape(-1, 96) for clip in data])
    errors = []
    for clip, count in enumerate((32, 15)):
        for token in range(count):
            ours = np.concatenate([part.ravel() for part in packed.similarity(clip, token)])
            errors.append(np.abs(ours - cosine_similarity(flat, flat[token + 32 * clip])))
    assert 0 < packed.mean_error < packed.largest_error <= np.max(errors) + 1e-7
    assert packed.mean_error == pytest.approx(np.mean(errors), rel=0.3)
    assert packed.kept < 0.99
    assert pack_tokens(data).largest_error < packed.largest_error


def test_few_channels_lose_nothing_but_rounding() -> None:
    data = clips(6, mean=1.0)
    packed = pack_tokens(data)
    assert packed.dimensions == 6
    assert packed.kept == pytest.approx(1)
    assert packed.largest_error < 0.01


def test_a_still_image_has_similarity_one_everywhere() -> None:
    packed = pack_tokens([np.full((2, 3, 3, 8), 0.5, np.float32)])
    np.testing.assert_allclose(packed.similarity(0, 4)[0], 1, atol=1e-5)


def test_clips_of_different_models_are_refused() -> None:
    with pytest.raises(ConfigError, match="same D"):
        pack_tokens([np.zeros((1, 2, 2, 3)), np.zeros((1, 2, 2, 4))])
