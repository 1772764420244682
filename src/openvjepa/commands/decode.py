"""`vjepa decode`: features back to pixels, by ridge regression or flow matching."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openvjepa.commands.show import chosen, gather
from openvjepa.commands.surprise import clip_spec
from openvjepa.config import DecodeConfig, command
from openvjepa.data.clips import ClipSpec
from openvjepa.data.lists.index import VideoIndex, VideoRecord
from openvjepa.errors import ConfigError, DataError, VideoError
from openvjepa.progress import track
from openvjepa.reports import pages
from openvjepa.reports.charts import line_chart
from openvjepa.reports.seeing.decode import decoded_panels
from openvjepa.reports.seeing.pictures import Panel, strip, write_png
from openvjepa.seeing.decode import Decoded, RidgeDecoder, Tally, decode, fit_ridge
from openvjepa.seeing.flow import FlowDecoder, FlowSettings, fit_flow
from openvjepa.seeing.surprise.error import PredictiveModel, check_contexts, load_predictive, mean_tokens
from openvjepa.seeing.surprise.windows import plan_windows, read_windows
from openvjepa.train.distributed import Runtime, make_runtime
from openvjepa.train.run_folder import open_output

PICTURE, PAGE = "decode.png", "decode.html"
_log = logging.getLogger("openvjepa")


@dataclass(frozen=True)
class DecodeResult:
    """Result of `vjepa decode`."""

    psnr: dict[str, float]
    """true, predicted, mean: dB over all decoded pixels after the context."""
    videos: int
    skipped: dict[str, str]
    """Files that cannot be read: path -> reason."""
    files: tuple[Path, ...]
    psnr_of_mean: dict[str, float] | None = None
    """flow: dB of the mean of all samples, where `psnr` is that of single samples."""
    spread: dict[str, float] | None = None
    """flow: standard deviation of a pixel (0..1) over the samples."""
    steps: int | None = None
    """flow: training steps."""
    signal: int = 0
    """flow: number of the signal that ended the training early; 0: none."""

    @property
    def interrupted(self) -> bool:
        """Whether a signal such as Ctrl-C ended the training of the decoder early."""
        return self.signal != 0


@command(DecodeConfig, "videos")
def decode_videos(config: DecodeConfig) -> DecodeResult:
    """Fit a decoder on videos, and decode true, predicted and mean tokens of other videos (one window each).

    Raises:
        ConfigError: videos, model or fit are missing, the model has no predictor, or the output already exists.
        DataError: a list cannot be read, or none of the videos.
        CheckpointError: the model cannot be read, or a file cannot be written.
    """
    if not config.videos or not config.model or not config.fit:
        raise ConfigError("give videos to decode, --model, and --fit with other videos to fit the decoder on")
    with open_output(config.out, (PICTURE, PAGE), overwrite=config.overwrite) as out:
        return _decode_videos(config, out)


def _decode_videos(config: DecodeConfig, out: Path) -> DecodeResult:
    index, source = gather(config.videos, None), gather(config.fit, None)
    model = load_predictive(config.model, seed=config.seed)
    size, frames = model.config.tubelet_size, model.config.num_frames
    (context,) = check_contexts((config.context or frames // 2 // size * size or size,), model.config)
    skipped: dict[str, str] = {}
    with make_runtime(config) as runtime:
        model.to(runtime.device)
        spec = clip_spec(model, config)
        fitted, _ = _windows(chosen(source, config.limit or len(source)), spec, model, skipped)
        shown, names = _windows(chosen(index, config.limit or len(index)), spec, model, skipped)
        batches = torch.split(fitted, config.batch_size)
        mean = mean_tokens(model, batches, runtime)
        decoder = _fit(model, batches, context, config, runtime)
        places: list[int] = np.unique(np.linspace(0, len(names) - 1, config.pictures).round().astype(int)).tolist()
        parts = torch.split(shown, config.batch_size)
        found = (decode(model, decoder, part, context, mean, runtime) for part in parts)
        tally, drawn = _gather(track(found, "decoding", len(parts), unit="batches"), places, config.batch_size)
    facts = _facts(config, model, decoder, context, len(fitted), tally) | _shared(index, source)
    panels = decoded_panels(drawn, shown[places], [names[place] for place in places])
    files = _write(out, panels, facts, _training(decoder), skipped)
    return _result(decoder, tally, len(shown), skipped, files)


def _fit(
    model: PredictiveModel, batches: Sequence[Tensor], context: int, config: DecodeConfig, runtime: Runtime
) -> RidgeDecoder | FlowDecoder:
    if config.decoder == "ridge":
        return fit_ridge(model, batches, place=config.place, runtime=runtime)
    settings = FlowSettings(config.steps, config.minutes, config.samples, config.sampling_steps, config.seed)
    return fit_flow(model, batches, context, settings, place=config.place, runtime=runtime)


def _gather(parts: Iterable[Decoded], places: Sequence[int], size: int) -> tuple[Tally, Decoded]:
    """Sums over all windows, and the windows at `places`; the other pictures are not kept. `size`: windows of a batch."""
    tally, kept = Tally(), list[Decoded]()
    for number, part in enumerate(parts):
        tally.add(part)
        inside = [place - number * size for place in places if 0 <= place - number * size < len(part.truth)]
        if inside:
            kept.append(part.part(inside))
    true, predicted, mean = (torch.cat([part.panels[kind] for part in kept], 1) for kind in kept[0].panels)
    return tally, Decoded(torch.cat([part.truth for part in kept]), true, predicted, mean, kept[0].context)


def _result(
    decoder: RidgeDecoder | FlowDecoder, tally: Tally, videos: int, skipped: dict[str, str], files: tuple[Path, ...]
) -> DecodeResult:
    if isinstance(decoder, RidgeDecoder):
        return DecodeResult(tally.psnr(), videos, skipped, files)
    steps, signal = decoder.training.steps, decoder.training.signal
    return DecodeResult(tally.psnr(), videos, skipped, files, tally.psnr_of_mean(), tally.spread(), steps, signal)


def _windows(
    records: Sequence[VideoRecord], spec: ClipSpec, model: PredictiveModel, skipped: dict[str, str]
) -> tuple[Tensor, list[str]]:
    """The window in the middle of each video, uint8 [n, 3, T, H, W], and the names; what cannot be read is noted."""
    parts: list[Tensor] = []
    names: list[str] = []
    for record in records:
        try:
            video = record.open()
            plan = plan_windows(video, spec, 1)
            middle = [len(plan.starts) // 2]
            read = read_windows(
                video, plan, model.config.image_hw, batch_size=1, antialias=model.clip.antialias, only=middle
            )
            _, clips, bad = next(iter(read))
        except VideoError as error:
            skipped[record.name] = error.reason
            continue
        if bad:
            skipped[record.name] = next(iter(bad.values()))
            continue
        parts.append(clips)
        names.append(Path(record.name).name)
    if not parts:
        first = records[0].name
        raise DataError(f"none of {len(records)} videos can be read, for example {first}: {skipped.get(first)}")
    return torch.cat(parts), names


def _facts(
    config: DecodeConfig,
    model: PredictiveModel,
    decoder: RidgeDecoder | FlowDecoder,
    context: int,
    fitted: int,
    tally: Tally,
) -> dict[str, str]:
    ratios, place = tally.psnr(), "with" if config.place else "without"
    facts = {"model": f"{model.name}, target encoder's last block (all predicted levels), layer-normed"}
    source = f"fitted on the middle windows of {fitted} videos"
    if isinstance(decoder, RidgeDecoder):
        how = f"ridge, {place} place, lambda {decoder.strength:.3g} by generalized cross-validation, {source}"
    else:
        ended = decoder.training
        early = " (interrupted)" if ended.signal else ""
        how = (
            f"flow matching, {place} place, {ended.steps} of at most {config.steps} training steps{early} in "
            f"{ended.seconds:.0f} s, {config.sampling_steps} Euler steps a sample, {source}"
        )
    facts |= {"decoder": how, "context": f"{context} of {model.config.num_frames} frames", "PSNR": _decibels(ratios)}
    verdicts = [(ratios, "")]
    if tally.samples > 1:
        averaged = tally.psnr_of_mean()
        spread = ", ".join(f"{name} tokens {value:.4f}" for name, value in tally.spread().items())
        facts[f"PSNR of the mean of {tally.samples} samples"] = _decibels(averaged)
        facts["standard deviation over samples"] = f"{spread} (pixels from 0 to 1)"
        verdicts = [(ratios, "single samples "), (averaged, "means of samples ")]
    texts = [f"{kind}{'beat' if psnr['predicted'] > psnr['mean'] else 'do NOT beat'}" for psnr, kind in verdicts]
    return facts | {"predicted tokens": f"{', '.join(texts)} the mean tokens of each place"}


def _shared(index: VideoIndex, source: VideoIndex) -> dict[str, str]:
    """Whether videos were fitted on and decoded."""
    fitted = {Path(record.path).resolve() for record in source.records}
    number = sum(Path(record.path).resolve() in fitted for record in index.records)
    if not number:
        return {}
    text = f"{number} of the decoded videos are among those of --fit: the PSNR is too high for them"
    _log.warning("%s", text)
    return {"warning": text}


def _decibels(ratios: dict[str, float]) -> str:
    return ", ".join(f"{name} tokens {value:.2f} dB" for name, value in ratios.items())


def _training(decoder: RidgeDecoder | FlowDecoder) -> list[pages.Section]:
    if isinstance(decoder, RidgeDecoder) or decoder.training.steps < 2:
        return []
    losses = decoder.training.losses
    chart = line_chart("Loss of the flow decoder", range(1, len(losses) + 1), {"loss": losses}, smooth=True)
    return [pages.Section("Training of the decoder", pages.chart_row([chart]))]


def _write(
    out: Path,
    panels: Sequence[Panel],
    facts: dict[str, str],
    training: Sequence[pages.Section],
    skipped: dict[str, str],
) -> tuple[Path, ...]:
    picture = strip(panels, [f"{name}: {value}" for name, value in facts.items()])
    files = [write_png(out / PICTURE, picture, facts)]
    sections = [pages.Section("Videos", pages.wide_picture(picture, "decoded tokens")), *training]
    if skipped:
        sections.append(pages.Section("Not read", pages.plain_table(("file", "reason"), list(skipped.items()))))
    lead = f"PSNR after the context: {facts['PSNR']}. Predicted tokens: {facts['predicted tokens']}."
    files.append(pages.write_report(out / PAGE, "Tokens as pixels", [*sections, pages.run_facts(facts)], lead=lead))
    return tuple(files)
