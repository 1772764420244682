"""The table of commands: summary, examples, configuration, function and renderer.

Modules are named by strings and imported when the command is called, so that `--help` stays fast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from openvjepa.cli import old_orders

_RESUME = "repeat the command with --resume to continue"
_REPEAT = "repeat the command to continue"


def done(result: Any) -> int:
    """0, whatever the result."""
    return 0


def _bad(report: Any) -> int:
    return 1 if report.bad else 0


def _interrupted(result: Any) -> int:
    return 128 + result.signal if result.interrupted else 0


def _all_unreadable(predictions: Any) -> int:
    if hasattr(predictions, "answers"):  # of a live source, counted while they were shown
        return 0 if predictions.answers else 1
    return 0 if any(prediction.error is None for prediction in predictions) else 1


def _all_unreadable_stream(result: Any) -> int:
    return _all_unreadable(result) if hasattr(result, "answers") else 0


@dataclass(frozen=True)
class Verb:
    """A command. Places are written as "module:name", below openvjepa."""

    words: str
    summary: str
    """One line for the help."""
    examples: tuple[str, ...]
    config: str
    """Place of the dataclass whose fields are its flags."""
    task: str
    """Place of the function that is called with it."""
    positional: tuple[str, ...] = ()
    """Fields that are given without a flag."""
    needed: tuple[str, ...] = ()
    """Required fields whose default is empty; shown in the usage."""
    presets: str | None = None
    """Place of the presets, if any."""
    render: str | None = None
    """Place of the function that shows the result, called with it and the configuration; None: nothing is shown."""
    status: Callable[[Any], int] = done
    """What the function returns -> exit status."""
    again: str = ""
    """What to do after a signal has ended it; empty: there is nothing to go on from."""
    hidden: tuple[str, ...] = ()
    """Deprecated options of version 0.1, handled by `old_order`."""
    old_order: Callable[[list[str], dict[str, Any]], tuple[list[str], list[str]]] | None = None
    """Handles the argument order of version 0.1: (positional arguments, values by field) -> (arguments, warnings)."""


def find(place: str) -> Any:
    """Import the object at a place."""
    module, _, name = place.partition(":")
    return getattr(import_module(f"openvjepa.{module}"), name)


VERBS = (
    Verb(
        "demo",
        "Render videos of moving shapes, pretrain an encoder on them, probe it, predict, and write a report.",
        ("vjepa demo",),
        "config.verbs.commands:DemoConfig",
        "commands.demo:demo",
        render="cli.render.demo:demo",
    ),
    Verb(
        "data check",
        "Decode every video of a folder or list; report counts, classes and unreadable files (exit status 1 if any).",
        ("vjepa data check videos/", "vjepa data check list.csv --label action"),
        "config.verbs.data:CheckConfig",
        "commands.check:check",
        positional=("source",),
        render="cli.render.data:check",
        status=_bad,
    ),
    Verb(
        "data split",
        "Write a list with stratified splits or folds; groups, copies and near-duplicates are never divided.",
        (
            "vjepa data split videos/ --out list.csv",
            "vjepa data split list.csv --out folds.csv --label action --group person --folds 5",
        ),
        "config.verbs.data:DivideConfig",
        "data.splitting.listed:split_list",
        positional=("source",),
        render="cli.render.data:split",
    ),
    Verb(
        "data make-shapes",
        "Render labeled videos of moving shapes, with an index.csv.",
        ("vjepa data make-shapes shapes", "vjepa data make-shapes big --train 4000 --size 96 --texture 0.5"),
        "config.verbs.data:ShapesConfig",
        "data.rendered.synthetic:make_shapes",
        positional=("out",),
        render="cli.render.data:made",
    ),
    Verb(
        "data make-physics",
        "Render pairs of physically possible and impossible videos, and possible videos for training.",
        ("vjepa data make-physics physics", "vjepa data make-physics big --train 4000 --test 350 --size 96"),
        "config.verbs.data:PhysicsConfig",
        "data.rendered.physics:make_physics",
        positional=("out",),
        render="cli.render.data:made",
    ),
    Verb(
        "data prepare",
        "Write small copies of videos that decode fast, with an index.csv (exit status 1 if a video cannot be copied).",
        ("vjepa data prepare videos/ small/", "vjepa data prepare list.csv small/ --short-side 224 --crf 20"),
        "config.verbs.data:PrepareConfig",
        "data.copies.prepare:prepare",
        positional=("source", "out"),
        again=_REPEAT,
        render="cli.render.data:prepare",
        status=_bad,
    ),
    Verb(
        "pretrain",
        "Pretrain a video encoder on videos without labels.",
        (
            "vjepa pretrain videos/ --out runs/mine --arch vit_tiny --img-size 112 --steps 5000",
            "vjepa pretrain videos/ --preset vitl16 --out runs/large",
            "vjepa pretrain videos/ --init vjepa2-vitl --tune lora --out runs/adapted",
            "vjepa pretrain --config runs/mine/config.yaml --resume",
        ),
        "config.pretraining.pretrain:PretrainConfig",
        "commands.pretrain:pretrain",
        positional=("sources",),
        needed=("sources",),
        presets="config.presets:PRESETS",
        status=_interrupted,
        again=_RESUME,
    ),
    Verb(
        "distill",
        "Train a small encoder to predict the features of a large one, on videos without labels.",
        (
            "vjepa distill videos/ --teacher vjepa2-vitl --student nano --out runs/student",
            "vjepa distill videos/ --teacher runs/large --student vit_tiny --steps 3000",
        ),
        "config.pretraining.distill:DistillConfig",
        "commands.distill:distill",
        positional=("sources",),
        needed=("sources", "teacher"),
        render="cli.render.distill:distill",
    ),
    Verb(
        "train",
        "Train a classifier on labeled videos: compare encoders and classifiers in a time budget, test the best.",
        (
            "vjepa train videos/ --out runs/action",
            "vjepa train list.csv --label action --minutes 30 --model runs/mine pixels",
        ),
        "config.verbs.train:ClassifierConfig",
        "commands.train:train_classifier",
        positional=("source",),
        needed=("source",),
        render="cli.render.train:train",
    ),
    Verb(
        "probe",
        "Train grid, linear, attentive and kNN classifiers on the frozen features of an encoder.",
        (
            "vjepa probe videos/ --model runs/mine",
            "vjepa probe list.csv --model runs/mine --label action --out runs/action",
            "vjepa probe images/ --model vjepa2-vitl --kinds linear knn",
            "vjepa probe videos/ --model runs/mine --label-fraction 0.05 0.1 0.5 --draws 3",
        ),
        "config.verbs.commands:ProbeConfig",
        "commands.probe:probe",
        positional=("source",),
        needed=("source", "model"),
        old_order=old_orders.probe,
        render="cli.render.probe:probe",
    ),
    Verb(
        "finetune",
        "Fine-tune on labeled videos: the classifier only, the last blocks of the encoder, LoRA, or all weights.",
        (
            "vjepa finetune videos/ --model runs/mine --out runs/action",
            "vjepa finetune videos/ --model facebook/vjepa2-vitl-fpc16-256-ssv2 --preset hf-card",
            "vjepa finetune videos/ --model runs/mine --tune all --randaugment 9 --patience 5",
        ),
        "config.verbs.finetune:FinetuneConfig",
        "commands.finetune:finetune",
        positional=("source",),
        needed=("source", "model"),
        presets="config.presets:FINETUNE_PRESETS",
        again=_RESUME,
    ),
    Verb(
        "predict",
        "Predict the classes of videos with one or several classifiers; long videos in sliding windows.",
        (
            "vjepa predict new.mp4 --model runs/action",
            "vjepa predict folder/ --model runs/action --json",
            "vjepa predict new.mp4 --model runs/a runs/b --combine vote",
            "vjepa predict long.mp4 --model runs/action --window 2 --stride 1 --csv l.csv --timeline l.png --annotate l.mp4",
            "vjepa predict 0 --model runs/action --window 2 --json",
            "vjepa predict rtsp://camera/stream --model runs/action --window 2 --annotate seen.mp4",
        ),
        "config.verbs.commands:PredictConfig",
        "commands.predict:predict",
        positional=("videos",),
        needed=("videos", "model"),
        old_order=old_orders.predict,
        render="cli.render.predict:predict",
        status=_all_unreadable,
    ),
    Verb(
        "evaluate",
        "Evaluate classifiers on labeled videos: accuracy, confusion, calibration and time; also as an ensemble.",
        (
            "vjepa evaluate test_videos/ --model runs/action",
            "vjepa evaluate list.csv --model runs/a runs/b --label action --segments 4 --views 3",
        ),
        "config.verbs.commands:EvaluateConfig",
        "commands.evaluate:evaluate",
        positional=("source",),
        needed=("source", "model"),
        hidden=("data",),
        old_order=old_orders.evaluate,
        render="cli.render.evaluate:evaluate",
    ),
    Verb(
        "compare",
        "Compare runs: a table and an HTML page of their metrics, with mean and standard deviation over seeds.",
        ("vjepa compare runs/*", "vjepa compare runs/a runs/b --out comparison.html"),
        "config.verbs.commands:CompareConfig",
        "commands.compare:compare",
        positional=("runs",),
        needed=("runs",),
        render="cli.render.compare:compare",
    ),
    Verb(
        "embed",
        "Save the features of videos and images to a file, with an index; repeat an interrupted command to resume.",
        (
            "vjepa embed videos/ --model runs/mine --out features.safetensors",
            "vjepa embed list.csv --model runs/mine --what grid --layer 5 --out grids.npz",
        ),
        "config.verbs.commands:EmbedConfig",
        "commands.embed:embed",
        positional=("source",),
        needed=("source", "model"),
        render="cli.render.embed:embed",
        again=_REPEAT,
    ),
    Verb(
        "show",
        "Visualize features: PCA colors, similarity to a patch, attention, a map of clips (PNG, MP4, HTML).",
        (
            "vjepa show videos/ --model runs/mine",
            "vjepa show a.mp4 b.mp4 --model runs/mine untrained:runs/mine --clips 3 --foreground",
            "vjepa show new.mp4 --model runs/mine --fit runs/show/pca-fit.safetensors --out runs/show-new",
            "vjepa show new.mp4 --model runs/probe --what attention --rows heads",
            "vjepa show videos/ --model runs/mine --what map --query new.mp4",
        ),
        "config:ShowConfig",
        "commands.show:show",
        positional=("videos",),
        needed=("videos", "model"),
        render="cli.render.show:show",
    ),
    Verb(
        "track",
        "Track objects (from a mask) or points through a video by feature similarity; compute J and F on DAVIS.",
        (
            "vjepa track video.mp4 --model runs/mine --mask first.png",
            "vjepa track video.mp4 --model runs/mine --points 120,80 300,95 --short-side 480",
            "vjepa track --davis DAVIS --model vjepa2-vitl --out runs/davis",
        ),
        "config:TrackConfig",
        "commands.track:track",
        positional=("video",),
        needed=("model",),
        render="cli.render.track:track",
    ),
    Verb(
        "surprise",
        "Measure prediction error (surprise) over time and space, with baselines; run intuitive-physics benchmarks.",
        (
            "vjepa surprise new.mp4 --model runs/masked",
            "vjepa surprise physics --model runs/masked --benchmark pairs --split test",
            "vjepa surprise new_videos/ --model runs/masked --normal normal_videos/",
            "vjepa surprise 0 --model runs/masked --json",
        ),
        "config.verbs.surprise:SurpriseConfig",
        "commands.surprise:surprise",
        positional=("videos",),
        needed=("videos", "model"),
        render="cli.render.surprise:surprise",
        status=_all_unreadable_stream,
    ),
    Verb(
        "decode",
        "Decode true, predicted and mean tokens to pixels (ridge regression or flow matching), with the PSNR of each.",
        (
            "vjepa decode test_videos/ --model runs/masked --fit videos/",
            "vjepa decode test_videos/ --model runs/masked --fit videos/ --decoder flow --minutes 5",
        ),
        "config.verbs.surprise:DecodeConfig",
        "commands.decode:decode_videos",
        positional=("videos",),
        needed=("videos", "model"),
        render="cli.render.decode:decode",
        status=_interrupted,
    ),
    Verb(
        "models",
        "List the published models (size, clip, accuracy, license, memory), or show the details of one.",
        ("vjepa models", "vjepa models vjepa2-vitl", "vjepa models --json"),
        "config.verbs.commands:ModelsConfig",
        "commands.models:models",
        positional=("name",),
        render="cli.render.models:models",
    ),
    Verb(
        "convert",
        "Convert a model between the layouts of Meta, Hugging Face and openvjepa; tensors stay bit-identical.",
        (
            "vjepa convert runs/mine mine.pt --to meta",
            "vjepa convert vitl.pt vitl-hf --to hf",
            "vjepa convert jepa-latest.pth.tar nano --to openvjepa --probe probe-latest.pth.tar",
            'vjepa convert own.pt own --to openvjepa --geometry "num_heads: 3, num_frames: 8, img_size: 64"',
        ),
        "config.verbs.commands:ConvertConfig",
        "commands.convert:convert",
        positional=("source", "out"),
        render="cli.render.models:convert",
    ),
    Verb(
        "export",
        "Export a model to transformers (with a model card) or ONNX, and verify the exported copy.",
        ("vjepa export runs/action action-hf --to hf", "vjepa export runs/action action-onnx --to onnx"),
        "config.verbs.commands:ExportConfig",
        "commands.export:export",
        positional=("model", "out"),
        render="cli.render.models:export",
    ),
    Verb(
        "bench",
        "Benchmark this machine: peak FLOP/s, pretraining step, inference and data loading.",
        ("vjepa bench --quick", "vjepa bench --models vit_tiny vit_large --out bench.json"),
        "config.verbs.commands:BenchConfig",
        "commands.bench:benchmark",
        render="cli.render.bench:bench",
    ),
)
