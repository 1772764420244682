"""Probes: the arithmetic against plain modules, numpy and scikit-learn; the run against its own promises."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from openvjepa.cli.render import probe as render
from openvjepa.commands.evaluate import evaluate
from openvjepa.commands.predict import predict
from openvjepa.commands.probe import ProbeResult, probe
from openvjepa.config import EvaluateConfig, PredictConfig, ProbeConfig, read_yaml
from openvjepa.data.lists.index import VideoIndex
from openvjepa.data.lists.splits import read_splits
from openvjepa.errors import CheckpointError, ConfigError, DataError
from openvjepa.model.encoder import Encoder
from openvjepa.model.pooler import AttentiveClassifier, attentive_logits, average_softmax
from openvjepa.probing import linear as subject
from openvjepa.probing.attentive import Recipe, _EarlyStopping, make_heads, train_attentive
from openvjepa.probing.features import Scaler, mean_tokens
from openvjepa.probing.knn import train_knn
from openvjepa.probing.linear import train_linear
from openvjepa.probing.probes import probe_features
from openvjepa.probing.search.low_shot import Rows, choose
from openvjepa.weights.hub import load_model

RECIPE = Recipe(lrs=(5e-3, 1e-3), weight_decays=(0.01, 0.4), epochs=3, batch_size=16, seed=3)


def toy(videos: int, views: int = 2, *, seed: int, classes: int = 4, signal: float = 3.0) -> tuple[Any, Any]:
    """Noise [videos, views, 6, 12]; one token, at a random place, holds the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(videos) % classes
    x = rng.normal(size=(videos, views, 6, 12))
    directions = np.random.default_rng(0).normal(size=(classes, 12))
    for i, view in np.ndindex(videos, views):
        x[i, view, rng.integers(6)] += signal * directions[labels[i]]
    return x.astype(np.float32), labels


def shaken(heads: list[AttentiveClassifier], seed: int = 0) -> list[AttentiveClassifier]:
    """Probes whose every weight matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for head in heads:
            for value in head.parameters():
                value.add_(0.3 * torch.randn(value.shape, generator=generator))
    return heads


def test_the_grid_computes_what_its_probes_compute() -> None:
    heads = shaken(make_heads(12, 3, 4, RECIPE))
    tokens = torch.from_numpy(toy(10, 1, seed=0)[0][:, 0]).double()
    for head in heads:
        head.double()
    truth = torch.stack([head(tokens) for head in heads])
    found = attentive_logits(heads, tokens)
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-12)
    wanted = torch.autograd.grad(truth.square().sum(), used(heads))
    for ours, theirs in zip(torch.autograd.grad(found.square().sum(), used(heads)), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def used(heads: list[AttentiveClassifier]) -> list[torch.nn.Parameter]:
    return [value for head in heads for name, value in head.named_parameters() if "xattn.proj" not in name]


def test_probes_trained_together_are_those_trained_alone() -> None:
    data = (*toy(40, seed=1), *toy(20, seed=2))
    together = train_attentive(*data, classes=4, num_heads=3, recipe=RECIPE)
    assert together.losses is not None
    for i, (lr, decay) in enumerate(RECIPE.grid):
        recipe = Recipe((lr,), (decay,), 3, 16, 3)
        alone = train_attentive(*data, classes=4, num_heads=3, recipe=recipe)
        assert alone.losses is not None
        np.testing.assert_allclose(together.losses[:, i], alone.losses[:, 0], rtol=0, atol=1e-6)


def test_training_is_the_plain_loop_of_a_plain_probe() -> None:
    x, y = toy(40, seed=1)
    lr, decay = 1e-3, 0.4
    recipe = Recipe((lr,), (decay,), epochs=3, batch_size=16, seed=3)
    found = train_attentive(x, y, *toy(20, seed=2), classes=4, num_heads=3, recipe=recipe)
    (head,) = make_heads(12, 3, 4, recipe)
    matrices = [value for value in used([head]) if value.ndim > 1]
    vectors = [value for value in used([head]) if value.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    )
    losses, step = [], 0
    for epoch in range(3):
        rng = np.random.default_rng((3, epoch))
        order, views = rng.permutation(40), rng.integers(2, size=40)
        total = 0.0
        for rows in (order[:14], order[14:27], order[27:]):
            for group in optimizer.param_groups:
                group["lr"] = lr * 0.5 * (1 + np.cos(np.pi * step / 9))
            loss = F.cross_entropy(head(torch.from_numpy(x[rows, views[rows]])), torch.from_numpy(y[rows]))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(used([head]), 1.0)
            optimizer.step()
            total, step = total + loss.item() * len(rows) / 40, step + 1
        losses.append(total)
    assert found.losses is not None
    np.testing.assert_allclose(found.losses[:, 0], losses, atol=1e-5)


def test_the_epoch_with_the_least_validation_loss_counts() -> None:
    heads = make_heads(12, 3, 4, RECIPE)[:2]
    stop = _EarlyStopping(heads, patience=2)
    for epoch, losses in enumerate([(1.0, 2.0), (0.5, 1.5), (0.7, 1.0), (0.6, 1.1), (0.8, 1.2)], start=1):
        assert not stop.done
        with torch.no_grad():
            for head in heads:
                head.linear.bias.fill_(epoch)
        stop.look([(50.0 + epoch, -loss) for loss in losses])
    assert stop.done, "the last improvement was in epoch 3"
    assert stop.restore() == 1, "the higher accuracy"
    assert (stop.epochs, stop.scores) == ([2, 3], [(52.0, -0.5), (53.0, -1.0)])
    assert [head.linear.bias[0].item() for head in heads] == [2, 3]


def test_a_probe_that_diverged_is_not_chosen() -> None:
    stop = _EarlyStopping(make_heads(12, 3, 4, RECIPE)[:2], patience=2)
    stop.look([(90.0, float("nan")), (40.0, -1.5)])
    stop.look([(90.0, float("nan")), (45.0, -1.2)])
    assert stop.restore() == 1
    assert stop.scores == [(0.0, float("-inf")), (45.0, -1.2)]
    late = _EarlyStopping(make_heads(12, 3, 4, RECIPE)[:1], patience=2)
    late.look([(90.0, float("nan"))])
    late.look([(30.0, -2.0)])
    assert (late.scores, late.epochs) == ([(30.0, -2.0)], [2]), "any loss is better than none"


def test_averaged_softmax_is_numpys() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 6, 4))
    by_hand = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    by_hand = np.stack([by_hand[:, :3].mean(1), by_hand[:, 3:].mean(1)], axis=1)
    np.testing.assert_allclose(average_softmax(torch.from_numpy(logits), 3).numpy(), by_hand, atol=1e-12)


def test_small_sets_get_more_epochs() -> None:
    assert Recipe().epochs_for(100_000) == 20
    assert Recipe().epochs_for(128) == 150
    assert Recipe(batch_size=16).epochs_for(100) == 43
    assert Recipe(epochs=3).epochs_for(100) == 3


def test_the_attentive_probe_finds_the_token_that_tells() -> None:
    train, val, test = toy(400, seed=1), toy(80, 1, seed=2), toy(120, 3, seed=3)
    figures: list[dict[str, float]] = []
    recipe = Recipe((5e-3, 1e-5), (0.01,), epochs=15, batch_size=32)
    found = probe_features(
        *train,
        *val,
        *test,
        classes=list("abcd"),
        num_heads=3,
        recipe=recipe,
        on_epoch=lambda epoch, values: figures.append(values | {"epoch": epoch}),
    )
    assert found["attentive"].test_top1 > 95
    chosen = found["attentive"].chosen
    assert (chosen["lr"], chosen["weight_decay"]) == (5e-3, 0.01)
    assert [line["epoch"] for line in figures] == list(range(1, 16))
    assert figures[int(chosen["epoch"]) - 1]["val_top1_lr0.005_wd0.01"] == found["attentive"].val_top1
    assert figures[-1]["val_top1_lr1e-05_wd0.01"] < 60
    module = found["attentive"].module
    assert module is not None
    tokens = torch.from_numpy(test[0]).flatten(0, 1)
    by_module = module(tokens).softmax(-1).unflatten(0, (120, 3)).mean(1)
    np.testing.assert_allclose(found["attentive"].probabilities, by_module.numpy(), atol=1e-5)


def test_linear_probe_is_perfect_where_it_can_be_and_guesses_where_it_cannot() -> None:
    train, val, test = toy(200, seed=1, signal=20), toy(80, seed=2, signal=20), toy(200, seed=3, signal=20)
    found = probe_features(*train, *val, *test, classes=list("abcd"), num_heads=3, kinds=("linear", "knn"))
    assert found["linear"].test_top1 == 100
    assert found["knn"].test_top1 > 95
    rng = np.random.default_rng(5)
    shuffled = [(x, rng.permutation(y)) for x, y in (train, val, test)]
    guessed = probe_features(*shuffled[0], *shuffled[1], *shuffled[2], classes=list("abcd"), num_heads=3)
    for kind, outcome in guessed.items():
        assert 12 < outcome.test_top1 < 38, (kind, outcome.test_top1)


@pytest.mark.parametrize("classes", [2, 4])
def test_linear_probe_is_scikit_learns(classes: int) -> None:
    x, y = toy(60, seed=1, classes=classes)
    val_x, val_y = toy(40, seed=2, classes=classes)
    found = train_linear(mean_tokens(x), y, mean_tokens(val_x), val_y, classes=classes)
    rows = x.mean(2).reshape(-1, 12)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=found.chosen["C"], max_iter=1000))
    pipeline.fit(rows, np.repeat(y, 2))
    truth = pipeline.predict_proba(val_x.mean(2).reshape(-1, 12)).reshape(40, 2, classes).mean(1)
    np.testing.assert_allclose(found.predict(val_x), truth, atol=2e-3)
    assert found.chosen["val_top1"] == pytest.approx(100 * (truth.argmax(1) == val_y).mean())


def test_nothing_but_the_training_videos_sets_the_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "INVERSE_PENALTIES", (0.1,))  # what validation may choose from
    x, y = toy(60, seed=1)
    val_x, val_y = toy(40, seed=2)
    scaler = Scaler.of(mean_tokens(x))
    np.testing.assert_allclose(scaler.mean, x.astype(np.float64).mean((0, 1, 2)), atol=1e-12)
    one, other = (
        train_linear(mean_tokens(x), y, means, val_y, classes=4) for means in (mean_tokens(val_x), np.ones((40, 1, 12)))
    )
    assert np.array_equal(one.predict(val_x), other.predict(val_x))
    constant = np.ones((3, 2, 5))
    assert np.array_equal(Scaler.of(constant)(constant), np.zeros((3, 2, 5)))


def test_knn_is_a_weighted_vote_by_cosine() -> None:
    x, y = toy(30, seed=1)
    val_x, val_y = toy(20, seed=2)
    found = train_knn(mean_tokens(x), y, mean_tokens(val_x), val_y, classes=4)
    means = x.astype(np.float64).mean(2)
    center, scale = means.mean((0, 1)), means.std((0, 1))
    rows = (means[:, 0] - center) / scale
    queries = ((val_x.astype(np.float64).mean(2) - center) / scale).reshape(-1, 12)
    rows, queries = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (rows, queries))
    votes = np.zeros((40, 4))
    for i, distances in enumerate(1 - queries @ rows.T):
        for j in np.argsort(distances)[: int(found.chosen["k"])]:
            votes[i, y[j]] += 1 / distances[j]
    votes /= votes.sum(1, keepdims=True)
    np.testing.assert_allclose(found.predict(val_x), votes.reshape(20, 2, 4).mean(1), atol=1e-8)


def test_figures_of_an_outcome() -> None:
    train, val, test = toy(60, seed=1, classes=12), toy(48, seed=2, classes=12), toy(36, 1, seed=3, classes=12)
    test[1][test[1] == 11] = 0  # no test video of the last class
    names = [f"c{i}" for i in range(12)]
    found = probe_features(*train, *val, *test, classes=names, num_heads=3, kinds=("linear",))["linear"]
    order = np.argsort(-found.probabilities, axis=1)
    assert found.test_top1 == pytest.approx(100 * np.mean(order[:, 0] == test[1]))
    assert found.test_top5 == pytest.approx(
        100 * np.mean([y in row[:5] for row, y in zip(order, test[1], strict=True)])
    )
    counts = np.array(found.confusion)
    assert [int(counts[y, p]) for y, p in np.ndindex(12, 12)] == [
        int(np.sum((test[1] == y) & (order[:, 0] == p))) for y, p in np.ndindex(12, 12)
    ]
    assert found.to_dict()["per_class"]["c11"] is None
    assert found.to_dict()["per_class"]["c0"] == pytest.approx(100 * counts[0, 0] / counts[0].sum())


def test_arrays_that_do_not_belong_together_are_errors() -> None:
    good, val = toy(8, seed=1), toy(8, seed=2)

    def train(a: tuple[Any, Any], b: tuple[Any, Any], **names: Any) -> object:
        return probe_features(*a, *b, *val, classes=list("abcd"), **names)

    with pytest.raises(ConfigError, match="12 channels do not divide into 5 attention heads"):
        train(good, val, num_heads=5)
    with pytest.raises(ConfigError, match="choose from grid, linear, attentive, knn"):
        train(good, val, num_heads=3, kinds=("svm",))
    with pytest.raises(DataError, match="train: 7 labels for features"):
        train((good[0], good[1][:7]), val, num_heads=3)
    with pytest.raises(DataError, match="val: 0 labels for features"):
        train(good, (val[0][:0], val[1][:0]), num_heads=3)
    with pytest.raises(DataError, match="val: labels from 1 to 4, but 4 classes"):
        train(good, (val[0], val[1] + 1), num_heads=3)
    with pytest.raises(DataError, match="3 of 4 classes to train on"):
        train((good[0], good[1] % 3), val, num_heads=3)


@pytest.fixture
def config(saved: Path, shapes: Path, tmp_path: Path) -> ProbeConfig:
    return ProbeConfig(
        model=str(saved),
        source=str(shapes),
        label="appearance",
        out=str(tmp_path / "probe"),
        train_views=2,
        epochs=2,
        lrs=(1e-3,),
        workers=0,
    )


def changed(config: ProbeConfig, **values: Any) -> ProbeConfig:
    return replace(config, **values)


def test_a_run_writes_what_it_found(config: ProbeConfig, encoder: Encoder, capsys: pytest.CaptureFixture[str]) -> None:
    result = probe(config)
    out = Path(config.out)
    found = json.loads((out / "results.json").read_text())
    assert found["classes"] == ["circle", "cross", "ring", "square", "star", "triangle"]
    assert found["videos"] == result.videos == {"train": 48, "val": 16, "test": 24}
    assert found["chance"] == pytest.approx(100 / 6)
    assert list(found["probes"]) == ["grid", "linear", "attentive", "knn"]
    assert found["saved"] == result.kind != "knn"
    for kind, figures in found["probes"].items():
        assert figures["test_top1"] == result.outcomes[kind].test_top1
        assert figures["test_top5"] is None
        counts = np.array(figures["confusion"])
        assert counts.sum() == 24
        assert figures["test_top1"] == pytest.approx(100 * np.trace(counts) / 24)
    assert found["skipped"] == {}
    assert set(found["seconds"]) == {"encode", "train"}
    assert found["versions"]["torch"] == torch.__version__
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert {"loss", "train_top1", "val_top1", "val_top1_lr0.001_wd0.4"} <= lines[0].keys()
    assert list((out / "tensorboard").iterdir())
    assert (out / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert read_yaml(ProbeConfig, out / "config.yaml") == changed(config, frame_step=4)
    loaded = load_model(out).encoder
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), encoder.parameters(), strict=True))
    assert capsys.readouterr().out == "", "the library does not print"
    render.probe(result, config)
    assert "chance level" in capsys.readouterr().out


def test_features_are_shared_between_labels(
    config: ProbeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cached = changed(config, cache_dir=str(tmp_path / "cache"), kinds=("linear",), frame_step=1, baselines=False)
    probe(cached)
    assert "read from" not in caplog.text
    probe(changed(cached, label="motion", out=str(tmp_path / "motion")))
    assert caplog.text.count("read from") == 3
    assert not (Path(config.out) / "features").exists()
    assert not (Path(config.out) / "metrics.jsonl").exists(), "a linear probe has no epochs"


def test_the_same_settings_give_the_same_figures(config: ProbeConfig, tmp_path: Path) -> None:
    first, second = probe(config), probe(changed(config, out=str(tmp_path / "again")))
    for kind, outcome in first.outcomes.items():
        assert np.array_equal(outcome.probabilities, second.outcomes[kind].probabilities)


def test_clip_rate_comes_from_pretraining(config: ProbeConfig, saved: Path) -> None:
    (saved / "config.yaml").write_text("data: {frame_step: null, fps: 3.5}")
    probe(changed(config, kinds=("linear",)))
    written = read_yaml(ProbeConfig, Path(config.out) / "config.yaml")
    assert (written.frame_step, written.fps) == (None, 3.5)
    (saved / "config.yaml").write_text("data: {frame_step: 2, fps: null}")
    probe(changed(config, kinds=("linear",), overwrite=True))
    written = read_yaml(ProbeConfig, Path(config.out) / "config.yaml")
    assert (written.frame_step, written.fps) == (2, None)


def test_a_run_is_not_overwritten_silently(config: ProbeConfig, saved: Path) -> None:
    knn = changed(config, kinds=("knn",))
    probe(knn)
    with pytest.raises(ConfigError, match="already holds a run: add --overwrite"):
        probe(knn)
    probe(changed(knn, kinds=("linear",), overwrite=True))
    assert list(json.loads((Path(config.out) / "results.json").read_text())["probes"]) == ["linear"]
    with pytest.raises(ConfigError, match="is the folder of the source model"):
        probe(changed(config, out=str(saved), overwrite=True))


def test_bad_videos_are_named_and_too_many_stop_the_run(config: ProbeConfig, shapes: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader((shapes / "index.csv").open()))
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"")
    listed = tmp_path / "some.csv"
    write_csv(
        listed, [(shapes / row["path"], row["appearance"], row["split"]) for row in rows] + [(bad, "star", "train")]
    )
    result = probe(changed(config, source=str(listed), label=None, kinds=("linear",)))
    assert list(result.skipped) == [str(bad)]
    assert json.loads((Path(config.out) / "results.json").read_text())["skipped"] == result.skipped
    assert result.videos["train"] == 48
    with pytest.raises(DataError, match="1 of 49 videos cannot be read, more than max_bad allows"):
        probe(changed(config, source=str(listed), label=None, out=str(tmp_path / "strict"), max_bad=0.0))
    assert not (tmp_path / "strict" / "config.yaml").exists()


def test_a_class_whose_only_training_video_is_bad_is_an_error(
    config: ProbeConfig, shapes: Path, tmp_path: Path
) -> None:
    rows = list(csv.DictReader((shapes / "index.csv").open()))[:12]
    listed = tmp_path / "some.csv"
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"")
    good = [(shapes / row["path"], "ab"[i % 2], ("train", "val", "test")[i % 3]) for i, row in enumerate(rows)]
    extra = [(bad, "c", "train"), (shapes / "videos" / Path(rows[0]["path"]).name, "a", "train")]
    write_csv(listed, [*good, *extra, (sorted((shapes / "videos").iterdir())[-1], "c", "test")])
    with pytest.raises(DataError, match=r"test has videos of 1 class without training videos \(c\)"):
        probe(changed(config, source=str(listed), label=None, max_bad=0.5))


def write_csv(path: Path, rows: list[tuple[Any, str, str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])


def listing(tmp_path: Path, name: str, rows: list[tuple[str, str, str]]) -> str:
    write_csv(tmp_path / name, rows)
    return str(tmp_path / name)


def split_of(source: str, **values: Any) -> dict[str, VideoIndex]:
    return read_splits(ProbeConfig(model="m", source=source, **values))


def test_given_splits_are_kept_and_missing_ones_are_made(tmp_path: Path) -> None:
    rows = [(f"{i}.mp4", "ab"[i % 2], "test" if i < 4 else "") for i in range(24)]
    source = listing(tmp_path, "all.csv", rows)
    splits = split_of(source, val_share=0.2)
    assert {name: len(index) for name, index in splits.items()} == {"train": 16, "val": 4, "test": 4}
    assert {Path(r.path).name for r in splits["test"].records} == {"0.mp4", "1.mp4", "2.mp4", "3.mp4"}
    assert sorted(splits["val"].labels) == [0, 0, 1, 1]
    assert len({r.path for index in splits.values() for r in index.records}) == 24
    assert split_of(source, val_share=0.2) == splits
    assert split_of(source, val_share=0.2, seed=1) != splits


def test_all_splits_can_be_made(tmp_path: Path) -> None:
    rows = [(f"{i}.mp4", "abc"[i % 3], "") for i in range(60)]
    splits = split_of(listing(tmp_path, "all.csv", rows))
    assert {name: len(index) for name, index in splits.items()} == {"train": 42, "val": 9, "test": 9}
    for index in splits.values():
        assert np.bincount(index.labels).tolist() == [len(index) // 3] * 3


def test_sources_of_their_own_share_the_classes_by_name(tmp_path: Path) -> None:
    train = listing(tmp_path, "train.csv", [(f"{i}.mp4", "abc"[i % 3], "") for i in range(9)])
    val = listing(tmp_path, "val.csv", [("v0.mp4", "b", ""), ("v1.mp4", "c", "")])
    splits = split_of(train, val_source=val, test_source=val)
    assert splits["val"].classes == splits["train"].classes == ("a", "b", "c")
    assert splits["val"].labels == [1, 2]
    assert len(splits["train"]) == 9


def test_numbered_classes_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("".join(f"{i}.mp4 {2 + 8 * (i % 2)}\n" for i in range(12)))
    assert split_of(str(tmp_path / "list.txt"))["train"].classes == ("2", "10")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("0.mp4", "a", ""), ("1.mp4", "a", "")], r"all videos are of one class \(a\)"),
        ([("0.mp4", "a", ""), ("1.mp4", "a", ""), ("2.mp4", "b", "")], r"1 class has a single video \(b\)"),
        ([("0.mp4", "a", ""), ("1.mp4", "", ""), ("2.mp4", "", "")], r"2 videos have no label, such as .*1\.mp4"),
        ([("0.mp4", "", ""), ("1.mp4", "", "")], "the videos have no labels: .*--label"),
        ([("0.mp4", "a", "test"), ("1.mp4", "b", "val")], "there are no training videos"),
        (
            [("0.mp4", "a", "train"), ("1.mp4", "b", "train"), ("2.mp4", "c", "val"), ("3.mp4", "d", "test")],
            "4 classes for 2",
        ),
        (
            [(f"{i}.mp4", "ab"[i % 2], "train") for i in range(4)] + [("8.mp4", "c", "val"), ("9.mp4", "a", "test")],
            r"val has videos of 1 class without training videos \(c\)",
        ),
        (
            [(f"{i}.mp4", "ab"[i % 2], "train") for i in range(4)] + [("0.mp4", "a", "val"), ("9.mp4", "a", "test")],
            r"1 video is in train and in val, such as .*0\.mp4",
        ),
    ],
)
def test_labels_that_allow_no_probe_are_errors(tmp_path: Path, rows: list[tuple[str, str, str]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_of(listing(tmp_path, "all.csv", rows))


def test_torchrun_is_refused(config: ProbeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="probing runs in one process: start it without torchrun"):
        probe(config)
    assert not Path(config.out).exists()


def test_settings_that_cannot_be_are_errors(config: ProbeConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model given"):
        probe(changed(config, model=""))
    with pytest.raises(ConfigError, match="no videos given"):
        probe(changed(config, source=""))
    with pytest.raises(CheckpointError, match="no-such-run"):
        probe(changed(config, model="no-such-run"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        probe(changed(config, out=str(tmp_path / "file")))
    for wrong, message in (
        ({"frame_step": 1, "fps": 2.0}, "not both"),
        ({"kinds": ()}, "kinds is empty"),
        ({"lrs": ()}, "lrs is empty: give at least one"),
        ({"segments": 0}, "segments 0: give a whole number from 1"),
        ({"val_share": 0.6, "test_share": 0.5}, "add up to less than 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            changed(config, **wrong)


def test_result_is_a_plain_record(config: ProbeConfig) -> None:
    result = probe(changed(config, kinds=("knn",)))
    assert isinstance(result, ProbeResult)
    assert not (Path(config.out) / "model.safetensors").exists(), "kNN cannot be saved"
    assert 0 <= result.majority <= 100


def test_shares_are_stratified_and_nested() -> None:
    y = np.array([0] * 40 + [1] * 20 + [2] * 3)
    shares = [choose(y, fraction, 5, 0) for fraction in (0.01, 0.1, 0.5)]
    assert [np.bincount(y[rows]).tolist() for rows in shares] == [[1, 1, 1], [4, 2, 1], [20, 10, 2]]
    for small, large in pairwise(shares):
        assert set(small) < set(large)
    assert not np.array_equal(shares[1], choose(y, 0.1, 5, 1))
    assert not np.array_equal(shares[1], choose(y, 0.1, 6, 0))
    assert np.array_equal(shares[1], choose(y, 0.1, 5, 0))


def test_rows_of_features_are_read_as_numpy_does() -> None:
    x, rows = np.random.default_rng(0).normal(size=(9, 2, 3, 4)), np.array([1, 4, 7])
    lazy, copy = Rows(x, rows), x[rows]
    assert (lazy.shape, lazy.ndim, len(lazy)) == (copy.shape, 4, 3)
    np.testing.assert_array_equal(lazy[[2, 0], [1, 0]], copy[[2, 0], [1, 0]])
    np.testing.assert_array_equal(lazy[1:], copy[1:])
    np.testing.assert_array_equal(mean_tokens(lazy), mean_tokens(copy))  # type: ignore[arg-type]


def test_label_fractions_train_on_what_they_say(config: ProbeConfig) -> None:
    few = changed(
        config, label_fraction=(0.5, 0.1), draws=2, kinds=("linear", "attentive"), frame_step=1, baselines=False
    )
    result = probe(few)
    assert [(share.fraction, share.videos) for share in result.shares] == [(0.1, 6), (0.5, 24), (1.0, 48)]
    for kind, outcome in result.outcomes.items():
        assert result.shares[-1].top1[kind] == (outcome.test_top1,)
    # The same by hand: the features of the cache, and the chosen rows.
    splits = read_splits(few)
    x = {}
    for folder in (Path(config.out) / "features").iterdir():
        x[json.loads((folder / "meta.json").read_text())["name"]] = np.load(folder / "features.npy")
    x = {name: rows.reshape(len(splits[name]), -1, *rows.shape[1:]) for name, rows in x.items()}
    y = {name: np.array(index.labels) for name, index in splits.items()}
    for draw in range(2):
        rows = choose(y["train"], 0.1, config.seed, draw)
        alone = probe_features(
            x["train"][rows],
            y["train"][rows],
            x["val"],
            y["val"],
            x["test"],
            y["test"],
            classes=result.classes,
            num_heads=3,
            kinds=few.kinds,
            recipe=Recipe(few.lrs, few.weight_decays, few.epochs, few.batch_size, few.seed),
        )
        assert {kind: top1[draw] for kind, top1 in result.shares[0].top1.items()} == {
            kind: outcome.test_top1 for kind, outcome in alone.items()
        }
    found = json.loads((Path(config.out) / "results.json").read_text())["label_efficiency"]
    draws = found[1]["probes"]["linear"]["draws"]
    assert found[1]["probes"]["linear"]["mean"] == pytest.approx(np.mean(draws))
    assert found[1]["probes"]["linear"]["std"] == pytest.approx(np.std(draws, ddof=1))
    assert found[2]["probes"]["linear"]["std"] is None
    page = (Path(config.out) / "report.html").read_text()
    assert "Label efficiency" in page
    assert "linear: test accuracy, %" in page
    for wrong in ({"label_fraction": (1.0,)}, {"label_fraction": (0.0,)}, {"draws": 0}):
        with pytest.raises(ConfigError, match=r"(label_fraction|draws) [01]: give a"):
            changed(config, **wrong)


def test_images_in_class_folders_are_probed(config: ProbeConfig, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for name, level in (("n01", 60), ("n02", 180)):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(level + rng.integers(-20, 20, (40, 36, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.jpg")
    (tmp_path / "images" / "train" / "n01" / "broken.jpg").write_bytes(b"no picture")
    images = changed(config, source=str(tmp_path / "images"), label=None, epochs=30, val_share=0.2, test_share=0.2)
    result = probe(images)
    assert result.classes == ("n01", "n02")
    assert sum(result.videos.values()) == 18
    assert list(result.skipped) == [str(tmp_path / "images/train/n01/broken.jpg")]
    assert {kind: outcome.test_top1 for kind, outcome in result.outcomes.items()} == dict.fromkeys(result.outcomes, 100)
    clips = json.loads((Path(config.out) / "results.json").read_text())["clips"]
    assert (clips["segments"], clips["spec"]["num_frames"]) == (1, 4), "one clip, of one repeated frame"
    (found,) = predict(PredictConfig((str(tmp_path / "images/val/n02/0.jpg"),), (str(result.out),), workers=0))
    assert found.top[0][0] == "n02"
    (judged,) = evaluate(
        EvaluateConfig((str(result.out),), str(tmp_path / "judged"), source=images.source, workers=0)
    ).evaluations
    assert (judged.metrics.top1, judged.passes) == (100, 1)


def test_baselines_and_intervals_stand_beside_the_probe(config: ProbeConfig) -> None:
    result = probe(changed(config, kinds=("grid",), frame_step=1))
    stored = json.loads((Path(config.out) / "results.json").read_text())
    assert stored["baselines"].keys() == {"pixels", "untrained encoder"}
    assert stored["differences"].keys() == {"pixels", "untrained encoder", "majority class"}
    ours, pixels = result.outcomes["grid"].test_top1, result.probed.baselines["pixels"].test_top1
    assert stored["differences"]["pixels"]["mean"] == pytest.approx(ours - pixels)
    low, high = stored["probes"]["grid"]["test_top1_interval"]
    assert low <= ours <= high
    assert "pixels (grid)" in (Path(config.out) / "report.html").read_text()
    pixel_run = Path(config.out).with_name("pixels")
    found = probe(changed(config, model="pixels", out=str(pixel_run), kinds=("grid",), frame_step=1))
    assert load_model(pixel_run).encode(np.zeros((16, 64, 64, 3), np.uint8)).shape[-1] == 3
    assert found.probed.baselines == {}
    untrained = load_model("untrained:nano-masked").encoder.state_dict()
    again = load_model("untrained:nano-masked").encoder.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in untrained.items())
