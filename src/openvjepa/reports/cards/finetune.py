"""README.md of a fine-tuning run: data, recipe, metrics, limits and emissions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from openvjepa.reports.templates import TEMPLATES, rate_text
from openvjepa.version import __version__

WATTS, GPU_WATTS = 100.0, 400.0  # of a desktop or a share of a server under load, and with one GPU


def finetune_card(results: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The card, in Markdown.

    Args:
        results: what results.json holds.
        config: the settings.
    """
    (outcome,) = results["probes"].values()
    seconds = sum(results["seconds"].values())
    watts = config["watts"] or (GPU_WATTS if results["device"].startswith("cuda") else WATTS)
    data = ModelCardData(library_name="openvjepa", pipeline_tag="video-classification", tags=["video", "v-jepa"])
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATES / "finetune_card.md"),
        results=results,
        config=config,
        outcome=outcome,
        version=__version__,
        base=_last_name(results["model"]),
        source=_last_name(results["source"]),
        trained=_trained(config),
        rate=rate_text(results["clips"]["spec"]),
        interval=" - ".join(f"{bound:.1f}" for bound in outcome["test_top1_interval"]),
        seconds=seconds,
        watts=watts,
        grams=seconds / 3600 * watts / 1000 * config["grams_per_kwh"],
        device=results["device"].split(",")[0],
    )
    return str(card).rstrip() + "\n"


def _last_name(path: str) -> str:
    """Without the folders above, which may name people."""
    return Path(path).name or path


def _trained(config: Mapping[str, Any]) -> str:
    return {
        "head": "the classifier; the encoder is frozen",
        "last": f"the classifier and the last {config['last_blocks']} blocks of the encoder",
        "lora": f"the classifier and low-rank adapters (rank {config['lora_rank']}), merged into the encoder afterwards",
        "all": "the classifier and the whole encoder",
    }[config["tune"]]
