"""Command lines of version 0.1, with the model before the videos: understood for one more version, with a warning."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Any

_VIDEOS = (".txt", ".csv", ".mp4", ".webm", ".mkv", ".avi", ".mov", ".jpg", ".jpeg", ".png", ".gif")


def probe(words: list[str], given: dict[str, Any]) -> tuple[list[str], list[str]]:
    """`probe MODEL VIDEOS`."""
    if "model" in given or len(words) != 2:
        return words, []
    given["model"] = words[0]
    return words[1:], [_note("probe", words[1:], words[:1])]


def predict(words: list[str], given: dict[str, Any]) -> tuple[list[str], list[str]]:
    """`predict RUN [RUN ...] VIDEOS`: model folders, and names of published models, that stand before the videos are runs."""
    if "model" in given or len(words) < 2 or words[0].lower().endswith(_VIDEOS):
        return words, []
    models = [words[0], *takewhile(_is_model, words[1:])]
    given["model"] = models
    return words[len(models) :], [_note("predict", words[len(models) :], models)]


def evaluate(words: list[str], given: dict[str, Any]) -> tuple[list[str], list[str]]:
    """`evaluate RUN [RUN ...] VIDEOS`, or `evaluate RUN [RUN ...] --data VIDEOS`."""
    data = given.pop("data", None)
    if "model" in given or (data is None and len(words) < 2):
        return words if data is None else [*words, data], []
    models, videos = (words, [data]) if data is not None else (words[:-1], words[-1:])
    given["model"] = models
    return videos, [_note("evaluate", videos, models)]


def _note(verb: str, videos: list[str], models: list[str]) -> str:
    shown = " ".join([*videos[:1], *(["..."] if len(videos) > 1 else [])])
    return f"models are given with --model now: `vjepa {verb} {shown} --model {' '.join(models)}`"


def _is_model(name: str) -> bool:
    folder = Path(name)
    if folder.exists():
        return any((folder / settings).is_file() for settings in ("model.yaml", "config.json"))
    from openvjepa.weights import registry  # not needed where the new order is used

    return registry.find(name) is not None
