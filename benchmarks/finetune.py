"""How much faster a classifier is trained on cached features than on a frozen encoder that is run in every epoch.

    python benchmarks/finetune.py --json benchmarks/results/finetune.json

Renders moving shapes, makes an encoder with random weights (speed does not depend on them), fine-tunes the classifier twice
with the same seed, and compares losses and time: seconds of preparing (encoding, or checking that the videos can be read),
of training with a validation after each epoch, and of the processor for everything (which a busy machine stretches less).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from openvjepa.commands.finetune import finetune
from openvjepa.config import FinetuneConfig, ModelConfig, ShapesConfig
from openvjepa.data.rendered.synthetic import make_shapes
from openvjepa.finetuning import run as finetune_run
from openvjepa.model.encoder import create_model
from openvjepa.train.logs import read_metrics
from openvjepa.weights.hub import save_model

EPOCHS = 20


def main() -> None:
    """Run as told on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="vit_small")
    parser.add_argument("--size", type=int, default=64, help="px")
    parser.add_argument("--videos", type=int, default=64, help="to train on")
    parser.add_argument("--train-views", type=int, default=1, help="clips of each video that are encoded")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    args = parser.parse_args()
    finetune_run.write_documents = lambda *documents: None  # the same in both, and no part of the training
    with tempfile.TemporaryDirectory() as folder:
        figures = compare(Path(folder), args)
    print(json.dumps(figures, indent=1))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


def compare(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds and losses of both."""
    shapes = ShapesConfig(
        out=str(folder / "shapes"), train=args.videos, val=args.videos // 4, test=args.videos // 4, size=args.size
    )
    make_shapes(shapes)
    torch.manual_seed(0)
    save_model(folder / "model", create_model(ModelConfig(arch=args.arch, img_size=args.size)))
    run(folder, "warm-up", args, epochs=1)  # pays for imports
    runs = {name: run(folder, name, args) for name in ("cached", "uncached")}
    (cached, losses), (uncached, others) = runs["cached"], runs["uncached"]
    worst = max(abs(a - b) for a, b in zip(losses, others, strict=True))
    return {
        **{key: value for key, value in vars(args).items() if key != "json"},
        "epochs": EPOCHS,
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "torch": torch.__version__,
        "seconds_cached": cached,
        "seconds_uncached": uncached,
        "times_faster": (uncached["prepare"] + uncached["train"]) / (cached["prepare"] + cached["train"]),
        "times_faster_processor": uncached["processor"] / cached["processor"],
        "times_faster_once_encoded": uncached["train"] / cached["train"],
        "largest_difference_of_losses": worst,
        "losses": len(losses),
    }


def run(
    folder: Path, name: str, args: argparse.Namespace, epochs: int = EPOCHS
) -> tuple[dict[str, float], list[float]]:
    """Seconds by what they were spent on, and the losses."""
    config = FinetuneConfig(
        source=str(folder / "shapes"),
        model=str(folder / "model"),
        out=str(folder / name),
        label="appearance",
        epochs=epochs,
        frame_step=1,
        segments=1,
        train_views=args.train_views,
        cache=name == "cached",
        device="cpu",
        precision="fp32",
        threads=args.threads,
        workers=0,  # all work is in this process, whose time is measured
    )
    started = time.process_time()
    result = finetune(config)
    assert result is not None
    seconds = {**result.seconds, "processor": time.process_time() - started}
    return seconds, [row["loss"] for row in read_metrics(folder / name / "metrics.jsonl") if "loss" in row]


if __name__ == "__main__":
    main()
