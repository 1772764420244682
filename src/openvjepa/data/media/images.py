"""Read a picture file as upright RGB, as Pillow decodes it: the decoder that published image figures were measured with."""

from __future__ import annotations

import contextlib
import struct
import warnings
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from openvjepa.data.media.files import why_not_readable
from openvjepa.errors import VideoError

IMAGE_EXTENSIONS = frozenset([".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"])
_FIT_ABOVE = 400  # px; pictures with a longer short side are worth shrinking

_ORIENTATION = 0x0112  # EXIF tag: what has to be done to see the picture upright
_TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow raises on damaged files, besides OSError.
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
)


def is_image_name(path: str | Path) -> bool:
    """Whether a file's name says that it holds a picture."""
    return Path(path).suffix.lower() in IMAGE_EXTENSIONS


def is_image(path: str | Path) -> bool:
    """Whether a path is that of a picture, by its name; a folder of frames is none."""
    return is_image_name(path) and not Path(path).is_dir()


def read_images(
    files: Sequence[tuple[int, Path]], *, short_side: int | None = None
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(number, pixels) of those of the numbered files that can be decoded, in their order.

    Raises:
        VideoError: none can; says why the last one cannot.
    """
    found = False
    for number, path in files:
        try:
            pixels = read_image(path, short_side=short_side)
        except VideoError:
            if not found and path == files[-1][1]:
                raise
            continue
        found = True
        yield number, pixels


def image_codec(path: str | Path) -> str:
    """Format of a picture by its first bytes, such as "jpeg".

    Raises:
        VideoError: missing, empty or not a picture.
    """
    with _opened(path) as image:
        return (image.format or "image").lower()


def read_image(path: str | Path, *, short_side: int | None = None) -> NDArray[np.uint8]:
    """Pixels of a picture; the first one of a file that holds several (animations, pages).

    Turned upright as its EXIF data say. Grey, palette and CMYK become RGB; an alpha channel is dropped; 16 bits per channel
    keep their upper 8.

    Args:
        path: the file.
        short_side: shrink large pictures (short side above 400 px) to this short side, px, as `Video.frames` does.

    Returns:
        [H, W, 3], RGB.

    Raises:
        VideoError: missing, empty, damaged, cut short, not a picture, or one without a known range of values.
    """
    with _opened(path) as image:
        image.load()
        picture = _rgb(_upright(image), image.format)
        short = min(picture.size)
        if short_side and short > max(short_side, _FIT_ABOVE):
            width, height = (round(side * short_side / short) for side in picture.size)
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        return np.array(picture, np.uint8)


def _upright(image: Image.Image) -> Image.Image:
    """The same picture as its EXIF data say that it is to be seen; other damaged entries of these do not matter."""
    with contextlib.suppress(*_DAMAGE):
        turn = _TURNS.get(image.getexif().get(_ORIENTATION))
        return image if turn is None else image.transpose(turn)
    return image


def _rgb(image: Image.Image, codec: str | None) -> Image.Image:
    """The same picture in RGB."""
    # Older versions of Pillow widen 16 bits of a PNG to 32.
    if image.mode.startswith("I;16") or (image.mode == "I" and codec == "PNG"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("32 bits per pixel have no known range: convert it to 8 bits")
    return image.convert("RGB")


@contextlib.contextmanager
def _opened(path: str | Path) -> Generator[Image.Image]:
    """Context of a file's header; Pillow's errors become VideoError, its warnings (odd EXIF data, large pictures) nothing."""
    if reason := why_not_readable(path):
        raise VideoError(path, reason)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                yield image
    except _DAMAGE as error:
        raise VideoError(path, _reason(error, Path(path))) from None


def _reason(error: Exception, path: Path) -> str:
    if isinstance(error, UnidentifiedImageError):
        empty = path.is_file() and path.stat().st_size == 0
        return "the file is empty" if empty else "not a picture that can be read, or damaged"
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or "damaged"
