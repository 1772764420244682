"""The tiny run of tiny_run.py, as a module for tests and as a program to kill."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).with_name("tiny_run.py")


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """tiny_run.py, imported."""
    spec = importlib.util.spec_from_file_location("tiny_run", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_run"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_command() -> list[str]:
    """Command line that runs tiny_run.py."""
    return [sys.executable, str(SCRIPT)]


@pytest.fixture
def quiet_env() -> dict[str, str]:
    """Environment of a child process: one thread, no distributed run."""
    launched = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    kept = {key: value for key, value in os.environ.items() if key not in launched}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
