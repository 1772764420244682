"""Clips and their tokens: the frames and times that were asked for, and the encoder's own output for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from openvjepa.config import ModelConfig
from openvjepa.data.clips import ClipSpec
from openvjepa.data.media.video import open_video
from openvjepa.data.transforms import eval_views, normalize
from openvjepa.errors import ConfigError, DataError
from openvjepa.model.encoder import Encoder, create_model
from openvjepa.seeing.tokens import ClipChoice, load_any, see
from openvjepa.weights.hub import LoadedModel, load_model, save_model

SPEC = ClipSpec(4, 1, None)


@pytest.fixture
def model(saved: Path) -> LoadedModel:
    return load_model(saved)


def test_tokens_are_those_of_the_encoder(model: LoadedModel, clips_folder: Path) -> None:
    path = clips_folder / "a.mp4"
    sight = see([model], [path], ClipChoice(SPEC, clips=2, start=0.5), layer=0)
    first, second = sight.clips[0]
    np.testing.assert_allclose(first.times, np.arange(6, 10) / 12, atol=1e-4)
    np.testing.assert_allclose(second.times, np.arange(10, 14) / 12, atol=1e-4)
    frames = open_video(path).frames(range(10, 14)).frames
    (clip,) = eval_views(frames, (32, 32), 1)
    (truth,) = model.encoder.forward_intermediates(normalize(clip[None]), [0])
    np.testing.assert_allclose(second.tokens.reshape(8, 24), truth[0].numpy(), atol=1e-5)
    np.testing.assert_array_equal(second.frames, clip.permute(1, 2, 3, 0).numpy())
    assert second.grid.shape == (2, 2, 2)
    assert second.tubelet == 2
    assert second.name == "a.mp4, 0.83-1.08 s"


def test_clips_lie_in_the_middle_or_cover_the_video(model: LoadedModel, clips_folder: Path) -> None:
    def starts(**choice: object) -> list[float]:
        sight = see([model], [clips_folder / "a.mp4"], ClipChoice(SPEC, **choice))  # type: ignore[arg-type]
        return [round(12 * float(clip.times[0])) for clip in sight.clips[0]]

    assert starts() == [10]
    assert starts(clips=3) == [6, 10, 14]
    assert starts(clips=None) == [0, 4, 8, 12, 16, 20]
    assert starts(clips=None, start=1.5) == [18, 22]
    assert starts(clips=5, start=1.5) == [18, 22]  # the others would start after the end


def test_bad_files_are_skipped_and_counted(
    model: LoadedModel, clips_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = sorted(clips_folder.iterdir())
    sight = see([model], files, ClipChoice(SPEC))
    assert [Path(clip.path).name for clip in sight.clips[0]] == ["a.mp4", "b.mp4", "short.mp4", "still.png"]
    assert list(sight.skipped) == [str(clips_folder / "broken.mp4")]
    assert "broken.mp4" in caplog.text
    with pytest.raises(DataError, match=r"none of 1 files .*broken\.mp4"):
        see([model], [clips_folder / "broken.mp4"], ClipChoice(SPEC))
    with pytest.raises(DataError, match="lasts"):
        see([model], [clips_folder / "a.mp4"], ClipChoice(SPEC, start=9))


def test_a_short_video_stands_still_at_its_end_and_a_picture_all_the_time(
    model: LoadedModel, clips_folder: Path
) -> None:
    sight = see([model], [clips_folder / "short.mp4", clips_folder / "still.png"], ClipChoice(SPEC))
    short, still = sight.clips[0]
    np.testing.assert_allclose(short.times * 12, [0, 1, 2, 2], atol=1e-3)
    np.testing.assert_array_equal(short.frames[2], short.frames[3])
    assert not short.is_still
    assert still.is_still
    assert len(still.frames) == 4
    assert still.name == "still.png"


def test_a_picture_is_one_frame_for_a_model_with_a_path_for_images(tmp_path: Path, clips_folder: Path) -> None:
    torch.manual_seed(1)
    facts = {"embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": 32, "num_frames": 4}
    encoder = create_model(ModelConfig(positions="rope", modality_embed=True, levels=(0, 1), **facts)).eval()  # type: ignore
    save_model(tmp_path / "m", encoder)
    sight = see([load_model(tmp_path / "m")], [clips_folder / "still.png"], ClipChoice(SPEC))
    assert sight.clips[0][0].tokens.shape == (1, 2, 2, 24)
    assert sight.clips[0][0].frames.shape == (1, 32, 32, 3)


def test_whole_frames_keep_their_shape(model: LoadedModel, clips_folder: Path) -> None:
    choice = ClipChoice(SPEC, whole=True, short_side=48)
    (clip,) = see([model], [clips_folder / "a.mp4"], choice).clips[0]
    assert clip.frames.shape == (4, 48, 64, 3)
    assert clip.tokens.shape == (2, 3, 4, 24)
    np.testing.assert_array_equal(clip.frames, open_video(clips_folder / "a.mp4").frames(range(10, 14)).frames)
    (small,) = see([model], [clips_folder / "a.mp4"], ClipChoice(SPEC, whole=True, short_side=2)).clips[0]
    assert small.tokens.shape == (2, 1, 1, 24)
    with pytest.raises(ConfigError, match="does not divide"):
        see([model], [clips_folder / "a.mp4"], ClipChoice(SPEC, short_side=40))


def test_two_models_see_the_same_frames(model: LoadedModel, tmp_path: Path, clips_folder: Path) -> None:
    torch.manual_seed(3)
    config = ModelConfig(arch="vit_femto", img_size=48, patch_size=8, num_frames=8, embed_dim=12, depth=1, num_heads=2)
    save_model(tmp_path / "other", create_model(config))
    sight = see([model, load_model(tmp_path / "other")], [clips_folder / "a.mp4"], ClipChoice(SPEC))
    (ours,), (theirs,) = sight.clips
    np.testing.assert_array_equal(ours.times, theirs.times)
    assert ours.tokens.shape == (2, 2, 2, 24)
    assert theirs.tokens.shape == (2, 6, 6, 12)


def test_untrained_is_the_same_architecture_with_weights_of_the_seed(saved: Path, model: LoadedModel) -> None:
    torch.manual_seed(77)
    before = torch.get_rng_state()
    first, again, other = (load_any(f"untrained:{saved}", seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.config == model.config
    weights = [loaded.encoder.blocks[0].attn.qkv.weight for loaded in (first, again, other, model)]  # type: ignore
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[3])
    assert "untrained" in first.source
    assert isinstance(first.encoder, Encoder)


def test_a_size_that_no_model_sees_is_refused_before_anything_is_resized(
    model: LoadedModel, clips_folder: Path
) -> None:
    for whole in (False, True):
        with pytest.raises(ConfigError, match=r"tokens for .*: choose a smaller short_side, for at most 262144"):
            see([model], [clips_folder / "a.mp4"], ClipChoice(SPEC, whole=whole, short_side=16384))
