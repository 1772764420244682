"""A run of `vjepa distill`: the teacher's features, the student, and the loop."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from openvjepa.config import (
    ENCODER_SIZES,
    PRESETS,
    ClipProtocol,
    DistillConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    to_mapping,
    to_yaml,
)
from openvjepa.data.lists.index import VideoIndex, read_index
from openvjepa.distilling.clips import Pairs, decode_clips, student_plan
from openvjepa.distilling.task import DistillTask, Statistics, regrid
from openvjepa.errors import ConfigError, DataError
from openvjepa.features.cache import encode_index
from openvjepa.features.encode import EncodeSettings
from openvjepa.features.sampling import ClipPlan, plan_for
from openvjepa.grid import TokenGrid
from openvjepa.model.encoder import Encoder
from openvjepa.train.checkpoint import list_checkpoints
from openvjepa.train.distributed import Runtime
from openvjepa.train.resume import FREE_WITH_FEATURES
from openvjepa.train.trainer import FitResult, fit
from openvjepa.weights.files import write_file
from openvjepa.weights.hub import load_model, save_model
from openvjepa.weights.loaded import LoadedModel

log = logging.getLogger("openvjepa")

CLIPS = "clips.npy"
_CHUNK = 64  # clips at a time
# Settings that do not alter what a run computes, so that a resumed one may change them.
FREE = (*FREE_WITH_FEATURES, "log_every", "save_every", "label")


def make_student(config: DistillConfig, teacher: LoadedModel) -> Encoder:
    """The encoder that is trained: new, with weights that follow from the seed, or one that is there already.

    Raises:
        ConfigError: it does not take clips of the asked size.
        CheckpointError: the student is neither a preset nor a size, and no such model can be read.
    """
    name = config.student
    size = {} if config.student_size is None else {"img_size": config.student_size}
    if name not in PRESETS and name not in ENCODER_SIZES:
        return load_model(name, arch=size).encoder
    if name in PRESETS:
        model = PRESETS[name]().model
    else:
        model = ModelConfig(
            arch=name,
            img_size=teacher.clip.size,
            num_frames=teacher.clip.num_frames,
            patch_size=teacher.config.patch_size,
            tubelet_size=teacher.config.tubelet_size,
            positions=teacher.config.positions,
            interpolate_rope=teacher.config.interpolate_rope,
            time_attention=teacher.config.time_attention,
        )
    torch.manual_seed(config.seed)
    return Encoder(replace(model, **size))


class DistillRun:
    """The data of a run and what is trained.

    Raises:
        ConfigError: clips of teacher and student do not belong together.
        DataError: no videos, or too many that cannot be read.
        CheckpointError: a model cannot be read.
    """

    def __init__(self, config: DistillConfig, runtime: Runtime) -> None:
        self.config, self.runtime, self.out = config, runtime, Path(config.out)
        if not config.sources:
            raise ConfigError("no videos given: name a folder, a list or a CSV file")
        self.indices = [read_index(source, label=config.label) for source in config.sources]
        self.index = _together(self.indices)
        self.teacher = load_model(config.teacher)
        self.student = make_student(config, self.teacher)
        self.initial = copy.deepcopy(self.student).eval()
        plan = plan_for(self.teacher, self.index.records)
        self.plan = plan.for_training(random=config.clips - 1, crop_scale=config.crop_scale, seed=config.seed)
        self.own_plan = student_plan(self.plan, self.student.config, self.index)
        self.grids = (_grid(self.teacher.encoder, self.plan), _grid(self.student, self.own_plan))

    def train(self) -> FitResult:
        """Encode with the teacher, where its features are not there yet, and train the student."""
        config, runtime = self.config, self.runtime
        settings = EncodeSettings(
            runtime, config.eval_batch, config.feature_dtype, workers=config.workers, max_bad=config.max_bad
        )
        cache = Path(config.cache_dir) if config.cache_dir else self.out / "features"
        encoder = self.teacher.encoder.to(runtime.device)
        found = encode_index(encoder, self.index, self.plan, settings, cache, name="videos of the teacher")
        encoder.cpu()
        for path, reason in found.skipped.items():
            log.warning("skipped %s: %s", path, reason)
        readable = replace(self.index, records=tuple(self.index.records[i] for i in found.kept))
        features = found.x.reshape(-1, *found.x.shape[2:])
        try:
            clips = decode_clips(readable, self.own_plan, settings, self.out / CLIPS)
            return self._fit(Pairs(clips, features))
        finally:
            (self.out / CLIPS).unlink(missing_ok=True)

    def _fit(self, pairs: Pairs) -> FitResult:
        config = self.config
        parts = (pairs.features[i : i + _CHUNK] for i in range(0, len(pairs.features), _CHUNK))
        targets = (regrid(torch.from_numpy(part.astype(np.float32)), *self.grids) for part in parts)
        torch.manual_seed(config.seed)  # for the projectors: encoding draws random numbers, reading a cache does not
        task = DistillTask(
            self.student,
            self.teacher.encoder.embed_dim,
            self.grids,
            Statistics.of(targets),
            token_coeff=config.token_coeff,
            pooled_coeff=config.pooled_coeff,
        )
        if not list_checkpoints(self.out / "checkpoints"):  # a resumed run keeps the settings it was started with
            write_file(self.out / "config.yaml", to_yaml(config).encode())
        log.info(
            "%d clips of %d videos; student %.2f M parameters, teacher %.2f M; %d steps of %d clips on %s",
            len(pairs.clips),
            len(pairs.clips) // self.plan.clips,
            *(sum(p.numel() for p in module.parameters()) / 1e6 for module in (self.student, self.teacher.encoder)),
            config.steps,
            config.batch_size,
            self.runtime,
        )
        train = _train_config(config)
        own = {name: value for name, value in to_mapping(config).items() if name not in FREE}
        size, steps = config.batch_size, config.steps
        return fit(
            task,
            lambda step: pairs.batches(seed=config.seed, size=size, first=step, steps=steps),
            optim=_optim_config(config),
            train=train,
            run_dir=self.out,
            runtime=self.runtime,
            config={"distill": own, "train": to_mapping(train)},
        )

    def save(self) -> LoadedModel:
        """Write the student as `load_model` reads it, and load it."""
        spec = self.own_plan.spec
        clip = ClipProtocol.of(
            self.student.config,
            frame_step=spec.frame_step,
            fps=spec.fps,
            antialias=self.plan.antialias,
            fit=self.plan.fit,
        )
        save_model(self.out, self.student.cpu().eval(), None, clip=clip)
        return load_model(self.out)


def _together(indices: list[VideoIndex]) -> VideoIndex:
    """The videos to learn from, of all sources; their labels do not matter."""
    records = []
    for index in indices:
        shown = index.without("val", "test")
        if not len(shown):
            raise DataError(f"{index.source}: all videos are marked as val or test, none is left to train on")
        records += shown.records
    return replace(indices[0], source=" ".join(index.source for index in indices), records=tuple(records))


def _grid(encoder: Encoder, plan: ClipPlan) -> TokenGrid:
    config = encoder.config
    return TokenGrid.of_clip(
        plan.spec.num_frames, *plan.size, patch_size=config.patch_size, tubelet_size=config.tubelet_size
    )


def _train_config(config: DistillConfig) -> TrainConfig:
    return TrainConfig(
        steps=config.steps,
        batch_size=config.batch_size,
        seed=config.seed,
        device=config.device,
        precision=config.precision,
        threads=config.threads,
        log_every=config.log_every,
        save_every=config.save_every,
        monitor_every=0,
        resume=config.resume,
        overwrite=config.overwrite,
    )


def _optim_config(config: DistillConfig) -> OptimConfig:
    return OptimConfig(
        lr=config.lr,
        start_lr=0.0 if config.warmup else config.lr,
        final_lr=0.0,
        warmup=config.warmup,
        weight_decay=config.weight_decay,
        final_weight_decay=config.weight_decay,
        schedule_scale=1.0,
        clip_grad=config.clip_grad,
    )
