"""The version of the installed package, and those of what it runs on."""

from __future__ import annotations

import platform
from importlib.metadata import version

__version__ = version("openvjepa")


def versions() -> dict[str, str]:
    """Versions of Python, openvjepa and the libraries that results depend on."""
    names = ("openvjepa", "torch", "numpy", "scikit-learn", "av")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
