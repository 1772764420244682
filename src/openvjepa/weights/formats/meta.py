"""Meta's files to our modules: prefixes, the section to take, and geometry read off the tensors.

Parameters of our modules carry Meta's names, so that files of V-JEPA 1, 2, 2.1 and nano-JEPA differ in prefixes only. What
the files do not hold (attention heads, and the clip's shape where positions are rotary) follows from published sizes or
from the caller.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from openvjepa.config import ENCODER_SIZES, ModelConfig, from_mapping
from openvjepa.errors import CheckpointError, ConfigError
from openvjepa.grid import TokenGrid
from openvjepa.model.blocks.layers import hidden_width
from openvjepa.model.blocks.positions import axis_widths, sincos_2d, sincos_3d

PREFIXES = ("module.", "backbone.")
"""Wrappers around V-JEPA modules: DistributedDataParallel and Meta's multi-mask wrapper."""
SECTIONS = ("target_encoder", "ema_encoder", "encoder")
"""Where an encoder stands in a container, best first: the moving average is the published model."""
V1_MASK_TOKENS, V2_MASK_TOKENS = 2, 10
"""Mask tokens of the published predictors of V-JEPA 1 and 2."""
ROPE_PREDICTOR = (384, 12)
"""Width and attention heads of the published predictors of V-JEPA 2 and 2.1."""
LEVELS = {12: (2, 5, 8, 11), 24: (5, 11, 17, 23), 40: (9, 19, 29, 39), 48: (11, 23, 37, 47)}
"""Blocks with a norm of their own in V-JEPA 2.1, by depth (the configurations of its repository)."""
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
            raise CheckpointError(f"{where}: {str(key)[:80]!r} is not a tensor with a name")
        name = key
        while name.startswith(PREFIXES):
            name = name.split(".", 1)[1]
        if name in state:
            raise CheckpointError(f"{where}: {name} appears twice, with and without a prefix")
        state[name] = value
    return state


def infer_config(
    encoder: Mapping[str, Tensor], predictor: Mapping[str, Tensor] | None, arch: Mapping[str, Any], where: str
) -> ModelConfig:
    """Configuration of a V-JEPA 1, 2 or 2.1 model, read off its tensors.

    Patch, tubelet, widths and depths are shapes; frames and image size are decoded from the position codes of V-JEPA 1
    (rotary models store none); heads are those of a known size with this width and depth.

    Args:
        encoder: state of an encoder.
        predictor: state of its predictor, or None.
        arch: fields of ModelConfig that are known better; they replace what was read.
        where: file, for errors.

    Raises:
        CheckpointError: something can neither be read off nor is in `arch`, `arch` has an unknown field, or the numbers do
            not fit together.
    """
    kernel = _shape(encoder, "patch_embed.proj.weight", (4, 5), where)
    values: dict[str, Any] = {"patch_size": kernel[-1], "positions": _positions(encoder, predictor, arch, where)}
    if len(kernel) == 5:
        values["tubelet_size"] = kernel[2]
    if not {"num_frames", "img_size"} <= arch.keys():
        values |= _geometry(encoder, kernel, values["positions"], where)
    hidden, _ = _shape(encoder, "blocks.0.mlp.fc1.weight", (2,), where)
    depth = _count(encoder, "blocks")
    values |= _size(kernel[0], depth, hidden, values["positions"], arch, where)
    if "blocks.0.mlp.fc3.weight" in encoder:
        values["mlp"] = "swiglu"
    if _count(encoder, "norms_block"):
        values |= _hierarchy(encoder, depth, arch, where)
    if predictor is not None:
        values |= _predictor(predictor, kernel[0], values["positions"], arch, where)
    return make_config(values | dict(arch), where)


def _positions(
    encoder: Mapping[str, Tensor], predictor: Mapping[str, Tensor] | None, arch: Mapping[str, Any], where: str
) -> str:
    """The scheme of positions; V-JEPA 2 files may hold codes that the model does not use."""
    if "positions" in arch:
        return str(arch["positions"])
    if _count(encoder, "norms_block"):
        return "rope"
    if "pos_embed" not in encoder:
        return "rope-tiled"
    mask_tokens = _count(predictor, "mask_tokens") if predictor else V1_MASK_TOKENS
    if mask_tokens == V2_MASK_TOKENS or (predictor and "action_encoder.weight" in predictor):
        return "rope-tiled"
    if mask_tokens == V1_MASK_TOKENS or where.endswith(
        ".tar"
    ):  # Meta's V-JEPA 1 files are .pth.tar, those of 2 are .pt
        return "sincos"
    raise CheckpointError(
        f"{where}: has position codes and {mask_tokens} mask tokens, which is neither V-JEPA 1 ({V1_MASK_TOKENS}) nor 2 "
        f'({V2_MASK_TOKENS}): pass arch={{"positions": "sincos"}} for V-JEPA 1, "rope-tiled" for V-JEPA 2'
    )


def _hierarchy(encoder: Mapping[str, Tensor], depth: int, arch: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields of a V-JEPA 2.1 encoder."""
    count = _count(encoder, "norms_block")
    if "levels" not in arch and (depth not in LEVELS or count != len(LEVELS[depth])):
        raise CheckpointError(
            f"{where}: {count} normed levels of {depth} blocks, which no published model has: pass "
            'arch={"levels": [...]}, the blocks from 0'
        )
    has_images = "patch_embed_img.proj.weight" in encoder
    return {"levels": LEVELS.get(depth, ()), "modality_embed": has_images, "interpolate_rope": True}


def _predictor(
    predictor: Mapping[str, Tensor], embed_dim: int, positions: str, arch: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Fields of the predictor."""
    several = "predictor_embed.0.weight" in predictor
    last = "predictor_embed.2.weight" if several else "predictor_embed.weight"
    width, _ = _shape(predictor, last, (2,), where)
    values: dict[str, Any] = {"predictor_embed_dim": width, "predictor_depth": _count(predictor, "predictor_blocks")}
    levels = 1
    if several:
        levels = _shape(predictor, "predictor_embed.0.weight", (2,), where)[1] // embed_dim
        values["predictor_levels"] = levels
    if "action_encoder.weight" in predictor:
        values["predictor_kind"] = "action"
    else:
        values["num_mask_tokens"] = _count(predictor, "mask_tokens")
    out_dim, _ = _shape(predictor, "predictor_proj.weight", (2,), where)
    if out_dim != levels * embed_dim:
        values["predictor_out_dim"] = out_dim
    if "predictor_proj_context.weight" in predictor:
        values["predict_context"] = True
    if positions != "sincos" and "predictor_num_heads" not in arch:  # V-JEPA 1: as many as the encoder
        known = {ROPE_PREDICTOR[0]: ROPE_PREDICTOR[1], 1024: 16}  # 1024: V-JEPA 2-AC
        if width not in known:
            raise CheckpointError(
                f"{where}: the file does not hold the number of attention heads of its predictor of width {width}: pass "
                'arch={"predictor_num_heads": ...}'
            )
        values["predictor_num_heads"] = known[width]
    return values


def drop_unused_codes(state: Mapping[str, Tensor], config: ModelConfig) -> tuple[dict[str, Tensor], list[str]]:
    """A state without the position codes that files of rotary models may hold, and what was done, in words."""
    unused = [name for name in ("pos_embed", "predictor_pos_embed") if name in state and config.positions != "sincos"]
    kept = {name: value for name, value in state.items() if name not in unused}
    return kept, [f"{name} dropped: a model with rotary positions does not use it" for name in unused]


def make_config(values: Mapping[str, Any], where: str) -> ModelConfig:
    """ModelConfig from plain values.

    Raises:
        CheckpointError: an unknown or wrong field, or numbers that do not fit together.
    """
    try:
        return from_mapping(ModelConfig, dict(values), where="model")
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from None


def _size(
    embed_dim: int, depth: int, hidden: int, positions: str, arch: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Fields of ModelConfig for an encoder of this width and depth: a known size, or the numbers themselves.

    All published models with rotary positions have heads of 64 channels, which tells V-JEPA 2's ViT-g from V-JEPA 1's.
    """
    known = [
        name
        for name, (d, n, _, ratio) in ENCODER_SIZES.items()
        if (d, n) == (embed_dim, depth) and hidden == hidden_width(d, ratio)
    ]
    if positions != "sincos":
        known = [name for name in known if ENCODER_SIZES[name][0] == 64 * ENCODER_SIZES[name][2]]
    if len(known) == 1 and "arch" not in arch:
        return {"arch": known[0]}
    if not {"arch", "num_heads"} & arch.keys():
        sizes = f"is that of {' and '.join(known)}" if known else "is no size known here"
        raise CheckpointError(
            f"{where}: the file does not hold the number of attention heads, and width {embed_dim} with {depth} blocks "
            f'{sizes}: pass arch={{"num_heads": ...}}'
        )
    return {"embed_dim": embed_dim, "depth": depth, "mlp_ratio": hidden / embed_dim}


def _geometry(encoder: Mapping[str, Tensor], kernel: tuple[int, ...], positions: str, where: str) -> dict[str, Any]:
    """num_frames, img_size and uniform_power, decoded from the position codes."""
    if positions != "sincos" or "pos_embed" not in encoder:
        raise CheckpointError(
            f'{where}: the file does not hold the shape of a clip: pass arch={{"num_frames": ..., "img_size": ...}}, as '
            "the model was trained"
        )
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
    if not tokens or dim < 8:
        return None
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
    if state[name].ndim not in dims or 0 in state[name].shape:
        raise CheckpointError(f"{where}: {name} has the shape {list(state[name].shape)}: not a V-JEPA model")
    return tuple(state[name].shape)


def _count(state: Mapping[str, Tensor], name: str) -> int:
    """Entries of a list of modules or parameters: 1 + the highest number in `name.<number>`."""
    numbers = [int(match[1]) for key in state if (match := re.match(rf"{name}\.(\d+)(?:\.|$)", key))]
    return max(numbers, default=-1) + 1


def check_counts(expected: Mapping[str, tuple[str, int]], state: Iterable[str], where: str) -> None:
    """Check that a file has as many layers as its settings say, before any are built.

    Args:
        expected: field of the settings -> (list of modules or parameters, how many of them).
        state: names of the file's tensors.
        where: file, for errors.

    Raises:
        CheckpointError: it has more or fewer.
    """
    names = list(state)
    for field, (part, count) in expected.items():
        found = len({match[1] for name in names if (match := re.match(rf"{re.escape(part)}\.(\d+)(?:\.|$)", name))})
        if found != count:
            raise CheckpointError(f"{where}: {field} is {count}, but the file has {found} of {part}")


def model_counts(config: ModelConfig) -> tuple[dict[str, tuple[str, int]], dict[str, tuple[str, int]]]:
    """What `check_counts` takes, for the encoder and for the predictor of a model."""
    encoder = {"depth": ("blocks", config.dims.depth), "levels": ("norms_block", len(config.levels))}
    predictor = {"predictor_depth": ("predictor_blocks", config.predictor_depth)}
    if config.predictor_kind == "masked":
        predictor["num_mask_tokens"] = ("mask_tokens", config.num_mask_tokens)
    return encoder, predictor
