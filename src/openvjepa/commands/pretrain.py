"""`vjepa pretrain`: a folder of videos in, a pretrained V-JEPA encoder out (Bardes et al. 2024, section 3)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openvjepa.config import PretrainConfig, to_mapping, to_yaml
from openvjepa.data.clips import ClipSpec
from openvjepa.data.index import VideoIndex
from openvjepa.data.loader import EvalClips, PretrainBatches, PretrainLoader, seeded
from openvjepa.data.transforms import normalize
from openvjepa.errors import DataError
from openvjepa.model.jepa import JEPA
from openvjepa.model.kernels import describe
from openvjepa.model.layers import compile_blocks
from openvjepa.model.predictor import Predictor
from openvjepa.train.checkpoint import list_checkpoints, load_newest
from openvjepa.train.distributed import Runtime, make_runtime
from openvjepa.train.logs import read_metrics
from openvjepa.train.metrics import collapse_warning, feature_std, knn_accuracy, rankme
from openvjepa.train.optim import context_coeff, ema_momentum
from openvjepa.train.trainer import FitResult, accumulation, fit, open_run_dir
from openvjepa.weights.files import write_file
from openvjepa.weights.hub import load_model, save_model

_SIGREG = 20  # tag that keeps this stream of random numbers apart from the loader's
MONITOR_CLIPS = 256  # fixed clips that the monitors look at, half of them as the neighbours of kNN


class PretrainTask(nn.Module):
    """What the trainer sees: normalises the clips, runs the JEPA, moves the target encoder after each step."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.config = config
        self.jepa = JEPA(config.model, config.objective)
        for module in (self.jepa.encoder, self.jepa.predictor):
            if module is not None:
                module.checkpointing = config.train.activation_checkpointing
        if config.train.compile:
            compile_blocks(self.jepa)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of a micro batch of the loader; with images, the mean of the clips' and theirs."""
        coeff = context_coeff(batch["step"], self.config.objective, self.config.train.steps)
        parts = [batch, batch["images"]] if "images" in batch else [batch]
        views = [(normalize(view["clips"]), view.get("ids")) for view in batch.get("views", ())]
        losses = [
            self.jepa(
                normalize(part["clips"]),
                part["masks_enc"],
                part["masks_pred"],
                context_coeff=coeff,
                views=views,
                global_views=self.config.views.global_views,
                generator=seeded(self.config.train.seed, _SIGREG, batch["step"]),
            )
            for part in parts
        ]
        return {name: torch.stack([loss[name] for loss in losses]).mean() for name in losses[0]}

    def param_groups(self) -> list[dict[str, Any]]:
        """Encoder and predictor, with and without weight decay."""
        return self.jepa.param_groups()

    def after_step(self, step: int) -> None:
        """Moves the target encoder; `step` counts finished steps from 0."""
        self.jepa.update_target(ema_momentum(step, self.config.optim, self.config.train.steps))


class CollapseMonitor:
    """Looks at the target encoder's features of a fixed batch of clips: do they still differ from clip to clip?

    Reports the standard deviation over clips and tokens, the effective rank (RankMe) and, where there are labels, the
    accuracy of a k-nearest-neighbour vote of one half of the clips on the other.
    """

    def __init__(self, task: PretrainTask, index: VideoIndex, config: PretrainConfig, runtime: Runtime) -> None:
        self.task, self.runtime = task, runtime
        clips, labels = _fixed_clips(index, config)
        self.clips, self.labels = clips, labels
        record = read_metrics(Path(config.out) / "metrics.jsonl")  # of the run that is resumed
        self.first = record[0] if record and "feature_std" in record[0] else None

    def __call__(self, step: int) -> dict[str, float]:
        """Monitor values at a step; prints a warning in words when the encoder is collapsing."""
        tokens = self._features()
        pooled = tokens.mean(1)
        values = {"feature_std": feature_std(tokens.flatten(0, 1)), "rankme": rankme(tokens.flatten(0, 1))}
        half = len(pooled) // 2
        if self.labels is not None:
            values["knn"] = knn_accuracy(pooled[:half], self.labels[:half], pooled[half:], self.labels[half:])
        self.first = self.first or values
        warning = collapse_warning(values, self.first)
        if warning:
            print(f"warning: step {step}: {warning}", flush=True)
        return values

    @torch.no_grad()
    def _features(self) -> Tensor:
        encoder = self.task.jepa.target_encoder
        chunks = []
        for clips in self.clips.split(32):
            with self.runtime.autocast():
                chunks.append(encoder(normalize(clips.to(self.runtime.device))).float().cpu())
        return torch.cat(chunks)


def pretrain(config: PretrainConfig) -> FitResult:
    """Pretrain a V-JEPA encoder on the videos of config.sources.

    Writes config.yaml, metrics.jsonl, tensorboard/, checkpoints/ and, at the end, model.safetensors with the target encoder
    and the predictor, which `load_model(config.out)` reads.

    Args:
        config: everything about the run; see `PretrainConfig` for units and defaults.

    Returns:
        Last step, seconds and last metrics; `interrupted` after a Ctrl-C.

    Raises:
        ConfigError: impossible settings, or a run folder that is in use.
        DataError: no videos, or too many that cannot be read.
        CheckpointError: a checkpoint cannot be written or read.
    """
    torch.manual_seed(config.train.seed)
    start = None if config.init is None else _Start(config)
    config = config if start is None else start.config
    out = Path(config.out)
    with make_runtime(config.train) as runtime:
        micro, accumulate = accumulation(config.train, runtime.world_size)
        batches = PretrainBatches(
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
        task = PretrainTask(config)
        optimizer_state = None if start is None else start.load_into(task)
        if runtime.is_main:
            open_run_dir(out, config.train)
            if not (out / "config.yaml").exists():  # a resumed run keeps the settings it was started with
                write_file(out / "config.yaml", to_yaml(config).encode())
            _introduce(config, batches, task, runtime)
        monitor = (
            CollapseMonitor(task, _monitor_index(batches), config, runtime) if config.train.monitor_every else None
        )
        result = fit(
            task,
            lambda step: PretrainLoader(
                batches, start_step=step, steps=config.train.steps, pin_memory=runtime.device.type == "cuda"
            ),
            optim=config.optim,
            train=config.train,
            run_dir=out,
            runtime=runtime,
            config=to_mapping(config),
            monitor=monitor,
            optimizer_state=optimizer_state,
        )
        if runtime.is_main and not result.interrupted:
            save_model(out, task.jepa.target_encoder, task.jepa.predictor)
            print(f"Done: {out / 'model.safetensors'} after {result.step} steps in {result.seconds:.0f} s", flush=True)
    return result


class _Start:
    """The model that a run starts from: a pretraining run with all its state, or any other model's weights."""

    def __init__(self, config: PretrainConfig) -> None:
        assert config.init is not None
        shape = {"img_size": config.model.img_size, "num_frames": config.model.num_frames}
        self.model = load_model(config.init, arch=shape)
        self.config = replace(config, model=replace(self.model.config, predictor_kind="masked"))
        self.checkpoints = Path(config.init) / "checkpoints"

    def load_into(self, task: PretrainTask) -> dict[str, Any] | None:
        """Fill the task; returns the optimiser's state where there is one.

        Position codes stay those of the new clip shape. A model without a predictor of hidden tokens leaves it at random weights.
        """
        print(f"starting from {self.model}", flush=True)
        if list_checkpoints(self.checkpoints):
            state = load_newest(self.checkpoints)
            own = task.state_dict()
            task.load_state_dict(state["model"] | {key: own[key] for key in own if key.endswith("pos_embed")})
            return state["optimizer"]
        for encoder in (task.jepa.encoder, task.jepa.target_encoder):
            encoder.load_state_dict(self.model.encoder.state_dict())
        if task.jepa.predictor is None:
            return None
        if not isinstance(self.model.predictor, Predictor):
            print("it has no predictor of hidden tokens: this one starts from random weights", flush=True)
        else:
            task.jepa.predictor.load_state_dict(self.model.predictor.state_dict())
        return None


def _introduce(config: PretrainConfig, batches: PretrainBatches, task: PretrainTask, runtime: Runtime) -> None:
    encoder = sum(p.numel() for p in task.jepa.encoder.parameters()) / 1e6
    rest = sum(p.numel() for p in task.jepa.parameters() if p.requires_grad) / 1e6 - encoder
    grid = config.model.grid
    print(
        f"{len(batches.records)} videos; {config.model.arch} {encoder:.2f} M + predictor {rest:.2f} M parameters; "
        f"{grid.t} x {grid.h} x {grid.w} = {grid.tokens} tokens a clip; {config.train.steps} steps of "
        f"{config.train.batch_size} clips\n{runtime}, {describe(runtime.device, runtime.dtype)}",
        flush=True,
    )


def _monitor_index(batches: PretrainBatches) -> VideoIndex:
    """Fixed videos for the monitors: of the split val where there is one, else a sample of the training videos."""
    index = batches.indices[0]
    index = index.select("val") if len(index.select("val")) >= 32 else index
    stride = max(1, len(index) // MONITOR_CLIPS)
    return replace(index, records=index.records[::stride][:MONITOR_CLIPS])


def _fixed_clips(index: VideoIndex, config: PretrainConfig) -> tuple[Tensor, Tensor | None]:
    """Centre clips uint8 [n, 3, T, H, W] of the videos that can be read, and their labels."""
    spec = ClipSpec(config.model.num_frames, config.data.frame_step, config.data.fps)
    items = EvalClips(index, spec, config.model.image_hw)
    readable = [(clips[0], index.labels[i]) for clips, i, error in (items[i] for i in range(len(items))) if not error]
    if not readable:
        raise DataError(f"{index.source}: none of the first {len(index)} videos can be read")
    labels = torch.tensor([label for _, label in readable])
    return torch.stack([clip for clip, _ in readable]), labels if labels.min() >= 0 and len(labels) > 3 else None
