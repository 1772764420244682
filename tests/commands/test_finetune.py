"""Fine-tuning: its arithmetic against plain loops and closed forms; the run against its own promises."""

from __future__ import annotations

import csv
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from openvjepa.commands.export import export
from openvjepa.commands.finetune import FinetuneResult, finetune
from openvjepa.commands.predict import predict
from openvjepa.config import FINETUNE_PRESETS as PRESETS
from openvjepa.config import (
    ExportConfig,
    FinetuneConfig,
    ModelConfig,
    OptimConfig,
    PredictConfig,
    TrainConfig,
    read_yaml,
)
from openvjepa.data.augment import Augmentation
from openvjepa.data.lists.index import VideoIndex
from openvjepa.data.lists.splits import read_splits
from openvjepa.data.transforms import normalize
from openvjepa.errors import CheckpointError, ConfigError, DataError, Interrupted
from openvjepa.features.sampling import ClipPlan
from openvjepa.finetuning.batches import ClipBatches, Order
from openvjepa.finetuning.task import FinetuneTask, balanced_weights
from openvjepa.model.adapters import layer_groups, merge_lora, set_trainable
from openvjepa.model.encoder import Encoder, create_model
from openvjepa.model.pooler import AttentiveClassifier, LinearClassifier
from openvjepa.train.distributed import make_runtime
from openvjepa.train.optim import make_optimizer, set_schedules
from openvjepa.train.trainer import fit
from openvjepa.weights.hub import load_model, save_model

ROPE = ModelConfig(
    arch="vit_femto", img_size=32, num_frames=4, embed_dim=24, depth=3, num_heads=3, positions="rope-tiled"
)


def rope_encoder(seed: int = 0) -> Encoder:
    """4 x 2 x 2 / 2 tokens; weights large enough that wrong inputs show."""
    torch.manual_seed(seed)
    model = create_model(ROPE).eval()
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value.normal_(0, 1.2 / value[0].numel() ** 0.5)
    return model


@pytest.fixture
def config(shapes: Path, tmp_path: Path) -> FinetuneConfig:
    save_model(tmp_path / "model", rope_encoder())
    return FinetuneConfig(
        source=str(shapes),
        model=str(tmp_path / "model"),
        out=str(tmp_path / "run"),
        label="appearance",
        epochs=2,
        train_views=2,
        frame_step=1,
        precision="fp32",
        device="cpu",
        workers=0,
    )


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures and pages, which take most of a small run's time, but for the tests that look at them."""
    if "documents" not in request.fixturenames:
        monkeypatch.setattr("openvjepa.commands.finetune.write_documents", lambda *arguments: None)
        monkeypatch.setattr("openvjepa.reports.runs.finetune.Pictures.__call__", lambda *arguments: None)


@pytest.fixture
def documents() -> None:
    """Asks for pictures and pages."""


def run(config: FinetuneConfig, **values: Any) -> FinetuneResult:
    result = finetune(replace(config, **values))
    assert result is not None
    return result


def records(out: str | Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]


def figures(out: str | Path) -> list[dict[str, float]]:
    """The record, without what a clock says."""
    clocks = ("elapsed", "clips_per_s", "seconds_per_step", "data_wait")
    return [{key: value for key, value in row.items() if key not in clocks} for row in records(out)]


def weights_of(out: str | Path) -> dict[str, torch.Tensor]:
    model = load_model(out)
    assert model.probe is not None
    parts = {"encoder": model.encoder, "probe": model.probe}
    return {f"{part}.{key}": value for part, module in parts.items() for key, value in module.state_dict().items()}


# What is trained


def test_layer_wise_decay_is_its_closed_form() -> None:
    encoder = rope_encoder()
    set_trainable(encoder, "all", last_blocks=1, lora_rank=1)
    names = {id(parameter): name for name, parameter in encoder.named_parameters()}
    found = {}
    for group in layer_groups(encoder, scale=0.5, decay=0.8):
        for parameter in group["params"]:
            found[names[id(parameter)]] = group["lr_scale"]
            assert group["decay"] == (parameter.ndim > 1)
    truth = {f"blocks.{i}": 0.5 * 0.8 ** (2 - i) for i in range(3)} | {"norm": 0.5, "patch_embed": 0.5 * 0.8**3}
    assert set(found) == set(dict(encoder.named_parameters()))
    for name, scale in found.items():
        (wanted,) = [value for prefix, value in truth.items() if name.startswith(f"{prefix}.")]
        assert scale == pytest.approx(wanted), name


def test_groups_have_their_own_learning_rate() -> None:
    encoder = rope_encoder()
    set_trainable(encoder, "last", last_blocks=2, lora_rank=1)
    task = FinetuneTask(encoder, LinearClassifier(24, 3), encoder_scale=0.5, layer_decay=0.8)
    optimizer, optim = make_optimizer(task.param_groups(), OptimConfig()), OptimConfig(lr=0.1, warmup=0.0)
    lr, _ = set_schedules(optimizer, 7, optim, 20)
    assert sorted({group["lr"] / lr for group in optimizer.param_groups}) == pytest.approx([0.4, 0.5, 1.0])


@pytest.mark.parametrize(
    ("tune", "prefixes"),
    [("head", ()), ("last", ("blocks.1.", "blocks.2.", "norm.")), ("all", ("blocks.", "norm.", "patch_embed."))],
)
def test_what_is_trained(tune: Any, prefixes: tuple[str, ...]) -> None:
    encoder = rope_encoder()
    set_trainable(encoder, tune, last_blocks=2, lora_rank=1)
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in encoder.named_parameters() if prefixes and name.startswith(prefixes)}
    with pytest.raises(ConfigError, match="last_blocks 4: the encoder has 3"):
        set_trainable(encoder, "last", last_blocks=4, lora_rank=1)


def test_levels_that_no_classifier_reads_are_not_trained() -> None:
    encoder = Encoder(replace(ROPE, positions="rope", levels=(0, 2), modality_embed=True))
    set_trainable(encoder, "all", last_blocks=1, lora_rank=1)
    frozen = {name for name, parameter in encoder.named_parameters() if not parameter.requires_grad}
    assert frozen == {"norms_block.0.weight", "norms_block.0.bias"}
    tokens = encoder(torch.randn(1, 3, 4, 32, 32))
    assert isinstance(tokens, torch.Tensor)
    tokens.square().sum().backward()
    read = {name for name, parameter in encoder.named_parameters() if parameter.grad is not None}
    unread = {"img_mod_embed", "patch_embed_img.proj.weight", "patch_embed_img.proj.bias"}
    assert read == set(dict(encoder.named_parameters())) - frozen - unread, "these are for images"


def test_merged_lora_is_the_adapted_encoder() -> None:
    pytest.importorskip("peft")
    encoder, plain = rope_encoder(), rope_encoder()
    set_trainable(encoder, "lora", last_blocks=1, lora_rank=4)
    trained = {name: value for name, value in encoder.named_parameters() if value.requires_grad}
    assert len(trained) == 2 * 4 * 3, "A and B of four layers of three blocks"
    clips = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(encoder(clips), plain(clips)), "B starts at 0"
        for value in trained.values():
            value.normal_(0, 0.2, generator=torch.Generator().manual_seed(2))
        adapted = encoder(clips)
        merge_lora(encoder)
        torch.testing.assert_close(encoder(clips), adapted, rtol=1e-5, atol=1e-5)
    assert (adapted - plain(clips)).abs().max() > 0.01
    assert encoder.state_dict().keys() == plain.state_dict().keys()


def test_loss_is_numpys() -> None:
    rng = np.random.default_rng(0)
    head = LinearClassifier(5, 3)
    labels = np.array([0, 2, 2, 1, 2])
    tokens, weights = rng.normal(size=(5, 4, 5)).astype(np.float32), balanced_weights(labels, 3)
    np.testing.assert_allclose(weights.numpy(), [5 / 3, 5 / 3, 5 / 9], rtol=1e-6)
    assert weights[torch.from_numpy(labels)].mean() == pytest.approx(1)
    task = FinetuneTask(None, head, class_weights=weights, label_smoothing=0.1)
    found = task({"tokens": torch.from_numpy(tokens), "labels": torch.from_numpy(labels)})
    matrix, bias = (value.detach().double().numpy() for value in head.parameters())
    scores = tokens.astype(np.float64).mean(1) @ matrix.T + bias
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    targets = 0.9 * np.eye(3)[labels] + 0.1 / 3
    truth = -(targets * logs * weights.double().numpy()).sum(1).mean()
    assert found["loss"].item() == pytest.approx(truth, abs=1e-6)
    assert found["train_top1"].item() == pytest.approx(100 * (scores.argmax(1) == labels).mean())


@pytest.mark.parametrize("style", ["v1", "v2", "nano"])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_classifier_is_computed_as_it_is_used(style: Any, depth: int) -> None:
    head = AttentiveClassifier(24, 3, 4, style=style, depth=depth, eps=1e-3)
    with torch.no_grad():
        for value in head.parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel())))
    tokens = torch.randn(5, 8, 24, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(FinetuneTask(None, head).logits(tokens), head(tokens), rtol=1e-4, atol=1e-5)


def test_mixup_mixes_clips_and_targets() -> None:
    encoder, head = rope_encoder(), LinearClassifier(24, 3)
    clips = torch.randint(0, 256, (4, 3, 4, 32, 32), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    labels, partner, share = torch.tensor([0, 1, 2, 1]), torch.tensor([2, 0, 1, 3]), 0.3
    batch = {"clips": clips, "labels": labels, "partner": partner, "share": torch.tensor(share)}
    found = FinetuneTask(encoder, head)(batch)["loss"]
    x = normalize(clips)
    logs = F.log_softmax(head(encoder(share * x + (1 - share) * x[partner])), dim=1)
    rows = torch.arange(4)
    truth = -(share * logs[rows, labels] + (1 - share) * logs[rows, labels[partner]]).mean()
    torch.testing.assert_close(found, truth)


def fitted(tmp_path: Path, micro: int, steps: int = 3) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and weights of a run on eight random clips, with everything trained."""
    encoder = rope_encoder()
    set_trainable(encoder, "all", last_blocks=1, lora_rank=1)
    torch.manual_seed(3)
    head = AttentiveClassifier(24, 3, 4, style="v2")
    weights = torch.tensor([0.5, 1.0, 2.0, 0.7])
    task = FinetuneTask(encoder, head, class_weights=weights, encoder_scale=0.5, layer_decay=0.8)
    generator = torch.Generator().manual_seed(4)
    clips = torch.randint(0, 256, (steps, 8, 3, 4, 32, 32), generator=generator).to(torch.uint8)
    labels = torch.randint(0, 4, (steps, 8), generator=generator)
    train = TrainConfig(steps=steps, batch_size=8, micro_batch=micro, device="cpu", precision="fp32", monitor_every=0,
                        log_every=1)  # fmt: skip

    def batches(step: int) -> Any:
        for number in range(step, steps):
            for start in range(0, 8, micro):
                part = slice(start, start + micro)
                yield {"clips": clips[number, part], "labels": labels[number, part]}

    out = tmp_path / f"micro-{micro}"
    optim = OptimConfig(lr=1e-3, warmup=0.0, clip_grad=1.0)
    with make_runtime(train) as runtime:
        fit(task, batches, optim=optim, train=train, run_dir=out, runtime=runtime, config={})
    return [row["loss"] for row in records(out)], {name: value.detach() for name, value in task.named_parameters()}


def test_accumulated_gradients_are_those_of_one_large_batch(tmp_path: Path) -> None:
    losses, weights = fitted(tmp_path, 2)
    whole_losses, whole = fitted(tmp_path, 8)
    np.testing.assert_allclose(losses, whole_losses, rtol=1e-6)
    for name, value in whole.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5)
    before = {f"encoder.{name}": value for name, value in rope_encoder().named_parameters()}
    assert all((whole[name] - value).abs().max() > 1e-4 for name, value in before.items() if value.ndim > 1)


# The clips


def test_every_video_is_shown_once_an_epoch() -> None:
    order = Order(7, 3, seed=5)
    shown = [order(number) for number in range(70)]
    for epoch in range(10):
        assert sorted(video for video, _ in shown[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert {clip for _, clip in shown} == {0, 1, 2}
    assert [Order(7, 3, seed=5)(number) for number in reversed(range(70))] == shown[::-1]
    fresh = Order(7, None, seed=5)
    assert [fresh(number)[1] for number in range(21)] == [1] * 7 + [2] * 7 + [3] * 7


def clip_batches(config: FinetuneConfig, **values: Any) -> ClipBatches:
    index: VideoIndex = read_splits(config)["train"]
    plan = ClipPlan(read_plan_spec(config), (32, 32), seed=config.seed)
    return ClipBatches(index, plan, Order(len(index), None, 0), 4, values.pop("augmentation", Augmentation()), **values)


def read_plan_spec(config: FinetuneConfig) -> Any:
    from openvjepa.data.clips import ClipSpec

    return ClipSpec(4, config.frame_step, config.fps)


def test_augmentation_treats_all_frames_alike(config: FinetuneConfig) -> None:
    pytest.importorskip("kornia")
    still = torch.randint(0, 256, (3, 1, 32, 32), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    clip, augmentation = still.expand(-1, 5, -1, -1), Augmentation(9, 0.5)
    changed = 0
    state = torch.get_rng_state()
    for seed in range(12):
        found = augmentation(clip, torch.Generator().manual_seed(seed))
        assert found.dtype == torch.uint8
        assert torch.equal(found, found[:, :1].expand_as(found))
        assert torch.equal(found, augmentation(clip, torch.Generator().manual_seed(seed)))
        changed += not torch.equal(found, clip)
    assert changed > 8
    assert torch.equal(state, torch.get_rng_state()), "the run's own random numbers are untouched"
    plain, augmented = clip_batches(config)[3], clip_batches(config, augmentation=augmentation)[3]
    assert torch.equal(plain["labels"], augmented["labels"])
    assert not torch.equal(plain["clips"], augmented["clips"])


def test_a_clip_that_cannot_be_read_is_replaced_or_named(config: FinetuneConfig, tmp_path: Path) -> None:
    batches = clip_batches(config)
    (tmp_path / "bad.mp4").write_bytes(b"")
    bad = tuple(replace(record, path=str(tmp_path / "bad.mp4")) for record in batches.index.records)
    broken = replace(batches, index=replace(batches.index, records=bad))
    with pytest.raises(DataError, match=r"bad\.mp4: .*it could be read when the run started"):
        list(broken.batches(0, 1, workers=0, pin_memory=False))


# The run


def test_cached_features_give_what_the_frozen_encoder_gives(config: FinetuneConfig, tmp_path: Path) -> None:
    cached = run(config, out=str(tmp_path / "cached"), patience=5)
    direct = run(config, out=str(tmp_path / "direct"), cache=False)
    assert (tmp_path / "cached" / "features").exists()
    assert not (tmp_path / "direct" / "features").exists()
    ours, theirs = figures(tmp_path / "cached"), figures(tmp_path / "direct")
    assert len(ours) == len(theirs) == 7, "before training, and six steps"
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for key in set(a) - {"step"}:
            assert a[key] == pytest.approx(b[key], abs=1e-5), key
    np.testing.assert_allclose(cached.probabilities, direct.probabilities, atol=1e-5)
    left, right = weights_of(tmp_path / "cached"), weights_of(tmp_path / "direct")
    for key, value in left.items():
        torch.testing.assert_close(value, right[key], rtol=0, atol=1e-5)
    source = load_model(config.model).encoder.state_dict()
    assert all(torch.equal(left[f"encoder.{key}"], value) for key, value in source.items()), "it was frozen"


@pytest.mark.usefixtures("documents")
def test_a_run_writes_what_it_found(config: FinetuneConfig, shapes: Path) -> None:
    result = run(config, class_weights="balanced", label_smoothing=0.1)
    out, found = Path(config.out), json.loads((Path(config.out) / "results.json").read_text())
    assert found["videos"] == result.videos == {"train": 48, "val": 16, "test": 24}
    outcome = found["probes"]["attentive"]
    counts = np.array(outcome["confusion"])
    assert outcome["test_top1"] == pytest.approx(100 * np.trace(counts) / 24) == result.metrics.top1
    truth = stats.binomtest(int(np.trace(counts)), 24).proportion_ci(method="wilson")
    assert outcome["test_top1_interval"] == pytest.approx([100 * truth.low, 100 * truth.high], abs=1e-4)
    assert f"is {100 * truth.low:.1f} - {100 * truth.high:.1f} %" in (result.out / "README.md").read_text()
    rows = records(out)
    validated = [row for row in rows if "val_top1" in row]
    assert [row["epoch"] for row in validated] == [0, 1, 2]
    best = max(validated[1:], key=lambda row: (row["val_top1"], -row["val_loss"]))
    assert (result.best_epoch, result.val_top1) == (best["epoch"], best["val_top1"])
    assert [row["lr"] for row in rows[1:]] == pytest.approx(
        [3e-3 * 0.5 * (1 + np.cos(np.pi * step / 6)) for step in range(1, 7)], abs=1e-9
    )
    assert read_yaml(FinetuneConfig, out / "config.yaml").class_weights == "balanced"
    card, page = (out / "README.md").read_text(), (out / "report.html").read_text()
    for text in ("## Data", "48 train", "## Recipe", "## Metrics", "## Limits", "g of CO2", "480 g of CO2 per kWh"):
        assert text in card
    assert f"{result.metrics.top1:.1f} %" in card
    assert "Accuracy on validation videos" in page
    assert "Predictions" in page
    assert (out / "confusion.png").read_bytes().startswith(b"\x89PNG")
    loaded = load_model(out)
    assert loaded.labels == result.classes
    assert found["id2label"] == {str(i): name for i, name in enumerate(result.classes)}
    assert found["label2id"] == {name: i for i, name in enumerate(result.classes)}
    tags = tensorboard_tags(out)
    assert {"loss", "lr", "val_top1"} <= tags["scalars"]
    assert {"confusion", "predictions"} <= tags["images"]
    rows_of = [row for row in csv.DictReader((shapes / "index.csv").open()) if row["split"] == "test"]
    found = predict(PredictConfig(tuple(str(shapes / r["path"]) for r in rows_of), (str(out),), top=1, workers=0))
    named = [item.top[0][0] for item in found]
    right = np.mean([name == row["appearance"] for name, row in zip(named, rows_of, strict=True)])
    assert 100 * right == pytest.approx(result.metrics.top1)


def tensorboard_tags(out: Path) -> dict[str, set[str]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard")).Reload()
    return {kind: set(events.Tags()[kind]) for kind in ("scalars", "images")}


@pytest.mark.parametrize("tune", ["last", "lora", "all"])
def test_what_is_tuned_learns_and_is_read_strictly(config: FinetuneConfig, tune: Any, tmp_path: Path) -> None:
    if tune == "lora":
        pytest.importorskip("peft")
    result = run(config, tune=tune, label="motion", last_blocks=1, epochs=1, batch_size=24, out=str(tmp_path / tune))
    assert len(result.classes) == 8
    after, before = load_model(tmp_path / tune).encoder.state_dict(), load_model(config.model).encoder.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(after[key], value)}
    if tune == "last":
        assert changed == {key for key in before if key.startswith(("blocks.2.", "norm."))}
    elif tune == "lora":
        linear = (".qkv.weight", ".proj.weight", ".fc1.weight", ".fc2.weight")
        assert changed == {key for key in before if key.startswith("blocks.") and key.endswith(linear)}
    else:
        assert changed == set(before)


def test_hugging_face_gives_the_same_labels_and_probabilities(config: FinetuneConfig, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    run(config, head_depth=2, lr=1e-2)
    model = load_model(config.out)
    export(ExportConfig(config.out, str(tmp_path / "hf"), "hf"))
    assert "Top-1 accuracy on 24 test videos" in (tmp_path / "hf" / "README.md").read_text()
    theirs = transformers.AutoModelForVideoClassification.from_pretrained(tmp_path / "hf").eval()
    assert tuple(theirs.config.id2label[i] for i in range(6)) == model.labels
    clips = torch.randn(3, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    assert model.probe is not None
    with torch.no_grad():
        ours = model.probe(model.encoder(clips)).softmax(-1)
        found = theirs(pixel_values_videos=clips.transpose(1, 2)).logits.softmax(-1)
    torch.testing.assert_close(found, ours, rtol=0, atol=1e-5)


def test_the_card_of_hugging_face_is_a_preset() -> None:
    card = PRESETS["hf-card"]()
    assert (card.tune, card.lr, card.schedule, card.weight_decay, card.epochs) == ("head", 1e-5, "constant", 0.0, 5)
    assert card.batch_size == 4 * (card.micro_batch or 0)


def test_patience_ends_a_run_that_gets_no_better(
    config: FinetuneConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = run(config, epochs=30, patience=2, lr=0.5, clip_grad=None)
    validated = [row for row in records(config.out) if "val_top1" in row][1:]
    scores = [(row["val_top1"], -row["val_loss"]) for row in validated]
    best = max(range(len(scores)), key=lambda i: scores[i])
    assert result.epochs == len(scores) == best + 3 < 30
    assert result.best_epoch == best + 1
    assert "stopped early: no better epoch in the last 2" in caplog.text
    again = run(config, epochs=30, patience=2, lr=0.5, clip_grad=None, resume=True)
    assert (again.epochs, again.best_epoch) == (result.epochs, result.best_epoch)
    assert np.array_equal(again.probabilities, result.probabilities)
    run(config, model=config.out, out=str(tmp_path / "next"), epochs=1)
    start = records(tmp_path / "next")[0]
    assert start["val_loss"] == pytest.approx(-scores[best][1], abs=1e-6), "the best weights were saved, not the last"


class Killed(BaseException):
    """What nothing catches."""


@pytest.mark.parametrize("tune", ["last", "head"])
def test_killed_and_resumed_is_uninterrupted(
    config: FinetuneConfig, tmp_path: Path, tune: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(config, tune=tune, last_blocks=1, epochs=4, batch_size=24, patience=9)
    whole = run(settings, out=str(tmp_path / "whole"))

    def kill(task: FinetuneTask, step: int) -> None:
        if step == 4:  # in the third of four epochs of two steps
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(FinetuneTask, "after_step", kill)
        with pytest.raises(Killed):
            run(settings, out=str(tmp_path / "killed"))
    assert not (tmp_path / "killed" / "results.json").exists()
    steps = sorted(int(path.stem[5:]) for path in (tmp_path / "killed" / "checkpoints").glob("step-*.pt"))
    assert steps[-1] == 4
    torch.manual_seed(99)
    again = run(settings, out=str(tmp_path / "killed"), resume=True)
    assert figures(tmp_path / "killed") == figures(tmp_path / "whole")
    assert again.best_epoch == whole.best_epoch
    left, right = weights_of(tmp_path / "killed"), weights_of(tmp_path / "whole")
    assert all(torch.equal(value, right[key]) for key, value in left.items())
    with pytest.raises(ConfigError, match=r"a resumed run must use the same settings, but finetune\.lr is 0\.5"):
        run(settings, out=str(tmp_path / "killed"), resume=True, lr=0.5)


def test_interrupted_says_how_to_go_on(config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(task: FinetuneTask, x: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(FinetuneTask, "logits", interrupt)
        with pytest.raises(Interrupted, match="stopped at step 0") as caught:
            finetune(config)
    assert caught.value.signal == signal.SIGINT
    assert run(config, resume=True).epochs == 2


# The classifier to start from


def test_a_run_goes_on_from_its_own_classifier(
    config: FinetuneConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = run(config, lr=5e-3, epochs=3)
    second = run(config, model=config.out, out=str(tmp_path / "second"), epochs=1, lr=1e-9)
    rows = [row for row in records(tmp_path / "second") if "val_top1" in row]
    assert rows[0]["val_top1"] == first.val_top1, "before training"
    np.testing.assert_allclose(second.probabilities, first.probabilities, atol=1e-5)
    caplog.clear()
    other = run(config, model=config.out, out=str(tmp_path / "third"), label="motion", epochs=1, lr=1e-9)
    said = caplog.text
    assert "the labels disagree with the checkpoint" in said
    assert "knows 6 others (circle, cross, ring, square, ...)" in said
    assert len(other.classes) == 8
    pooler = {key: value for key, value in weights_of(tmp_path / "third").items() if "pooler" in key}
    start = weights_of(config.out)
    assert all(torch.allclose(value, start[key], atol=1e-6) for key, value in pooler.items()), "the pooler is kept"
    run(config, model=config.out, out=str(tmp_path / "fourth"), epochs=1, head="linear")
    assert "is not linear: training a new one" in caplog.text


def test_classes_in_another_order_are_the_same_classes(config: FinetuneConfig, tmp_path: Path) -> None:
    from openvjepa.finetuning.task import make_head

    run(config, lr=5e-3)
    model = load_model(config.out)
    assert model.labels is not None
    assert model.probe is not None
    x = torch.randn(4, 8, 24)
    before = model.probe(x)
    classes = model.labels[::-1]
    probe, source = make_head(model, "attentive", 1, classes, new=False)
    torch.testing.assert_close(probe(x), before.flip(1))
    assert source == f"of {model.source}"


# Data that is not as it should be


def listing(tmp_path: Path, rows: list[tuple[Any, str, str]]) -> str:
    path = tmp_path / "list.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return str(path)


@pytest.fixture
def videos(shapes: Path) -> list[Path]:
    return sorted((shapes / "videos").iterdir())


def test_a_batch_larger_than_the_data_set(
    config: FinetuneConfig, videos: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [(path, "ab"[i % 2], ("train", "train", "val", "test")[i // 2 % 4]) for i, path in enumerate(videos[:16])]
    result = run(config, source=listing(tmp_path, rows), label=None, batch_size=64, micro_batch=16)
    assert result.videos == {"train": 8, "val": 4, "test": 4}
    assert "8 videos to train on: a step takes 8 clips, not 64" in caplog.text
    assert [row["step"] for row in records(config.out)] == [0, 1, 2]


@pytest.mark.usefixtures("documents")
def test_one_video_of_a_class(
    config: FinetuneConfig, videos: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    single = [(path, name, "") for path, name in zip(videos, "aab", strict=False)]
    with pytest.raises(
        DataError, match=r"1 class has a single video \(b\), which cannot be both trained on and tested"
    ):
        run(config, source=listing(tmp_path, single), label=None)
    given = [(videos[0], "a", "train"), (videos[1], "b", "train"), (videos[2], "a", "val"), (videos[3], "b", "test")]
    result = run(config, source=listing(tmp_path, given), label=None)
    said = caplog.text
    assert "the split test has no videos of a" in said
    assert "the split val has no videos of b" in said
    assert {row.name: row.recall for row in result.metrics.per_class}["a"] is None
    assert "| a | no test videos |" in (Path(config.out) / "README.md").read_text()


def test_one_class_and_an_empty_class(
    config: FinetuneConfig, videos: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "folders"
    for i, path in enumerate(videos[:10]):
        (root / "only").mkdir(parents=True, exist_ok=True)
        (root / "only" / f"{i}.mp4").write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=r"all videos are of one class \(only\)"):
        run(config, source=str(root), label=None)
    (root / "other").mkdir()
    (root / "nothing").mkdir()
    for i, path in enumerate(videos[10:16]):
        (root / "other" / f"{i}.mp4").write_bytes(path.read_bytes())
    result = run(config, source=str(root), label=None)
    assert result.classes == ("only", "other")
    assert "class nothing has no videos and is left out" in caplog.text


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.usefixtures("documents")
def test_unreadable_files_are_counted_and_bounded(
    config: FinetuneConfig, videos: list[Path], tmp_path: Path, cache: bool
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"")
    rows = [(path, "ab"[i % 2], ("train", "train", "val", "test")[i // 2 % 4]) for i, path in enumerate(videos[:16])]
    settings = replace(config, source=listing(tmp_path, [*rows, (bad, "a", "train")]), label=None, cache=cache)
    result = run(settings, max_bad=0.2)
    assert list(result.skipped) == [str(bad)]
    assert result.videos["train"] == 8
    assert "1 files could not be read" in (Path(config.out) / "README.md").read_text()
    with pytest.raises(DataError, match="1 of 9 videos cannot be read, more than max_bad allows"):
        run(settings, max_bad=0.0, out=str(tmp_path / "strict"))


def test_settings_that_cannot_be_are_errors(config: FinetuneConfig, tmp_path: Path) -> None:
    for wrong, message in (
        ({"micro_batch": 5}, "not a multiple of micro_batch 5"),
        ({"last_blocks": 0}, "last_blocks 0: give a whole number from 1"),
        ({"layer_decay": 0.0}, "layer_decay 0: give a number above 0"),
        ({"mixup": 0.8, "micro_batch": 1}, "micro_batch must be at least 2"),
        ({"randaugment": 30}, "randaugment 30: give a whole number from 0 to 29"),
        ({"frame_step": 1, "fps": 2.0}, "not both"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(config, **wrong)
    with pytest.raises(ConfigError, match="no model given"):
        run(config, model="")
    with pytest.raises(ConfigError, match="is the folder of the source model"):
        run(config, out=config.model)
    with pytest.raises(CheckpointError, match="no-such-run"):
        run(config, model="no-such-run")


def test_a_run_is_not_overwritten_silently(config: FinetuneConfig) -> None:
    run(config, epochs=1)
    with pytest.raises(ConfigError, match="already holds a run: add --resume to go on, --overwrite to delete it"):
        run(config, epochs=1)
    assert run(config, epochs=2, overwrite=True).epochs == 2
