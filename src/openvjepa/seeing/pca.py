"""Features as colors: principal components, fitted jointly over all clips, so that one color means one thing everywhere.

Shapes: a clip's tokens are [t, h, w, D] (t tubelets of h x w patches), k components.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from openvjepa.errors import CheckpointError, ConfigError
from openvjepa.seeing.tokens import ClipTokens
from openvjepa.weights.files import read_tensors, weights_digest, write_tensors
from openvjepa.weights.hub import LoadedModel

Floats = NDArray[np.float64]

PERCENTILES = (1.0, 99.0)
"""Between which a component runs from dark to bright; what lies beyond is clipped."""
LEAST_FOREGROUND = 4
"""Tokens that a foreground needs to be fitted on its own."""
_FLAT = 1e-6  # of the standard deviation of all features: a component that varies less is rounding noise
_FORMAT = "openvjepa-pca-1"


class Moments:
    """Mean and scatter matrix of tokens that come in pieces, in float64, without keeping them.

    Pieces are merged with the update of Chan, Golub and LeVeque (1979), which stays exact when the mean is large.
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean: Floats = np.zeros(channels)
        self.scatter: Floats = np.zeros((channels, channels))

    def add(self, tokens: ArrayLike) -> None:
        """Add tokens [..., D]."""
        x = np.asarray(tokens, np.float64).reshape(-1, len(self.mean))
        if not len(x):
            return
        mean = x.mean(0)
        centered = x - mean
        step, total = mean - self.mean, self.count + len(x)
        self.scatter += centered.T @ centered + np.outer(step, step) * (self.count * len(x) / total)
        self.mean = self.mean + step * (len(x) / total)
        self.count = total

    def principal(self, components: int) -> tuple[Floats, Floats]:
        """The directions of largest variance, [k, D], and their variances, [k] (divided by count - 1, as scikit-learn does).

        The sign of a direction is arbitrary; it is fixed so that its largest entry is positive.
        """
        values, vectors = np.linalg.eigh(self.scatter / max(1, self.count - 1))
        order = np.argsort(values)[::-1][:components]
        directions = vectors[:, order].T
        largest = np.abs(directions).argmax(1)
        signs = np.where(directions[np.arange(len(order)), largest] < 0, -1.0, 1.0)
        return directions * signs[:, None], np.maximum(values[order], 0.0)

    @property
    def variance(self) -> float:
        """Sum of the variances of all channels."""
        return float(np.trace(self.scatter)) / max(1, self.count - 1)


@dataclass(frozen=True, eq=False)
class Foreground:
    """Which tokens show an object: those whose first component lies above a threshold."""

    mean: Floats
    """[D]"""
    direction: Floats
    """[D], pointing to the foreground."""
    threshold: float

    def of(self, tokens: ArrayLike) -> NDArray[np.bool_]:
        """Tokens [..., D] -> bool [...]."""
        return (np.asarray(tokens, np.float64) - self.mean) @ self.direction > self.threshold


@dataclass(frozen=True)
class FitFacts:
    """What a fit was made from: every picture names it."""

    model: str = ""
    weights: str = ""
    """sha256 of the encoder's weights; empty where it is not known."""
    layer: int = -1
    files: tuple[str, ...] = ()
    clips: int = 0
    tokens: int = 0

    def __str__(self) -> str:
        files = self.files[0] if len(self.files) == 1 else f"{len(self.files)} files"
        clips = "1 clip" if self.clips == 1 else f"{self.clips} clips"
        return f"{clips} of {files}" if self.files else clips


@dataclass(frozen=True, eq=False)
class PcaFit:
    """Principal components of a set of clips, and the value range of the colors."""

    mean: Floats
    """[D]"""
    components: Floats
    """[k, D]"""
    variance: Floats
    """Of each component, [k]."""
    total_variance: float
    """Of all channels together."""
    low: Floats
    """Value of each component that is shown as 0, [k]."""
    high: Floats
    """Value of each component that is shown as 255, [k]."""
    foreground: Foreground | None = None
    """Where the background is masked."""
    notes: tuple[str, ...] = ()
    """What a reader of the colors must know, such as that no foreground was found."""
    facts: FitFacts = field(default_factory=FitFacts)

    @property
    def explained(self) -> Floats:
        """Share of the variance that each component explains, [k]."""
        return self.variance / self.total_variance if self.total_variance > 0 else np.zeros_like(self.variance)

    def project(self, tokens: ArrayLike) -> Floats:
        """Tokens [..., D] -> values of the components [..., k].

        Raises:
            ConfigError: the tokens have another number of channels.
        """
        x = np.asarray(tokens, np.float64)
        if x.shape[-1] != len(self.mean):
            raise ConfigError(
                f"the fit is for features of {len(self.mean)} channels, these have {x.shape[-1]}: it belongs to another model"
            )
        return (x - self.mean) @ self.components.T

    def colors(self, tokens: ArrayLike) -> NDArray[np.uint8]:
        """Tokens [..., D] -> red, green and blue from the first three components, uint8 [..., 3].

        A component that does not vary, or does not exist, is mid-gray; background is black.
        """
        values = self.project(tokens)[..., :3]
        spread = self.high[:3] - self.low[:3]
        flat = spread <= _FLAT * np.sqrt(self.total_variance)
        scaled = np.where(flat, 0.5, (values - self.low[:3]) / np.where(flat, 1.0, spread))
        out = np.full((*values.shape[:-1], 3), 128, np.uint8)
        out[..., : values.shape[-1]] = np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
        if self.foreground is not None:
            out[~self.foreground.of(tokens)] = 0
        return out


def fit_pca(
    clips: Sequence[ArrayLike],
    *,
    components: int = 3,
    percentiles: tuple[float, float] = PERCENTILES,
    foreground: bool = False,
    facts: FitFacts | None = None,
) -> PcaFit:
    """Fit principal components jointly on the tokens of all clips.

    With `foreground`, as DINOv2 draws it: a first component of all tokens is cut in two at Otsu's threshold; the side
    that covers less of the frames' border is the foreground; the components that are shown are fitted on its tokens alone.

    Args:
        clips: tokens [t, h, w, D] of each; they may differ in t, h and w. They are read several times.
        components: k; at most D are kept.
        percentiles: of the fitted tokens, shown as 0 and as 255.
        foreground: mask the background.
        facts: what the clips are; the counts are filled in.

    Raises:
        ConfigError: no clips, or their tokens differ in the number of channels.
    """
    arrays = [np.asarray(clip) for clip in clips]
    if not arrays or any(clip.ndim != 4 or clip.shape[-1] != arrays[0].shape[-1] for clip in arrays):
        raise ConfigError("a PCA fit needs clips of tokens [t, h, w, D] with the same D")
    moments = _moments(arrays)
    mask, notes = _find_foreground(arrays, moments) if foreground else (None, ())
    if mask is not None:
        arrays = [clip[mask.of(clip)] for clip in arrays]
        moments = _moments(arrays)
    directions, variance = moments.principal(components)
    values = np.concatenate([(clip.reshape(-1, len(moments.mean)) - moments.mean) @ directions.T for clip in arrays])
    low, high = np.percentile(values, percentiles, axis=0)
    facts = replace(facts or FitFacts(), clips=len(clips), tokens=moments.count)
    return PcaFit(moments.mean, directions, variance, moments.variance, low, high, mask, notes, facts)


def _moments(clips: Sequence[NDArray[Any]]) -> Moments:
    moments = Moments(clips[0].shape[-1])
    for clip in clips:
        moments.add(clip)
    return moments


def _find_foreground(clips: Sequence[NDArray[Any]], moments: Moments) -> tuple[Foreground | None, tuple[str, ...]]:
    """The foreground of clips [t, h, w, D] by their first component, or why there is none."""
    (direction, *_), (variance, *_) = moments.principal(1)
    values = [(clip - moments.mean) @ direction for clip in clips]
    flat = np.concatenate([value.ravel() for value in values])
    if variance <= 0 or np.ptp(flat) <= _FLAT * np.sqrt(moments.variance):
        return None, ("no foreground: all tokens are the same, so nothing is masked",)
    threshold = otsu(flat)
    border = np.concatenate([value[:, _border(*value.shape[1:])].ravel() for value in values])
    share_above, share_below = ((border > threshold).sum() / max(1, (flat > threshold).sum()),
                                (border <= threshold).sum() / max(1, (flat <= threshold).sum()))  # fmt: skip
    if share_above > share_below:
        direction, threshold = -direction, -threshold
    mask = Foreground(moments.mean, direction, float(threshold))
    count = sum(int(mask.of(clip).sum()) for clip in clips)
    if count < LEAST_FOREGROUND:
        return None, (f"no foreground: the first component sets only {count} tokens apart, so nothing is masked",)
    return mask, ()


def _border(h: int, w: int) -> NDArray[np.bool_]:
    border = np.ones((h, w), bool)
    border[1:-1, 1:-1] = False
    return border


def otsu(values: ArrayLike, bins: int = 256) -> float:
    """Threshold that splits values into two classes with the largest variance between them (Otsu 1979).

    Args:
        values: any shape.
        bins: of the histogram between the smallest and the largest value.
    """
    counts, edges = np.histogram(np.asarray(values, np.float64), bins)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
        between = np.where((below > 0) & (above > 0), below * above * gap**2, -1.0)
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))  # a plateau, where bins between the classes are empty
    return float((edges[1 + best[0]] + edges[1 + best[-1]]) / 2)


def fit_clips(clips: Sequence[ClipTokens], model: LoadedModel, *, foreground: bool = False) -> PcaFit:
    """`fit_pca` on the clips that a model saw, with the facts that pictures and later uses need."""
    files = tuple(dict.fromkeys(Path(clip.path).name for clip in clips))
    facts = FitFacts(model.source, weights_digest(model.encoder), clips[0].layer, files)
    return fit_pca([clip.tokens for clip in clips], foreground=foreground, facts=facts)


def check_fit(fit: PcaFit, model: LoadedModel, layer: int) -> None:
    """Refuse a fit of other features: its colors would mean nothing.

    Raises:
        ConfigError: it was made with other weights, or from another layer.
    """
    facts, count = fit.facts, len(model.encoder.blocks)
    if facts.weights and facts.weights != weights_digest(model.encoder):
        raise ConfigError(f"the fit belongs to the weights of {facts.model}, not to those of {model.source}: fit again")
    if facts.layer % count != layer % count:
        raise ConfigError(f"the fit is of layer {facts.layer}, not {layer}: add --layer {facts.layer}, or fit again")


def save_fit(path: str | Path, fit: PcaFit) -> Path:
    """Save a PCA fit as safetensors (atomic).

    Raises:
        CheckpointError: it cannot be written.
    """
    arrays = {name: getattr(fit, name) for name in ("mean", "components", "variance", "low", "high")}
    facts: dict[str, Any] = {"format": _FORMAT, "facts": asdict(fit.facts), "notes": list(fit.notes)}
    facts["total_variance"] = fit.total_variance
    if fit.foreground is not None:
        arrays |= {"foreground.mean": fit.foreground.mean, "foreground.direction": fit.foreground.direction}
        facts["threshold"] = fit.foreground.threshold
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    return write_tensors(Path(path), tensors, facts)


def load_fit(path: str | Path) -> PcaFit:
    """Load a PCA fit saved by `save_fit`.

    Raises:
        CheckpointError: missing, damaged, or something else.
    """
    tensors, metadata = read_tensors(Path(path))
    try:
        if metadata["format"] != _FORMAT:
            raise KeyError(f"format {metadata['format']}")
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        facts = metadata["facts"] | {"files": tuple(metadata["facts"]["files"])}
        mask = None
        if "threshold" in metadata:
            mask = Foreground(arrays["foreground.mean"], arrays["foreground.direction"], metadata["threshold"])
        return PcaFit(
            arrays["mean"],
            arrays["components"],
            arrays["variance"],
            float(metadata["total_variance"]),
            arrays["low"],
            arrays["high"],
            mask,
            tuple(metadata["notes"]),
            FitFacts(**facts),
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a PCA fit of `vjepa show` ({error})") from None


def per_frame(maps: NDArray[Any], frames: int) -> NDArray[Any]:
    """Maps [t, h, w, ...] of tubelets -> one for each of the clip's frames, [T, h, w, ...]: a tubelet's map is repeated.

    Raises:
        ConfigError: the frames do not divide into t tubelets.
    """
    if frames % len(maps):
        raise ConfigError(f"{frames} frames do not divide into {len(maps)} tubelets")
    return maps.repeat(frames // len(maps), axis=0)
