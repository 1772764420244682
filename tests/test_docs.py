"""Commands and code in the README and the manual are right: they parse, names exist, links lead somewhere."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

import openvjepa
from openvjepa.cli.parsing import parse
from openvjepa.cli.verbs import VERBS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def command_lines() -> list[tuple[str, str]]:
    """(page, command line) of every `vjepa` line in a shell block."""
    found = []
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip().startswith("vjepa "):
                    found.append((page.name, line.strip()))
    return found


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_commands_are_understood(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    if words[:1] in (["--version"], ["--help"]) or "--help" in words:
        return
    verb = next((v for v in VERBS if words[: len(v.words.split())] == v.words.split()), None)
    assert verb is not None, f"{page}: no such command"
    request = parse(verb, words[len(verb.words.split()) :])
    assert not request.notes, f"{page}: an old form: {request.notes}"


def test_there_are_commands() -> None:
    assert len(command_lines()) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_uses_names_that_exist(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "openvjepa":
                for name in node.names:
                    assert hasattr(openvjepa, name.name)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "openvjepa":
                assert hasattr(openvjepa, node.attr)


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "docs").glob("*/*.md"))], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
