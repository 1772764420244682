"""Foreign files to our modules: prefixes, and geometry read off the tensors (spec section 7).

Parameters of our modules carry Meta's names, so that V-JEPA 1 and nano-JEPA files differ in prefixes only. What the
files do not hold (clip shape, attention heads) follows from the tensors or from the caller.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from openvjepa.config import ENCODER_SIZES, ModelConfig, from_mapping
from openvjepa.errors import CheckpointError, ConfigError
from openvjepa.grid import TokenGrid
from openvjepa.model.positions import axis_widths, sincos_2d, sincos_3d

PREFIXES = ("module.", "backbone.")
"""Wrappers around V-JEPA modules: DistributedDataParallel and Meta's multi-mask wrapper."""
V2_MASK_TOKENS = 10
"""Mask tokens of the published V-JEPA 2 predictors (V-JEPA 1: 2)."""
CODE_TOLERANCE = 1e-2  # stored codes differ from exact ones by an EMA's rounding, at most; from another grid's by ~1


def strip_prefixes(section: object, where: str) -> dict[str, Tensor]:
    """A section of a container as plain parameter names.

    Raises:
        CheckpointError: it is not a mapping of names to tensors, or two names become one.
    """
    if not isinstance(section, Mapping) or not section:
        raise CheckpointError(f"{where}: not a mapping of parameter names to tensors")
    state: dict[str, Tensor] = {}
    for key, value in section.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{where}: {key!r} is not a tensor with a name")
        name = key
        while name.startswith(PREFIXES):
            name = name.split(".", 1)[1]
        if name in state:
            raise CheckpointError(f"{where}: {name} is there twice, with and without a prefix")
        state[name] = value
    return state


def infer_config(
    encoder: Mapping[str, Tensor], predictor: Mapping[str, Tensor] | None, arch: Mapping[str, Any], where: str
) -> ModelConfig:
    """Configuration of a V-JEPA 1 model, read off its tensors.

    Patch, tubelet, widths and depths are shapes; frames and image size are decoded from the position codes; heads are
    those of a known size with this width and depth.

    Args:
        encoder: state of an encoder.
        predictor: state of its predictor, or None.
        arch: fields of ModelConfig that are known better; they replace what was read.
        where: file, for errors.

    Raises:
        CheckpointError: something can neither be read off nor is in `arch`, `arch` has an unknown field, the numbers do
            not fit together, or the file is a V-JEPA 2 one.
    """
    kernel = _shape(encoder, "patch_embed.proj.weight", (4, 5), where)
    embed_dim, patch_size = kernel[0], kernel[-1]
    values: dict[str, Any] = {"patch_size": patch_size}
    if len(kernel) == 5:
        values["tubelet_size"] = kernel[2]
    if not {"num_frames", "img_size"} <= arch.keys():
        values |= _geometry(encoder, kernel, where)
    hidden, _ = _shape(encoder, "blocks.0.mlp.fc1.weight", (2,), where)
    values |= _size(embed_dim, _count(encoder, "blocks"), hidden, arch, where)
    if predictor is not None:
        mask_tokens = _count(predictor, "mask_tokens")
        if mask_tokens == V2_MASK_TOKENS:
            raise CheckpointError(f"{where}: a V-JEPA 2 file ({mask_tokens} mask tokens), which cannot be read yet")
        values["predictor_embed_dim"] = _shape(predictor, "predictor_embed.weight", (2,), where)[0]
        values["predictor_depth"] = _count(predictor, "predictor_blocks")
        values["num_mask_tokens"] = mask_tokens
    return make_config(values | dict(arch), where)


def make_config(values: Mapping[str, Any], where: str) -> ModelConfig:
    """ModelConfig from plain values.

    Raises:
        CheckpointError: an unknown or wrong field, or numbers that do not fit together.
    """
    try:
        return from_mapping(ModelConfig, dict(values), where="model")
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from None


def _size(embed_dim: int, depth: int, hidden: int, arch: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields of ModelConfig for an encoder of this width and depth: a known size, or the numbers themselves."""
    known = [
        name
        for name, (d, n, _, ratio) in ENCODER_SIZES.items()
        if (d, n) == (embed_dim, depth) and hidden == int(d * ratio)
    ]
    if len(known) == 1 and "arch" not in arch:
        return {"arch": known[0]}
    if not {"arch", "num_heads"} & arch.keys():
        sizes = f"is that of {' and '.join(known)}" if known else "is no size known here"
        raise CheckpointError(
            f"{where}: the file does not hold the number of attention heads, and width {embed_dim} with {depth} blocks "
            f'{sizes}: pass arch={{"num_heads": ...}}'
        )
    return {"embed_dim": embed_dim, "depth": depth, "mlp_ratio": hidden / embed_dim}


def _geometry(encoder: Mapping[str, Tensor], kernel: tuple[int, ...], where: str) -> dict[str, Any]:
    """num_frames, img_size and uniform_power, decoded from the position codes."""
    if "pos_embed" not in encoder:
        raise CheckpointError(f"{where}: no position codes (pos_embed): V-JEPA 2 files cannot be read yet")
    codes = encoder["pos_embed"].float()
    if codes.ndim == 3 and len(codes) == 1 and codes.shape[2] == kernel[0]:
        for uniform_power in (True, False):
            grid = _grid_of_codes(codes[0], image=len(kernel) == 4, uniform_power=uniform_power)
            if grid is None:
                continue
            height, width = grid.h * kernel[-1], grid.w * kernel[-1]
            frames = 1 if len(kernel) == 4 else grid.t * kernel[2]
            size = height if height == width else (height, width)
            return {"num_frames": frames, "img_size": size, "uniform_power": uniform_power}
    raise CheckpointError(
        f"{where}: the clip shape cannot be read off its position codes {list(codes.shape)}: "
        'pass arch={"num_frames": ..., "img_size": ...}'
    )


def _grid_of_codes(codes: Tensor, *, image: bool, uniform_power: bool) -> TokenGrid | None:
    """The grid whose sin-cos codes these [N, D] are; None: no grid's.

    A row ends where the height code first changes, and a frame where the depth code does.
    """
    tokens, dim = codes.shape
    depth_width, height_width, _ = (0, dim // 2, 0) if image else axis_widths(dim, uniform_power=uniform_power)
    per_frame = tokens if image else _run_length(codes[:, :depth_width])
    row = _run_length(codes[:per_frame, depth_width : depth_width + height_width])
    if tokens % per_frame or per_frame % row:
        return None
    grid = TokenGrid(tokens // per_frame, per_frame // row, row)
    exact = sincos_2d(dim, grid) if image else sincos_3d(dim, grid, uniform_power=uniform_power)
    return grid if torch.allclose(codes, exact, rtol=0, atol=CODE_TOLERANCE) else None


def _run_length(codes: Tensor) -> int:
    """How many of the first rows [N, C] are alike."""
    different = (codes - codes[0]).abs().amax(dim=1) > CODE_TOLERANCE
    return int(different.int().argmax()) if different.any() else len(codes)


def _shape(state: Mapping[str, Tensor], name: str, dims: tuple[int, ...], where: str) -> tuple[int, ...]:
    """Shape of a parameter that must be there, with one of these numbers of dimensions."""
    if name not in state:
        raise CheckpointError(f"{where}: no {name}: not a V-JEPA model")
    if state[name].ndim not in dims:
        raise CheckpointError(f"{where}: {name} has the shape {list(state[name].shape)}: not a V-JEPA model")
    return tuple(state[name].shape)


def _count(state: Mapping[str, Tensor], name: str) -> int:
    """Entries of a list of modules or parameters: 1 + the highest number in `name.<number>`."""
    numbers = [int(match[1]) for key in state if (match := re.match(rf"{name}\.(\d+)(?:\.|$)", key))]
    return max(numbers, default=-1) + 1
