"""Tracking: propagation against loops, exact on translations by whole patches, J above 0.9 with features that are pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.special import softmax
from torch import Tensor

from openvjepa.config import ModelConfig, PropagationConfig
from openvjepa.data.media.video import open_video
from openvjepa.data.transforms import normalize
from openvjepa.errors import ConfigError, DataError
from openvjepa.model.encoder import create_model
from openvjepa.reports.video import write_video
from openvjepa.seeing.tracking.segmentation import region_similarity
from openvjepa.seeing.tracking.track import frame_features, mask_shares, propagate, track_masks, track_points
from openvjepa.weights.hub import load_model, save_model

PATCH = 8


def squares(frames: int, step: int, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Two textured squares that move `step` px a frame over a ground that repeats: frames [T, H, W, 3] and masks [T, H, W]."""
    rng = np.random.default_rng(0)
    tile, one, two = (_texture(rng, side) for side in (8, 32, 24))
    ground = np.tile(tile, (size // 8, size // 8, 1))
    video, masks = np.repeat(ground[None], frames, 0), np.zeros((frames, size, size), np.uint8)
    for t in range(frames):
        a, b = 8 + step * t, 64 - step * t
        video[t, 8:40, a : a + 32], masks[t, 8:40, a : a + 32] = one, 3
        video[t, 56:80, b : b + 24], masks[t, 56:80, b : b + 24] = two, 7
    return video.astype(np.uint8), masks


def _texture(rng: np.random.Generator, side: int) -> np.ndarray:
    noise = gaussian_filter(rng.normal(size=(side, side, 3)), (1.5, 1.5, 0), mode="wrap")
    return np.clip(128 + 60 * noise / noise.std(), 0, 255).astype(int)


def pixel_features(video: np.ndarray, step: int = PATCH, window: int = PATCH) -> list[Tensor]:
    """Pixels around each cell of `step` px, less their mean, as its features."""
    spare = (window - step) // 2
    x = torch.from_numpy(video).float().permute(0, 3, 1, 2)
    x = torch.nn.functional.pad(x, (spare,) * 4, mode="replicate")
    x = x.unfold(2, window, step).unfold(3, window, step).permute(0, 2, 3, 1, 4, 5).flatten(3)
    return list(x - x.mean(-1, keepdim=True))


def test_a_translation_by_whole_patches_is_followed_exactly() -> None:
    (first,), (mask,) = squares(1, step=0)
    first = _texture(np.random.default_rng(4), 96).astype(np.uint8)
    video = np.stack([np.roll(first, (t * PATCH, -2 * t * PATCH), (0, 1)) for t in range(5)])
    shares = mask_shares(mask, np.array([3, 7]), (12, 12))
    settings = PropagationConfig(radius=None)  # what leaves on one side enters on the other
    for t, found in enumerate(propagate(pixel_features(video), shares, settings)):
        truth = np.roll(shares.argmax(-1).numpy(), (t, -2 * t), (0, 1))
        np.testing.assert_array_equal(found.argmax(-1).numpy(), truth)
        torch.testing.assert_close(found.sum(-1), torch.ones(12, 12))
    single = PropagationConfig(radius=None, top_k=1)
    last = list(propagate(pixel_features(video), shares, single))[-1]
    assert torch.equal(last, shares.roll((4, -8), (0, 1)))  # the very same numbers


@pytest.mark.parametrize(("step", "cell"), [(8, 8), (4, 4), (2, 2), (1, 2), (3, 2)])
def test_moving_squares_keep_their_masks(step: int, cell: int) -> None:
    video, masks = squares(5, step)
    features = pixel_features(video, cell, max(cell, 6))
    found = list(track_masks(features, masks[0]))
    assert len(found) == len(masks)
    np.testing.assert_array_equal(found[0], masks[0])
    for ours, truth in zip(found[1:], masks[1:], strict=True):
        assert set(np.unique(ours)) <= {0, 3, 7}
        for number in (3, 7):
            assert region_similarity(ours == number, truth == number) > 0.9


def by_loops(features: list[Tensor], labels: np.ndarray, settings: PropagationConfig) -> list[np.ndarray]:
    """The definition, one token at a time."""
    frames = [f.double().numpy() / np.linalg.norm(f.double().numpy(), axis=-1, keepdims=True) for f in features]
    results, (h, w) = [labels.astype(float)], labels.shape[:2]
    for t in range(1, len(frames)):
        context = [0, *range(max(1, t - settings.context), t)]
        out = np.zeros_like(results[0])
        for i in range(h):
            for j in range(w):
                found = [
                    (frames[c][y, x] @ frames[t][i, j], results[c][y, x])
                    for c in context
                    for y in range(h)
                    for x in range(w)
                    if settings.radius is None or max(abs(y - i), abs(x - j)) <= settings.radius
                ]
                found.sort(key=lambda pair: -pair[0])
                best = found[: settings.top_k]
                weights = softmax(np.array([score for score, _ in best]) / settings.temperature)
                out[i, j] = sum(weight * label for weight, (_, label) in zip(weights, best, strict=True))
        results.append(out)
    return results


@pytest.mark.parametrize(
    "settings",
    [
        PropagationConfig(),
        PropagationConfig(context=1, radius=1, top_k=2, temperature=0.5),
        PropagationConfig(context=3, radius=None, top_k=1000),
    ],
)
def test_propagation_equals_its_definition(settings: PropagationConfig) -> None:
    generator = torch.Generator().manual_seed(1)
    features = [torch.randn(4, 5, 6, generator=generator) for _ in range(6)]
    labels = torch.rand(4, 5, 3, generator=generator).softmax(-1)
    ours = list(propagate(features, labels, settings))
    for found, truth in zip(ours, by_loops(features, labels.numpy(), settings), strict=True):
        np.testing.assert_allclose(found, truth, atol=1e-5)


def test_shares_are_areas_and_small_objects_keep_a_patch() -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[0:12, 0:8] = 2  # one and a half patches of 8 px
    mask[13:15, 13:15] = 5  # 4 of 64 px
    shares = mask_shares(mask, np.array([2, 5]), (2, 2)).numpy()
    np.testing.assert_allclose(shares[..., 1], [[1, 0], [0.5, 0]])
    np.testing.assert_allclose(shares[..., 2], [[0, 0], [0, 1]])
    np.testing.assert_allclose(shares.sum(-1), 1)


def test_points_follow_their_patches() -> None:
    video, _ = squares(5, step=PATCH)
    points = [[8 + 12.0, 8 + 12.0], [64 + 4.0, 56 + 20.0]]
    tracks = track_points(pixel_features(video), points, (96, 96))
    assert tracks.places.shape == (5, 2, 2)
    truth = np.array([[[20 + 8 * t, 20], [68 - 8 * t, 76]] for t in range(5)], float)
    np.testing.assert_allclose(tracks.places, truth, atol=0.3)
    assert (tracks.confidence > 0.95).all()


def test_points_between_tokens_are_interpolated_and_lost_ones_stay() -> None:
    still = pixel_features(_texture(np.random.default_rng(4), 96).astype(np.uint8)[None]) * 3
    tracks = track_points(still, [[30.0, 41.0], [1.0, 95.0]], (96, 96))
    np.testing.assert_allclose(tracks.places[2, 0], [30, 41], atol=0.3)
    np.testing.assert_allclose(tracks.places[1:, 1], [[4, 92]] * 2, atol=0.3)  # the center of the corner's token
    other = [still[0], torch.randn(12, 12, 192, generator=torch.Generator().manual_seed(2))]
    settings = PropagationConfig(top_k=1, radius=1)
    away = track_points(other, [[4.0, 4.0]], (96, 96), settings)
    assert away.confidence[1, 0] in (0, 1)
    with pytest.raises(DataError, match="inside the frame of 96 x 96"):
        track_points(still, [[96.0, 0.0]], (96, 96))
    with pytest.raises(DataError, match="inside"):
        track_points(still, [], (96, 96))


def test_a_lost_point_stays_at_its_last_place() -> None:
    x = torch.zeros(3, 3, 2)
    x[..., 0] = 1
    first = x.clone()
    first[1, 1] = torch.tensor([0.0, 1.0])  # nothing in the second frame is like this token
    tracks = track_points([first, x], [[15.0, 15.0]], (30, 30), PropagationConfig(top_k=1))
    assert tracks.confidence[1, 0] == 0
    np.testing.assert_array_equal(tracks.places[1, 0], [15, 15])


def test_masks_without_objects_and_wrong_grids_are_refused() -> None:
    video, masks = squares(2, 1)
    with pytest.raises(DataError, match="has no objects"):
        next(track_masks(pixel_features(video), masks[0] * 0))
    with pytest.raises(DataError, match="labels of"):
        next(propagate(pixel_features(video), np.zeros((3, 3, 1))))


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    """11 frames of 64 x 48 px."""
    video = np.random.default_rng(5).integers(0, 255, (11, 6, 8, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    return write_video(tmp_path / "v.mp4", iter(video), np.arange(11) / 10)


def test_features_of_single_frames_are_those_of_the_encoder(saved: Path, movie: Path) -> None:
    model, video = load_model(saved), open_video(movie)
    found = list(frame_features(model, video, short_side=48))
    assert len(found) == 11
    frames = torch.from_numpy(video.all_frames().frames).permute(0, 3, 1, 2)
    for number in (0, 8, 10):
        truth = model.encoder(normalize(frames[number][None, :, None]))
        torch.testing.assert_close(found[number].flatten(0, 1), truth[0], atol=1e-4, rtol=1e-4)
    assert found[0].shape == (3, 4, 24)


def test_features_in_a_clip_are_those_of_repeated_frames(saved: Path, movie: Path) -> None:
    model, video = load_model(saved), open_video(movie)  # clips of 4 frames, tubelets of 2
    found = list(frame_features(model, video, how="clip", layer=0))
    assert len(found) == 11
    frames = torch.from_numpy(video.all_frames().frames).permute(0, 3, 1, 2)
    small = torch.nn.functional.interpolate(frames, size=(32, 48), mode="bilinear", antialias=True)
    for number, pair in ((4, (4, 5)), (10, (10, 10))):
        clip = small[[pair[0], pair[0], pair[1], pair[1]]].transpose(0, 1)
        (truth,) = model.encoder.forward_intermediates(normalize(clip[None]), [0])
        torch.testing.assert_close(found[number].flatten(0, 1), truth[0, :6], atol=1e-4, rtol=1e-4)


def test_an_image_model_cannot_see_clips(tmp_path: Path, movie: Path) -> None:
    config = ModelConfig(arch="vit_femto", img_size=32, num_frames=1, embed_dim=24, depth=1, num_heads=2)
    save_model(tmp_path / "image", create_model(config))
    model = load_model(tmp_path / "image")
    with pytest.raises(ConfigError, match="use --frames still"):
        next(frame_features(model, open_video(movie), how="clip"))
    assert next(frame_features(model, open_video(movie))).shape == (2, 3, 24)
