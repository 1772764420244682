"""Pictures: every kind that is read against known pixels, every kind that is refused, and the clips made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from openvjepa.config import DataConfig, MaskingConfig, ModelConfig
from openvjepa.data.clips import ClipSpec, read_clip
from openvjepa.data.lists.check import check_index
from openvjepa.data.lists.index import VideoIndex, VideoRecord, read_index
from openvjepa.data.loader import EvalClips, PretrainBatches, PretrainLoader
from openvjepa.data.media.images import is_image, read_image
from openvjepa.data.media.video import open_video, probe
from openvjepa.data.transforms import channels_first, eval_views, normalize
from openvjepa.errors import ConfigError, DataError, VideoError

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
TRANSFORMS = load_file(Path(__file__).parents[1] / "fixtures/vjepa/transforms/transforms.safetensors")
ONE_LEVEL = 1.01 / 255 / 0.224


def save(path: Path, image: NDArray[Any] | Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)  # pyright: ignore
    return path


def smooth(height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """A picture that JPEG hardly changes."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], -1).astype(np.uint8)


# -- pixels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.TIFF", "a.webp"])
def test_lossless_formats_give_the_pixels(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, PIXELS, **({"lossless": True} if name == "a.webp" else {}))
    assert np.array_equal(read_image(path), PIXELS)


def test_jpeg_is_what_pillow_decodes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", PIXELS, quality=80)
    assert np.array_equal(read_image(path), np.asarray(Image.open(path)))
    assert np.abs(read_image(save(tmp_path / "b.jpeg", smooth(), quality=95)).astype(int) - smooth()).mean() < 2


# What has to be done to a stored picture to see it upright (EXIF 2.32, tag 0x0112), as numpy sees it.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_pictures_are_turned_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a{suffix}", PIXELS, exif=exif)
    stored = np.asarray(Image.open(path).convert("RGB"))
    assert np.array_equal(read_image(path), UPRIGHT[orientation](stored))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, as it writes and opens them here
def test_damaged_exif_data_do_not_turn_a_picture_back(tmp_path: Path) -> None:
    """Pillow's own exif_transpose fails on many of these: it writes all entries again."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.update({0x010F: "maker", 0x011A: 72.0, 0x8825: {1: "N", 2: (1.0, 2.0, 3.0)}})
    whole = exif.tobytes()
    entry = whole.index(bytes.fromhex("0112000300000001000600"))
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[int(rng.integers(entry + 12, len(whole)))] = int(rng.integers(256))
        path = save(tmp_path / "a.jpg", smooth(), exif=bytes(damaged))
        assert np.array_equal(read_image(path), np.rot90(np.asarray(Image.open(path)), -1)), damaged.hex()
    assert read_image(save(tmp_path / "b.jpg", smooth(), exif=b"Exif\0\0garbage")).shape == (48, 64, 3)


def test_grey_palette_and_bilevel(tmp_path: Path) -> None:
    gray = PIXELS[..., 0]
    assert np.array_equal(read_image(save(tmp_path / "gray.png", gray)), np.repeat(gray[..., None], 3, -1))
    few = np.array([[10, 20, 30], [200, 100, 0], [255, 255, 255]], np.uint8)
    indices = np.random.default_rng(1).integers(0, 3, (9, 7))
    palette = Image.fromarray(indices.astype(np.uint8))
    palette.putpalette(few.flatten().tolist())
    assert palette.mode == "P"
    assert np.array_equal(read_image(save(tmp_path / "palette.png", palette)), few[indices])
    bits = indices > 0
    path = save(tmp_path / "bits.png", Image.fromarray(bits.astype(np.uint8) * 255).convert("1"))
    assert np.array_equal(read_image(path), np.repeat(bits[..., None], 3, -1) * np.uint8(255))


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    flat = np.zeros((16, 16, 4), np.uint8)
    flat[:] = (255, 0, 0, 0)  # cyan ink alone: no red
    path = save(tmp_path / "a.jpg", Image.fromarray(flat, "CMYK"), quality=95)
    assert np.abs(read_image(path).astype(int) - (0, 255, 255)).max() <= 3


def test_16_bit_png_keeps_its_upper_bits(tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(0, 1 << 16, (11, 13), dtype=np.uint16)
    path = save(tmp_path / "deep.png", Image.fromarray(values))
    assert np.array_equal(read_image(path), np.repeat((values >> 8).astype(np.uint8)[..., None], 3, -1))


def test_alpha_is_dropped(tmp_path: Path) -> None:
    alpha = np.random.default_rng(3).integers(0, 256, (24, 40, 1), dtype=np.uint8)
    assert np.array_equal(read_image(save(tmp_path / "rgba.png", np.concatenate([PIXELS, alpha], -1))), PIXELS)
    gray = Image.fromarray(np.concatenate([PIXELS[..., :1], alpha], -1), "LA")
    assert np.array_equal(read_image(save(tmp_path / "la.png", gray)), np.repeat(PIXELS[..., :1], 3, -1))


def test_the_first_of_several_pictures(tmp_path: Path) -> None:
    other = Image.fromarray(255 - PIXELS)
    path = save(tmp_path / "pages.tif", PIXELS, save_all=True, append_images=[other])
    assert np.array_equal(read_image(path), PIXELS)


def test_large_pictures_can_be_shrunk(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", smooth(500, 800))
    assert read_image(path).shape == (500, 800, 3)
    assert read_image(path, short_side=250).shape == (250, 400, 3)
    assert np.abs(read_image(path, short_side=250).astype(int) - smooth(250, 400)).max() <= 3
    assert np.array_equal(read_image(save(tmp_path / "b.png", smooth(400, 410)), short_side=100), smooth(400, 410))


# -- what is refused ---------------------------------------------------------------------------------------------


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    photograph = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    for name in ("cut.jpg", "cut.png", "cut.webp", "cut.bmp", "cut.tif"):
        cut(save(tmp_path / name, photograph), 0.5)
        with pytest.raises(VideoError) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
    for name, content, reason in (
        ("text.jpg", b"not a picture", "not a picture that can be read, or damaged"),
        ("empty.png", b"", "the file is empty"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VideoError, match=f"{name}: {reason}"):
            read_image(tmp_path / name)
        with pytest.raises(VideoError, match=reason):
            open_video(tmp_path / name)
    with pytest.raises(VideoError, match="no such file"):
        read_image(tmp_path / "missing.jpg")


def test_a_picture_without_a_known_range_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "depth.tif", np.random.default_rng(0).random((8, 8), np.float32))
    with pytest.raises(VideoError, match="32 bits per pixel have no known range"):
        read_image(path)


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "bomb.png", Image.new("1", (400, 400)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(VideoError, match="exceeds limit"):
        read_image(path)


# -- as videos of one frame --------------------------------------------------------------------------------------


def test_an_image_is_a_video_of_one_frame(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", PIXELS)
    video = open_video(path)
    assert (video.is_image, video.frame_count) == (True, 1)
    for num_frames in (1, 4):
        spec = ClipSpec(num_frames, 4, None)
        assert [spec.indices(video, start).tolist() for start in spec.segment_starts(video, 3)] == [
            [0] * num_frames
        ] * 3
        assert spec.random_start(video, torch.Generator()) == 0
    assert np.array_equal(read_clip(path, num_frames=4).numpy(), np.stack([PIXELS] * 4))
    info = probe(path)
    assert (info.frames, info.fps, info.duration, info.width, info.height) == (1, 0.0, 0.0, 40, 24)
    assert (info.codec, info.errors) == ("png", 0)


def test_what_counts_as_an_image(tmp_path: Path) -> None:
    frames = tmp_path / "clip.jpg"  # a folder of frames, whatever it is called
    for i in range(3):
        save(frames / f"{i}.png", PIXELS)
    assert not is_image(frames)
    assert open_video(frames).frame_count == 3
    assert is_image(tmp_path / "A.JPEG")
    assert not is_image(tmp_path / "a.mp4")


def test_folders_of_images_are_read_without_hidden_files(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for i in range(2):
            save(tmp_path / label / f"{i:03d}.png", PIXELS)
    (tmp_path / "cat/._000.png").write_bytes(b"what macOS leaves on other disks")
    (tmp_path / "cat/.hidden.jpg").write_bytes(b"")
    index = read_index(tmp_path)
    found = [f"{Path(record.path).name} {record.label}" for record in index.records]
    assert found == ["000.png 0", "001.png 0", "000.png 1", "001.png 1"]
    assert index.classes == ("cat", "dog")
    assert open_video(tmp_path / "cat").frame_count == 2, "nor are they frames of a folder"


def test_a_check_counts_images_and_names_bad_ones(tmp_path: Path) -> None:
    save(tmp_path / "a/1.png", PIXELS)
    (tmp_path / "a/2.jpg").write_text("text")
    found = check_index(tmp_path, workers=1).to_dict()
    assert (found["videos"], found["images"]) == (0, 2)
    assert list(found["bad"]) == [str(tmp_path / "a/2.jpg")]


# -- resizing as each family does --------------------------------------------------------------------------------


def test_views_of_each_family_against_closed_forms() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 120, 90, 3), dtype=np.uint8)
    floats = channels_first(frames).float()
    for antialias in (True, False):
        (view,) = eval_views(frames, (56, 56), 1, antialias=antialias)
        resized = F.interpolate(floats, size=(85, 64), mode="bilinear", antialias=antialias)  # 64 = 56 * 256 / 224
        top, left = (14 if antialias else round(29 / 2)), 4
        expected = resized[:, :, top : top + 56, left : left + 56].transpose(0, 1)
        assert (view.float() - expected).abs().max() <= (1.0 if antialias else 0.5)
    plain, smoothed = (eval_views(frames, (56, 56), 1, antialias=a)[0].float() for a in (False, True))
    assert plain.std() > 1.3 * smoothed.std(), "antialiasing averages noise"


def test_a_centre_between_two_pixels() -> None:
    """55 px in a frame of 62: 3.5 px are left on each side."""
    frames = np.random.default_rng(0).integers(0, 256, (1, 62, 62, 3), dtype=np.uint8)
    for antialias, first in ((True, 3), (False, 4)):
        (view,) = eval_views(frames, (55, 55), 1, antialias=antialias)
        part = channels_first(frames)[:, :, first : first + 55, first : first + 55]
        assert torch.equal(view, part.transpose(0, 1))


@pytest.mark.parametrize("name", ["landscape", "portrait", "square", "exact"])
def test_plain_bilinear_views_are_those_of_metas_code(name: str) -> None:
    frames = TRANSFORMS[f"{name}.video"].numpy()
    views = [*eval_views(frames, (32, 32), 1, antialias=False), *eval_views(frames, (32, 32), 3, antialias=False)]
    for view, truth in zip(views, ("single", "view0", "view1", "view2"), strict=True):
        torch.testing.assert_close(normalize(view[None])[0], TRANSFORMS[f"{name}.eval_{truth}"], rtol=0, atol=ONE_LEVEL)


def test_evaluation_clips_of_images(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", smooth(80, 80))
    index = VideoIndex((VideoRecord(str(path)), VideoRecord(str(tmp_path / "missing.png"))), None, "test")
    (crop,) = eval_views(smooth(80, 80)[None], (32, 32), 1)
    for antialias in (True, False):
        clips, item, reason = EvalClips(index, ClipSpec(4, 4, None), (32, 32), segments=2, antialias=antialias)[0]
        assert (clips.shape, item, reason) == ((2, 3, 4, 32, 32), 0, "")
        assert torch.equal(clips, crop.expand(-1, 4, -1, -1).expand(2, -1, -1, -1, -1)), "images are antialiased always"
    single = EvalClips(index, ClipSpec(1, 4, None), (32, 32))
    assert torch.equal(single[0][0][0], crop)
    empty, _, reason = single[1]
    assert (empty.shape, reason) == ((1, 3, 1, 32, 32), "no such file")


# -- images beside videos in pretraining -------------------------------------------------------------------------

MODEL = ModelConfig(arch="vit_femto", img_size=32, num_frames=4, patch_size=8, positions="rope")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Eight pictures of one color each: 10, 20, ... 80."""
    for i in range(1, 9):
        save(tmp_path / f"pictures/{i}.png", np.full((40, 60, 3), 10 * i, np.uint8))
    return tmp_path / "pictures"


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Two folders of six frames, by a list."""
    for clip in ("a", "b"):
        for i in range(6):
            save(tmp_path / f"{clip}/{i}.png", np.full((40, 40, 3), 100 + i, np.uint8))
    (tmp_path / "list.csv").write_text("path\na\nb\n")
    return tmp_path / "list.csv"


def dataset(videos: Path, pictures: Path, *, seed: int = 3, **data: Any) -> PretrainBatches:
    options = {"frame_step": 1, "workers": 0, "images": (str(pictures),), **data}
    return PretrainBatches((str(videos),), DataConfig(**options), MODEL, MaskingConfig(), seed=seed, micro_batch=2)


def test_batches_hold_images_of_their_own_size_with_masks_of_one_frame(videos: Path, pictures: Path) -> None:
    batch = dataset(videos, pictures, image_size=24, image_batch=4)[0]
    assert batch["clips"].shape == (2, 3, 4, 32, 32)
    images = batch["images"]["clips"]
    assert (images.dtype, images.shape) == (torch.uint8, (4, 3, 1, 24, 24))
    colors = images.flatten(1)
    assert torch.equal(colors, colors[:, :1].expand_as(colors)), "a crop of one color has one color"
    assert set(colors[:, 0].tolist()) < set(range(10, 90, 10))
    assert len(batch["images"]["masks_enc"]) == len(MaskingConfig().image_masks)
    for enc, pred in zip(batch["images"]["masks_enc"], batch["images"]["masks_pred"], strict=True):
        for kept, hidden in zip(enc.tolist(), pred.tolist(), strict=True):
            assert not set(kept) & set(hidden)
            assert set(kept) | set(hidden) <= set(range(9)), "3 x 3 patches"
    assert max(batch["masks_enc"][0].max(), batch["masks_pred"][0].max()) >= 16, "clips have 2 x 4 x 4 tokens"


def test_an_epoch_shows_every_image_once(videos: Path, pictures: Path) -> None:
    data = dataset(videos, pictures)
    seen = torch.cat([data[i]["images"]["clips"][:, 0, 0, 0, 0] for i in range(4)])
    assert sorted(seen.tolist()) == list(range(10, 90, 10))


def test_image_batches_follow_from_seed_and_step(videos: Path, pictures: Path) -> None:
    first, again, other = (dataset(videos, pictures, seed=seed)[1]["images"] for seed in (3, 3, 4))
    assert torch.equal(first["clips"], again["clips"])
    for kind in ("masks_enc", "masks_pred"):
        assert all(torch.equal(a, b) for a, b in zip(first[kind], again[kind], strict=True))
    assert not torch.equal(first["clips"], other["clips"])
    cached = dataset(videos, pictures, cache=True)[1]["images"]
    assert torch.equal(first["clips"], cached["clips"])
    two = list(PretrainLoader(dataset(videos, pictures, workers=2), start_step=0, steps=2, pin_memory=False))
    assert torch.equal(two[1]["images"]["clips"], first["clips"])


def test_a_crop_of_an_image_has_its_pixels(videos: Path, tmp_path: Path) -> None:
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    save(tmp_path / "ramp/x.png", ramp)
    options = {"hflip": 0.0, "crop_scale": (0.25, 0.25), "crop_ratio": (1.0, 1.0)}  # 32 x 32: not resized
    crop = dataset(videos, tmp_path / "ramp", **options)[0]["images"]["clips"][0, :, 0]
    left = int(crop[0, 0, 0])
    assert torch.equal(crop, torch.from_numpy(ramp[:32, left : left + 32]).permute(2, 0, 1))


def test_unreadable_images_are_counted_and_replaced(
    videos: Path, pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (pictures / "text.jpg").write_text("not a picture")
    data = dataset(videos, pictures, max_bad=0.5)
    loader = PretrainLoader(data, start_step=0, steps=5, pin_memory=False)
    seen = torch.cat([batch["images"]["clips"][:, 0, 0, 0, 0] for batch in loader])
    assert set(seen.tolist()) == set(range(10, 90, 10)), "another image stands in"
    assert loader.bad == {str(pictures / "text.jpg"): "not a picture that can be read, or damaged"}
    assert caplog.text.count(" skipped ") == 1
    for path in pictures.glob("*.png"):
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="cannot be read"):
        list(PretrainLoader(dataset(videos, pictures, max_bad=0.5), start_step=0, steps=5, pin_memory=False))


def test_an_image_batch_that_does_not_divide_is_refused(videos: Path, pictures: Path) -> None:
    with pytest.raises(ConfigError, match="image_batch 3 is not a multiple of the 2 passes of a step"):
        PretrainBatches(
            (str(videos),),
            DataConfig(frame_step=1, images=(str(pictures),), image_batch=3),
            MODEL,
            MaskingConfig(),
            seed=0,
            micro_batch=2,
            accumulate=2,
        )
