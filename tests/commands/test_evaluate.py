"""Evaluation and ensembles: figures against scikit-learn and closed forms, runs against plain loops over their parts."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics

from openvjepa.cli import main
from openvjepa.cli.render import evaluate as render
from openvjepa.commands.evaluate import EvaluateResult, evaluate
from openvjepa.commands.finetune import finetune
from openvjepa.commands.predict import predict
from openvjepa.commands.probe import ProbeResult, probe
from openvjepa.config import ClipConfig, EvaluateConfig, FinetuneConfig, PredictConfig, ProbeConfig
from openvjepa.data.clips import read_clip
from openvjepa.data.lists.index import VideoRecord, read_index
from openvjepa.data.transforms import eval_views, normalize
from openvjepa.errors import CheckpointError, ConfigError, DataError
from openvjepa.inference.classifier import VideoClassifier, load_classifier, save_classifier
from openvjepa.inference.ensemble import combine, in_order, load_members
from openvjepa.metrics import classification_metrics, reliability
from openvjepa.model.encoder import Encoder
from openvjepa.weights.hub import save_model


def random_answers(videos: int, classes: int, seed: int = 0) -> tuple[Any, Any]:
    """Probabilities [n, C] that are right more often than not, and labels [n] without the last class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes - 1, size=videos)
    logits = rng.normal(size=(videos, classes)) + 2 * np.eye(classes)[labels]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels


@pytest.mark.parametrize("classes", [3, 12])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_scores_are_scikit_learns(classes: int) -> None:
    probabilities, labels = random_answers(200, classes)
    named, every = probabilities.argmax(1), list(range(classes))
    found = classification_metrics(probabilities, labels, [f"c{i}" for i in every])
    assert found.top1 == pytest.approx(100 * metrics.accuracy_score(labels, named))
    assert found.mean_class == pytest.approx(100 * metrics.balanced_accuracy_score(labels, named))
    assert found.log_loss == pytest.approx(metrics.log_loss(labels, probabilities, labels=every))
    if classes < 10:
        assert found.top5 is None
    else:
        truth = metrics.top_k_accuracy_score(labels, probabilities, k=5, labels=every)
        assert found.top5 == pytest.approx(100 * truth)
    assert found.confusion == metrics.confusion_matrix(labels, named, labels=every).tolist()
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, named, labels=every, zero_division=np.nan
    )
    for i, row in enumerate(found.per_class):
        assert (row.name, row.videos) == (f"c{i}", support[i])
        for ours, theirs in ((row.precision, precision[i]), (row.recall, recall[i])):
            assert (ours is None) if np.isnan(theirs) else ours == pytest.approx(100 * theirs)
        if row.videos:
            assert row.f1 == pytest.approx(100 * f1[i])
            others = [(n, j) for j, n in enumerate(found.confusion[i]) if j != i and n]
            assert row.confused_with == (f"c{max(others, key=lambda o: (o[0], -o[1]))[1]}" if others else None)
    assert found.per_class[-1].recall is None


def test_calibration_has_a_closed_form() -> None:
    # 10 videos said with 0.9, of which 7 are right; 4 with 0.55, of which 3 are: ECE = 10/14 * 0.2 + 4/14 * 0.2
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.45, 0.55]] * 4)
    labels = np.array([0] * 7 + [1] * 3 + [1] * 3 + [0])
    found = classification_metrics(probabilities, labels, ["a", "b"])
    assert found.ece == pytest.approx(20)
    filled = {round(b.low * 15): (b.videos, b.confidence, b.accuracy) for b in found.bins if b.videos}
    assert filled == {
        8: (4, pytest.approx(0.55), pytest.approx(0.75)),
        13: (10, pytest.approx(0.9), pytest.approx(0.7)),
    }
    assert len(found.bins) == 15
    certain = classification_metrics(np.eye(3)[[0, 1, 2]], np.array([0, 1, 2]), list("abc"))
    assert (certain.ece, certain.bins[14].videos) == (0, 3)
    # A confidence on a border belongs to the bin below it.
    borders = np.array([[i / 15, 1 - i / 15] for i in range(8, 16)])
    assert [b.videos for b in reliability(borders, np.zeros(8, dtype=np.int64))][7:] == [1] * 8


def test_calibration_is_the_plain_sum_over_bins() -> None:
    probabilities, labels = random_answers(300, 4, seed=1)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    total = 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert classification_metrics(probabilities, labels, list("abcd")).ece == pytest.approx(100 * total)


def test_answers_are_combined_as_by_hand() -> None:
    answers = np.array([[[0.6, 0.3, 0.1]], [[0.0, 0.45, 0.55]], [[0.5, 0.1, 0.4]]])
    np.testing.assert_allclose(combine(answers, "mean"), [[1.1 / 3, 0.85 / 3, 1.05 / 3]])
    np.testing.assert_allclose(combine(answers, "vote"), [[2 / 3, 0, 1 / 3]], atol=1e-8)
    tied = combine(answers[1:], "vote")  # one vote for class 2, one for class 0; means 0.25 and 0.475
    assert tied.argmax(1).tolist() == [2]
    np.testing.assert_allclose(tied, [[0.5, 0, 0.5]], atol=1e-8)
    assert tied.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_array_equal(combine(answers[:1], "vote"), answers[0])
    np.testing.assert_array_equal(in_order(answers[0], "abc", "cab"), [[0.1, 0.6, 0.3]])


@pytest.fixture
def run(saved: Path, shapes: Path, tmp_path: Path) -> ProbeResult:
    """A linear probe of 6 classes on features of 2 segments x 2 views."""
    return probe(settings(saved, shapes, tmp_path, "linear"))


def settings(saved: Path, shapes: Path, tmp_path: Path, name: str, **more: Any) -> ProbeConfig:
    config = ProbeConfig(
        model=str(saved),
        source=str(shapes),
        label="appearance",
        out=str(tmp_path / name),
        kinds=("linear",),
        frame_step=1,
        views=2,
        train_views=2,
        epochs=2,
        lrs=(1e-2,),
        workers=0,
        cache_dir=str(tmp_path / "cache"),
    )
    return replace(config, **more)


def other_encoder(encoder: Encoder, tmp_path: Path) -> Path:
    """The folder of another random encoder."""
    with torch.no_grad():
        for value in encoder.parameters():
            value.mul_(1.01)
    save_model(tmp_path / "other", encoder)
    return tmp_path / "other"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Clips in each pass of any encoder."""
    found: list[int] = []
    plain = Encoder.forward

    def forward(self: Encoder, video: Any, *args: Any, **names: Any) -> Any:
        found.append(len(video))
        return plain(self, video, *args, **names)

    monkeypatch.setattr(Encoder, "forward", forward)
    return found


def judge(tmp_path: Path, *names: object, **more: Any) -> EvaluateResult:
    *models, videos = map(str, names)
    places = {"source": videos, "model": tuple(models), "out": str(tmp_path / "judged")}
    config = EvaluateConfig(**places, label="appearance", workers=0)  # type: ignore[arg-type]
    return evaluate(replace(config, **{"overwrite": True, **more}))


def test_a_probe_is_judged_as_it_was_tested(run: ProbeResult, shapes: Path, tmp_path: Path) -> None:
    found = judge(tmp_path, run.out, shapes)
    truth = run.outcomes["linear"]
    (evaluation,) = found.evaluations
    np.testing.assert_allclose(evaluation.probabilities, truth.probabilities, atol=1e-6)
    assert evaluation.metrics.top1 == pytest.approx(truth.test_top1)
    assert evaluation.metrics.confusion == truth.confusion
    assert {row.name: row.recall for row in evaluation.metrics.per_class} == truth.to_dict()["per_class"]
    assert (evaluation.passes, len(found.index), found.left_out) == (4, 24, 0)
    assert evaluation.seconds_per_clip == evaluation.seconds_per_video / 4 > 0
    more = judge(tmp_path, run.out, shapes, segments=3, views=1).evaluations[0]
    assert more.passes == 3
    quick = judge(tmp_path, run.out, shapes, fps=1000.0).evaluations[0]  # shows the middle frame alone, four times
    still = judge(tmp_path, run.out, shapes, frame_step=1).evaluations[0]
    assert not np.allclose(quick.probabilities, evaluation.probabilities, atol=1e-4)
    np.testing.assert_allclose(still.probabilities, evaluation.probabilities, atol=1e-6)
    assert not np.allclose(more.probabilities, evaluation.probabilities, atol=1e-4)


def test_an_evaluation_writes_what_it_found(run: ProbeResult, shapes: Path, tmp_path: Path, capsys: Any) -> None:
    capsys.readouterr()
    found = judge(tmp_path, run.out, shapes)
    assert capsys.readouterr().out == "", "the library does not print"
    render.evaluate(found, EvaluateConfig(json=True))
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((found.out / "results.json").read_text())
    assert {key: written[key] for key in printed} == printed
    (result,) = written["results"]
    assert result["top1"] == found.evaluations[0].metrics.top1
    assert (result["name"], result["passes_per_video"]) == ("linear", 4)
    assert len(result["bins"]) == 15
    rows = list(csv.DictReader((found.out / "predictions.csv").open()))
    assert np.mean([row["linear"] == row["label"] for row in rows]) * 100 == pytest.approx(result["top1"])
    page = (found.out / "report.html").read_text()
    for words in ("Calibration", "Confusion matrices", "most often confused with", "passes a video", "wrong answers"):
        assert words in page
    with pytest.raises(ConfigError, match=r"already holds predictions\.csv: .*--overwrite"):
        judge(tmp_path, run.out, shapes, overwrite=False)


def test_heads_of_one_encoder_share_its_pass(
    run: ProbeResult, saved: Path, shapes: Path, encoder: Encoder, tmp_path: Path, counted: list[int]
) -> None:
    second = probe(settings(saved, shapes, tmp_path, "attentive", kinds=("attentive",)))
    motion = probe(settings(saved, shapes, tmp_path, "motion", label="motion"))
    other = probe(settings(other_encoder(encoder, tmp_path), shapes, tmp_path, "third"))
    counted.clear()
    found = judge(tmp_path, run.out, second.out, shapes)
    assert sum(counted) == 24 * 4, "24 videos x 4 clips, once"
    assert [v.passes for v in found.evaluations] == [4, 4, 4]
    counted.clear()
    found = judge(tmp_path, run.out, second.out, other.out, shapes)
    assert sum(counted) == 2 * 24 * 4
    assert [v.passes for v in found.evaluations] == [4, 4, 4, 8]
    assert [v.name for v in found.evaluations] == ["linear", "attentive", "third", "all 3 (mean softmax)"]
    alone = [judge(tmp_path, out, shapes).evaluations[0].probabilities for out in (run.out, second.out, other.out)]
    np.testing.assert_allclose(found.evaluations[3].probabilities, np.mean(alone, axis=0), atol=1e-6)
    voted = judge(tmp_path, run.out, second.out, other.out, shapes, combine="vote").evaluations[3]
    np.testing.assert_allclose(voted.probabilities, np.mean([np.eye(6)[a.argmax(1)] for a in alone], axis=0), atol=1e-8)
    videos = tuple(record.path for record in read_index(shapes).select("test").records)
    counted.clear()
    sets = predict(PredictConfig(videos, (str(run.out), str(second.out), str(motion.out)), workers=0, top=8))
    assert sum(counted) == 24 * 4, "several label sets in one pass"
    for i, (prediction, truth) in enumerate(zip(sets, motion.outcomes["linear"].probabilities, strict=True)):
        appearance, movement = prediction.answers
        assert appearance.runs == (str(run.out), str(second.out))
        np.testing.assert_allclose([dict(movement.top)[name] for name in motion.classes], truth, atol=1e-6)
        shares = (alone[0][i] + alone[1][i]) / 2
        np.testing.assert_allclose([dict(appearance.top)[name] for name in run.classes], shares, atol=1e-6)
        assert [answer["runs"] for answer in prediction.to_dict()["answers"]] == [appearance.runs, movement.runs]
    with pytest.raises(
        ConfigError, match=r"have different classes .*: only classifiers with the same classes can be combined"
    ):
        predict(PredictConfig(videos, (str(run.out), str(motion.out)), workers=0, combine="mean"))


def test_other_clips_need_a_pass_of_their_own(
    run: ProbeResult, shapes: Path, tmp_path: Path, counted: list[int]
) -> None:
    own = load_classifier(run.out)
    save_classifier(tmp_path / "middle", replace(own, plan=replace(own.plan, segments=1)))
    alone = [judge(tmp_path, name, shapes).evaluations[0].probabilities for name in (run.out, tmp_path / "middle")]
    counted.clear()
    first, second, together = judge(tmp_path, run.out, tmp_path / "middle", shapes).evaluations
    assert sum(counted) == 24 * (4 + 2)
    assert [evaluation.passes for evaluation in (first, second, together)] == [4, 2, 6]
    np.testing.assert_allclose([first.probabilities, second.probabilities], alone, atol=1e-9)
    assert not np.allclose(alone[0], alone[1], atol=1e-4)


def test_members_with_equal_encoders_hold_one(run: ProbeResult, saved: Path, shapes: Path, tmp_path: Path) -> None:
    second = probe(settings(saved, shapes, tmp_path, "second", seed=1))
    first, other = load_members([str(run.out), str(second.out)])
    assert first.classifier.encoder is other.classifier.encoder
    (shown,) = load_members([str(run.out)], (VideoRecord("a.png"), VideoRecord("b.jpg")), ClipConfig(segments=5))
    assert (shown.classifier.plan.segments, shown.classifier.plan.views) == (1, 2), "all segments of an image are alike"


def test_classes_are_matched_by_name(run: ProbeResult, shapes: Path, tmp_path: Path) -> None:
    own = load_classifier(run.out)
    order = [3, 0, 5, 1, 4, 2]
    head: Any = own.probe
    with torch.no_grad():
        head.linear.weight.copy_(head.linear.weight[order].clone())
        head.linear.bias.copy_(head.linear.bias[order].clone())
    names = tuple(own.classes[i] for i in order)
    save_classifier(tmp_path / "turned", VideoClassifier(own.encoder, head, names, own.plan))
    found = judge(tmp_path, run.out, tmp_path / "turned", shapes)
    first, second, together = (evaluation.probabilities for evaluation in found.evaluations)
    np.testing.assert_allclose(first, second, atol=1e-6)
    np.testing.assert_allclose(first, together, atol=1e-6)
    video = read_index(shapes).records[0].path
    alone, both = (
        predict(PredictConfig((video,), models, workers=0, top=6))[0].top
        for models in ((str(run.out),), (str(run.out), str(tmp_path / "turned")))
    )
    assert [name for name, _ in alone] == [name for name, _ in both]
    np.testing.assert_allclose([p for _, p in alone], [p for _, p in both], atol=1e-6)


def test_labels_that_a_run_does_not_know_are_listed(
    run: ProbeResult, saved: Path, shapes: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"lacks 8 of its classes \(clockwise, .*\): it knows 6 \(circle, "):
        judge(tmp_path, run.out, shapes, label="motion")
    rows = [(r.path, "star") for r in read_index(shapes).select("test").records[:3]]
    few = listing(tmp_path / "few.csv", rows)
    found = judge(tmp_path, run.out, few, label=None)  # one class: no other has videos
    by_name = {row.name: row for row in found.evaluations[0].metrics.per_class}
    assert (by_name["star"].videos, by_name["ring"].recall) == (3, None)
    assert found.evaluations[0].metrics.mean_class == by_name["star"].recall
    motion = probe(settings(saved, shapes, tmp_path, "motion", label="motion"))
    with pytest.raises(DataError, match="motion lacks 1 of its classes"):
        judge(tmp_path, run.out, motion.out, few, label=None)


def listing(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    return path


def test_unreadable_videos_are_counted_and_reported(
    run: ProbeResult, shapes: Path, tmp_path: Path, capsys: Any
) -> None:
    index = read_index(shapes, label="appearance").select("test")
    names = index.classes or ()
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"")
    rows = [(r.path, names[r.label or 0]) for r in index.records[:6]]
    found = judge(
        tmp_path, run.out, listing(tmp_path / "some.csv", [rows[0], (str(bad), "star"), *rows[1:]]), label=None
    )
    assert (found.skipped, len(found.index)) == ({str(bad): "the file is empty"}, 6)
    np.testing.assert_allclose(found.evaluations[0].probabilities, run.outcomes["linear"].probabilities[:6], atol=1e-6)
    render.evaluate(found, EvaluateConfig())
    assert "1 unreadable" in capsys.readouterr().out
    assert "bad.mp4" in (found.out / "report.html").read_text()
    with pytest.raises(DataError, match=r"none of 1 videos can be read, for example .*bad\.mp4: the file is empty"):
        judge(tmp_path, run.out, listing(tmp_path / "bad.csv", [(str(bad), "star")]), label=None)


def test_videos_that_a_run_was_trained_on_are_left_out(saved: Path, shapes: Path, tmp_path: Path) -> None:
    index = read_index(shapes, label="appearance")
    names = index.classes or ()
    bare = listing(tmp_path / "bare.csv", [(r.path, names[r.label or 0]) for r in index.records])
    trained = probe(settings(saved, bare, tmp_path, "bare", label=None))
    found = judge(tmp_path, trained.out, bare, label=None)
    assert found.left_out == trained.videos["train"] + trained.videos["val"]
    assert found.evaluations[0].metrics.top1 == pytest.approx(trained.outcomes["linear"].test_top1)
    assert len(judge(tmp_path, trained.out, bare, label=None, split="all").index) == 88
    seen = listing(tmp_path / "seen.csv", [(r.path, names[r.label or 0]) for r in index.records if r.split == "train"])
    whole = probe(settings(saved, shapes, tmp_path, "whole"))
    with pytest.raises(
        DataError, match="the runs were trained on all of these videos: use --split all to evaluate on all videos"
    ):
        judge(tmp_path, whole.out, seen, label=None)
    assert len(judge(tmp_path, whole.out, shapes, split="val").index) == 16


@pytest.fixture
def relative(saved: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProbeResult:
    """A probe that was started in a folder, with a relative list of videos; afterwards the working folder is another."""
    index = read_index(shapes, label="appearance")
    names = index.classes or ()
    (tmp_path / "work").mkdir()
    listing(tmp_path / "work" / "list.csv", [(r.path, names[r.label or 0]) for r in index.records])
    monkeypatch.chdir(tmp_path / "work")
    trained = probe(settings(saved, Path("list.csv"), tmp_path, "relative", label=None, out="runs/relative"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return replace(trained, out=tmp_path / "work" / "runs" / "relative")


def test_training_videos_are_left_out_wherever_it_is_started(relative: ProbeResult, tmp_path: Path) -> None:
    data, count = tmp_path / "work" / "list.csv", relative.videos["train"] + relative.videos["val"]
    found = judge(tmp_path, relative.out, data, label=None)
    assert (found.left_out, len(found.index), found.unknown) == (count, relative.videos["test"], {})
    copies = tmp_path / "copies"
    copies.mkdir()
    rows = [(shutil.copy(r.path, copies), str(r.label)) for r in read_index(data).records]
    names = read_index(data).classes or ()
    moved = listing(copies / "list.csv", [(path, names[int(label)]) for path, label in rows])
    assert judge(tmp_path, relative.out, moved, label=None).left_out == count, "copies are known by their content"
    named = judge(tmp_path, relative.out, data, label=None, split="all")
    assert (named.left_out, named.seen) == (0, count)


def test_an_older_run_lists_its_videos_again_or_says_so(
    relative: ProbeResult, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, count = tmp_path / "work" / "list.csv", relative.videos["train"] + relative.videos["val"]
    (relative.out / "splits.csv").unlink()
    found = judge(tmp_path, relative.out, data, label=None)
    assert (found.left_out, found.unknown) == (count, {})
    moved = tmp_path / "elsewhere" / "moved"
    shutil.copytree(relative.out, moved)
    found = judge(tmp_path, moved, data, label=None)
    assert list(found.unknown) == [str(moved)]
    assert found.left_out == 0
    assert "it is not known which videos it was trained on (no splits.csv, and list.csv counts from" in caplog.text
    written = json.loads((found.out / "results.json").read_text())
    assert "not known" in written["training_videos_unknown"][str(moved)]
    assert "the accuracy may be too high" in (found.out / "report.html").read_text()
    (relative.out / "config.yaml").write_text("- no run\n")
    assert "names no labeled videos" in judge(tmp_path, relative.out, data, label=None).unknown[str(relative.out)]


def test_what_cannot_be_evaluated_is_named(run: ProbeResult, saved: Path, shapes: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    with pytest.raises(DataError, match="no videos or images in this folder"):
        judge(tmp_path, run.out, flat)
    with pytest.raises(DataError, match=r"the videos have no labels: .*--label"):
        judge(tmp_path, run.out, shapes / "videos")
    half = listing(
        tmp_path / "half.csv", [(r.path, "star" if i else "") for i, r in enumerate(read_index(shapes).records)]
    )
    with pytest.raises(DataError, match="1 of 88 videos have no label"):
        judge(tmp_path, run.out, half, label=None)
    with pytest.raises(DataError, match="no videos in the split train"):
        judge(tmp_path, run.out, listing(tmp_path / "one.csv", [(str(shapes), "star")]), label=None, split="train")
    with pytest.raises(CheckpointError, match="an encoder without a classifier"):
        judge(tmp_path, saved, shapes)
    with pytest.raises(ConfigError, match="no model given: pass --model"):
        judge(tmp_path, shapes)
    with pytest.raises(ConfigError, match="no videos given"):
        judge(tmp_path, run.out, "")
    with pytest.raises(ConfigError, match="segments 0"):
        EvaluateConfig(segments=0)
    with pytest.raises(ConfigError, match="give frame_step or fps, not both"):
        EvaluateConfig(frame_step=1, fps=2.0)


def test_a_model_that_says_nothing_about_clips_can_be_judged(run: ProbeResult, shapes: Path, tmp_path: Path) -> None:
    own = load_classifier(run.out)
    save_model(tmp_path / "plain", own.encoder, probe=own.probe, labels=own.classes)
    plan = load_classifier(tmp_path / "plain").plan
    assert (plan.spec.num_frames, plan.spec.frame_step, plan.clips) == (4, 4, 1)
    found = judge(tmp_path, tmp_path / "plain", shapes)
    assert found.evaluations[0].passes == 1


def test_a_folder_of_hugging_face_is_judged_by_its_labels(shapes: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    source = Path(__file__).parents[1] / "fixtures" / "vjepa" / "hf_classifier"
    theirs = transformers.AutoModelForVideoClassification.from_pretrained(source).eval()
    paths = [record.path for record in read_index(shapes).records[:6]]
    rows = [(path, f"class_{i % 4}") for i, path in enumerate(paths)]
    (evaluation,) = judge(tmp_path, source, listing(tmp_path / "labeled.csv", rows), label=None).evaluations
    for path, shares in zip(paths, evaluation.probabilities, strict=True):
        frames = read_clip(path, num_frames=8, frame_step=4)
        (clip,) = eval_views(frames.numpy(), (32, 32), 1)
        with torch.no_grad():
            logits = theirs(pixel_values_videos=normalize(clip[None]).transpose(1, 2)).logits[0]
        np.testing.assert_allclose(shares, logits.softmax(-1).numpy(), atol=1e-5)
    named = [theirs.config.id2label[int(i)] for i in evaluation.probabilities.argmax(1)]
    assert evaluation.metrics.top1 == pytest.approx(100 * metrics.accuracy_score([label for _, label in rows], named))
    (found,) = predict(PredictConfig((paths[0],), (str(source),), workers=0, top=5))
    np.testing.assert_allclose([p for _, p in found.top], sorted(evaluation.probabilities[0])[::-1], atol=1e-6)


def test_a_fine_tuned_model_is_judged_as_it_was_tested(
    saved: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openvjepa.commands.finetune.write_documents", lambda *arguments: None)
    places = {"source": str(shapes), "model": str(saved), "out": str(tmp_path / "tuned")}
    config = FinetuneConfig(**places, label="appearance", epochs=1, workers=0)
    tuned = finetune(replace(config, tune="last", frame_step=1, precision="fp32"))
    assert tuned is not None
    (evaluation,) = judge(tmp_path, tuned.out, shapes).evaluations
    np.testing.assert_allclose(evaluation.probabilities, tuned.probabilities, atol=1e-5)
    rows = list(csv.DictReader((tuned.out / "splits.csv").open()))
    assert {name: sum(row["split"] == name for row in rows) for name in tuned.videos} == tuned.videos


def test_the_command_line_evaluates_and_combines(run: ProbeResult, shapes: Path, tmp_path: Path, capsys: Any) -> None:
    out, few = str(tmp_path / "judged"), ["--segments", "1", "--views", "1", "--workers", "0"]
    given = [
        str(shapes),
        "--model",
        str(run.out),
        str(run.out),
        "--label",
        "appearance",
        "--out",
        out,
        "--combine",
        "vote",
        *few,
    ]
    assert main(["evaluate", *given]) == 0
    assert "all 2 (vote)" in capsys.readouterr().out.replace("\n", " ")
    names = [row["name"] for row in json.loads((tmp_path / "judged" / "results.json").read_text())["results"]]
    assert names == [str(run.out), str(run.out), "all 2 (vote)"]
    assert main(["evaluate", *given]) == 1
    assert "add --overwrite" in capsys.readouterr().err
    assert main(["evaluate", str(run.out)]) == 2
    assert "--model must be given" in capsys.readouterr().err
    video = read_index(shapes).records[0].path
    assert (
        main(
            [
                "predict",
                video,
                "--model",
                str(run.out),
                str(run.out),
                "--window",
                "0.1",
                "--csv",
                str(tmp_path / "w.csv"),
            ]
        )
        == 0
    )
    assert len((tmp_path / "w.csv").read_text().splitlines()) > 1
