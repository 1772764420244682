"""The model shipped with the package, and the published checkpoints of V-JEPA 1, 2 and 2.1.

Addresses and accuracies are those of Meta's repositories and papers (Bardes et al. 2024; Assran et al. 2025; arXiv 2603.14482).
A model has the name of the preset that pretrains
it, where there is one.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_META = "https://dl.fbaipublicfiles.com"
V1_PROBES = ("k400", "ssv2", "in1k", "places", "inat")
"""Names of the attentive probes that every model of V-JEPA 1 has."""


@dataclass(frozen=True)
class ModelInfo:
    """One published checkpoint."""

    name: str
    """What `load_model` takes."""
    family: str
    """V-JEPA, V-JEPA 2, V-JEPA 2.1, or openvjepa for the shipped model."""
    arch: Mapping[str, Any]
    """Fields of ModelConfig that build its encoder, with what the file does not hold: the clip it was trained with, heads."""
    parameters: float
    """Of the encoder, millions; without position codes, which are not learned."""
    license: str
    """Of the repository that publishes it, to the best of our knowledge: read it there before you rely on it."""
    url: str | None = None
    """Meta's file: a whole training checkpoint, several times the size of its encoder."""
    hf_id: str | None = None
    """The same on Hugging Face, or the only place where it is."""
    sha256: str | None = None
    """Of Meta's file, where it is known, or of the shipped one."""
    accuracy: Mapping[str, float] = field(default_factory=dict[str, float])
    """Benchmark -> published top-1 accuracy, %, of an attentive probe on the frozen encoder."""
    probes: Mapping[str, str] = field(default_factory=dict[str, str])
    """Name -> address of an attentive probe's file."""

    shipped: str | None = None
    """Folder of the model inside the package, relative to openvjepa/weights; None: it has to be downloaded."""

    @property
    def folder(self) -> Path | None:
        """Folder of a shipped model; None: it is not shipped."""
        return None if self.shipped is None else Path(__file__).parent / self.shipped

    @property
    def file(self) -> str | None:
        """Name of Meta's file."""
        return self.url.rpartition("/")[2] if self.url else None


def _v1(name: str, parameters: float, arch: Mapping[str, Any], *accuracy: float) -> ModelInfo:
    folder = f"{_META}/jepa/{name}"
    return ModelInfo(
        name,
        "V-JEPA",
        {"img_size": 224, "num_frames": 16, "positions": "sincos", **arch},
        parameters,
        "CC BY-NC 4.0",
        url=f"{folder}/{name}.pth.tar",
        accuracy=dict(zip(("K400", "SSv2", "IN1k"), accuracy, strict=True)),
        probes={probe: f"{folder}/{probe}-probe.pth.tar" for probe in V1_PROBES},
    )


def _v2(
    name: str,
    parameters: float,
    arch: Mapping[str, Any],
    *,
    file: str | None = None,
    hf: str | None = None,
    accuracy: Mapping[str, float] | None = None,
    probes: Mapping[str, str] | None = None,
) -> ModelInfo:
    return ModelInfo(
        name,
        "V-JEPA 2",
        {"img_size": 256, "num_frames": 64, "positions": "rope-tiled", "predictor_num_heads": 12, **arch},
        parameters,
        "MIT",
        url=f"{_META}/vjepa2/{file}" if file else None,
        hf_id=f"facebook/vjepa2-{hf}" if hf else None,
        accuracy=accuracy or {},
        probes={probe: f"{_META}/vjepa2/evals/{path}" for probe, path in (probes or {}).items()},
    )


def _v21(
    name: str, file: str, parameters: float, arch: str, levels: tuple[int, ...], *accuracy: float | None
) -> ModelInfo:
    published = zip(("SSv2", "K400", "IN1k", "Diving48"), accuracy, strict=True)
    return ModelInfo(
        name,
        "V-JEPA 2.1",
        {
            "arch": arch,
            "img_size": 384,
            "num_frames": 64,
            "positions": "rope",
            "interpolate_rope": True,
            "modality_embed": True,
            "levels": levels,
            "predictor_num_heads": 12,
        },
        parameters,
        "MIT",
        url=f"{_META}/vjepa2/{file}",
        accuracy={benchmark: value for benchmark, value in published if value is not None},
    )


_L, _H, _G = {"arch": "vit_large"}, {"arch": "vit_huge"}, {"arch": "vit_giant_xformers"}
_L_SSV2, _L_DIVING = {"SSv2": 73.7}, {"Diving48": 89.0}
_G_SSV2, _G_DIVING = {"SSv2": 77.3}, {"Diving48": 90.2}
_G384 = {**_G, "img_size": 384}
# The probes of EPIC-KITCHENS (evals/ek100-vitl-256.pt, ek100-vitg-384.pt) have three heads; `load_probe` does not know them.
_L_PROBES = {"ssv2": "ssv2-vitl-16x2x3.pt", "diving48": "diving48-vitl-256.pt"}
_G_PROBES = {"ssv2": "ssv2-vitg-384-64x2x3.pt", "diving48": "diving48-vitg-384-32x4x3.pt"}
# Where Hugging Face has a classifier, its accuracies are those of Meta's probe that it was converted from.
_MODELS = (
    ModelInfo(
        "openvjepa-small",
        "openvjepa",
        {"arch": "vit_pico", "embed_dim": 192, "depth": 4, "num_heads": 6, "img_size": 64, "num_frames": 16, "patch_size": 8,
         "tubelet_size": 4, "time_attention": "tubelet", "output_positions": True, "positions": "sincos"},
        1.9,
        "Apache-2.0",
        sha256="a203f1adc9b658d7e62ae001f955611acf5ecf615a3f1ad99966b36ec7f6a4c9",
        shipped="shipped/openvjepa-small",
    ),
    _v1("vitl16", 303.9, _L, 80.8, 69.5, 74.8),
    _v1("vith16", 631.6, _H, 82.0, 71.4, 75.9),
    _v1("vith16-384", 631.6, {**_H, "img_size": 384}, 81.9, 72.2, 77.4),
    _v2("vjepa2-vitl", 303.9, _L, file="vitl.pt", hf="vitl-fpc64-256", accuracy=_L_SSV2 | _L_DIVING, probes=_L_PROBES),
    _v2("vjepa2-vith", 631.6, _H, file="vith.pt", hf="vith-fpc64-256"),
    _v2("vjepa2-vitg", 1012.2, _G, file="vitg.pt", hf="vitg-fpc64-256"),
    _v2("vjepa2-vitg-384", 1012.2, _G384, file="vitg-384.pt", hf="vitg-fpc64-384", accuracy=_G_SSV2 | _G_DIVING,
        probes=_G_PROBES),
    # Eight frames, each shown twice to fill a tubelet.
    _v2("vjepa2-ac-vitg", 1012.2, {**_G, "num_frames": 16, "predictor_num_heads": 16}, file="vjepa2-ac-vitg.pt"),
    _v2("vjepa2-vitl-ssv2", 303.9, {**_L, "num_frames": 16}, hf="vitl-fpc16-256-ssv2", accuracy=_L_SSV2),
    _v2("vjepa2-vitl-diving48", 303.9, {**_L, "num_frames": 32}, hf="vitl-fpc32-256-diving48", accuracy=_L_DIVING),
    _v2("vjepa2-vitg-384-ssv2", 1012.2, _G384, hf="vitg-fpc64-384-ssv2", accuracy=_G_SSV2),
    _v2("vjepa2-vitg-384-diving48", 1012.2, {**_G384, "num_frames": 32}, hf="vitg-fpc32-384-diving48",
        accuracy=_G_DIVING),
    _v21("vjepa2.1-vitb", "vjepa2_1_vitb_dist_vitG_384.pt", 86.8, "vit_base", (2, 5, 8, 11),
         74.5, 85.1, 84.0, None),
    _v21("vjepa2.1-vitl", "vjepa2_1_vitl_dist_vitG_384.pt", 304.7, "vit_large", (5, 11, 17, 23),
         76.5, 86.9, 84.9, None),
    _v21("vjepa2.1-vit-giant", "vjepa2_1_vitg_384.pt", 1013.3, "vit_giant_xformers", (9, 19, 29, 39),
         76.9, 87.0, 84.8, 89.0),
    _v21("vjepa2.1-vit-gigantic", "vjepa2_1_vitG_384.pt", 1845.2, "vit_gigantic_xformers", (11, 23, 37, 47),
         77.7, 87.7, 85.5, 89.2),
)  # fmt: skip


def list_models() -> tuple[ModelInfo, ...]:
    """List the shipped model and the published checkpoints, sorted by family and size."""
    return _MODELS


def shipped_models() -> tuple[ModelInfo, ...]:
    """List the models that are part of the package: they load without a network, and `vjepa train` compares them by default."""
    return tuple(info for info in _MODELS if info.shipped is not None)


def find(name: str) -> ModelInfo | None:
    """The checkpoint of this name; None: there is none."""
    return next((info for info in _MODELS if info.name == name), None)


def of_file(name: str) -> ModelInfo | None:
    """The checkpoint whose published file has this name (2.1's g and G differ in case only); None: no such file."""
    return next((info for info in _MODELS if info.file == name), None)


def suggest(name: str) -> str:
    """What to add to an error about an unknown name: the nearest one, and where the others are listed."""
    near = difflib.get_close_matches(name, [info.name for info in _MODELS], n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f": {hint}`vjepa models` lists all names"
