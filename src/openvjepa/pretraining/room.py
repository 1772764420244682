"""Whether a run can fit the memory at all, before anything is built."""

from __future__ import annotations

import torch

from openvjepa.config import ModelConfig, PretrainConfig
from openvjepa.errors import ConfigError
from openvjepa.machine import available_memory, size_text
from openvjepa.train.distributed import Runtime
from openvjepa.train.trainer import accumulation

_FLOAT = 4  # bytes


def check_room(config: PretrainConfig, runtime: Runtime) -> None:
    """Refuse a model whose weights, or a pass whose frames alone, take more memory than there is.

    Raises:
        ConfigError: says what is too large, and by how much.
    """
    free = available_memory()
    memory = torch.cuda.get_device_properties(runtime.device).total_memory if runtime.device.type == "cuda" else free
    needed = least_bytes(config.model)
    if memory is not None and needed > memory:
        raise ConfigError(
            f"weights, gradients and optimizer of this model take at least {size_text(needed)}, and there are "
            f"{size_text(memory)} of memory: choose a smaller arch, embed_dim or depth"
        )
    micro, _ = accumulation(config.train, runtime.world_size)
    frames = micro * clip_bytes(config.model)
    if free is not None and frames > free:
        raise ConfigError(
            f"the frames of {micro} clips take {size_text(frames)}, and there are {size_text(free)} of memory: choose a "
            "smaller batch_size, or a micro_batch that it is accumulated from"
        )


def least_bytes(model: ModelConfig) -> int:
    """Bytes that the matrices of the blocks take in training: of the encoder weights, their moving average, gradients and
    AdamW's two moments; of the predictor the same without the average."""
    dims, width = model.dims, model.predictor_embed_dim
    encoder = dims.depth * (4 + 2 * dims.mlp_ratio) * dims.embed_dim**2
    predictor = model.predictor_depth * 12 * width**2
    return int(_FLOAT * (5 * encoder + 4 * predictor))


def clip_bytes(model: ModelConfig) -> int:
    """Bytes of the frames of a clip, uint8 as read and float32 as normalized."""
    height, width = model.image_hw
    return 3 * model.num_frames * height * width * (1 + _FLOAT)
