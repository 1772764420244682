"""The rules of CONTRIBUTING.md that no linter knows."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "openvjepa"
FILES = sorted(SOURCE.rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MOST_LINES, MOST_FUNCTION_LINES, MOST_MODULES, MOST_COMMAND_LINES = 400, 60, 9, 250
ONE_FILE_PER_VERB = ("commands", "cli/render")
# Home-made words, and the field's in their place.
WORDS = {
    r"made anew": "new",
    r"begun anew|start anew|starts anew": "restarts",
    r"to be had": "available",
    r"there and back": "",
    r"tells? all about|all there is to know|tells more": "details",
    r"handed over|hand a model over|before it is yours": "export, verify",
    r"has not ended|an ended run": "is not finished, an interrupted run",
    r"what (?:has )?arrived": "the downloaded file, a partial download",
    r"goes? on where|go on with": "resume, continue",
    r"expects nothing|expected something else": "has no predictor, prediction error",
    r"can be told|everything `vjepa": "Settings of",
    r"follows? from it\b": "Random seed of",
    r"where the hardware has it": "if the hardware supports it",
    r"torch's choice": "PyTorch's default",
    r"least and most": "Range of",
    r"what is there and|(?:is|are) looked at": "",
    r"named? rightly|stands? apart": "correctly classified",
    r"what there is": "",
    r"recognised": "correctly classified, or recall",
    r"named rightly": "correctly classified",
    r"guessing": "chance level",
    r"neighbours?\b": "neighbor",
    r"normalis": "normaliz",
    r"optimis": "optimiz",
    r"colour": "color",
    r"centre\b": "center",
    r"labelled": "labeled",
}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def test_files_are_short() -> None:
    long = {str(f.relative_to(SOURCE)): n for f in FILES if (n := f.read_text("utf-8").count("\n")) > MOST_LINES}
    assert not long


def test_functions_are_short() -> None:
    long = [
        f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}"
        for path in FILES
        for node in functions(path)
        if (node.end_lineno or 0) - node.lineno + 1 > MOST_FUNCTION_LINES
    ]
    assert not long


def test_folders_are_small() -> None:
    folders = {f.parent for f in FILES} - {SOURCE, *(SOURCE / name for name in ONE_FILE_PER_VERB)}
    counts = {folder: len([f for f in folder.glob("*.py") if f.name != "__init__.py"]) for folder in folders}
    assert not {str(folder.relative_to(SOURCE)): n for folder, n in counts.items() if n > MOST_MODULES}


def test_commands_are_thin() -> None:
    lines = {f.name: f.read_text("utf-8").count("\n") for f in (SOURCE / "commands").glob("*.py")}
    assert not {name: n for name, n in lines.items() if n > MOST_COMMAND_LINES}


def test_only_the_command_line_prints() -> None:
    printing = [
        str(path.relative_to(SOURCE))
        for path in FILES
        if path.relative_to(SOURCE).parts[0] != "cli"
        and re.search(r"^\s*(?:\w+\s*=\s*)?(?:print|\w*[cC]onsole\.print)\(", path.read_text("utf-8"), re.MULTILINE)
    ]
    assert not printing


def test_no_module_imports_itself_over_others() -> None:
    graph = grimp.build_graph("openvjepa", exclude_type_checking_imports=False, cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which names the modules


def test_configurations_and_command_line_import_no_torch_themselves() -> None:
    importing = [
        str(path.relative_to(SOURCE))
        for path in FILES
        if path.relative_to(SOURCE).parts[0] in ("config", "cli")
        and re.search(r"^\s*(?:import|from) torch\b", path.read_text("utf-8"), re.MULTILINE)
    ]
    assert not importing


@pytest.mark.parametrize("package", ["config", "cli"])
def test_settings_and_command_line_need_no_heavy_library(package: str) -> None:
    modules = [
        ".".join(("openvjepa", *path.relative_to(SOURCE).with_suffix("").parts))
        for path in FILES
        if path.relative_to(SOURCE).parts[0] == package and "render" not in path.parts and path.name != "__init__.py"
    ]
    code = f"import sys\nimport {', '.join(modules)}\nprint([m for m in ('torch', 'numpy', 'av', 'sklearn') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("pattern", WORDS)
def test_words_are_those_of_the_field(pattern: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*FILES, *PAGES]
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if re.search(rf"\b(?:{pattern})", line, re.IGNORECASE)
    ]
    assert not found, f"write {WORDS[pattern]!r}"
