"""model.onnx with model.json: an encoder, or a classifier, that runs without PyTorch."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openvjepa.config.protocol import IMAGENET_MEAN
from openvjepa.data.transforms import MAX_CROPPED
from openvjepa.errors import CheckpointError, ConfigError
from openvjepa.version import __version__
from openvjepa.weights.files import write_file
from openvjepa.weights.loaded import LoadedModel

ONNX, DATA, FACTS = "model.onnx", "model.onnx.data", "model.json"
NEEDED = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""Largest difference to our own numbers, in units of the largest of them where that is above 1."""
INLINE_BYTES = 1_500_000_000
"""Weights above this go to model.onnx.data: a file of ONNX ends at 2 GB."""


class _Deployed(nn.Module):
    """Clips [B, 3, T, H, W] -> tokens [B, N, D], or logits [B, C] where there is a probe."""

    def __init__(self, model: LoadedModel) -> None:
        super().__init__()
        self.encoder, self.probe = model.encoder, model.probe

    def forward(self, video: Tensor) -> Tensor:
        tokens = self.encoder(video)
        return tokens if self.probe is None else self.probe(tokens)


def check_onnx() -> None:
    """Fail before the work if a package is missing.

    Raises:
        ConfigError: one is.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(f"ONNX needs {' and '.join(missing)}: pip install 'openvjepa[export]'")


def write_onnx(folder: Path, model: LoadedModel) -> tuple[str, ...]:
    """Write model.onnx (with model.onnx.data if it is large) and model.json, once onnxruntime gives our numbers.

    The size of a clip is fixed, the number of clips is not.

    Returns:
        What was found, a line each.

    Raises:
        CheckpointError: the numbers differ, or it cannot be written.
    """
    check_onnx()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".onnx-") as work, torch.no_grad():
        _export(Path(work) / ONNX, model)
        difference = _difference(Path(work) / ONNX, model)
        if not difference <= TOLERANCE:
            raise CheckpointError(
                f"{model.source}: onnxruntime's numbers differ from ours by {difference:.1e}: nothing was written"
            )
        for name in (DATA, ONNX):
            if (Path(work) / name).exists():
                (Path(work) / name).replace(folder / name)
    metadata = {**onnx_metadata(model), "max_difference": difference}
    write_file(folder / FACTS, (json.dumps(metadata, indent=2) + "\n").encode())
    return (f"onnxruntime gives our numbers, to {difference:.1e}",)


def onnx_metadata(model: LoadedModel) -> dict[str, Any]:
    """model.json: input and output of model.onnx, how to prepare frames, and the names of the classes."""
    config, grid = model.config, model.config.grid
    height, width = config.image_hw
    metadata: dict[str, Any] = {
        "task": "encoder" if model.probe is None else "classifier",
        "source": Path(model.source).resolve().name,
        "openvjepa": __version__,
        "input": {
            "name": "video",
            "dtype": "float32",
            "shape": ["batch", 3, config.num_frames, height, width],
            "channels": "RGB",
            "mean": model.clip.mean,
            "std": model.clip.std,
            "frame_step": model.clip.frame_step,
            "fps": model.clip.fps,
            "normalize": "(pixel / 255 - mean) / std",
            "resize": _resize(model),
        },
    }
    if model.probe is None:
        tokens = {"name": "tokens", "dtype": "float32", "shape": ["batch", grid.tokens, config.dims.embed_dim]}
        metadata["output"] = {**tokens, "grid": {"time": grid.t, "height": grid.h, "width": grid.w}}
    else:
        classes = model.probe.linear.out_features
        metadata["output"] = {"name": "logits", "dtype": "float32", "shape": ["batch", classes]}
        metadata["labels"] = model.labels
    return metadata


def _resize(model: LoadedModel) -> dict[str, Any]:
    """How frames of another size or shape are brought to the model's, for model.json: `fit`, and each way that it may mean."""
    clip, (height, width) = model.clip, model.config.image_hw
    cover = [int(height * clip.margin), int(width * clip.margin)]
    ways: dict[str, dict[str, Any]] = {
        "crop": {"cover": cover, "crop": "center", "frames of this size": "as they are"},
        "squeeze": {"size": [height, width]},
        "pad": {"inside": [height, width], "bars": [round(255 * mean) for mean in IMAGENET_MEAN]},
        "three": {"cover": [height, width], "crop": "three along the longer side: the mean of their outputs"},
    }
    named = ("crop", "squeeze") if clip.fit == "auto" else (clip.fit,)
    values: dict[str, Any] = {"fit": clip.fit, "interpolation": "bilinear", "antialias": clip.antialias}
    if clip.fit == "auto":
        values["auto"] = {
            "crop": f"where the largest crop of this shape keeps at least {1 - MAX_CROPPED:g} of the frame's area",
            "squeeze": "elsewhere",
        }
    return values | {name: ways[name] for name in named}


def _export(path: Path, model: LoadedModel) -> None:
    """Trace and write; nothing of what the exporter prints is for the person who waits."""
    size = sum(value.numel() * value.element_size() for value in model.encoder.state_dict().values())
    with _quiet():
        torch.onnx.export(
            _Deployed(model).eval(),
            (_clips(model, 2),),
            path,
            input_names=["video"],
            output_names=["tokens" if model.probe is None else "logits"],
            dynamic_shapes={"video": {0: "batch"}},
            dynamo=True,
            external_data=size > INLINE_BYTES,
            verbose=False,
        )


def _difference(path: Path, model: LoadedModel) -> float:
    """Largest difference of the file's numbers to ours, for one clip and for three."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    module, found = _Deployed(model).eval(), []
    for count in (1, 3):
        clips = _clips(model, count)
        theirs = torch.as_tensor(session.run(None, {"video": clips.numpy()})[0])
        found.append(largest_difference(module(clips), theirs))
    return float(torch.tensor(found).max())  # not a number stays that


def largest_difference(ours: Tensor, theirs: Tensor) -> float:
    """Of two tensors of a shape, in units of the largest of our numbers where that is above 1."""
    return (ours - theirs).abs().max().item() / max(1.0, ours.abs().max().item())


def _clips(model: LoadedModel, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 3, model.config.num_frames, *model.config.image_hw, generator=generator)


@contextmanager
def _quiet() -> Generator[None]:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
