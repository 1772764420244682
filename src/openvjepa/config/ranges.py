"""Ranges of numbers in configurations, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping

from openvjepa.errors import ConfigError

Range = tuple[float, float]
"""Least and most, both allowed. Two whole numbers: only whole numbers lie in between."""


def check_ranges(config: object, ranges: Mapping[str, Range]) -> None:
    """Check that fields of a configuration lie in their ranges; every number of a tuple does, and None is not checked.

    Args:
        config: a dataclass.
        ranges: field -> range.

    Raises:
        ConfigError: names the field, its value and its range.
    """
    for name, (least, most) in ranges.items():
        value = getattr(config, name)
        whole = isinstance(least, int) and isinstance(most, int)
        for number in value if isinstance(value, tuple) else (value,):
            if number is None:
                continue
            if not least <= number <= most or (whole and number != int(number)):  # "not ... <=" catches nan, too
                kind = "a whole number" if whole else "a number"
                shown = f"{number:g}" if isinstance(number, float) else str(number)[:20]
                raise ConfigError(f"{name} {shown}: give {kind} from {least:g} to {most:g}")
