"""`vjepa decode`: features back to pixels, by ridge regression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openvjepa.commands.show import chosen, gather
from openvjepa.commands.surprise import clip_spec
from openvjepa.config import DecodeConfig, command
from openvjepa.data.clips import ClipSpec
from openvjepa.data.lists.index import VideoRecord
from openvjepa.errors import ConfigError, DataError, VideoError
from openvjepa.reports import pages
from openvjepa.reports.seeing.decode import decoded_panels
from openvjepa.reports.seeing.pictures import strip, write_png
from openvjepa.seeing.decode import Decoded, RidgeDecoder, decode, fit_ridge
from openvjepa.seeing.surprise.error import PredictiveModel, check_contexts, load_predictive, mean_tokens
from openvjepa.seeing.surprise.windows import plan_windows, read_windows
from openvjepa.train.distributed import Runtime, make_runtime
from openvjepa.train.run_folder import open_output

PICTURE, PAGE = "decode.png", "decode.html"


@dataclass(frozen=True)
class DecodeResult:
    """Result of `vjepa decode`."""

    psnr: dict[str, float]
    """true, predicted, mean: dB over all decoded pixels after the context."""
    videos: int
    skipped: dict[str, str]
    """Files that cannot be read: path -> reason."""
    files: tuple[Path, ...]


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
        decoder = fit_ridge(model, batches, place=config.place, runtime=runtime)
        mean = mean_tokens(model, batches, runtime)
        found = _decode(model, decoder, shown, context, mean, config.batch_size, runtime)
    facts = _facts(config, model, decoder, context, len(fitted), found.psnr())
    files = _write(out, found, shown, names, config.pictures, facts, skipped)
    return DecodeResult(found.psnr(), len(shown), skipped, files)


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


def _decode(
    model: PredictiveModel,
    decoder: RidgeDecoder,
    windows: Tensor,
    context: int,
    mean: Tensor,
    batch_size: int,
    runtime: Runtime,
) -> Decoded:
    def parts() -> Iterator[Decoded]:
        for batch in torch.split(windows, batch_size):
            yield decode(model, decoder, batch, context, mean, runtime)

    found = list(parts())
    return Decoded(
        torch.cat([part.truth for part in found]),
        torch.cat([part.true_tokens for part in found]),
        torch.cat([part.predicted_tokens for part in found]),
        torch.cat([part.mean_tokens for part in found]),
        context,
    )


def _facts(
    config: DecodeConfig,
    model: PredictiveModel,
    decoder: RidgeDecoder,
    context: int,
    fitted: int,
    ratios: dict[str, float],
) -> dict[str, str]:
    verdict = "beat" if ratios["predicted"] > ratios["mean"] else "do NOT beat"
    return {
        "model": f"{model.name}, target encoder's last block (all predicted levels), layer-normed",
        "decoder": f"ridge, {'with' if config.place else 'without'} place, lambda {decoder.strength:.3g} by generalized "
        f"cross-validation, fitted on the middle windows of {fitted} other videos",
        "context": f"{context} of {model.config.num_frames} frames",
        "PSNR": ", ".join(f"{name} tokens {value:.2f} dB" for name, value in ratios.items()),
        "predicted tokens": f"{verdict} the mean tokens of each place",
    }


def _write(
    out: Path,
    found: Decoded,
    windows: Tensor,
    names: Sequence[str],
    pictures: int,
    facts: dict[str, str],
    skipped: dict[str, str],
) -> tuple[Path, ...]:
    places = np.unique(np.linspace(0, len(names) - 1, pictures).round().astype(int)).tolist()
    panels = decoded_panels(found, windows, names, places)
    picture = strip(panels, [f"{name}: {value}" for name, value in facts.items()])
    files = [write_png(out / PICTURE, picture, facts)]
    sections = [pages.Section("Videos", pages.wide_picture(picture, "decoded tokens"))]
    if skipped:
        sections.append(pages.Section("Not read", pages.plain_table(("file", "reason"), list(skipped.items()))))
    lead = f"PSNR after the context: {facts['PSNR']}. Predicted tokens {facts['predicted tokens']}."
    files.append(pages.write_report(out / PAGE, "Tokens as pixels", [*sections, pages.run_facts(facts)], lead=lead))
    return tuple(files)
