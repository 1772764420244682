"""README.md of a folder for transformers: what the model is, how to load it, what is known of it, and its limits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from openvjepa.version import __version__
from openvjepa.weights import registry
from openvjepa.weights.hub import LoadedModel

UNKNOWN = "Not known to the tool that wrote this card: that of the model it was made from."
MANY_CLASSES = 100  # more are left to config.json


def model_card(model: LoadedModel, notes: Sequence[str], results: Mapping[str, Any] | None) -> str:
    """The card, in Markdown.

    Args:
        model: what the folder holds.
        notes: what a user of it should know, beside what holds for every model.
        results: results.json of the run that trained its probe (`read_results`); None: no figures are known.
    """
    licence = _licence(model.source)
    front = {
        "library_name": "transformers",
        "tags": ["video", "v-jepa"],
        "pipeline_tag": "video-classification" if model.probe else "feature-extraction",
        **({"license": licence} if licence else {}),
    }
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {_name(model)}",
        _what(model),
        f"## How to load it\n\n```python\n{_code(model)}```",
        *_classes(model),
        *([_figures(results)] if results else []),
        f"## Licence\n\n{licence or UNKNOWN}",
        "## Limits\n\n" + "\n".join(f"- {limit[0].upper()}{limit[1:]}." for limit in (*_limits(model), *notes)),
    ]
    return "\n\n".join(parts) + "\n"


def read_results(source: str) -> dict[str, Any] | None:
    """results.json of a run of `vjepa probe`; None: the source is none."""
    try:
        results = json.loads((Path(source) / "results.json").read_text(encoding="utf-8"))
        _ = results["probes"]["attentive"]["test_top1"], results["videos"]["test"], results["chance"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return results


def _licence(source: str) -> str | None:
    """Of a published model, or as the card of a Hugging Face folder says; as Hugging Face writes licences."""
    info = registry.find(source)
    if info is not None:
        return info.licence.lower().replace(" ", "-")
    try:
        card = (Path(source) / "README.md").read_text(encoding="utf-8")
        front = yaml.safe_load(card.split("---")[1]) if card.startswith("---") else None
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return None
    licence = front.get("license") if isinstance(front, dict) else None
    return licence if isinstance(licence, str) else None


def _name(model: LoadedModel) -> str:
    """Of the source, without the folders above it, which are nobody else's business."""
    return Path(model.source).resolve().name


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
        f"{config.grid.w} tokens. Made from `{_name(model)}` by openvjepa {__version__}."
    )


def _code(model: LoadedModel) -> str:
    auto = "AutoModelForVideoClassification" if model.probe else "AutoModel"
    use = (
        "    logits = model(**inputs).logits\nprint(model.config.id2label[int(logits.argmax())])\n"
        if model.probe
        else "    tokens = model(**inputs, skip_predictor=True).last_hidden_state  # [1, tokens, channels]\n"
    )
    return (
        "import torch\n"
        f"from transformers import {auto}, AutoVideoProcessor  # the processor needs torchvision\n\n"
        'folder = "."\n'
        f"model = {auto}.from_pretrained(folder).eval()\n"
        "processor = AutoVideoProcessor.from_pretrained(folder)\n"
        f'inputs = processor(frames, return_tensors="pt")  # uint8 [{model.config.num_frames}, 3, height, width]\n'
        f"with torch.no_grad():\n{use}"
    )


def _classes(model: LoadedModel) -> list[str]:
    if model.labels is None:
        return []
    if len(model.labels) > MANY_CLASSES:
        return [f"## Classes\n\n{len(model.labels)}: see `id2label` in config.json."]
    return ["## Classes\n\n" + ", ".join(model.labels) + "."]


def _figures(results: Mapping[str, Any]) -> str:
    """Accuracy of the run, and the clips that it was measured on."""
    found, videos = results["probes"]["attentive"], results["videos"]
    lines = [
        f"Top-1 accuracy on {videos['test']} test videos: {found['test_top1']:.1f} % (guessing: {results['chance']:.1f} %)."
    ]
    if found.get("test_top5") is not None:
        lines.append(f"Top-5: {found['test_top5']:.1f} %.")
    clips = results.get("clips", {})
    spec = clips.get("spec", {})
    if spec:
        rate = f"{spec['fps']:g} a second" if spec.get("fps") else f"{spec.get('frame_step')} apart"
        lines.append(
            f"The classifier was trained on {videos.get('train')} videos; the frames of a clip are {rate}, and the test "
            f"averaged {clips.get('segments', 1)} clip(s) x {clips.get('views', 1)} view(s) of each video."
        )
    return "## Figures\n\n" + " ".join(lines)


def _limits(model: LoadedModel) -> tuple[str, ...]:
    side = model.config.image_hw[0]
    return (
        f"Transformers counts rows and columns for frames of {side} x {side} px: other sizes give wrong positions",
        "A clip of fewer frames than a tubelet is repeated; longer clips work, but the model was not trained on them",
        "The processor takes the centre of a frame: what happens at its edges is not seen",
    )
