"""Commands and code in the README and the manual are right: they parse, they run in the printed order, links lead somewhere."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import openvjepa
from openvjepa.cli.flags import flags_of
from openvjepa.cli.main import main
from openvjepa.cli.parsing import parse
from openvjepa.cli.verbs import VERBS, find
from openvjepa.config import ShapesConfig
from openvjepa.config.call import override
from openvjepa.data.rendered.dataset import write_video
from openvjepa.data.rendered.synthetic import make_shapes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What a first reader does, in this order, in one folder.
WALK = ("README", "docs/data", "docs/classifiers", "docs/pretraining", "docs/finetuning", "docs/surprise", "docs/decode",
        "docs/show", "docs/checkpoints")  # fmt: skip
# Published files, data sets and packages that tests must do without, and runs that a plain machine cannot hold.
ELSEWHERE = re.compile(
    r"vjepa2|facebook/|vitl\.pt|DAVIS|sign_digits|runs/digits|--to onnx|--tune lora|person|--resume"
    r"|predict 0|predict - |://|--follow|groceries|fine coarse|surprise 0|surprise - |--stream"
)
# Fewer steps than printed; nothing else is changed.
SHORTER = {
    "decode": "--steps 3 --samples 2",
    "pretrain": "--steps 2 --batch-size 4 --monitor-every 0 --workers 0",
    "train": "--minutes 1 --kinds linear --workers 0",
    "probe": "--epochs 1 --no-baselines --workers 0",
    "finetune": "--epochs 1 --workers 0",
    "data make-shapes": "--train 8 --val 8 --test 8 --size 32 --frames 8",
    "data make-physics": "--train 2 --val 1 --test 2 --size 32",
    "data check": "--workers 1",
    "data prepare": "--workers 1",
    "evaluate": "--workers 0",
    "predict": "--workers 0",
    "embed": "--workers 0",
}
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


def write_videos(folder: Path) -> None:
    """The files that the pages name: labeled videos of two classes, single videos, a mask, a list."""
    rendered = make_shapes(ShapesConfig(out=str(folder / "rendered"), train=0, val=0, test=64, size=64, frames=24))
    files = sorted((rendered.parent / "videos").iterdir())
    for name, classes in (("videos", 16), ("test_videos", 6)):
        for label in ("waving", "walking"):
            (folder / name / label).mkdir(parents=True)
            for number in range(classes):
                files.pop().rename(folder / name / label / f"{name}{number}.mp4")
    (folder / "folder").mkdir()
    for name in ("new.mp4", "a.mp4", "b.mp4", "video.mp4", "folder/c.mp4"):
        files.pop().rename(folder / name)
    write_video(folder / "long.mp4", np.random.default_rng(0).integers(0, 255, (60, 48, 64, 3), dtype=np.uint8), fps=10)
    (folder / "segments.csv").write_text("path,start,end,label\nlong.mp4,0,3,waving\nlong.mp4,3,6,walking\n", "utf-8")
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[20:40, 20:40] = 1
    Image.fromarray(mask).save(folder / "first.png")
    rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted((folder / "videos").rglob("*.mp4"))]
    splits = ["train", "train", "val", "test"]
    lines = ["path,action,split", *(f"{row},{splits[i % 4]}" for i, row in enumerate(rows))]
    (folder / "list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_commands_run_in_the_order_of_the_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command that needs no network, with fewer steps: what one writes is what a later one reads."""
    monkeypatch.chdir(tmp_path)
    write_videos(tmp_path)
    ran = 0
    for page in WALK:
        for name, line in command_lines():
            words = shlex.split(line, comments=True)[1:]
            verb = next((v for v in VERBS if words[: len(v.words.split())] == v.words.split()), None)
            if (
                name != f"{page.split('/')[-1]}.md"
                or ELSEWHERE.search(" ".join(words))
                or verb is None
                or verb.words == "demo"
            ):
                continue
            words += SHORTER.get(verb.words, "").split()
            if any(
                flag.name == "overwrite" for flag in flags_of(find(verb.config))
            ):  # pages repeat commands of one another
                words.append("--overwrite")
            if "--points" in words:  # in the frame of the page's video
                words[words.index("--points") + 1 : words.index("--points") + 3] = ["20,20", "30,40"]
            status = main(words)
            assert status == 0, f"{page}: {line}: {capsys.readouterr().err[-500:]}"
            ran += 1
    assert ran > 30


def settings_of_calls() -> list[tuple[str, str, dict[str, Any]]]:
    """(page, command, settings by name) of every call of a command in a Python block."""
    verbs = {verb.task.rpartition(":")[2]: verb for verb in VERBS}
    found = []
    for page in PAGES:
        for block in blocks(page, "python"):
            for call in (node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)):
                name = ast.unparse(call.func).rpartition(".")[2]
                if name in verbs and call.keywords:
                    found.append((page.name, name, {k.arg or "": ast.literal_eval(k.value) for k in call.keywords}))
    return found


@pytest.mark.parametrize(("page", "name", "settings"), settings_of_calls())
def test_settings_by_name_exist(page: str, name: str, settings: dict[str, Any]) -> None:
    verb = next(verb for verb in VERBS if verb.task.endswith(f":{name}"))
    preset = settings.pop("preset", None)
    base = find(verb.presets or "")[preset]() if preset else find(verb.config)()
    changed = override(base, settings)
    assert type(changed) is find(verb.config), page


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As printed, but for fewer steps; the block of the published models needs a network and is left out."""
    monkeypatch.chdir(tmp_path)
    write_videos(tmp_path)
    openvjepa.pretrain("videos/", preset="nano-masked", out="runs/masked", steps=1, batch_size=2, workers=0)
    ran = 0
    for page in ("python", "show", "surprise"):
        names: dict[str, Any] = {"frames": np.zeros((16, 48, 64, 3), dtype=np.uint8)}
        for block in blocks(ROOT / "docs" / f"{page}.md", "python"):
            shorter = re.sub(r"steps=\d+", "steps=1", block).replace("batch_size=16", "batch_size=2")
            shorter = shorter.replace('out="runs/mine",\n    model', 'out="runs/config",\n    model')  # a second run
            exec(compile(shorter, f"{page}.md", "exec"), names)
            ran += 1
    assert ran == 7
    assert len(names["result"].videos) == 32


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
