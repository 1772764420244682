"""Which weights of an encoder are trained, with what learning rate, and low-rank adapters (LoRA, Hu et al. 2021)."""

from __future__ import annotations

import importlib.util
from typing import Any

from torch import Tensor, nn

from openvjepa.config import Tune
from openvjepa.errors import ConfigError
from openvjepa.model.encoder import Encoder

_LORA_TARGETS = r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc\d)"
_LORA_ALPHA = 2.0  # over the rank: the usual scale


def set_trainable(encoder: Encoder, tune: Tune, *, last_blocks: int, lora_rank: int) -> None:
    """Freeze all of an encoder but what is to be trained; for "lora", put adapters into its blocks (seeded by torch).

    Args:
        encoder: is changed in place.
        tune: "head": nothing of it; "last": its last blocks and the norm after them; "lora"; "all".
        last_blocks: how many blocks "last" means.
        lora_rank: rank of the adapters.

    Raises:
        ConfigError: the encoder has fewer blocks, or peft is not installed.
    """
    depth = len(encoder.blocks)
    if tune == "last" and not 1 <= last_blocks <= depth:
        raise ConfigError(f"last_blocks {last_blocks}: the encoder has {depth} blocks")
    first = {"head": depth + 1, "last": depth - last_blocks + 1, "lora": depth + 1, "all": 0}[tune]
    for name, parameter in encoder.named_parameters():
        # The first norms of V-JEPA 2.1 belong to inner blocks, whose outputs a classifier does not read.
        unread = name.startswith("norms_block.") and int(name.split(".")[1]) < len(encoder.config.levels) - 1
        parameter.requires_grad_(name != "pos_embed" and not unread and _layer(name, depth) >= first)
    if tune == "lora":
        _inject_lora(encoder, lora_rank)


def _layer(name: str, depth: int) -> int:
    """Number of the layer that a parameter belongs to: 0 the embeddings, 1 the first block; norms belong to the last."""
    if name.startswith("blocks."):
        return 1 + int(name.split(".")[1])
    return depth if name.startswith("norm") else 0


def layer_groups(encoder: Encoder, *, scale: float, decay: float) -> list[dict[str, Any]]:
    """Optimizer groups of what is trained of an encoder, with layer-wise learning-rate decay (BEiT, Bao et al. 2021).

    Args:
        encoder: after `set_trainable`.
        scale: learning rate of its last block over that of the head.
        decay: learning rate of a block over that of the block after it; the embeddings count as the block before the first.

    Returns:
        Groups {"params", "decay", "module", "lr_scale"}; biases and 1-D parameters do not decay.
    """
    depth = len(encoder.blocks)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((_layer(name, depth), parameter.ndim > 1), []).append(parameter)
    return [
        {"params": params, "decay": decays, "module": "encoder", "lr_scale": scale * decay ** (depth - layer)}
        for (layer, decays), params in sorted(groups.items(), key=lambda item: item[0])
    ]


def _inject_lora(encoder: Encoder, rank: int) -> None:
    if importlib.util.find_spec("peft") is None:
        raise ConfigError("LoRA needs the package peft: pip install 'openvjepa[finetune]'")
    from peft import LoraConfig, inject_adapter_in_model

    alpha = round(_LORA_ALPHA * rank)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=_LORA_TARGETS), encoder)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def merged_parameters(encoder: nn.Module) -> dict[str, Tensor]:
    """Parameters of an encoder under the names of a plain one; where it has adapters, the weights with those added."""
    found: dict[str, Tensor] = {
        name.replace(".base_layer.", "."): parameter
        for name, parameter in encoder.named_parameters()
        if ".lora_" not in name
    }
    for name, module in encoder.named_modules():
        if hasattr(module, "lora_A"):
            layer: Any = module
            found[f"{name}.weight"] = found[f"{name}.weight"] + layer.get_delta_weight("default")
    return found


def merge_lora(encoder: Encoder) -> None:
    """Add the adapters to the weights that they belong to, and take them out: the tensors of a plain encoder are left."""
    adapted = [(name, module) for name, module in encoder.named_modules() if hasattr(module, "lora_A")]
    for name, module in adapted:
        layer: Any = module
        layer.merge()
        parent, _, own = name.rpartition(".")
        setattr(encoder.get_submodule(parent), own, layer.get_base_layer())
