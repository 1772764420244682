"""Names of tensors in Hugging Face's VJEPA2 models: one map, used both ways.

A name of ours stands for one tensor of theirs, or for several one under another (queries, keys, values).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from openvjepa.weights.files import check_fit

Shapes = Mapping[str, Mapping[str, torch.Size]]
"""Part (encoder, predictor, probe) -> our name -> shape."""

# Part of ours: start of a name -> start of theirs.
_STARTS = {
    "encoder": {
        "patch_embed.": "encoder.embeddings.patch_embeddings.",
        "blocks.": "encoder.layer.",
        "norm.": "encoder.layernorm.",
    },
    "predictor": {
        "predictor_embed.": "predictor.embeddings.predictor_embeddings.",
        "predictor_blocks.": "predictor.layer.",
        "predictor_norm.": "predictor.layernorm.",
        "predictor_proj.": "predictor.proj.",
    },
    "probe": {
        "pooler.cross_attention_block.": "pooler.cross_attention_layer.",
        "pooler.blocks.": "pooler.self_attention_layers.",
        "linear.": "classifier.",
    },
}
# Inside of a name: ours -> theirs; several: the rows of ours are theirs, one under another.
_BACKBONE_LAYERS = {
    ".attn.qkv.": (".attention.query.", ".attention.key.", ".attention.value."),
    ".attn.proj.": (".attention.proj.",),
}
_POOLER_LAYERS = {
    ".norm1.": (".layer_norm1.",),
    ".norm2.": (".layer_norm2.",),
    ".xattn.q.": (".cross_attn.q_proj.",),
    ".xattn.kv.": (".cross_attn.k_proj.", ".cross_attn.v_proj."),
    ".attn.qkv.": (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj."),
    ".attn.proj.": (".self_attn.out_proj.",),
}
_OURS_MASK = "mask_tokens."
_MASK_TOKENS = "predictor.embeddings.mask_tokens"  # theirs: all of ours in one tensor [K, 1, 1, P]
UNUSED = ".xattn.proj."
"""Output projection of V-JEPA 1's probes: in the file, but in no forward pass, and so in no model of theirs."""


def hf_names(part: str, name: str) -> tuple[str, ...]:
    """Their names for a tensor of ours: one, or those whose rows it holds one under another."""
    for start, theirs in _STARTS[part].items():
        if name.startswith(start):
            name = theirs + name.removeprefix(start)
    for inside, several in (_POOLER_LAYERS if part == "probe" else _BACKBONE_LAYERS).items():
        if inside in name:
            return tuple(name.replace(inside, theirs) for theirs in several)
    return (name,)


def to_theirs(part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a part under their names; an unused projection is left out."""
    masks = [value for name, value in state.items() if name.startswith(_OURS_MASK)]
    tensors = {_MASK_TOKENS: torch.stack(masks)} if masks else {}
    for name, value in state.items():
        if not name.startswith(_OURS_MASK) and UNUSED not in name:
            names = hf_names(part, name)
            tensors |= dict(zip(names, value.chunk(len(names)), strict=True))
    return tensors


def to_ours(part: str, names: Iterable[str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """These tensors of a part, found under their names."""
    state: dict[str, Tensor] = {}
    for name in names:
        if name.startswith(_OURS_MASK):
            state[name] = tensors[_MASK_TOKENS][int(name.removeprefix(_OURS_MASK))].clone()
        else:
            found = [tensors[theirs] for theirs in hf_names(part, name)]
            state[name] = found[0] if len(found) == 1 else torch.cat(found)
    return state


def check_tensors(shapes: Shapes, tensors: Mapping[str, Tensor], source: str) -> None:
    """Every tensor of a file must have its place in the model, every place its tensor, and each its shape.

    Args:
        shapes: what the model consists of.
        tensors: what the file holds, under their names.
        source: the file, for errors.

    Raises:
        CheckpointError: names the first that are missing, unexpected or of another shape.
    """
    wanted: dict[str, list[int]] = {}
    for part, names in shapes.items():
        masks = [shape for name, shape in names.items() if name.startswith(_OURS_MASK)]
        if masks:
            wanted[_MASK_TOKENS] = [len(masks), *masks[0]]
        for name, shape in names.items():
            if not name.startswith(_OURS_MASK):
                theirs = hf_names(part, name)
                wanted |= {each: [shape[0] // len(theirs), *shape[1:]] for each in theirs}
    check_fit(wanted, tensors, source, "its config.json")
