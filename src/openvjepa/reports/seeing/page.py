"""Pages of `vjepa show`: one file each, without any outside address, under a policy that allows nothing but what is inside.

A page is a Jinja2 template of `templates/show`, with the shared style sheet, one script, and its data as JSON.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from openvjepa.reports.templates import environment
from openvjepa.weights.files import write_file

_HERE = Path(__file__).parents[1]
_TEMPLATES = _HERE / "templates" / "show"
_QUALITY = 85  # of JPEG


def write_page(
    path: Path,
    template: str,
    title: str,
    data: Mapping[str, Any],
    facts: Mapping[str, str],
    skipped: Mapping[str, str],
    values: Mapping[str, Any] | None = None,
) -> Path:
    """Fill a template of `templates/show` and write it, atomically.

    Args:
        path: the file.
        template: such as "similarity", for similarity.html and similarity.js.
        title: heading of the page.
        data: for the script, as JSON.
        facts: table at the end of the page: model, layer, clips, fit.
        skipped: files that could not be read: path -> reason.
        values: what else the template shows.

    Raises:
        CheckpointError: it cannot be written.
    """
    style = (_HERE / "report.css").read_text("utf-8") + (_TEMPLATES / "show.css").read_text("utf-8")
    script = (_TEMPLATES / f"{template}.js").read_text("utf-8")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {_source(script)}; base-uri 'none'; "
        "form-action 'none'"
    )
    page = environment("show").get_template(f"{template}.html")
    text = page.render(
        title=title,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        data=Markup(json.dumps(data, allow_nan=False).replace("<", "\\u003c")),
        facts=facts,
        skipped=skipped,
        **(values or {}),
    )
    return write_file(path, text.encode())


def _source(text: str) -> str:
    """How a content security policy names an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def data_bytes(array: NDArray[Any]) -> str:
    """Numbers of an array in base64, little-endian."""
    return base64.b64encode(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()).decode()


def data_image(pixels: NDArray[np.uint8], *, lossless: bool = False) -> str:
    """uint8 [H, W, 3] as a data URL: JPEG, or PNG where every pixel counts."""
    return _data_url(encode_image(pixels, lossless=lossless), lossless=lossless)


def _data_url(content: bytes, *, lossless: bool) -> str:
    return f"data:image/{'png' if lossless else 'jpeg'};base64,{base64.b64encode(content).decode()}"


def jpeg_url(content: bytes) -> str:
    """A JPEG file as a data URL."""
    return _data_url(content, lossless=False)


def encode_image(pixels: NDArray[np.uint8], *, lossless: bool = False) -> bytes:
    """uint8 [H, W, 3] as the bytes of a JPEG or PNG file."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    image.save(buffer, "PNG") if lossless else image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def lookup_table(name: str = "inferno") -> NDArray[np.uint8]:
    """256 colors of a color map, uint8 [256, 3]."""
    return np.rint(255 * mpl.colormaps[name](np.arange(256))[:, :3]).astype(np.uint8)
