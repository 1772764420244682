"""Accuracy and collapse figures against closed forms, brute force and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import top_k_accuracy_score

from openvjepa.metrics import (
    Interval,
    accuracy_interval,
    difference,
    feature_std,
    knn_accuracy,
    rankme,
    top_k,
    wilson,
)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("k", [1, 3])
def test_top_k_is_scikit_learns(k: int, generator: torch.Generator) -> None:
    scores, labels = torch.randn(50, 7, generator=generator), torch.randint(7, (50,), generator=generator)
    expected = 100 * top_k_accuracy_score(labels.numpy(), scores.numpy(), k=k, labels=range(7))
    assert top_k(scores.numpy(), labels.numpy(), k) == pytest.approx(expected, rel=1e-5)


def test_top_k_of_more_than_all_classes_is_everything() -> None:
    assert top_k(torch.randn(4, 3).numpy(), torch.tensor([0, 1, 2, 0]).numpy(), 5) == 100.0


def test_feature_std_by_hand() -> None:
    assert feature_std(torch.tensor([[0.0, 5.0], [2.0, 5.0]])) == pytest.approx(math.sqrt(2) / 2)


@pytest.mark.parametrize(("n", "channels"), [(200, 6), (6, 200)])
def test_rankme_is_the_entropy_of_the_singular_values(n: int, channels: int, generator: torch.Generator) -> None:
    features = torch.randn(n, channels, generator=generator) * torch.rand(channels, generator=generator) + 3
    values = torch.linalg.svdvals((features - features.mean(0)).double())
    expected = math.exp(-sum(float(p) * math.log(float(p)) for p in values / values.sum() if p > 1e-12))
    assert rankme(features) == pytest.approx(expected, rel=1e-5)


def test_rankme_counts_equal_directions() -> None:
    axes = torch.cat([torch.eye(5), -torch.eye(5)])
    assert rankme(axes) == pytest.approx(5.0)
    assert rankme(torch.arange(10.0)[:, None] * torch.tensor([1.0, 2.0, 3.0])) == pytest.approx(1.0, abs=1e-4)
    assert rankme(torch.full((10, 4), 0.3)) == pytest.approx(1.0)


@pytest.mark.parametrize("k", [1, 5])
def test_knn_is_brute_force(k: int, generator: torch.Generator) -> None:
    train_x, test_x = torch.randn(40, 3, generator=generator), torch.randn(20, 3, generator=generator)
    train_y, test_y = torch.randint(3, (40,), generator=generator), torch.randint(3, (20,), generator=generator)
    distance = 1 - torch.nn.functional.cosine_similarity(test_x[:, None], train_x[None], dim=2)
    near = distance.topk(k, largest=False)
    votes = torch.zeros(20, 3).scatter_add_(1, train_y[near.indices], 1 / near.values)
    expected = 100 * (votes.argmax(1) == test_y).float().mean().item()
    assert knn_accuracy(train_x, train_y, test_x, test_y, k) == pytest.approx(expected)


def test_knn_takes_fewer_neighbors_from_a_small_set() -> None:
    x, y = torch.eye(3), torch.tensor([0, 1, 2])
    assert knn_accuracy(x, y, x, y) == 100.0


def covered(draws: int, chance: float, groups: int | None, rng: np.random.Generator) -> float:
    """Share of intervals of 95 % that hold the true accuracy; groups have accuracies of their own (beta, correlation 0.4)."""
    found = 0
    for _ in range(draws):
        if groups is None:
            interval = accuracy_interval(rng.random(60) < chance)
        else:
            own = rng.beta(1.5 * chance, 1.5 * (1 - chance), size=groups)
            right = rng.random((groups, 12)) < own[:, None]
            interval = accuracy_interval(right.ravel(), np.repeat(np.arange(groups), 12))
        found += interval.low <= 100 * chance <= interval.high
    return found / draws


def test_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(0)
    for chance in (0.5, 0.8, 0.95):
        assert 0.93 <= covered(1000, chance, None, rng) <= 0.99
    for groups in (4, 8, 20):
        assert 0.93 <= covered(1000, 0.7, groups, rng) <= 0.995


def test_intervals_of_differences_cover_the_truth() -> None:
    rng, single, grouped = np.random.default_rng(0), 0, 0
    for _ in range(1000):
        easy = rng.random(60)
        ours, theirs = easy < 0.8, np.where(rng.random(60) < 0.8, easy, rng.random(60)) < 0.7
        interval = difference(ours, theirs).interval
        single += interval.low <= 10 <= interval.high
        lead = rng.normal(0.1, 0.15, size=10).clip(-0.3, 0.3)  # of each of 10 people
        easy = rng.random((10, 6))
        interval = difference(
            (easy < 0.6 + lead[:, None]).ravel(), (easy < 0.6).ravel(), np.repeat(np.arange(10), 6)
        ).interval
        grouped += interval.low <= 10 <= interval.high
    assert 0.93 <= single / 1000 <= 0.99
    assert 0.93 <= grouped / 1000 <= 0.995


def test_wilson_is_scipys_and_mcnemar_is_the_binomial_test() -> None:
    for right, count in ((0, 5), (7, 10), (93, 100), (20, 20)):
        truth = stats.binomtest(right, count).proportion_ci(method="wilson")
        found = wilson(right, count)
        assert (found.low, found.high) == pytest.approx((100 * truth.low, 100 * truth.high), abs=1e-4)
    ours = np.array([True] * 30 + [False] * 10)
    theirs = np.array([True] * 20 + [False] * 10 + [True] * 3 + [False] * 7)
    found = difference(ours, theirs)
    assert found.mean == pytest.approx(17.5)
    assert found.p_value == pytest.approx(stats.binomtest(10, 13).pvalue)
    same = difference(ours, ours)
    assert (same.mean, same.p_value, same.is_clear) == (0, 1, False)
    assert same.interval.high > 1, "40 videos do not show that two classifiers are equal"


def test_people_that_are_all_alike_count_once() -> None:
    right, people = np.repeat([True, False, True, True], 25), np.repeat(np.arange(4), 25)
    alone, grouped = accuracy_interval(right), accuracy_interval(right, people)
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)
    assert accuracy_interval(right, np.zeros(100)) == Interval(0.0, 100.0)
    sure = accuracy_interval(np.ones(100, dtype=bool), people)
    assert sure.low < 60, "four people, not a hundred videos"
