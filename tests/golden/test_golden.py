"""Losses of 20 steps of four recipes in small form, recorded once: a change of structure may not move them.

`python tests/golden/test_golden.py` records them again, for a change that is meant to alter the numbers (say so in CHANGELOG.md).
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openvjepa.commands.pretrain import pretrain
from openvjepa.config import PRESETS, PretrainConfig, ShapesConfig
from openvjepa.data.rendered.synthetic import make_shapes
from openvjepa.train.logs import read_metrics

RECORD = Path(__file__).with_name("losses.json")
RECIPES = ("demo-masked", "nano-masked", "vjepa2-vitl", "vjepa2.1-vitl")
SMALL = {
    "arch": "vit_femto",
    "depth": 2,
    "img_size": 32,
    "num_frames": 8,
    "predictor_embed_dim": 24,
    "predictor_depth": 2,
}
STEPS = 20


def small_form(name: str, shapes: Path, pictures: Path, out: Path) -> PretrainConfig:
    """The recipe with a small model, in float32, on one thread."""
    preset = PRESETS[name]()
    model = {**SMALL, "predictor_num_heads": 2}
    if name.startswith("vjepa2"):
        model |= {"patch_size": 8}
    if preset.model.levels:
        model |= {"levels": (0, 1), "predictor_levels": 2}
    images = (str(pictures),) if preset.model.modality_embed else ()
    return replace(
        preset,
        sources=(str(shapes),),
        out=str(out),
        model=replace(preset.model, **model),
        data=replace(preset.data, label="motion", workers=0, images=images, image_size=None, image_batch=None),
        train=replace(
            preset.train,
            steps=STEPS,
            batch_size=4,
            micro_batch=2,
            seed=0,
            precision="fp32",
            threads=1,
            log_every=1,
            monitor_every=0,
        ),
    )


def make_data(folder: Path) -> tuple[Path, Path]:
    """Rendered videos and random pictures, the same every time."""
    shapes, pictures = folder / "shapes", folder / "pictures"
    make_shapes(ShapesConfig(out=str(shapes), train=16, val=0, test=0, size=32, frames=12), workers=1)
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(pictures / f"{number}.png")
    return shapes, pictures


def losses(name: str, data: tuple[Path, Path], out: Path) -> list[float]:
    """Loss of each step."""
    pretrain(small_form(name, *data, out))
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_data(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", RECIPES)
def test_losses_are_those_recorded(name: str, data: tuple[Path, Path], tmp_path: Path) -> None:
    found = losses(name, data, tmp_path / "run")
    recorded = json.loads(RECORD.read_text())[name]
    assert len(found) == STEPS
    assert max(recorded) - min(recorded) > 1e-3  # a record that stands still would show nothing
    # Another processor sums in another order; over 20 steps that stays far below what a changed recipe does.
    np.testing.assert_allclose(found, recorded, rtol=2e-4)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = make_data(Path(folder))
        RECORD.write_text(
            json.dumps({name: losses(name, made, Path(folder) / name) for name in RECIPES}, indent=1) + "\n"
        )
    print(f"wrote {RECORD}", file=sys.stderr)
