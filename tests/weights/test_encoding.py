"""`LoadedModel.encode`: whatever clips come as, the tokens are those of clips prepared by hand."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import openvjepa
from openvjepa.config import ClipProtocol, ModelConfig
from openvjepa.data.clips import read_clip
from openvjepa.data.lists.index import VideoIndex, VideoRecord
from openvjepa.data.rendered.synthetic import ShapesConfig, make_shapes
from openvjepa.data.transforms import eval_views, normalize
from openvjepa.errors import ConfigError, DataError, VideoError
from openvjepa.features.encode import PlannedClips
from openvjepa.features.sampling import plan_for
from openvjepa.model.encoder import Encoder
from openvjepa.model.predictor import Predictor
from openvjepa.weights.hub import LoadedModel, load_model, save_model

SMALL = ModelConfig(
    arch="vit_femto", embed_dim=24, depth=2, num_heads=2, img_size=(32, 48), patch_size=8, num_frames=4,
    predictor_embed_dim=12, predictor_depth=1,
)  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> LoadedModel:
    torch.manual_seed(0)
    encoder = Encoder(SMALL)
    for name, value in encoder.named_parameters():
        if name != "pos_embed" and value.ndim > 1:
            value.data.normal_(0, 1.2 / value[0].numel() ** 0.5)
    save_model(
        tmp_path / "model", encoder, Predictor(SMALL), clip=ClipProtocol.of(SMALL, frame_step=2, antialias=False)
    )
    return load_model(tmp_path / "model")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    make_shapes(ShapesConfig(out=str(folder), train=1, val=1, test=1))
    return next(iter(sorted(folder.rglob("*.mp4"))))


def frames_of(count: int, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@torch.no_grad()
def by_hand(model: LoadedModel, frames: NDArray[np.uint8], *, antialias: bool = False) -> Tensor:
    (clip,) = eval_views(frames, (32, 48), 1, antialias=antialias, fit="auto")
    return model.encoder(normalize(clip[None]))


def test_frames_of_any_kind(model: LoadedModel) -> None:
    one, other = frames_of(4, 90, 100), frames_of(4, 90, 100, seed=1)
    expected, second = by_hand(model, one), by_hand(model, other)
    assert expected.shape == (1, 2 * 4 * 6, 24)
    for given in (one, torch.from_numpy(one), one[None], list(one), [one], one[::-1][::-1]):
        tokens = model.encode(given)
        assert tokens.dtype == torch.float32
        torch.testing.assert_close(tokens, expected)
    both = torch.cat([expected, second])
    small = frames_of(4, 32, 48)
    torch.testing.assert_close(model.encode(np.stack([one, other])), both)
    torch.testing.assert_close(model.encode([one, other]), both)
    torch.testing.assert_close(model.encode((one, torch.from_numpy(other), small), batch_size=2)[:2], both)
    torch.testing.assert_close(openvjepa.encode(model, one), expected)


def test_clips_that_are_prepared_already(model: LoadedModel) -> None:
    frames = frames_of(4, 32, 48)
    clip = torch.from_numpy(frames).permute(3, 0, 1, 2)[None]
    expected = by_hand(model, frames)
    for given in (clip, normalize(clip), normalize(clip).double(), normalize(clip).numpy(), [clip]):
        torch.testing.assert_close(model.encode(given), expected)


def test_longer_clips_are_used_whole(model: LoadedModel) -> None:
    assert model.encode(frames_of(8, 40, 60)).shape == (1, 4 * 4 * 6, 24)
    with pytest.raises(ConfigError, match="does not divide into tubelets"):
        model.encode(frames_of(5, 40, 60))


def test_files(model: LoadedModel, video: Path, tmp_path: Path) -> None:
    frames = read_clip(video, num_frames=4, frame_step=2).numpy()
    expected = by_hand(model, frames)
    torch.testing.assert_close(model.encode(video), expected)
    torch.testing.assert_close(model.encode(str(video)), expected)
    torch.testing.assert_close(model.encode([video, frames, str(video)], batch_size=2), expected.expand(3, -1, -1))
    other = replace(model, clip=replace(model.clip, frame_step=5))
    assert not torch.allclose(other.encode(video), expected, atol=1e-2)
    still = frames_of(1, 64, 64)
    Image.fromarray(still[0]).save(tmp_path / "a.png")
    torch.testing.assert_close(model.encode(tmp_path / "a.png"), by_hand(model, still.repeat(4, 0), antialias=True))
    with pytest.raises(VideoError):
        model.encode(tmp_path / "none.mp4")
    shutil.copy(Path(__file__), tmp_path / "text.mp4")
    with pytest.raises(VideoError):
        model.encode(tmp_path / "text.mp4")


def test_files_as_the_commands_encode_them(model: LoadedModel, video: Path) -> None:
    for fit in ("crop", "squeeze", "pad", "auto"):
        other = replace(model, clip=replace(model.clip, fit=fit))
        plan = plan_for(other, (VideoRecord(str(video)),))
        clips, reason = PlannedClips(VideoIndex((VideoRecord(str(video)),), None, "video"), plan)[0]
        assert (len(clips), reason) == (1, "")
        torch.testing.assert_close(other.encode(video), model.encoder(normalize(clips)))


def test_an_image_takes_its_own_path(tmp_path: Path) -> None:
    config = replace(SMALL, positions="rope", modality_embed=True, predictor_num_heads=2)
    save_model(tmp_path / "m", Encoder(config))
    still = frames_of(1, 32, 48)
    Image.fromarray(still[0]).save(tmp_path / "a.png")
    model = load_model(tmp_path / "m")
    torch.testing.assert_close(model.encode(tmp_path / "a.png"), by_hand(model, still))
    assert model.encode(tmp_path / "a.png").shape == (1, 4 * 6, 24)


def test_preprocessing_is_the_model_s_own(model: LoadedModel) -> None:
    frames, mean, std = frames_of(4, 64, 96), (0.1, 0.5, 0.9), (1.0, 2.0, 0.5)
    other = replace(model, clip=replace(model.clip, mean=mean, std=std, margin=1.5, antialias=True))
    (clip,) = eval_views(frames, (32, 48), 1, margin=1.5)
    assert clip.shape == (3, 4, 32, 48)
    scaled = (clip.double() / 255 - torch.tensor(mean).view(3, 1, 1, 1)) / torch.tensor(std).view(3, 1, 1, 1)
    torch.testing.assert_close(other.encode(frames), model.encoder(scaled[None].float()))


@pytest.mark.parametrize(
    "given",
    [
        None, 3, [], (), {}, b"bytes", [None], [[]], np.zeros((4, 32, 32, 3)), np.zeros((4, 32, 32, 3), np.int64),
        np.zeros((4, 32, 32), np.uint8), np.zeros((0, 32, 32, 3), np.uint8), np.zeros((4, 32, 32, 4), np.uint8),
        np.array(["a"]), np.array([None]), torch.zeros(4, 32, 32, 3), torch.zeros(3, 4, 32, 48),
        torch.zeros(1, 3, 4, 32, 48).int(),
        torch.full((1, 3, 4, 32, 48), float("nan")), [np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)],
        [np.zeros((4, 32, 48, 3), np.uint8), np.zeros((8, 32, 48, 3), np.uint8)], torch.zeros((1, 3, 0, 32, 48)),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_clip(model: LoadedModel, given: Any) -> None:
    with pytest.raises(DataError) as caught:
        model.encode(given)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_layers_and_batches(model: LoadedModel) -> None:
    frames = frames_of(4, 32, 48)
    clip = torch.from_numpy(frames).permute(3, 0, 1, 2)[None]
    with torch.no_grad():
        first = model.encoder.norm(model.encoder.blocks[0](model.encoder.embed(normalize(clip))))
    torch.testing.assert_close(model.encode(frames, layer=0), first)
    torch.testing.assert_close(model.encode(frames, layer=-1), model.encode(frames, layer=1), rtol=0, atol=0)
    with pytest.raises(ConfigError, match="this encoder has the outputs of blocks 0, 1"):
        model.encode(frames, layer=2)
    with pytest.raises(ConfigError, match="batch_size 0"):
        model.encode(frames, batch_size=0)


def test_hooks_see_every_pass(model: LoadedModel) -> None:
    """Encoder and predictor are called, so that hooks, and torch's sharding by hooks, work."""
    seen: list[str] = []
    for part in (model.encoder, model.predictor):
        assert part is not None
        part.register_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    model.encode([frames_of(4, 32, 48)] * 3, batch_size=2)
    video, ids = torch.randn(1, 3, 4, 32, 48), torch.arange(10)[None]
    contexts = model.encoder.forward_masks(video, [ids, ids + 20])
    assert seen == ["Encoder"] * 4
    assert isinstance(model.predictor, Predictor)
    predicted = model.predictor(contexts[0], ids, ids[:, :5] + 30)
    assert (predicted.masked.shape, predicted.visible.shape) == ((1, 5, 24), (1, 10, 24))
    assert seen[4:] == ["Predictor"]


def test_another_device(model: LoadedModel) -> None:
    expected = model.encode(frames_of(4, 40, 50)).shape
    assert model.to("meta") is model
    assert {value.device.type for value in model.encoder.parameters()} == {"meta"}
    assert model.encode(frames_of(4, 40, 50)).shape == expected


def test_floats_that_were_not_normalized_are_pointed_out(model: LoadedModel, caplog: pytest.LogCaptureFixture) -> None:
    frames = torch.from_numpy(frames_of(4, 32, 48)).permute(3, 0, 1, 2)[None]
    model.encode(normalize(frames))
    model.encode(frames)
    assert "normalized" not in caplog.text
    for wrong in (frames.float(), frames / 255):
        caplog.clear()
        model.encode(wrong)
        assert "do not look normalized" in caplog.text


def test_a_device_that_is_not_here(model: LoadedModel) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="not available on this machine"):
            model.to("cuda")
    assert model.to("cpu") is model
