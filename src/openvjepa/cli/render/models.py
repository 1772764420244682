"""What `vjepa models`, `vjepa convert` and `vjepa export` show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from openvjepa.cli.console import say, say_json, show
from openvjepa.commands.models import ModelHere
from openvjepa.config import ConvertConfig, ExportConfig, ModelsConfig
from openvjepa.weights.registry import ModelInfo


def models(found: Sequence[ModelHere], config: ModelsConfig) -> None:
    """A table of all models, or the details of one; or JSON."""
    if config.json:
        facts = [model.to_dict() for model in found]
        say_json(facts if config.name is None else facts[0])
    elif config.name is None:
        free = found[0].free_gb
        show(_table(found))
        say("top-1: attentive probe on the frozen encoder, as published")
        say("memory: one clip in float32" + ("" if free is None else f"; !: more than the {free:.1f} GB free here"))
        say("details of a model: vjepa models NAME")
    else:
        show(_details(found[0]))


def convert(written: Sequence[Path], config: ConvertConfig) -> None:
    """The files or the folder."""
    say(f"wrote {' and '.join(map(str, written))}")


def export(folder: Path, config: ExportConfig) -> None:
    """The folder."""
    say(f"wrote {folder}")


def _table(found: Sequence[ModelHere]) -> Table:
    table = Table()
    for heading in ("name", "family"):
        table.add_column(heading, no_wrap=True)
    for heading in ("M params", "px", "frames", "memory, GB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("downloaded", "license", "top-1, %"):
        table.add_column(heading)
    for model in found:
        table.add_row(
            model.info.name,
            model.info.family,
            f"{model.info.parameters:.0f}",
            str(model.config.image_hw[0]),
            str(model.config.num_frames),
            f"{model.memory_gb:.1f}{'!' if model.fits is False else ' '}",
            "" if model.path is None else "yes",
            model.info.license,
            _accuracy(model.info),
        )
    return table


def _accuracy(info: ModelInfo) -> str:
    return ", ".join(f"{benchmark} {value:.1f}" for benchmark, value in info.accuracy.items())


def _details(model: ModelHere) -> Table:
    info, config = model.info, model.config
    have = "" if model.free_gb is None else f"; {model.free_gb:.1f} GB are free"
    option = next((f', probe="{name}"' for name in info.probes), "")
    rows = {
        "name": info.name,
        "family": info.family,
        "encoder": f"{config.arch}, {info.parameters:.1f} M parameters",
        "clip": f"{config.num_frames} frames of {config.image_hw[0]} px",
        "license": f"{info.license} (check the license of the files)",
        "top-1, %": _accuracy(info) or "none published",
        "memory": f"about {model.memory_gb:.1f} GB for one clip in float32{have}",
        **({"file": info.url} if info.url else {}),
        **({"sha256": info.sha256} if info.sha256 else {}),
        **({"Hugging Face": info.hf_id} if info.hf_id else {}),
        **{f"probe {name}": url for name, url in info.probes.items()},
        "local path": model.path or "not downloaded yet (downloaded on first use)",
        "Python": f'openvjepa.load_model("{info.name}"{option})',
        "command line": f"vjepa probe videos/ --model {info.name}",
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for heading, value in rows.items():
        table.add_row(heading, escape(str(value)))
    return table
