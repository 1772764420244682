"""Cells of CSV files that are safe to open in a spreadsheet, and the same cells read back as they were."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence

_FORMULA = re.compile("'*[=+\\-@\t\r]")  # a spreadsheet computes what begins so
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def safe_cell(value: object) -> object:
    """A cell that no spreadsheet takes for a formula: text that begins with = + - @ gets an apostrophe in front.

    Numbers stay as they are. `plain_cell` takes the apostrophe away again.
    """
    if not isinstance(value, str) or not _FORMULA.match(value) or _NUMBER.fullmatch(value):
        return value
    return f"'{value}"


def plain_cell(text: str) -> str:
    """What `safe_cell` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def csv_text(header: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """A CSV file with safe cells; columns that a row lacks are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([safe_cell(name) for name in header])
    writer.writerows([safe_cell(row.get(name, "")) for name in header] for row in rows)
    return text.getvalue()
