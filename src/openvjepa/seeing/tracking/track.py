"""Follow masks and points through a video by the similarity of features: label propagation, without training.

Every token of a frame takes the labels of the tokens most like it, in the first frame and in the last few (Jabri, Owens and
Efros 2020; the protocol of DINO's video segmentation). Shapes: T frames, grids of h x w tokens of D channels, K labels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from openvjepa.config import PropagationConfig
from openvjepa.data.media.video import Video
from openvjepa.errors import ConfigError, DataError
from openvjepa.features.encode import encode
from openvjepa.seeing.tokens import prepare
from openvjepa.train.distributed import Runtime
from openvjepa.weights.hub import LoadedModel

See = Literal["still", "clip"]
"""How a frame is shown to the encoder: alone, or beside the frames around it."""

_QUERIES = 512  # tokens compared with the context at a time
_BATCH = 8  # still frames in one pass of the encoder
_READ = 32  # frames decoded at a time


def propagate(
    features: Iterable[ArrayLike | Tensor], labels: ArrayLike | Tensor, settings: PropagationConfig | None = None
) -> Iterator[Tensor]:
    """Propagate the labels of the first frame to all other frames.

    Args:
        features: of each frame, [h, w, D]; read one after the other, so that a long video needs no more memory than a short.
        labels: of the first frame, [h, w, K], not negative. Shares that sum to 1 keep doing so.
        settings: how.

    Yields:
        labels of each frame, float32 [h, w, K]; first those that were given.

    Raises:
        DataError: features and labels of different grids.
    """
    settings = settings or PropagationConfig()
    first: tuple[Tensor, Tensor] | None = None
    last: deque[tuple[Tensor, Tensor]] = deque(maxlen=settings.context)
    for frame in features:
        x = F.normalize(torch.as_tensor(frame).float(), dim=-1)
        if first is None:
            known = torch.as_tensor(labels).float()
            if known.shape[:2] != x.shape[:2]:
                raise DataError(f"labels of {list(known.shape[:2])} tokens, features of {list(x.shape[:2])}")
            first = x, known
        else:
            known = _take_labels(x, [first, *last], settings)
            last.append((x, known))
        yield known


def _take_labels(x: Tensor, context: list[tuple[Tensor, Tensor]], settings: PropagationConfig) -> Tensor:
    """Labels [h, w, K] of normalized features [h, w, D] from frames whose features and labels are known."""
    h, w, channels = x.shape
    keys = torch.cat([features.reshape(-1, channels) for features, _ in context])
    values = torch.cat([labels.reshape(h * w, -1) for _, labels in context])
    rows, columns = torch.arange(h).repeat_interleave(w), torch.arange(w).repeat(h)
    parts = []
    for queries in torch.arange(h * w).split(_QUERIES):
        similarity = x.reshape(-1, channels)[queries] @ keys.T
        if settings.radius is not None:
            far = (rows[queries, None] - rows).abs() > settings.radius
            far |= (columns[queries, None] - columns).abs() > settings.radius
            similarity.masked_fill_(far.repeat(1, len(context)), -torch.inf)
        best = similarity.topk(min(settings.top_k, similarity.shape[1]), dim=1)
        weights = (best.values / settings.temperature).softmax(1)
        parts.append((weights[..., None] * values[best.indices]).sum(1))
    return torch.cat(parts).reshape(h, w, -1)


def frame_features(
    model: LoadedModel,
    video: Video,
    *,
    how: See = "still",
    short_side: int | None = None,
    layer: int = -1,
    runtime: Runtime | None = None,
) -> Iterator[Tensor]:
    """Tokens [h, w, D] of every frame of a video, for whole frames in their own aspect ratio.

    A tubelet covers several frames, but a mask belongs to one: each frame is repeated to fill a tubelet.

    Args:
        model: on the device where it computes.
        video: what to look at.
        how: "still" shows each frame alone, as an image; "clip" shows as many frames as a clip has tubelets together.
        short_side: of what the encoder sees, px; None: that of the model.
        layer: block whose output is taken.
        runtime: autocast to use; None: float32.

    Raises:
        VideoError: the video cannot be read.
        ConfigError: an image model cannot see clips.
    """
    config = model.config
    if how == "clip" and config.num_frames <= config.tubelet_size:
        raise ConfigError(f"{model.source}: its clips have a single tubelet: use --frames still")
    window = config.num_frames // config.tubelet_size if how == "clip" else _BATCH
    for first in range(0, video.frame_count, window):
        numbers = range(first, min(first + window, video.frame_count))
        clip = prepare(video.frames(numbers).frames, model, whole=True, short_side=short_side)  # [3, n, H, W]
        if how == "still":
            batch = clip.transpose(0, 1)[:, :, None]
        else:
            padded = torch.cat([clip, clip[:, -1:].expand(-1, window - len(numbers), -1, -1)], 1)
            batch = padded.repeat_interleave(config.tubelet_size, 1)[None]
        grid = model.encoder.grid(batch)
        tokens = encode(model, batch.contiguous(), layer=layer, runtime=runtime).unflatten(1, grid.shape)
        yield from tokens.flatten(0, 1)[: len(numbers)]


def track_masks(
    features: Iterable[Tensor], mask: ArrayLike, settings: PropagationConfig | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Track the objects of a mask of the first frame.

    Args:
        features: of each frame, [h, w, D].
        mask: of the first frame, [H, W]: 0 for the background, otherwise the number of an object (1 to 254).
        settings: how labels are propagated.

    Yields:
        mask of each frame, uint8 [H, W]; first the one that was given.

    Raises:
        DataError: the mask has no object.
    """
    numbers = np.asarray(mask)
    objects = np.unique(numbers[numbers != 0])
    if not len(objects):
        raise DataError("the mask has no objects: all pixels are 0")
    frames = iter(features)
    first = next(frames)
    shares = mask_shares(numbers, objects, (first.shape[0], first.shape[1]))
    names = torch.from_numpy(np.concatenate([[0], objects]).astype(np.uint8))
    for number, labels in enumerate(propagate(_before(first, frames), shares, settings)):
        if number == 0:
            yield numbers.astype(np.uint8)
            continue
        fine = F.interpolate(labels.permute(2, 0, 1)[None], size=numbers.shape, mode="bilinear", align_corners=False)
        yield names[fine[0].argmax(0)].numpy()


def _before(first: Tensor, others: Iterable[Tensor]) -> Iterator[Tensor]:
    yield first
    yield from others


def mask_shares(mask: NDArray[np.integer], objects: NDArray[np.integer], grid: tuple[int, int]) -> Tensor:
    """Share of each patch that the background and each object cover, [h, w, 1 + K], summing to 1.

    An object that fills no patch would be outvoted everywhere: its shares are raised until its best patch is its own.

    Args:
        mask: [H, W].
        objects: their numbers, [K].
        grid: (h, w).
    """
    layers = torch.from_numpy(np.stack([mask == number for number in objects])).float()
    covered = F.interpolate(layers[None], size=grid, mode="area")[0]
    raised = covered / covered.amax((1, 2), keepdim=True).clamp_min(1e-12)
    raised = raised / raised.sum(0).clamp_min(1.0)  # two small objects in one patch share it
    return torch.cat([1 - raised.sum(0, keepdim=True), raised]).permute(1, 2, 0)


@dataclass(frozen=True, eq=False)
class PointTracks:
    """Tracked positions of points in every frame."""

    places: NDArray[np.float64]
    """(x, y), px, [T, K, 2]."""
    confidence: NDArray[np.float64]
    """Largest label of a point in a frame, beside that of the first frame: 1 where it is surely found, 0 where it is lost (the
    place is then the last known one), [T, K]."""


def track_points(
    features: Iterable[Tensor], points: ArrayLike, size: tuple[int, int], settings: PropagationConfig | None = None
) -> PointTracks:
    """Track points of the first frame.

    Args:
        features: of each frame, [h, w, D].
        points: (x, y), px, [K, 2].
        size: (height, width) of the frames, px.
        settings: how labels are propagated.

    Raises:
        DataError: no points, or one outside the frame.
    """
    xy = np.asarray(points, np.float64).reshape(-1, 2)
    height, width = size
    outside = (xy < 0).any(1) | (xy[:, 0] >= width) | (xy[:, 1] >= height)
    if not len(xy) or outside.any():
        raise DataError(f"points must lie inside the frame of {width} x {height} px, given are {xy.tolist()}")
    frames = iter(features)
    first = next(frames)
    h, w = first.shape[:2]
    cell = np.array([width / w, height / h])
    labels = _splat(xy / cell - 0.5, h, w)
    full = labels.amax((0, 1)).double().numpy()
    places, confidence = [xy], [np.ones(len(xy))]
    for number, found in enumerate(propagate(_before(first, frames), labels, settings)):
        if number == 0:
            continue
        spots, peaks = _peaks(found.double().numpy())
        lost = peaks <= 0
        places.append(np.where(lost[:, None], places[-1], (spots + 0.5) * cell))
        confidence.append(np.minimum(1.0, peaks / full))
    return PointTracks(np.stack(places), np.stack(confidence))


def _splat(xy: NDArray[np.float64], h: int, w: int) -> Tensor:
    """Each point as bilinear weights on the four tokens around it, [h, w, K]; xy in tokens, [K, 2]."""
    labels = np.zeros((h, w, len(xy)))
    for number, (x, y) in enumerate(np.clip(xy, 0, (w - 1, h - 1))):
        left, top = int(x), int(y)
        for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            weight = (1 - abs(x - column)) * (1 - abs(y - row))
            if weight > 0:
                labels[row, column, number] += weight
    return torch.from_numpy(labels).float()


def _peaks(labels: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centers of mass (x, y), in tokens, around the largest label of each point, [K, 2], and that label, [K]."""
    h, w, count = labels.shape
    spots, peaks = np.zeros((count, 2)), np.zeros(count)
    for number in range(count):
        layer = labels[..., number]
        row, column = np.unravel_index(layer.argmax(), layer.shape)
        peaks[number] = layer[row, column]
        rows, columns = np.arange(max(0, row - 1), min(h, row + 2)), np.arange(max(0, column - 1), min(w, column + 2))
        near = layer[np.ix_(rows, columns)]
        if near.sum() > 0:
            spots[number] = (near.sum(0) @ columns, near.sum(1) @ rows) / near.sum()
    return spots, peaks
