"""The public names: complete, documented, and imported only when used."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import openvjepa
from openvjepa.cli.verbs import VERBS, Verb, find
from openvjepa.config import ShapesConfig


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


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.words)
def test_every_command_is_a_public_function(verb: Verb) -> None:
    function, config = find(verb.task), find(verb.config)
    assert getattr(openvjepa, function.__name__) is function
    assert getattr(openvjepa, config.__name__) is config
    result = get_type_hints(inspect.unwrap(function))["return"]
    for kind in (result, *get_args(result)):
        if getattr(kind, "__module__", "").startswith("openvjepa"):
            assert getattr(openvjepa, kind.__name__) is kind


def test_commands_are_called_with_settings_by_name(tmp_path: Path) -> None:
    with pytest.raises(openvjepa.ConfigError, match="ConvertConfig needs out, to"):
        openvjepa.convert("model.pt")
    with pytest.raises(openvjepa.ConfigError, match="did you mean 'label'"):
        openvjepa.check(tmp_path, lable="motion")
    index = openvjepa.make_shapes(ShapesConfig(str(tmp_path / "shapes"), train=2, val=1, test=1, size=32, frames=4))
    report = openvjepa.check(index.parent, label="motion", workers=1)
    assert (len(report.good), dict(report.bad)) == (4, {})
    assert len(openvjepa.models()) > 5
