"""Pictures of maps over frames: strips as PNG and copies of videos as MP4, each with what it shows written on it.

A map has one value or color for each token; it is enlarged by repeating it, never by blending neighbors, unless that is
asked for, and then the caption says so. Shapes: a row is T pictures [T, H, W, 3].
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from openvjepa.reports.seeing.page import lookup_table
from openvjepa.reports.video import write_video
from openvjepa.weights.files import whole_file

Pictures = NDArray[np.uint8]
Enlarge = Literal["nearest", "bilinear"]

CAPTION_PX = 15  # height of its letters
PER_ROW = 16  # most frames side by side
WIDEST = 1600  # px of a row, unless a single frame is wider
MOST_CLIPS = 24  # in one strip
_GAP = 2  # px between frames
_INK, _SOFT, _PAPER = (27, 31, 36), (91, 100, 112), (255, 255, 255)


@dataclass(frozen=True, eq=False)
class Row:
    """A line of pictures, and what they are."""

    name: str
    pictures: Pictures
    """[T, H, W, 3]"""


@dataclass(frozen=True, eq=False)
class Panel:
    """A clip and the maps that belong to it: rows of equally many pictures of one size."""

    title: str
    rows: tuple[Row, ...]


def fit_to(maps: ArrayLike, size: tuple[int, int], how: Enlarge = "nearest") -> Pictures:
    """Colors of tokens uint8 [T, h, w, 3] over frames of (height, width).

    Args:
        maps: one color for each token.
        size: of the frames, px.
        how: "nearest" repeats a color over its patch; "bilinear" blends neighbors.
    """
    colors = np.asarray(maps, np.uint8)
    if how == "nearest":
        rows, columns = ((np.arange(side) * cells) // side for side, cells in zip(size, colors.shape[1:3], strict=True))
        return colors[:, rows][:, :, columns]
    channels = torch.from_numpy(colors).permute(0, 3, 1, 2).float()
    smooth = F.interpolate(channels, size=size, mode="bilinear", align_corners=False)
    return smooth.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def enlarged(frames: Pictures, least: int) -> Pictures:
    """Frames with every pixel repeated until the shorter side has at least `least` px."""
    times = max(1, -(-least // min(frames.shape[1:3])))
    return frames.repeat(times, axis=1).repeat(times, axis=2)


def heat(values: ArrayLike, low: float, high: float) -> Pictures:
    """Values [...] between low and high as colors [..., 3] of the map "inferno"; values beyond are clipped."""
    x = np.asarray(values, np.float64)
    span = high - low
    level = np.clip((x - low) / span, 0, 1) if span > 0 else np.zeros_like(x)
    return lookup_table()[np.rint(255 * level).astype(np.intp)]


def overlay(frames: Pictures, colors: Pictures, opacity: float = 0.6) -> Pictures:
    """Colors laid over the gray frames; both [T, H, W, 3]."""
    gray = (frames @ np.array([0.299, 0.587, 0.114]))[..., None]
    return np.rint((1 - opacity) * gray + opacity * colors).astype(np.uint8)


def text_bar(width: int, lines: Sequence[str], *, color: tuple[int, int, int] = _INK) -> Pictures:
    """Lines of text, wrapped to `width` px, as a picture [H, width, 3]."""
    font = ImageFont.load_default(CAPTION_PX)
    letters = max(8, int((width - 12) / font.getlength("n")))
    wrapped = [part for line in lines for part in textwrap.wrap(line, letters, break_on_hyphens=False) or [""]]
    step = round(1.35 * CAPTION_PX)
    image = Image.new("RGB", (width, step * len(wrapped) + 6), _PAPER)
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(wrapped):
        draw.text((6, 3 + number * step), line, font=font, fill=color)
    return np.asarray(image)


def strip(panels: Sequence[Panel], caption: Sequence[str], *, frame_px: int = 96) -> Pictures:
    """All panels one below the other, with the caption under them, as one picture [H, W, 3].

    Rows of more than 16 pictures, or wider than 1600 px, are broken; of more than 24 panels the first are drawn, and the caption
    says so.

    Args:
        panels: clips with their maps.
        caption: what every picture must carry: model, layer, set of the fit.
        frame_px: least height and width of a picture.
    """
    drawn = panels[:MOST_CLIPS]
    if len(drawn) < len(panels):
        caption = [*caption, f"The first {len(drawn)} of {len(panels)} clips."]
    blocks = [_panel(panel, frame_px) for panel in drawn]
    width = max(640, max(block.shape[1] for piece in blocks for block in piece))
    bars = [[text_bar(width, [panel.title]), *piece] for panel, piece in zip(drawn, blocks, strict=True)]
    pieces = [piece for bar in bars for piece in bar] + [text_bar(width, caption, color=_SOFT)]
    return np.concatenate([_padded(piece, width) for piece in pieces])


def _panel(panel: Panel, frame_px: int) -> list[Pictures]:
    """Pieces of a panel, [H, W, 3] each: pictures, with their names between them."""
    rows = [Row(row.name, enlarged(row.pictures, frame_px)) for row in panel.rows]
    (count, _, width, _), pieces = rows[0].pictures.shape, []
    together = max(1, min(PER_ROW, WIDEST // (width + _GAP)))
    for first in range(0, count, together):
        for row in rows:
            line = _side_by_side(row.pictures[first : first + together])
            if first == 0:
                pieces.append(text_bar(max(line.shape[1], 320), [row.name], color=_SOFT))
            pieces.append(line)
    return pieces


def _side_by_side(pictures: Pictures) -> Pictures:
    count, height, width, _ = pictures.shape
    line = np.full((height + _GAP, count * (width + _GAP), 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        line[:height, number * (width + _GAP) : number * (width + _GAP) + width] = picture
    return line


def _padded(picture: Pictures, width: int) -> Pictures:
    return np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=255)


def write_png(path: Path, pixels: Pictures, facts: Mapping[str, str]) -> Path:
    """Write a PNG, atomically; the facts are also its text fields.

    Raises:
        CheckpointError: it cannot be written.
    """
    info = PngImagePlugin.PngInfo()
    for name, value in facts.items():
        info.add_itxt(name, value)
    with whole_file(path) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG", pnginfo=info)
    return path


def write_side_by_side(
    path: Path,
    panels: Sequence[Panel],
    times: Sequence[NDArray[np.float64]],
    caption: Sequence[str],
    *,
    least: int = 256,
) -> Path:
    """Write an MP4 of the clips of one video, one after the other: the frames, beside them each map, below them the caption.

    Args:
        path: the file.
        panels: the clips; all with the same rows.
        times: of the frames of each clip, s.
        caption: as for `strip`.
        least: shorter side of a picture, px.

    Raises:
        VideoError: it cannot be encoded.
        CheckpointError: it cannot be written.
    """
    steps = np.concatenate([np.diff(part) for part in times])
    steps = steps[steps > 0]
    step = float(np.median(steps)) if len(steps) else 1.0
    count = sum(len(panel.rows[0].pictures) for panel in panels)
    return write_video(
        path, _movie(panels, times, caption, least), (np.arange(count) * step).tolist(), comment=" ".join(caption)
    )


def _movie(
    panels: Sequence[Panel], times: Sequence[NDArray[np.float64]], caption: Sequence[str], least: int
) -> Iterator[Pictures]:
    rows = [[enlarged(row.pictures, least) for row in panel.rows] for panel in panels]
    width = sum(row.shape[2] for row in rows[0])

    def foot(panel: Panel, time: float) -> Pictures:
        return text_bar(width, [f"{panel.title}; now {time:.2f} s", *caption])

    room = max(len(foot(panel, 9999.99)) for panel in panels)
    for panel, pictures, seconds in zip(panels, rows, times, strict=True):
        names = [
            text_bar(row.shape[2], [name.name], color=_SOFT) for name, row in zip(panel.rows, pictures, strict=True)
        ]
        top = max(len(name) for name in names)
        head = np.concatenate([_as_high(name, top) for name in names], 1)
        for number, time in enumerate(seconds):
            picture = np.concatenate([row[number] for row in pictures], 1)
            frame = np.concatenate([head, picture, _as_high(foot(panel, float(time))[:room], room)])
            yield np.pad(frame, ((0, len(frame) % 2), (0, width % 2), (0, 0)), constant_values=255)


def _as_high(picture: Pictures, height: int) -> Pictures:
    return np.pad(picture, ((0, height - len(picture)), (0, 0), (0, 0)), constant_values=255)
