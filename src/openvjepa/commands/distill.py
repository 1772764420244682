"""`vjepa distill`: a small encoder learns the features of a large one on videos without labels."""

from __future__ import annotations

import logging
from pathlib import Path

from openvjepa.config import DistillConfig, command
from openvjepa.distilling.run import DistillRun
from openvjepa.errors import ConfigError, Interrupted
from openvjepa.model.flops import encoder_flops
from openvjepa.reports.distill import DistillResult, report_distillation
from openvjepa.train.distributed import make_runtime, one_process
from openvjepa.train.run_folder import open_run

log = logging.getLogger("openvjepa")


@command(DistillConfig, "sources")
def distill(config: DistillConfig) -> DistillResult:
    """Train a student encoder to predict its teacher's features of the same clips.

    Writes config.yaml, metrics.jsonl, tensorboard, checkpoints, features (of the teacher, encoded once) and at the end
    model.safetensors with model.yaml, which `load_model(config.out)` reads, results.json and report.html, which compares
    untrained student, student and teacher by probes where the videos have labels.

    Returns:
        What was found.

    Raises:
        ConfigError: impossible settings, or a run folder that is in use.
        DataError: no videos, or too many that cannot be read.
        CheckpointError: a model or checkpoint cannot be read or written.
        Interrupted: by a signal such as Ctrl-C; the run has been saved.
    """
    if not config.teacher:
        raise ConfigError("no teacher given: --teacher names a run folder, a checkpoint file or a published model")
    if Path(config.out).resolve() in (Path(config.teacher).resolve(), Path(config.student).resolve()):
        raise ConfigError(f"{config.out}: is the teacher or the student: choose another --out")
    one_process("distillation")
    with (
        open_run(config.out, resume=config.resume, overwrite=config.overwrite) as folder,
        make_runtime(config) as runtime,
    ):
        run = DistillRun(config, runtime)
        folder.start()  # not earlier: what is overwritten stays until models and lists have been read
        log.info("distilling %s", run.teacher)
        result = run.train()
        if result.interrupted:
            raise Interrupted(f"distillation ended at step {result.step}: continue it with --resume", result.signal)
        student = run.save()
        cost = {
            "teacher": encoder_flops(run.teacher.config) / 1e9,
            "student": encoder_flops(student.config) / 1e9,
        }
        return report_distillation(config, run.initial, student, run.teacher, run.indices, runtime, result, cost)
