"""The public names: complete, documented, and imported only when used."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import openvjepa


@pytest.mark.parametrize("name", openvjepa.__all__)
def test_every_public_name_exists(name: str) -> None:
    value = getattr(openvjepa, name)
    assert name == "__version__" or value.__doc__


def test_names_are_in_order() -> None:
    names = list(openvjepa.__all__)
    assert len(set(names)) == len(names) > 30
    assert dir(openvjepa) == sorted(names)


def test_version_is_the_installed_one() -> None:
    assert openvjepa.__version__ == version("openvjepa")


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="pretrian"):
        _ = openvjepa.pretrian  # type: ignore[attr-defined]


def test_import_is_free() -> None:
    code = "import sys, openvjepa; print([m for m in ('torch', 'numpy', 'av', 'pydantic') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
