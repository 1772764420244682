"""Masks in files, and how well they agree: region similarity J and boundary accuracy F, as for DAVIS.

From the descriptions in Perazzi et al. 2016 (section 4) and Pont-Tuset et al. 2017. Masks are [H, W]; 0 is the background.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, UnidentifiedImageError
from scipy.ndimage import distance_transform_edt

from openvjepa.data.media.files import why_not_readable
from openvjepa.errors import DataError

Mask = NDArray[np.uint8]

TOLERANCE = 0.008
"""Distance at which boundaries still agree, as a share of the diagonal of the frame."""
VOID = 255
"""Pixels of DAVIS annotations that belong to nothing and are not scored."""
_RESHAPED = 0.02  # relative difference of aspect ratios at which a mask belongs to another picture


def region_similarity(mask: ArrayLike, truth: ArrayLike) -> float:
    """J: intersection over union of two boolean masks; 1 if both are empty."""
    ours, theirs = np.asarray(mask, bool), np.asarray(truth, bool)
    union = np.count_nonzero(ours | theirs)
    return np.count_nonzero(ours & theirs) / union if union else 1.0


def boundary(mask: ArrayLike) -> NDArray[np.bool_]:
    """Boundary pixels of a bool mask: those that differ from their neighbor to the right, below, or both."""
    m = np.asarray(mask, bool)
    padded = np.pad(m, ((0, 1), (0, 1)), mode="edge")
    return (m != padded[:-1, 1:]) | (m != padded[1:, :-1]) | (m != padded[1:, 1:])


def boundary_accuracy(mask: ArrayLike, truth: ArrayLike, tolerance: float = TOLERANCE) -> float:
    """F: harmonic mean of precision and recall of the boundary pixels, within a distance.

    Precision is the share of the mask's boundary pixels that have one of the truth within the distance, recall the share of
    the truth's that have one of the mask. A mask without boundary has precision 1, a truth without one recall 1.

    Args:
        mask: bool [H, W].
        truth: bool [H, W].
        tolerance: the distance as a share of the diagonal, rounded up to whole pixels.
    """
    ours, theirs = boundary(mask), boundary(truth)
    radius = math.ceil(tolerance * math.hypot(*ours.shape))
    precision, recall = _matched(ours, theirs, radius), _matched(theirs, ours, radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _matched(points: NDArray[np.bool_], others: NDArray[np.bool_], radius: int) -> float:
    """Share of the points that have another within the radius; 1 where there are no points, 0 where there are no others."""
    if not points.any():
        return 1.0
    if not others.any():
        return 0.0
    return float((distance_transform_edt(~others)[points] <= radius).mean())  # pyright: ignore


@dataclass(frozen=True)
class Agreement:
    """J and F of one object over the frames of a video."""

    sequence: str
    object: int
    j: tuple[float, ...]
    """Of each scored frame."""
    f: tuple[float, ...]

    @property
    def j_mean(self) -> float:
        """Mean of J over the frames."""
        return float(np.mean(self.j))

    @property
    def f_mean(self) -> float:
        """Mean of F over the frames."""
        return float(np.mean(self.f))

    @property
    def j_recall(self) -> float:
        """Share of the frames with J above 0.5."""
        return float(np.mean(np.array(self.j) > 0.5))

    @property
    def f_recall(self) -> float:
        """Share of the frames with F above 0.5."""
        return float(np.mean(np.array(self.f) > 0.5))

    @property
    def j_decay(self) -> float:
        """J in the first quarter of the frames minus J in the last one; 0 for fewer than four frames."""
        quarters = np.array_split(np.array(self.j), 4)
        return float(quarters[0].mean() - quarters[-1].mean()) if len(self.j) >= 4 else 0.0


def compare(
    masks: Iterable[Mask], truths: Iterable[Mask], *, sequence: str = "", skip_ends: bool = True
) -> list[Agreement]:
    """J and F of every object of the first true mask.

    Args:
        masks: of all frames.
        truths: of all frames; pixels of `VOID` are not scored.
        sequence: name of the video.
        skip_ends: leave out the first frame, which was given, and the last, as DAVIS does.

    Raises:
        DataError: different numbers of frames, different sizes, no object, or no frame that is left.
    """
    ours, theirs = list(masks), list(truths)
    if len(ours) != len(theirs) or any(a.shape != b.shape for a, b in zip(ours, theirs, strict=False)):
        raise DataError(f"{sequence}: {len(ours)} masks and {len(theirs)} true ones, or of different sizes")
    scored = range(1, len(ours) - 1) if skip_ends else range(len(ours))
    if not scored:
        raise DataError(f"{sequence}: {len(ours)} frames are too few to score")
    objects = [int(number) for number in np.unique(theirs[0]) if number not in (0, VOID)]
    if not objects:
        raise DataError(f"{sequence}: the first ground-truth mask has no objects")
    results = []
    for number in objects:
        pairs = [_pair(ours[i], theirs[i], number) for i in scored]
        j = tuple(region_similarity(a, b) for a, b in pairs)
        f = tuple(boundary_accuracy(a, b) for a, b in pairs)
        results.append(Agreement(sequence, number, j, f))
    return results


def _pair(mask: Mask, truth: Mask, number: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    known = truth != VOID
    return (mask == number) & known, truth == number


def read_mask(path: str | Path, size: tuple[int, int] | None = None) -> Mask:
    """Objects of a picture, uint8 [H, W], numbered from 1; 0 is the background.

    A picture with a palette, as DAVIS has, or in gray holds the numbers themselves; gray with just one value beside 0 holds
    one object. In a colored picture every color is an object, in the order of the colors, and black is the background.

    Args:
        path: the picture.
        size: (height, width) that is wanted: a mask of another size but the same shape is enlarged or shrunk (nearest).

    Raises:
        DataError: it cannot be read, or has another shape, or more than 254 objects.
    """
    if why := why_not_readable(path):
        raise DataError(f"{path}: cannot be read as a mask ({why})")
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image if image.mode in ("P", "L") else image.convert(_plain_mode(image.mode)))
            palette = image.mode == "P"
    except (OSError, UnidentifiedImageError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a picture"
        raise DataError(f"{path}: cannot be read as a mask ({reason})") from None
    if pixels.ndim == 3:
        codes = pixels.astype(np.int64) @ (1 << 16, 1 << 8, 1)
        colors = np.unique(codes)
        mask = np.searchsorted(colors[colors > 0], codes, side="right") if len(colors) < 256 else None
    else:
        values = np.unique(pixels[pixels > 0])
        mask = (pixels > 0).astype(np.int64) if len(values) == 1 and not palette else pixels
    if mask is None or (mask.max(initial=0) >= VOID and not palette):
        raise DataError(
            f"{path}: more than 254 objects: give a mask with one color for each object, without smooth edges"
        )
    return _sized(mask.astype(np.uint8), size, path)


def _plain_mode(mode: str) -> str:
    return "L" if mode in ("1", "LA", "I", "I;16", "F") else "RGB"


def _sized(mask: Mask, size: tuple[int, int] | None, path: str | Path) -> Mask:
    if size is None or mask.shape == size:
        return mask
    (height, width), (wanted_h, wanted_w) = mask.shape, size
    if abs(height * wanted_w / (width * wanted_h) - 1) > _RESHAPED:
        raise DataError(
            f"{path}: a mask of {width} x {height} px for a video of {wanted_w} x {wanted_h} px: give one of its first frame"
        )
    rows, columns = np.arange(wanted_h) * height // wanted_h, np.arange(wanted_w) * width // wanted_w
    return mask[rows][:, columns]


@dataclass(frozen=True)
class Sequence:
    """A video of the DAVIS layout."""

    name: str
    frames: Path
    """Folder of pictures."""
    masks: tuple[Path, ...]
    """Of all its frames, or of the first alone."""


def davis_sequences(root: str | Path, split: str = "val", resolution: str = "480p") -> Iterator[Sequence]:
    """Videos of the DAVIS layout: JPEGImages, Annotations and ImageSets/YEAR/SPLIT.txt below the root.

    Args:
        root: the folder that holds them.
        split: name of the list; 2017 is preferred to 2016. Without any list all annotated videos are taken.
        resolution: folder below JPEGImages and Annotations.

    Raises:
        DataError: the layout is another one, or a listed video is missing.
    """
    folder = Path(root)
    images, annotations = folder / "JPEGImages" / resolution, folder / "Annotations" / resolution
    if not images.is_dir() or not annotations.is_dir():
        raise DataError(
            f"{root}: not in the DAVIS layout: expected JPEGImages/{resolution} and Annotations/{resolution}"
        )
    lists = sorted((folder / "ImageSets").glob(f"*/{split}.txt"), reverse=True)
    if lists:
        names = [line.strip() for line in lists[0].read_text(encoding="utf-8").splitlines() if line.strip()]
    elif (folder / "ImageSets").is_dir():
        raise DataError(f"{root}: no list ImageSets/*/{split}.txt: choose another split")
    else:
        names = sorted(path.name for path in annotations.iterdir() if path.is_dir())
    for name in names:
        masks = tuple(sorted((annotations / name).glob("*.png")))
        if not masks or not (images / name).is_dir():
            raise DataError(f"{root}: the video {name} has no frames or no annotations")
        yield Sequence(name, images / name, masks)
