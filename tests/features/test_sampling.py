"""Plans: what they say, what is kept of them, and what older ones mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from openvjepa.config import PROTOCOLS, ModelConfig, TrainConfig, to_mapping
from openvjepa.data.clips import ClipSpec, read_clip
from openvjepa.data.lists.index import VideoIndex, VideoRecord
from openvjepa.data.rendered.dataset import write_video
from openvjepa.data.transforms import eval_views
from openvjepa.errors import ConfigError
from openvjepa.features.cache import cache_key
from openvjepa.features.encode import EncodeSettings
from openvjepa.features.sampling import ClipPlan, stored_plan
from openvjepa.inference.classifier import VideoClassifier, load_classifier, save_classifier
from openvjepa.model.encoder import create_model
from openvjepa.model.pooler import LinearClassifier
from openvjepa.train.distributed import make_runtime
from openvjepa.weights import hub

PLAN = ClipPlan(ClipSpec(4, 1, None), (32, 32), segments=2)


@pytest.fixture
def wide(tmp_path: Path) -> VideoIndex:
    """20 frames of 48 x 64 px noise."""
    frames = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
    write_video(tmp_path / "wide.mp4", frames, fps=10)
    return VideoIndex((VideoRecord(str(tmp_path / "wide.mp4")),), None, "test")


def test_our_plan_looks_at_the_middle_and_at_whole_frames(wide: VideoIndex) -> None:
    clips, _, reason = PLAN.plain(wide)[0]
    assert not reason
    for clip, start in zip(clips, (0.4, 1.2), strict=True):  # a quarter and three quarters of 1.6 s of free starts
        frames = read_clip(wide.records[0].path, num_frames=4, frame_step=1, start=start).numpy()
        assert torch.equal(clip, eval_views(frames, (32, 32), 1, fit="squeeze")[0])


def test_the_published_protocol_by_name(wide: VideoIndex) -> None:
    clips, _, _ = PLAN.under(PROTOCOLS["published"]).plain(wide)[0]
    for clip, start in zip(clips, (0.0, 1.6), strict=True):
        frames = read_clip(wide.records[0].path, num_frames=4, frame_step=1, start=start).numpy()
        assert torch.equal(clip, eval_views(frames, (32, 32), 1)[0])


def test_plans_of_older_versions_mean_what_they_meant() -> None:
    values = to_mapping(PLAN)
    assert stored_plan(values, where="here") == PLAN
    older = {name: value for name, value in values.items() if name not in ("placement", "fit")}
    assert stored_plan(older, where="here") == replace(PLAN, placement="ends", fit="crop")


def test_classifiers_of_older_versions_see_what_they_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = create_model(ModelConfig(arch="vit_femto", img_size=32, num_frames=4, patch_size=8))
    classifier = VideoClassifier(encoder, LinearClassifier(encoder.config.dims.embed_dim, 2), ("a", "b"), PLAN)
    save_classifier(tmp_path / "new", classifier)
    assert load_classifier(tmp_path / "new").plan == PLAN
    real = hub.save_model

    def older(*args: object, plan: dict[str, object], **more: object) -> None:
        real(*args, plan={k: v for k, v in plan.items() if k not in ("placement", "fit")}, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("openvjepa.inference.classifier.save_model", older)
    save_classifier(tmp_path / "old", classifier)
    assert load_classifier(tmp_path / "old").plan == replace(PLAN, placement="ends", fit="crop")


def test_features_of_other_places_or_fits_are_other_features(wide: VideoIndex) -> None:
    encoder = create_model(ModelConfig(arch="vit_femto", img_size=32, num_frames=4, patch_size=8))
    with make_runtime(TrainConfig(device="cpu", precision="fp32")) as runtime:
        settings = EncodeSettings(runtime)
        plans = [PLAN, replace(PLAN, placement="ends"), replace(PLAN, fit="crop"), replace(PLAN, fit="pad")]
        assert len({cache_key(encoder, wide, plan, settings) for plan in plans}) == 4


def test_three_crops_are_three_views_of_each_clip(wide: VideoIndex) -> None:
    three = replace(PLAN, fit="three", random=2)
    assert (three.views_per_clip, three.plain_clips, three.clips) == (3, 6, 8)
    assert three.plain(wide)[0][0].shape == (6, 3, 4, 32, 32)
    with pytest.raises(ConfigError, match="leave views at 1"):
        replace(PLAN, fit="squeeze", views=3)


def test_random_clips_are_squeezed_where_whole_frames_are(wide: VideoIndex) -> None:
    """A crop of nearly the whole of a 3:4 frame is as wide as the frame only if it may be squeezed."""
    plan = replace(PLAN, random=1, crop_scale=(0.97, 0.97), size=(32, 32))
    squeezed, _, _ = plan.randomized(wide)[0]
    cropped, _, _ = replace(plan, fit="crop").randomized(wide)[0]
    video = read_clip(wide.records[0].path, num_frames=20, frame_step=1, start=0)
    whole = eval_views(video.numpy(), (32, 32), 1, fit="squeeze")[0]

    def likeness(clip: torch.Tensor) -> float:
        """Correlation of the clip's first frame with the squeezed frame that is most like it."""
        frame = clip[0, :, 0].flatten().double()
        return max(
            torch.corrcoef(torch.stack([frame, w.flatten().double()]))[0, 1].item() for w in whole.transpose(0, 1)
        )

    assert likeness(squeezed) > likeness(cropped)


def test_a_plan_says_what_is_looked_at() -> None:
    assert PLAN.describe((180, 320)) == (
        "2 clips of 4 frames (frame step 1) at the centers of equal parts; whole frame, squeezed "
        "(320 x 180 px to 32 x 32 px: a crop would lose 44% of the frame)"
    )
    published = replace(PLAN, segments=1).under(PROTOCOLS["published"])
    assert published.describe((32, 32)).startswith(
        "1 clip of 4 frames (frame step 1) at the center of the video; center crop"
    )
