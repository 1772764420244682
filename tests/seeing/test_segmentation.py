"""J and F against brute force; masks in files; the layout of DAVIS."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openvjepa.errors import DataError
from openvjepa.seeing.tracking.segmentation import (
    Agreement,
    boundary,
    boundary_accuracy,
    compare,
    davis_sequences,
    read_mask,
    region_similarity,
)


def blob(seed: int, shape: tuple[int, int] = (40, 56)) -> np.ndarray:
    """A random bool mask with smooth parts."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    mask = np.zeros(shape, bool)
    for _ in range(3):
        cy, cx, r = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(3, 12)
        mask |= (y - cy) ** 2 + (x - cx) ** 2 < r**2
    return mask


def boundary_by_loops(mask: np.ndarray) -> list[tuple[int, int]]:
    h, w = mask.shape
    points = []
    for y in range(h):
        for x in range(w):
            others = [mask[min(y + dy, h - 1), min(x + dx, w - 1)] for dy, dx in ((0, 1), (1, 0), (1, 1))]
            if any(other != mask[y, x] for other in others):
                points.append((y, x))
    return points


def f_by_loops(mask: np.ndarray, truth: np.ndarray, tolerance: float) -> float:
    ours, theirs = boundary_by_loops(mask), boundary_by_loops(truth)
    radius = math.ceil(tolerance * math.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2))

    def share(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> float:
        if not a:
            return 1.0
        return sum(any((p - r) ** 2 + (q - s) ** 2 <= radius**2 for r, s in b) for p, q in a) / len(a)

    precision, recall = share(ours, theirs), share(theirs, ours)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tolerance", [0.008, 0.04])
def test_f_equals_brute_force(seed: int, tolerance: float) -> None:
    mask, truth = blob(seed), blob(seed + 100)
    moved = np.roll(mask, 2, 1)
    assert sorted(map(tuple, np.argwhere(boundary(mask)))) == sorted(boundary_by_loops(mask))
    for ours, theirs in ((mask, truth), (mask, moved), (mask, mask)):
        assert boundary_accuracy(ours, theirs, tolerance) == pytest.approx(f_by_loops(ours, theirs, tolerance))


def test_empty_masks() -> None:
    full, empty = blob(1), np.zeros((40, 56), bool)
    assert region_similarity(empty, empty) == 1
    assert region_similarity(full, empty) == 0
    assert boundary_accuracy(empty, empty) == 1
    assert boundary_accuracy(full, empty) == 0
    assert boundary_accuracy(empty, full) == 0
    assert f_by_loops(empty, full, 0.008) == 0


def test_j_is_intersection_over_union() -> None:
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    a[:2], b[1:3] = True, True
    assert region_similarity(a, b) == pytest.approx(4 / 12)


def test_compare_skips_the_ends_and_void() -> None:
    truth = np.zeros((5, 20, 20), np.uint8)
    truth[:, 5:10, 5:10], truth[:, 12:16, 12:16] = 1, 2
    truth[2, :, 18:] = 255
    masks = truth.copy()
    masks[2, 0:2, 18:] = 1  # in the void
    masks[0], masks[4] = 0, 0  # not scored
    masks[3, 5:10, 5:10] = 0
    one, two = compare(masks, truth, sequence="s")
    assert (one.object, two.object) == (1, 2)
    assert one.j == (1, 1, 0)
    assert two.j == (1, 1, 1)
    assert one.f == (1, 1, 0)
    assert one.j_mean == pytest.approx(2 / 3)
    assert one.j_recall == pytest.approx(2 / 3)
    everything = compare(masks, truth, skip_ends=False)
    assert everything[0].j == (0, 1, 1, 0, 0)
    decay = Agreement("s", 1, (1, 1, 0.5, 0.5, 0.2, 0.2, 0, 0), (1,) * 8)
    assert decay.j_decay == 1
    with pytest.raises(DataError, match="different sizes"):
        compare(masks[:4], truth)
    with pytest.raises(DataError, match="too few to score"):
        compare(masks[:2], truth[:2])
    with pytest.raises(DataError, match="no object"):
        compare(masks, truth * 0)


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    image = Image.frombytes("P", pixels.shape[::-1], pixels.tobytes()) if mode == "P" else Image.fromarray(pixels)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    image.save(path)
    return path


def test_masks_in_files(tmp_path: Path) -> None:
    numbers = np.zeros((6, 8), np.uint8)
    numbers[1:3, 1:3], numbers[4, 4:6], numbers[5] = 1, 4, 255
    np.testing.assert_array_equal(read_mask(save(tmp_path / "p.png", numbers, "P")), numbers)  # 255: void
    binary = np.where(numbers == 1, 255, 0).astype(np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "b.png", binary)), numbers == 1)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "bool.png", binary > 0)), numbers == 1)
    several = np.where(numbers == 4, 2, numbers == 1).astype(np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "l.png", several)), several)
    colors = np.zeros((6, 8, 3), np.uint8)
    colors[numbers == 1], colors[numbers == 4] = (255, 0, 0), (0, 0, 9)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "c.png", colors)), np.where(numbers == 1, 2, numbers == 4))
    opaque = np.dstack([colors, np.full((6, 8), 255, np.uint8)])
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", opaque)), np.where(numbers == 1, 2, numbers == 4))


def test_masks_of_another_size(tmp_path: Path) -> None:
    mask = np.zeros((6, 8), np.uint8)
    mask[2:4, 2:5] = 1
    path = save(tmp_path / "m.png", mask, "P")
    np.testing.assert_array_equal(read_mask(path, (12, 16)), mask.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(read_mask(path, (3, 4)), mask[::2, ::2])
    with pytest.raises(DataError, match="8 x 6 px for a video of 16 x 16 px"):
        read_mask(path, (16, 16))


def test_what_is_no_mask(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no")
    with pytest.raises(DataError, match="not a picture"):
        read_mask(tmp_path / "x.png")
    with pytest.raises(DataError, match="no such file"):
        read_mask(tmp_path / "y.png")
    photo = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    with pytest.raises(DataError, match="more than 254 objects"):
        read_mask(save(tmp_path / "photo.png", photo))
    gradient = np.arange(256, dtype=np.uint8).reshape(16, 16)
    with pytest.raises(DataError, match="more than 254 objects"):
        read_mask(save(tmp_path / "gray.png", gradient))


def test_layout_of_davis(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not in the DAVIS layout"):
        list(davis_sequences(tmp_path))
    for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
        for name in ("bear", "cow"):
            folder = tmp_path / kind / "480p" / name
            folder.mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (8, 8)).save(folder / f"{number:05d}.{suffix}")
    assert [sequence.name for sequence in davis_sequences(tmp_path)] == ["bear", "cow"]
    for year, text in (("2016", "bear\n"), ("2017", "cow\n\n")):
        (tmp_path / "ImageSets" / year).mkdir(parents=True)
        (tmp_path / "ImageSets" / year / "val.txt").write_text(text)
    (sequence,) = davis_sequences(tmp_path)
    assert sequence.name == "cow"
    assert [path.name for path in sequence.masks] == ["00000.png", "00001.png", "00002.png"]
    with pytest.raises(DataError, match=r"train\.txt"):
        list(davis_sequences(tmp_path, "train"))
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("cow\ndog\n")
    with pytest.raises(DataError, match="dog has no frames"):
        list(davis_sequences(tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_mask_that_never_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path / "none.png"):
        with pytest.raises(DataError, match=r"cannot be read as a mask \((not a regular file|no such file)"):
            read_mask(path)
