"""Cosine similarity of tokens, exact, and packed small enough to travel inside a page.

A page lets its reader pick any token of any clip, so that all similarities cannot be computed beforehand: the features travel
instead, as 64 principal components in int8. Lengths travel as they are, so that what the components leave out counts as
unlike. Shapes: clips of tokens [t, h, w, D], N = t * h * w tokens, d components.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openvjepa.errors import ConfigError
from openvjepa.seeing.pca import Floats, Moments

DIMENSIONS = 64
_QUERIES, _SAMPLE = 16, 256  # tokens, and tokens of each clip, between which the error is measured
_TINY = 1e-12


def cosine_similarity(tokens: ArrayLike, query: ArrayLike, mean: ArrayLike | None = None) -> Floats:
    """Cosine similarity of every token to one.

    Args:
        tokens: [..., D].
        query: [D].
        mean: [D], subtracted from both first: what all tokens share no longer counts. None: nothing is subtracted.

    Returns:
        [...], between -1 and 1; 0 where a token is zero.
    """
    shift = 0.0 if mean is None else np.asarray(mean, np.float64)
    x, q = np.asarray(tokens, np.float64) - shift, np.asarray(query, np.float64) - shift
    lengths = np.linalg.norm(x, axis=-1) * np.linalg.norm(q)
    return np.clip(x @ q / np.maximum(lengths, _TINY), -1, 1)


@dataclass(frozen=True, eq=False)
class PackedClip:
    """Tokens of one clip; token n is `values[n] * scale[n]` plus the mean, in the basis of the components."""

    grid: tuple[int, int, int]
    """(t, h, w)"""
    values: NDArray[np.int8]
    """[N, d]"""
    scale: NDArray[np.float32]
    """[N]"""
    along_mean: NDArray[np.float32]
    """Product of the centered token with the mean, [N]."""
    length: NDArray[np.float32]
    """Length of the centered token, [N]."""


@dataclass(frozen=True, eq=False)
class PackedTokens:
    """Tokens of several clips in one basis, with the errors of the similarities that follow from them."""

    clips: tuple[PackedClip, ...]
    mean_square: float
    """Squared length of the mean token."""
    kept: float
    """Share of the variance that the components keep."""
    largest_error: float
    """Of the cosine similarity, over `pairs` random pairs of tokens."""
    mean_error: float
    pairs: int

    @property
    def dimensions(self) -> int:
        """d."""
        return self.clips[0].values.shape[1]

    def similarity(self, clip: int, token: int, *, centered: bool = False) -> list[NDArray[np.float32]]:
        """Cosine similarity of all tokens of all clips to one token: [t, h, w] for each clip.

        The page computes the same, in JavaScript.

        Args:
            clip: number of the clip that the token is from.
            token: its number in the clip's grid.
            centered: subtract the mean token first.
        """
        source = self.clips[clip]
        query = source.values[token].astype(np.float32) * source.scale[token]
        parts = [self._similarity(other, query, source, token, centered).reshape(other.grid) for other in self.clips]
        parts[clip].reshape(-1)[token] = 1.0
        return parts

    def _similarity(
        self, other: PackedClip, query: NDArray[np.float32], source: PackedClip, token: int, centered: bool
    ) -> NDArray[np.float32]:
        products = (other.values.astype(np.float32) @ query) * other.scale
        if centered:
            lengths = other.length * source.length[token]
        else:
            products = products + self.mean_square + other.along_mean + source.along_mean[token]
            lengths = self._full_length(other) * self._full_length(source)[token]
        return np.clip(products / np.maximum(lengths, np.float32(_TINY)), -1, 1)

    def _full_length(self, clip: PackedClip) -> NDArray[np.float32]:
        return np.sqrt(np.maximum(self.mean_square + 2 * clip.along_mean + clip.length**2, 0))


def pack_tokens(clips: Sequence[ArrayLike], *, dimensions: int = DIMENSIONS, seed: int = 0) -> PackedTokens:
    """Compress tokens for a page: joint principal components in int8, one scale per token.

    Args:
        clips: tokens [t, h, w, D] of each; they may differ in t, h and w.
        dimensions: components to keep; all of D where there are fewer.
        seed: of the pairs of tokens that the error is measured on.

    Raises:
        ConfigError: no clips, or their tokens differ in the number of channels.
    """
    arrays = [np.asarray(clip, np.float32) for clip in clips]
    if not arrays or any(clip.ndim != 4 or clip.shape[-1] != arrays[0].shape[-1] for clip in arrays):
        raise ConfigError("similarity needs clips of tokens [t, h, w, D] with the same D")
    moments = Moments(arrays[0].shape[-1])
    for clip in arrays:
        moments.add(clip)
    directions, variance = moments.principal(dimensions)
    packed = tuple(_pack(clip, moments.mean, directions) for clip in arrays)
    mean_square = float(moments.mean @ moments.mean)
    kept = float(variance.sum() / moments.variance) if moments.variance > 0 else 1.0
    result = PackedTokens(packed, mean_square, min(1.0, kept), 0.0, 0.0, 0)
    errors = _errors(result, arrays, seed)
    return PackedTokens(packed, mean_square, min(1.0, kept), float(errors.max()), float(errors.mean()), len(errors))


def _pack(clip: NDArray[np.float32], mean: Floats, directions: Floats) -> PackedClip:
    centered = clip.reshape(-1, clip.shape[-1]) - mean
    values = centered @ directions.T
    scale = np.maximum(np.abs(values).max(1), _TINY) / 127
    return PackedClip(
        clip.shape[:3],
        np.rint(values / scale[:, None]).astype(np.int8),
        scale.astype(np.float32),
        (centered @ mean).astype(np.float32),
        np.linalg.norm(centered, axis=1).astype(np.float32),
    )


def _errors(packed: PackedTokens, clips: Sequence[NDArray[np.float32]], seed: int) -> Floats:
    """Absolute errors of the plain cosine similarity over random pairs of different tokens."""
    rng = np.random.default_rng((seed, 11))
    ends = np.cumsum([clip[..., 0].size for clip in clips])
    channels, total = clips[0].shape[-1], int(ends[-1])
    rounds = min(_QUERIES, total)
    errors = [np.zeros(1)]
    for number in rng.choice(total, rounds, replace=False):
        clip = int(np.searchsorted(ends, number, side="right"))
        token = int(number - (ends[clip] - clips[clip][..., 0].size))
        query = clips[clip].reshape(-1, channels)[token]
        for other, ours in zip(clips, packed.similarity(clip, token), strict=True):
            sample = rng.choice(ours.size, min(ours.size, _SAMPLE), replace=False)
            exact = cosine_similarity(other.reshape(-1, channels)[sample], query)
            errors.append(np.abs(ours.ravel()[sample] - exact))
    return np.concatenate(errors)
