"""What `vjepa surprise` shows."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape
from rich.table import Column, Table

from openvjepa.cli.console import say, say_json, show
from openvjepa.commands.surprise import SurpriseResult
from openvjepa.config import SurpriseConfig
from openvjepa.reports.seeing.surprise import MEASURES


def surprise(result: SurpriseResult, config: SurpriseConfig) -> None:
    """A row for each video and each measure, or JSON."""
    if config.json:
        say_json(result.to_dict())
        return
    if result.separations:
        found = Table("measure", "relative", "absolute", "AUROC")
        for name, values in result.separations.items():
            found.add_row(
                MEASURES[name], *(escape(str(part)) for part in (values.relative, values.absolute, values.auroc))
            )
        show(found)
    else:
        title = f"{config.pooling} over windows"
        table = Table(Column("video", overflow="fold"), *(Column(name, justify="right") for name in MEASURES.values()),
                      "notes", title=title, title_justify="left")  # fmt: skip
        for video in result.videos:
            score = video.score(config.pooling)
            values = (f"{getattr(score, name):.4f}" for name in MEASURES)
            table.add_row(escape(Path(video.path).name), *values, escape("; ".join(video.notes)))
        for path, reason in result.skipped.items():
            table.add_row(escape(path), *[""] * len(MEASURES), f"[red]cannot be read: {escape(reason)}[/red]")
        show(table)
    for path in result.files:
        say(f"wrote {path}")
    if result.skipped:
        say(f"unreadable files: {len(result.skipped)}")
