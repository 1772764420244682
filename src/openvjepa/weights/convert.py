"""Names and shapes of foreign checkpoints, mapped to ours by rules that are written out (spec section 7)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from openvjepa.config import ENCODER_SIZES, ModelConfig
from openvjepa.errors import CheckpointError, ConfigError


def strip_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Meta's and nano-JEPA's names without the wrappers' `module.` and `backbone.`."""
    return {key.replace("module.", "").replace("backbone.", ""): value for key, value in state.items()}


def infer_config(encoder: Mapping[str, Tensor], predictor: Mapping[str, Tensor] | None, source: str) -> ModelConfig:
    """Geometry of a V-JEPA 1 file from the shapes of its tensors, for the published sizes (square clips of 16 frames).

    Raises:
        CheckpointError: no V-JEPA 1 encoder, or of a size that is not one of ours: pass `arch`.
    """
    try:
        patch, positions = encoder["patch_embed.proj.weight"], encoder["pos_embed"]
    except KeyError as error:
        raise CheckpointError(f"{source}: no V-JEPA 1 encoder in it ({error.args[0]} is missing)") from None
    width = patch.shape[0]
    depth = 1 + max(int(key.split(".")[1]) for key in encoder if key.startswith("blocks."))
    names = [name for name, size in ENCODER_SIZES.items() if size[:2] == (width, depth)]
    if not names:
        raise CheckpointError(
            f"{source}: an encoder of width {width} and depth {depth} is none of the known sizes: pass arch, a mapping of "
            "ModelConfig fields (embed_dim, depth, num_heads, img_size, num_frames, ...)"
        )
    frames, tubelet = (1, 2) if patch.ndim == 4 else (16, patch.shape[2])
    side = round((positions.shape[1] / max(1, frames // tubelet)) ** 0.5) * patch.shape[-1]
    values: dict[str, int] = {}
    if predictor:
        values["predictor_embed_dim"] = predictor["predictor_embed.weight"].shape[0]
        values["predictor_depth"] = 1 + max(int(k.split(".")[1]) for k in predictor if k.startswith("predictor_blocks."))
        values["num_mask_tokens"] = sum(key.startswith("mask_tokens.") for key in predictor)
    return ModelConfig(
        arch=names[0], img_size=side, num_frames=frames, patch_size=patch.shape[-1], tubelet_size=tubelet, **values
    )


def config_from_mapping(arch: Mapping[str, object], source: str) -> ModelConfig:
    """ModelConfig from the fields that a user gave.

    Raises:
        CheckpointError: an unknown or wrong field.
    """
    from openvjepa.config import from_mapping

    try:
        return from_mapping(ModelConfig, dict(arch), where="arch")
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}") from None
