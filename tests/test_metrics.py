"""Accuracy and collapse figures against closed forms, brute force and scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from openvjepa.metrics import feature_std, knn_accuracy, rankme, top_k


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


def test_knn_takes_fewer_neighbours_from_a_small_set() -> None:
    x, y = torch.eye(3), torch.tensor([0, 1, 2])
    assert knn_accuracy(x, y, x, y) == 100.0
