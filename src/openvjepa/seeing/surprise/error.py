"""Surprise: how far a video continues from what the predictor expects, from the first frames of a window alone.

The encoder sees the context tokens only: the others are dropped before its first block, so that no context token knows
anything of the future. Targets are the target encoder's tokens of the whole window, layer-normed as in pretraining. All
later tokens are predicted at once, and surprise is the mean absolute error (protocol of Garrido et al. 2025, "Intuitive
physics understanding emerges from self-supervised pretraining on natural videos", section 2).

Shapes: B windows of T frames, N = t * h * w tokens of a window, K of them after the context, C = levels * D channels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from openvjepa.config import ClipProtocol, ModelConfig
from openvjepa.data.transforms import normalize
from openvjepa.errors import ConfigError
from openvjepa.grid import TokenGrid
from openvjepa.model.encoder import Encoder
from openvjepa.model.objectives.masked import normalize_targets
from openvjepa.model.predictor import Predictor
from openvjepa.train.distributed import Runtime
from openvjepa.weights.hub import UNTRAINED, LoadedModel, load_model

MOST_CONTEXTS = 5
EXCESS_SHARE = 0.05
"""Of the predicted tokens: an impossible event is local."""
_CONTEXT_SHARES = (1 / 8, 5 / 8)  # of the window, shortest and longest: 2..10 of 16 frames


@dataclass(frozen=True, eq=False)
class PredictiveModel:
    """What surprise is measured with, in eval mode on one device."""

    encoder: Encoder
    """Encodes the context."""
    predictor: Predictor
    target_encoder: Encoder
    """Encodes what is predicted. Files that hold one encoder hold this one, and it encodes the context too."""
    name: str
    clip: ClipProtocol
    """Frames, frame rate and preprocessing of the clips that it was made for."""

    @property
    def config(self) -> ModelConfig:
        """Geometry of encoder and predictor."""
        return self.encoder.config

    @property
    def grid(self) -> TokenGrid:
        """Tokens of a window."""
        return self.config.grid

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.encoder.parameters()).device

    def to(self, device: torch.device) -> PredictiveModel:
        """Move all parts in place; returns itself."""
        for module in (self.encoder, self.predictor, self.target_encoder):
            module.to(device)
        return self


def predictive_model(model: LoadedModel, *, encoder: Encoder | None = None) -> PredictiveModel:
    """The parts of a loaded model that surprise needs.

    Args:
        model: of `load_model`; its encoder is the target encoder wherever the file has one.
        encoder: encodes the context, such as the online encoder of a pretraining run; None: the target encoder does.

    Raises:
        ConfigError: it has no predictor of masked tokens, or one that predicts something else than its encoder's features.
    """
    advice = (
        "pretrain with masked prediction (--preset nano-masked), or use V-JEPA 1, 2 or 2.1 (g, G) with its predictor"
    )
    predictor, config = model.predictor, model.config
    if predictor is None:
        raise ConfigError(f"{model.source}: the model has no predictor of masked tokens: {advice}")
    if not isinstance(predictor, Predictor):
        raise ConfigError(f"{model.source}: its predictor needs actions (V-JEPA 2-AC): {advice}")
    if not config.num_mask_tokens:
        raise ConfigError(f"{model.source}: its predictor has no mask tokens (trained by diffusion): {advice}")
    if not model.clip.is_published:
        raise ConfigError(
            f"{model.source}: its frame normalization or cropping differs from the published models, which is not supported here"
        )
    width = config.predictor_levels * config.dims.embed_dim
    if config.predictor_out_dim not in (None, width):
        raise ConfigError(
            f"{model.source}: its predictor predicts {config.predictor_out_dim} values (its teacher's features, or pixels), "
            f"not the {width} of its own encoder, so there is no target to compare with: {advice}"
        )
    if config.num_frames < 2 * config.tubelet_size:
        raise ConfigError(f"{model.source}: a clip with a single time step has nothing to predict: {advice}")
    return PredictiveModel(encoder or model.encoder, predictor, model.encoder, model.source, model.clip)


def load_with_predictor(source: str, *, seed: int = 0) -> LoadedModel:
    """`load_model`; untrained:MODEL has the architecture of MODEL, predictor included, and random weights.

    Raises:
        CheckpointError: it cannot be read.
    """
    model = load_model(source.removeprefix(UNTRAINED))
    if source.startswith(UNTRAINED):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = Encoder(model.config)
            predictor = Predictor(model.config) if isinstance(model.predictor, Predictor) else None
        for module in (encoder, predictor):
            if module is not None:
                module.eval().requires_grad_(False)
        model = replace(model, encoder=encoder, predictor=predictor, source=source)
    return model


def load_predictive(source: str, *, seed: int = 0) -> PredictiveModel:
    """Load a model for surprise; untrained:MODEL has its architecture and random weights.

    Raises:
        ConfigError: the model has no predictor of masked tokens.
        CheckpointError: it cannot be read.
    """
    return predictive_model(load_with_predictor(source, seed=seed))


def default_contexts(config: ModelConfig) -> tuple[int, ...]:
    """Context lengths, frames: at most five from 1/8 to 5/8 of a window, in whole tubelets (2, 4, 6, 8, 10 of 16)."""
    tubelets, size = config.grid.t, config.tubelet_size
    low, high = (max(1, min(tubelets - 1, round(share * tubelets))) for share in _CONTEXT_SHARES)
    count = min(MOST_CONTEXTS, high - low + 1)
    steps = [low + (high - low) * i / max(1, count - 1) for i in range(count)]
    return tuple(size * round(step) for step in steps)


def check_contexts(contexts: Sequence[int], config: ModelConfig) -> tuple[int, ...]:
    """Context lengths in ascending order, each once.

    Raises:
        ConfigError: one is not a number of whole tubelets, or leaves nothing to predict.
    """
    size, frames = config.tubelet_size, config.num_frames
    for context in contexts:
        if context % size or not 0 < context < frames:
            allowed = ", ".join(map(str, range(size, frames, size)))
            raise ConfigError(f"a context of {context} frames: this model can see {allowed} of a window of {frames}")
    if not contexts:
        raise ConfigError("give at least one context")
    return tuple(sorted(set(contexts)))


@torch.no_grad()
def target_tokens(model: PredictiveModel, windows: Tensor, runtime: Runtime | None = None) -> Tensor:
    """The target encoder's tokens of whole windows, layer-normed level by level.

    Args:
        model: of `predictive_model`.
        windows: float [B, 3, T, H, W], normalized.
        runtime: autocast to use; None: float32.

    Returns:
        float32 [B, N, C].
    """
    return _normed_tokens(model, windows, None, runtime)


@torch.no_grad()
def context_tokens(
    model: PredictiveModel, windows: Tensor, context: int, runtime: Runtime | None = None
) -> tuple[Tensor, Tensor]:
    """The encoder's tokens of the first `context` frames, and their ids: [B, N - K, C] and int64 [B, N - K].

    The other tokens are dropped before the first block.
    """
    levels = model.config.predictor_levels
    ids = _visible(model.grid, context // model.config.tubelet_size).to(windows.device).expand(len(windows), -1)
    with _autocast(runtime):
        tokens = model.encoder(windows, ids, num_levels=levels)
    return tokens, ids


@torch.no_grad()
def predicted_tokens(model: PredictiveModel, windows: Tensor, context: int, runtime: Runtime | None = None) -> Tensor:
    """What the predictor expects after the first `context` frames: float32 [B, K, C], all later tokens at once."""
    tokens, seen = context_tokens(model, windows, context, runtime)
    grid = model.grid
    ahead = torch.arange(seen.shape[1], grid.tokens, device=windows.device).expand(len(windows), -1)
    # V-JEPA 1 has a mask token for each kind of mask, the last one for the large blocks; V-JEPA 2 has one for each length.
    mask_index = model.config.num_mask_tokens - 1 if model.config.positions == "sincos" else 0
    with _autocast(runtime):
        predicted = model.predictor(tokens, seen, ahead, mask_index, grid=grid)
    return predicted.masked.float()


@torch.no_grad()
def repeated_tokens(model: PredictiveModel, windows: Tensor, context: int, runtime: Runtime | None = None) -> Tensor:
    """The baseline "the last visible tokens stay": float32 [B, K, C].

    They are those of the target encoder that sees the context alone, layer-normed as targets are.
    """
    grid, tubelets = model.grid, context // model.config.tubelet_size
    ids = _visible(grid, tubelets).to(windows.device).expand(len(windows), -1)
    last = _normed_tokens(model, windows, ids, runtime)[:, -grid.tokens_per_frame :]
    return last.repeat(1, grid.t - tubelets, 1)


def _normed_tokens(model: PredictiveModel, windows: Tensor, ids: Tensor | None, runtime: Runtime | None) -> Tensor:
    levels = model.config.predictor_levels
    with _autocast(runtime):
        tokens = model.target_encoder(windows, ids, num_levels=levels)
    return normalize_targets(tokens, levels)


def _visible(grid: TokenGrid, tubelets: int) -> Tensor:
    return torch.arange(tubelets * grid.tokens_per_frame)


def _autocast(runtime: Runtime | None) -> AbstractContextManager[object]:
    return runtime.autocast() if runtime else contextlib.nullcontext()


def mean_tokens(model: PredictiveModel, batches: Iterable[Tensor], runtime: Runtime | None = None) -> Tensor:
    """The mean target token of each place over windows, which the baseline "mean token of this place" predicts.

    Args:
        model: of `predictive_model`.
        batches: uint8 [B, 3, T, H, W] each.
        runtime: autocast to use; None: float32.

    Returns:
        float32 [N, C].

    Raises:
        ConfigError: there are no windows.
    """
    total, count = torch.zeros((), dtype=torch.float64), 0
    for batch in batches:
        tokens = target_tokens(model, normalize(batch.to(model.device)), runtime)
        total, count = total + tokens.double().sum(0).cpu(), count + len(tokens)
    if not count:
        raise ConfigError("no windows to average tokens over")
    return (total / count).float()


@dataclass(frozen=True, eq=False)
class WindowErrors:
    """Mean absolute errors of W windows for A context lengths."""

    prediction: Tensor
    """Of the predictor, [W, A]: the surprise."""
    repeat: Tensor
    """Of "the last visible tokens stay", [W, A]."""
    mean: Tensor
    """Of "the mean token of this place", [W, A]; nan where that is not known."""
    excess: Tensor
    """Prediction error less that of "the last visible tokens stay", [W, A], in the 5 % of the tokens where it is largest."""
    tokens: Tensor
    """Of the predictor, for each token, [W, t, h, w]: mean over the contexts that do not show it, NaN where all show it."""


def window_errors(
    model: PredictiveModel,
    windows: Tensor,
    contexts: Sequence[int],
    mean: Tensor | None,
    runtime: Runtime | None = None,
) -> WindowErrors:
    """Surprise of windows, and what the two baselines would have got wrong.

    Args:
        model: of `predictive_model`.
        windows: uint8 [B, 3, T, H, W].
        contexts: lengths in frames, of `check_contexts`.
        mean: of `mean_tokens`; None: that baseline is nan.
        runtime: autocast to use; None: float32.
    """
    clips = normalize(windows.to(model.device))
    targets, grid = target_tokens(model, clips, runtime), model.grid
    mean = mean.to(model.device) if mean is not None else torch.full((grid.tokens, 1), torch.nan, device=model.device)
    columns: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    total, count = torch.zeros(len(clips), grid.tokens), torch.zeros(grid.tokens)
    for context in contexts:
        first = context // model.config.tubelet_size * grid.tokens_per_frame
        truth = targets[:, first:]
        wrong = (predicted_tokens(model, clips, context, runtime) - truth).abs().mean(-1)
        stays = (repeated_tokens(model, clips, context, runtime) - truth).abs().mean(-1)
        most = (wrong - stays).topk(max(1, round(EXCESS_SHARE * wrong.shape[1])), dim=1).values.mean(1)
        usual = (mean[first:] - truth).abs().mean((1, 2))
        columns.append((wrong.mean(1), stays.mean(1), usual, most))
        total[:, first:] += wrong.cpu()
        count[first:] += 1
    prediction, repeat, usual, excess = (torch.stack(column, 1).cpu() for column in zip(*columns, strict=True))
    return WindowErrors(prediction, repeat, usual, excess, (total / count).unflatten(1, grid.shape))
