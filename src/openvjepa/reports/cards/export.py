"""README.md of a folder for transformers: what the model is, how to load it, its metrics, and its limits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from openvjepa.reports.templates import TEMPLATES, rate_text
from openvjepa.version import __version__
from openvjepa.weights import registry
from openvjepa.weights.hub import LoadedModel

UNKNOWN = "Unknown to the tool that wrote this card: the license of the model it was made from applies."
MANY_CLASSES = 100  # more are left to config.json


def model_card(model: LoadedModel, notes: Sequence[str], results: Mapping[str, Any] | None) -> str:
    """The card, in Markdown.

    Args:
        model: what the folder holds.
        notes: what its users should know, in addition to the limits of every model.
        results: results.json of the run that trained its probe (`read_results`); None if it is unknown.
    """
    license_name = _license(model.source)
    data = ModelCardData(
        library_name="transformers",
        tags=["video", "v-jepa"],
        pipeline_tag="video-classification" if model.probe else "feature-extraction",
        license=license_name,
    )
    spec = (results or {}).get("clips", {}).get("spec")
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATES / "export_card.md"),
        name=Path(model.source).resolve().name,  # without the folders above it, which may name people
        summary=_what(model),
        version=__version__,
        auto="AutoModelForVideoClassification" if model.probe else "AutoModel",
        frames=model.config.num_frames,
        classifies=model.probe is not None,
        classes=_classes(model),
        results=results,
        outcome=results["probes"]["attentive"] if results else None,
        spec=spec,
        rate=rate_text(spec) if spec else None,
        license=license_name or UNKNOWN,
        limits=[limit[0].upper() + limit[1:] for limit in (*_limits(model), *notes)],
    )
    return str(card).rstrip() + "\n"


def read_results(source: str) -> dict[str, Any] | None:
    """results.json of a run of `vjepa probe`; None if there is none."""
    try:
        results = json.loads((Path(source) / "results.json").read_text(encoding="utf-8"))
        _ = results["probes"]["attentive"]["test_top1"], results["videos"]["test"], results["chance"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return results


def _license(source: str) -> str | None:
    """Of a published model, or as the card of a Hugging Face folder says; as Hugging Face writes licenses."""
    info = registry.find(source)
    if info is not None:
        return info.license.lower().replace(" ", "-")
    try:
        card = (Path(source) / "README.md").read_text(encoding="utf-8")
        front = yaml.safe_load(card.split("---")[1]) if card.startswith("---") else None
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return None
    found = front.get("license") if isinstance(front, dict) else None
    return found if isinstance(found, str) else None


def _what(model: LoadedModel) -> str:
    config, dims = model.config, model.config.dims
    size = sum(parameter.numel() for parameter in model.encoder.parameters()) / 1e6
    height, width = config.image_hw
    kind = "A V-JEPA 2 video encoder"
    if model.probe is not None:
        kind += f" with an attentive classifier of {model.probe.linear.out_features} classes"
    return (
        f"{kind}: {dims.depth} blocks of {dims.embed_dim} channels ({size:.1f} M parameters), for clips of "
        f"{config.num_frames} frames of {width} x {height} px, which become {config.grid.t} x {config.grid.h} x "
        f"{config.grid.w} tokens."
    )


def _classes(model: LoadedModel) -> str | None:
    if model.labels is None:
        return None
    if len(model.labels) > MANY_CLASSES:
        return f"{len(model.labels)}: see `id2label` in config.json."
    return ", ".join(model.labels) + "."


def _limits(model: LoadedModel) -> tuple[str, ...]:
    side = model.config.image_hw[0]
    return (
        f"Transformers counts rows and columns for frames of {side} x {side} px: other sizes give wrong positions",
        "A clip of fewer frames than a tubelet is repeated; longer clips work, but the model was not trained on them",
        "The processor crops the center of a frame: the model does not see its edges",
    )
