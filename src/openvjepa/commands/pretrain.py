"""`vjepa pretrain`: a folder of videos in, a pretrained V-JEPA encoder out (Bardes et al. 2024, section 3)."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from pathlib import Path

import torch

from openvjepa.config import PRESETS, ClipProtocol, PretrainConfig, command, read_yaml, to_mapping, to_yaml
from openvjepa.data.loader import PretrainBatches, PretrainLoader
from openvjepa.model.blocks.kernels import describe
from openvjepa.model.encoder import Encoder
from openvjepa.pretraining.monitor import CollapseMonitor, monitor_index
from openvjepa.pretraining.room import check_room
from openvjepa.pretraining.start import Start
from openvjepa.pretraining.task import PretrainTask
from openvjepa.reports.runs.pretrain import report_pretraining
from openvjepa.train.checkpoint import list_checkpoints
from openvjepa.train.distributed import Runtime, make_runtime
from openvjepa.train.run_folder import RunFolder, open_run
from openvjepa.train.trainer import FitResult, accumulation, fit
from openvjepa.weights.files import write_file
from openvjepa.weights.hub import load_model, save_model

log = logging.getLogger("openvjepa")


@command(PretrainConfig, "sources", PRESETS)
def pretrain(config: PretrainConfig) -> FitResult:
    """Pretrain a V-JEPA encoder on the videos of config.sources.

    Writes config.yaml, metrics.jsonl, tensorboard/, checkpoints/ and, at the end, model.safetensors with the target encoder
    and the predictor, which `load_model(config.out)` reads, and report.html, which compares the encoder with its weights
    before pretraining where the videos have labels.

    Args:
        config: everything about the run; see `PretrainConfig` for units and defaults.

    Returns:
        Last step, seconds and last metrics; `interrupted` after a signal such as Ctrl-C.

    Raises:
        ConfigError: impossible settings, or a run folder that is in use.
        DataError: no videos, or too many that cannot be read.
        CheckpointError: a checkpoint cannot be written or read.
    """
    torch.manual_seed(config.train.seed)
    start = None if config.init is None else Start(config)
    config = config if start is None else start.config
    out = Path(config.out)
    with make_runtime(config.train, distributed=True) as runtime, contextlib.ExitStack() as stack:
        check_room(config, runtime)
        folder = runtime.on_main(lambda: _open(stack, config))
        batches = _batches(config, runtime)
        task = PretrainTask(config)
        optimizer_state = None if start is None else start.load_into(task)
        runtime.on_main(folder.start)
        if runtime.is_main:
            if not list_checkpoints(out / "checkpoints"):  # a resumed run keeps the settings it was started with
                write_file(out / "config.yaml", to_yaml(config).encode())
            _introduce(config, batches, task, runtime)
        monitor = CollapseMonitor(task, monitor_index(batches), config, runtime) if config.train.monitor_every else None
        pinned = runtime.device.type == "cuda"
        result = fit(
            task,
            lambda step: PretrainLoader(batches, start_step=step, steps=config.train.steps, pin_memory=pinned),
            optim=config.optim,
            train=config.train,
            run_dir=out,
            runtime=runtime,
            config=to_mapping(config),
            monitor=monitor,
            optimizer_state=optimizer_state,
        )
        if runtime.is_main and config.train.resume:
            _note_length(config)
        if runtime.is_main and not result.interrupted:
            before = start.model.encoder if start else _initial_encoder(config)
            _finish(config, task, before, batches, result, runtime)
    return result


def _note_length(config: PretrainConfig) -> None:
    """Write the steps of a lengthened run into its config.yaml, whose other settings stay those that it was started with."""
    path = Path(config.out) / "config.yaml"
    stored = read_yaml(PretrainConfig, path) if path.exists() else config
    if stored.train.steps != config.train.steps:
        write_file(path, to_yaml(replace(stored, train=replace(stored.train, steps=config.train.steps))).encode())


def _batches(config: PretrainConfig, runtime: Runtime) -> PretrainBatches:
    micro, accumulate = accumulation(config.train, runtime.world_size)
    return PretrainBatches(
        config.sources,
        config.data,
        config.model,
        config.masking,
        seed=config.train.seed,
        micro_batch=micro,
        views=config.views if config.objective.views_coeff else None,
        accumulate=accumulate,
        rank=runtime.rank,
        world_size=runtime.world_size,
    )


def _finish(
    config: PretrainConfig,
    task: PretrainTask,
    before: Encoder,
    batches: PretrainBatches,
    result: FitResult,
    runtime: Runtime,
) -> None:
    """Save the model and write the report."""
    out = Path(config.out)
    clip = ClipProtocol.of(config.model, frame_step=config.data.frame_step, fps=config.data.fps)
    save_model(out, task.jepa.target_encoder, task.jepa.predictor, clip=clip)
    log.info("Done: %d steps in %.0f s, model saved in %s", result.step, result.seconds, out)
    report_pretraining(config, before, load_model(out), batches.indices, runtime, seconds=result.seconds)
    log.info(
        "report: %s\nnext: vjepa train videos/ --model %s, or vjepa show videos/ --model %s",
        out / "report.html",
        out,
        out,
    )


def _initial_encoder(config: PretrainConfig) -> Encoder:
    """An encoder with random weights, as the run started with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return Encoder(config.model).eval()


def _open(stack: contextlib.ExitStack, config: PretrainConfig) -> RunFolder:
    """The run folder, held until the stack is closed."""
    return stack.enter_context(open_run(config.out, resume=config.train.resume, overwrite=config.train.overwrite))


def _introduce(config: PretrainConfig, batches: PretrainBatches, task: PretrainTask, runtime: Runtime) -> None:
    encoder = sum(p.numel() for p in task.jepa.encoder.parameters()) / 1e6
    rest = sum(p.numel() for p in task.jepa.parameters() if p.requires_grad) / 1e6 - encoder
    grid = config.model.grid
    log.info(
        f"{len(batches.records)} videos; {config.model.arch} {encoder:.2f} M + predictor {rest:.2f} M parameters; "
        f"{grid.t} x {grid.h} x {grid.w} = {grid.tokens} tokens per clip; {config.train.steps} steps of "
        f"{config.train.batch_size} clips\n{runtime}, {describe(runtime.device, runtime.dtype)}"
    )
