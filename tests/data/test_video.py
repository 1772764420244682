"""Frames are exactly those asked for. The files in tests/fixtures/video carry each frame's number in its pixels."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
import pytest
from av.stream import Disposition
from numpy.typing import NDArray

from openvjepa.data.media.video import open_video, probe
from openvjepa.data.rendered.dataset import write_video
from openvjepa.errors import VideoError

FILES = sorted((Path(__file__).parents[1] / "fixtures" / "video").iterdir())
CODECS = [("mp4", "libx264"), ("mkv", "libx264"), ("mov", "libx264"), ("ts", "libx264"), ("avi", "mpeg4"), ("mpg", "mpeg1video"),
          ("webm", "libvpx-vp9"), ("webm", "libvpx"), ("mp4", "libx265"), ("mp4", "libsvtav1"), ("gif", "gif")]  # fmt: skip


def barcode(numbers: range, height: int = 64, width: int = 352) -> NDArray[np.uint8]:
    """Frames that show their own number: 12 bits and parity as white and black blocks."""
    video = np.full((len(numbers), height, width, 3), 90, np.uint8)
    for frame, number in zip(video, numbers, strict=True):
        for bit in range(13):
            on = number >> bit & 1 if bit < 12 else number.bit_count() & 1
            frame[:32, 24 * bit + 4 : 24 * bit + 24] = 255 * on
    return video


def read_number(frame: NDArray[np.uint8]) -> int:
    bits = [frame[8:24, 24 * b + 8 : 24 * b + 20].mean() > 128 for b in range(13)]
    number = sum(int(bit) << b for b, bit in enumerate(bits[:12]))
    assert number.bit_count() % 2 == bits[12], "not a barcode"
    return number


def encode(path: Path, frames: NDArray[np.uint8], codec: str, fps: int = 25) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_frame_from_random_starts(path: Path) -> None:
    video = open_video(path)
    numbers = [read_number(frame) for frame in video.all_frames().frames]
    first = 102 if path.name == "trim_copy.mp4" else 0
    assert numbers == list(range(first, 300))
    rng = np.random.default_rng(0)
    for _ in range(6):
        wanted = [int(i) for i in rng.integers(0, video.frame_count - 61) + np.arange(0, 61, 4)]
        batch = video.frames(wanted)
        assert [read_number(frame) - first for frame in batch.frames] == wanted
        assert batch.lost == 0


@pytest.mark.parametrize(("extension", "codec"), CODECS, ids=lambda value: str(value))
def test_containers_and_codecs(tmp_path: Path, extension: str, codec: str) -> None:
    path = encode(tmp_path / f"video.{extension}", barcode(range(50)), codec)
    video = open_video(path)
    assert [read_number(frame) for frame in video.all_frames().frames] == list(range(50))
    assert [read_number(frame) for frame in video.frames([40, 3, 3, 17]).frames] == [40, 3, 3, 17]
    assert probe(path).frames == 50
    assert video.duration == pytest.approx(2.0, rel=0.03)


def test_random_access_gives_the_pixels_of_a_sequential_decode() -> None:
    for path in FILES:
        with av.open(str(path)) as container:
            sequential = [frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(video=0)]
        wanted = [150, 151, 170, 190]
        np.testing.assert_array_equal(open_video(path).frames(wanted).frames, np.stack([sequential[i] for i in wanted]))


def test_frames_by_time_at_a_variable_rate(tmp_path: Path) -> None:
    shown_from = [0, 40, 80, 500, 1000, 1040]  # ms
    path = tmp_path / "vfr.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 352, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for pixels, pts in zip(barcode(range(6)), shown_from, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    batch = open_video(path).frames_at([0, 0.039, 0.04, 0.3, 0.5, 0.999, 1.0, 9.0])
    assert [read_number(frame) for frame in batch.frames] == [0, 0, 1, 2, 3, 3, 4, 5]


def test_odd_sizes(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (5, 45, 63, 3), np.uint8)
    path = tmp_path / "odd.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 63, 45, "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    np.testing.assert_array_equal(open_video(path).all_frames().frames, frames)


def test_frame_folder_and_still_image(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (4, 32, 48, 3), np.uint8)
    for i, image in enumerate(images):
        encode_png(tmp_path / f"frame_{i:03d}.png", image)
    np.testing.assert_array_equal(open_video(tmp_path).frames([2, 0]).frames, images[[2, 0]])
    np.testing.assert_array_equal(open_video(tmp_path / "frame_001.png").all_frames().frames, images[1:2])
    assert probe(tmp_path).frames == 4
    smooth = np.repeat(np.linspace(0, 255, 48, dtype=np.uint8)[None, :, None], 32, 0).repeat(3, 2)
    encode(tmp_path / "photograph.jpg", smooth[None], "mjpeg")
    assert np.abs(open_video(tmp_path / "photograph.jpg").all_frames().frames[0].astype(int) - smooth).mean() < 3


def encode_png(path: Path, image: NDArray[np.uint8]) -> None:
    context = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt, context.time_base = (
        image.shape[1],
        image.shape[0],
        "rgb24",
        Fraction(1),
    )
    packets = context.encode(av.VideoFrame.from_ndarray(image, format="rgb24")) + context.encode()
    path.write_bytes(b"".join(bytes(packet) for packet in packets))


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.mp4"
    write_video(path, barcode(range(60)), fps=25)
    return path


def bad_file(kind: str, good: Path) -> Path:
    path = good.with_name(f"{kind}.mp4")
    data = good.read_bytes()
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not a video\n" * 100)
    elif kind == "random":
        path.write_bytes(np.random.default_rng(0).bytes(50_000))
    elif kind == "index missing":
        path.write_bytes(data[: data.index(b"moov") - 4])
    elif kind == "audio only":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=44100)
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            frame.sample_rate = 44100
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    elif kind == "empty folder":
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["empty", "text", "random", "index missing", "audio only", "empty folder", "missing"])
def test_unusable_files_name_themselves_and_the_reason(good: Path, kind: str) -> None:
    path = bad_file(kind, good)
    with pytest.raises(VideoError) as caught:
        open_video(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(VideoError):
        probe(path)


def test_a_file_cut_in_half_gives_the_frames_it_still_has(tmp_path: Path) -> None:
    path = encode(tmp_path / "whole.ts", barcode(range(100)), "libx264")
    half = tmp_path / "half.ts"
    half.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    video = open_video(half)
    assert 0 < video.frame_count < 100
    numbers = [read_number(frame) for frame in video.frames(range(video.frame_count - 4)).frames]
    assert numbers == list(range(video.frame_count - 4))


def test_bit_rot_is_counted_and_the_rest_is_kept(good: Path) -> None:
    data = bytearray(good.read_bytes())
    with av.open(str(good)) as container:  # overwrite the data of three packets in the middle, but not their lengths
        for packet in list(container.demux(video=0))[30:33]:
            assert packet.pos is not None
            data[packet.pos + 4 : packet.pos + packet.size] = bytes(packet.size - 4)
    path = good.with_name("rotten.mp4")
    path.write_bytes(data)
    assert probe(path).errors > 0
    assert [read_number(frame) for frame in open_video(path).frames(range(20)).frames] == list(range(20))


@pytest.mark.parametrize("wanted", [[-1], [60], [0, 100], []])
def test_frames_out_of_range(good: Path, wanted: list[int]) -> None:
    with pytest.raises(VideoError, match="asked for frames"):
        open_video(good).frames(wanted)


def test_a_file_that_changes_is_read_anew(good: Path) -> None:
    assert open_video(good).frame_count == 60
    write_video(good, barcode(range(30)), fps=25)
    assert open_video(good).frame_count == 30


@pytest.mark.parametrize(
    ("extension", "codec"), [("avi", "libx264"), ("avi", "mpeg4"), ("ts", "mpeg2video"), ("webm", "libvpx")]
)
def test_reordered_and_hidden_frames(tmp_path: Path, extension: str, codec: str) -> None:
    """B-frames are stored out of order, AVI has no time stamps of its own, and VP8 packets may show nothing."""
    path = tmp_path / f"video.{extension}"
    with av.open(str(path), "w") as container:
        options = {"auto-alt-ref": "1", "lag-in-frames": "16"} if codec == "libvpx" else {"bf": "2"}
        stream = container.add_stream(codec, rate=25, options={"g": "30", **options})
        stream.width, stream.height, stream.pix_fmt = 352, 64, "yuv420p"
        for pixels in barcode(range(90)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    video = open_video(path)
    assert [read_number(frame) for frame in video.all_frames().frames] == list(range(90))
    for start in (1, 29, 31, 44, 59, 74):
        wanted = list(range(start, start + 16, 3))
        assert [read_number(frame) for frame in video.frames(wanted).frames] == wanted


# QuickTime's matrix maps (x, y), y downwards, to (ax + cy, bx + dy): 90 degrees clockwise is (0, 1, -1, 0).
@pytest.mark.parametrize(("matrix", "quarters"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_rotation(tmp_path: Path, matrix: tuple[int, ...], quarters: int) -> None:
    frames = np.zeros((3, 64, 96, 3), np.uint8)
    frames[:, :16, :32] = (255, 0, 0)  # a red corner at the top left
    path = tmp_path / "phone.mov"
    write_video(path, frames, fps=25)
    plain = open_video(path).all_frames().frames
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    for place, value in zip((0, 4, 12, 16), matrix, strict=True):
        data[at + place : at + place + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    turned = open_video(path).all_frames().frames
    np.testing.assert_array_equal(turned, np.rot90(plain, quarters, axes=(1, 2)))
    info = probe(path)
    assert (info.height, info.width) == turned.shape[1:3]


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv444p", "gray"])
def test_other_pixel_formats(tmp_path: Path, pix_fmt: str) -> None:
    path = tmp_path / "video.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 352, 64, pix_fmt
        for pixels in barcode(range(40)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    assert [read_number(frame) for frame in open_video(path).frames([33, 7, 39]).frames] == [33, 7, 39]


def test_large_frames_can_be_shrunk_while_reading(tmp_path: Path) -> None:
    path = tmp_path / "large.mp4"
    write_video(path, barcode(range(4), height=432, width=768), fps=25)
    video = open_video(path)
    assert video.frames([2]).frames.shape == (1, 432, 768, 3)
    small = video.frames_at([0.05], short_side=216).frames
    assert small.shape == (1, 216, 384, 3)
    assert read_number(np.repeat(np.repeat(small[0], 2, axis=0), 2, axis=1)) == 1
    assert open_video(FILES[0]).frames([0], short_side=64).frames.shape[1:3] == (256, 340)  # small enough already


def test_threads_change_nothing() -> None:
    for path in FILES[:3]:
        wanted = [10, 140, 141, 190]
        np.testing.assert_array_equal(
            open_video(path, threads=4).frames(wanted).frames, open_video(path).frames(wanted).frames
        )


def test_one_frame_and_an_image_under_a_wrong_name(tmp_path: Path) -> None:
    write_video(tmp_path / "one.mp4", barcode(range(5, 6)), fps=25)
    encode_png(tmp_path / "image.mp4", barcode(range(9, 10))[0])
    for name, number in (("one.mp4", 5), ("image.mp4", 9)):
        video = open_video(tmp_path / name)
        assert video.frame_count == 1
        assert [read_number(frame) for frame in video.frames_at([0, 3.0]).frames] == [number, number]


def test_an_mp4_cut_in_half_keeps_the_frames_before_the_cut(tmp_path: Path) -> None:
    """Its index comes first and still promises everything."""
    whole, half = tmp_path / "whole.mp4", tmp_path / "half.mp4"
    with av.open(str(whole), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "12"})
        stream.width, stream.height, stream.pix_fmt = 352, 64, "yuv420p"
        for pixels in barcode(range(100)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    video = open_video(half)
    assert 10 < video.frame_count < 90
    wanted = list(range(video.frame_count - 2))
    assert [read_number(frame) for frame in video.frames(wanted).frames] == wanted
    assert probe(half).frames == video.frame_count


def test_a_lost_frame_leaves_the_others_at_their_times(good: Path) -> None:
    data = bytearray(good.read_bytes())
    with av.open(str(good)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    key = max(i for i, packet in enumerate(packets) if packet.is_keyframe and i < 40)
    last = packets[key - 1]  # nothing refers to the frame before a key frame
    assert last.pos is not None
    data[last.pos + 4 : last.pos + last.size] = bytes(last.size - 4)
    good.write_bytes(data)
    video = open_video(good)
    batch = video.frames(range(60))
    numbers = [read_number(frame) for frame in batch.frames]
    assert batch.lost == 1
    assert [n for i, n in enumerate(numbers) if n != i] == [numbers[numbers.index(key - 2)]]
    assert probe(good).errors == 1


def test_an_unknown_codec_is_an_error(good: Path) -> None:
    good.write_bytes(good.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(VideoError, match="codec"):
        open_video(good)


def test_a_cover_picture_is_not_a_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 352, 64, "yuvj420p"
        picture.disposition = Disposition.attached_pic.value  # the number: PyAV 17 takes nothing else
        container.mux(picture.encode(av.VideoFrame.from_ndarray(barcode(range(1))[0], format="rgb24")))
        container.mux(picture.encode())
    with pytest.raises(VideoError, match="no video stream"):
        open_video(path)


def test_frames_whose_size_changes_are_an_error(tmp_path: Path) -> None:
    parts = [
        encode(tmp_path / f"{width}.ts", barcode(range(20), width=width), "mpeg2video").read_bytes()
        for width in (352, 416)
    ]
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    with pytest.raises(VideoError, match="size of the frames changes"):
        open_video(tmp_path / "both.ts").all_frames()


def test_a_still_jpeg(tmp_path: Path) -> None:
    context = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 352, 64, "yuvj420p", Fraction(1)
    frame = av.VideoFrame.from_ndarray(barcode(range(21, 22))[0], format="rgb24").reformat(format="yuvj420p")
    (tmp_path / "still.jpg").write_bytes(b"".join(bytes(packet) for packet in context.encode(frame) + context.encode()))
    batch = open_video(tmp_path / "still.jpg").frames_at([0.0, 1.0])
    assert [read_number(frame) for frame in batch.frames] == [21, 21]
    assert probe(tmp_path / "still.jpg").frames == 1


def test_patched_pixels_are_those_of_a_sequential_decode() -> None:
    """FFmpeg patches damage with frames that it has decoded, so frames that nobody asked for must not be skipped there."""
    path = FILES[0].parents[1] / "damaged" / "h264.mp4"
    sequential: dict[int | None, NDArray[np.uint8]] = {}
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        for packet in container.demux(video=0):
            with contextlib.suppress(av.error.FFmpegError):
                sequential.update({frame.pts: frame.to_ndarray(format="rgb24", threads=1) for frame in packet.decode()})
    video = open_video(path)
    assert (len(sequential), video.frame_count, probe(path).errors) == (49, 50, 1)
    numbers = [i for i in range(50) if i * 1024 in sequential]  # 10 frames per second, 1/10240 s
    for wanted in (numbers[:16], numbers[29:45:3], [29], [49]):
        truth = np.stack([sequential[i * 1024] for i in wanted])
        np.testing.assert_array_equal(video.frames(wanted).frames, truth)
    with pytest.raises(VideoError, match="1 of 1 frames cannot be decoded"):
        video.frames([30])
