"""Probes in files: Meta's attentive ones of V-JEPA 1 and 2, nano-JEPA's, and those we trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from openvjepa.config import ENCODER_SIZES, from_mapping
from openvjepa.config.ranges import Config, Few, Share
from openvjepa.errors import CheckpointError, ConfigError, shorten
from openvjepa.model.blocks.layers import CrossAttentionBlock, ProbeStyle
from openvjepa.model.pooler import PROBE_EPS, AttentiveClassifier, GridClassifier, LinearClassifier
from openvjepa.weights.files import converted_settings, load_strictly, read_container
from openvjepa.weights.formats.meta import check_counts, strip_prefixes

Probe = AttentiveClassifier | LinearClassifier | GridClassifier


@dataclass(frozen=True)
class _ProbeSettings(Config):
    """`probe_settings`, read from a file."""

    kind: Literal["attentive", "linear", "grid"]
    num_heads: Few | None = None
    depth: Few = 1
    complete_block: bool = True
    style: ProbeStyle = "v1"
    eps: Share = PROBE_EPS
    tokens: tuple[Few, ...] = ()
    cells: tuple[Few, ...] = ()


MOST_POOLING = 2**26  # numbers in the matrix that pools the tokens of a grid probe

V2_HEADS = 16
"""Attention heads of every probe of V-JEPA 2 and 2.1, whatever the encoder has."""


def load_probe(
    source: str | Path,
    *,
    num_heads: int | None = None,
    style: ProbeStyle | None = None,
    head: int = 0,
) -> AttentiveClassifier:
    """Load an attentive probe of V-JEPA 1, 2 or nano-JEPA (`...-probe.pth.tar`, `evals/*.pt`), in eval mode.

    Args:
        source: the file.
        num_heads: attention heads, which the file does not hold; None: 16 for V-JEPA 2, else those of the known encoder of
            this width.
        style: how it is built; None: read off the tensors (no output projection: v2), and the names: nano-JEPA's files look
            like those of V-JEPA 1 but for the prefix `module.`, and only nano-JEPA applies the projection.
        head: which one, where the file holds several (V-JEPA 2 trains a grid of them; Meta's code takes the first).

    Raises:
        CheckpointError: missing, damaged, not such a file, or with tensors that do not fit.
    """
    return read_probe(source, num_heads=num_heads, style=style, head=head)[0]


def read_probe(
    source: str | Path,
    *,
    num_heads: int | None = None,
    style: ProbeStyle | None = None,
    head: int = 0,
    encoder_heads: int | None = None,
) -> tuple[AttentiveClassifier, tuple[str, ...] | None]:
    """As `load_probe`, with the names of its classes where the file holds them.

    Args:
        source, num_heads, style, head: as for `load_probe`.
        encoder_heads: attention heads of the encoder that it belongs to, which V-JEPA 1's probes share.

    Raises:
        CheckpointError: as `load_probe`.
    """
    container = read_container(Path(source))
    section = _section(container, head, str(source))
    state = strip_prefixes(section, str(source))
    if "linear.weight" not in state or state["linear.weight"].ndim != 2:
        several = "verb_classifier.weight" in state
        why = "an anticipation probe of EPIC-KITCHENS, which is not supported" if several else "not an attentive probe"
        raise CheckpointError(f"{source}: no linear.weight [classes, D]: {why}")
    found = converted_settings(container).get("probe")
    stored: Mapping[str, Any] = found if isinstance(found, dict) else {}
    if not set(stored) <= set(_ProbeSettings.__dataclass_fields__) or stored.get("kind", "attentive") != "attentive":
        raise CheckpointError(f"{source}: its probe cannot be read (settings {shorten(stored)})")
    prefixed = any(str(key).startswith("module.") for key in section)
    built: ProbeStyle = style or stored.get("style") or _style(state, prefixed=prefixed)
    num_classes, embed_dim = state["linear.weight"].shape
    settings = {
        "kind": "attentive",
        "num_heads": num_heads or stored.get("num_heads") or _heads(embed_dim, built, encoder_heads, source),
        "depth": 1 + len({key.split(".")[2] for key in state if key.startswith("pooler.blocks.")}),
        "complete_block": any(key.startswith("pooler.cross_attention_block.mlp.") for key in state),
        "style": built,
        "eps": stored.get("eps", PROBE_EPS),
    }
    probe = fill_probe(settings, embed_dim, num_classes, state, str(source))
    assert isinstance(probe, AttentiveClassifier)
    labels = converted_settings(container).get("labels")
    if labels is None:
        return probe, None
    if not isinstance(labels, list) or len(labels) != num_classes or not all(isinstance(name, str) for name in labels):
        raise CheckpointError(f"{source}: its labels do not name its {num_classes} classes")
    return probe, tuple(labels)


def probe_settings(probe: Probe) -> dict[str, Any]:
    """What its tensors do not tell of a probe, as plain values for `fill_probe`."""
    if isinstance(probe, LinearClassifier):
        return {"kind": "linear"}
    if isinstance(probe, GridClassifier):
        return {"kind": "grid", "tokens": list(probe.tokens), "cells": list(probe.cells)}
    block = probe.pooler.cross_attention_block
    complete = isinstance(block, CrossAttentionBlock)
    attention: Any = block.xattn if complete else block
    return {
        "kind": "attentive",
        "num_heads": attention.num_heads,
        "depth": 1 + len(probe.pooler.blocks),
        "complete_block": complete,
        "style": probe.pooler.style,
        "eps": probe.pooler.eps,
    }


def fill_probe(settings: object, embed_dim: int, num_classes: int, state: Mapping[str, Tensor], source: str) -> Probe:
    """A probe in eval mode from `probe_settings` and its tensors.

    Raises:
        CheckpointError: settings of no probe, or tensors that do not fit.
    """
    try:
        built = from_mapping(_ProbeSettings, settings, where="probe")
    except ConfigError as error:
        raise CheckpointError(f"{source}: its probe cannot be read ({error})") from None
    if built.kind == "attentive":
        if built.num_heads is None or embed_dim % built.num_heads:
            raise CheckpointError(f"{source}: a probe of width {embed_dim} cannot have {built.num_heads} heads")
        check_counts({"depth": ("pooler.blocks", built.depth - 1)}, state, source)
    if built.kind == "grid":
        probe: Probe = _grid_probe(built, embed_dim, num_classes, state, source)
        load_strictly(probe, state, source)
        return probe.eval().requires_grad_(False)
    with torch.device("meta"):
        if built.kind == "linear":
            probe = LinearClassifier(embed_dim, num_classes)
        else:
            probe = AttentiveClassifier(
                embed_dim,
                built.num_heads or 1,
                num_classes,
                depth=built.depth,
                complete_block=built.complete_block,
                style=built.style,
                eps=built.eps,
            )
    load_strictly(probe, state, source)
    return probe.eval().requires_grad_(False)


def _grid_probe(
    built: _ProbeSettings, embed_dim: int, num_classes: int, state: Mapping[str, Tensor], source: str
) -> GridClassifier:
    """A grid probe without its weights, whose pooling matrix is in memory: the geometry is checked before it is made."""
    fits = "linear.weight" in state and state["linear.weight"].shape[-1] == embed_dim * prod(built.cells)
    if not fits or prod(built.cells) * prod(built.tokens) > MOST_POOLING:
        raise CheckpointError(
            f"{source}: its probe cannot be read (its weights are not those of {built.cells} cells of {built.tokens} tokens)"
        )
    try:
        return GridClassifier(embed_dim, num_classes, tokens=built.tokens, cells=built.cells)
    except ConfigError as error:
        raise CheckpointError(f"{source}: its probe cannot be read ({error})") from None


def _section(container: Mapping[str, Any], head: int, source: str) -> Any:
    """The state of one probe in a container."""
    if "classifiers" in container:  # V-JEPA 2: a list
        several = container["classifiers"]
        if not isinstance(several, list) or not 0 <= head < len(several):
            count = len(several) if isinstance(several, list) else 0
            raise CheckpointError(f"{source}: holds {count} probes: there is no number {head}")
        return several[head]
    if "classifier" not in container:
        names = shorten(container) or "nothing"
        raise CheckpointError(f"{source}: no classifier in it, only {names}")
    if head:
        raise CheckpointError(f"{source}: holds 1 probe: there is no number {head}")
    return container["classifier"]


def _style(state: Mapping[str, Tensor], *, prefixed: bool) -> ProbeStyle:
    if not any(key.endswith(("xattn.proj.weight", "cross_attention_block.proj.weight")) for key in state):
        return "v2"
    return "v1" if prefixed else "nano"


def _heads(embed_dim: int, style: ProbeStyle, encoder_heads: int | None, source: str | Path) -> int:
    """Attention heads of a probe: V-JEPA 1 gives it those of the encoder, V-JEPA 2 always 16 (to encoders of 768 and more)."""
    if style == "v2" and embed_dim % V2_HEADS == 0 and embed_dim >= 768:
        return V2_HEADS
    if style != "v2" and encoder_heads is not None:
        return encoder_heads
    known = {heads for width, _, heads, _ in ENCODER_SIZES.values() if width == embed_dim}
    if style == "v2" or len(known) != 1:
        raise CheckpointError(
            f"{source}: the file does not hold the number of attention heads, and width {embed_dim} is not that of a "
            "published probe: pass it (load_probe: num_heads, load_model: probe_heads, commands: --probe-heads)"
        )
    return known.pop()
