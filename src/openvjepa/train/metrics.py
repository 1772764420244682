"""Figures about features: accuracy and the signs of collapse. n samples (clips or tokens), D channels."""

from __future__ import annotations

import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor


def top_k(scores: Tensor, labels: Tensor, k: int = 1) -> float:
    """Share of samples, in per cent, whose label is among the k highest scores; scores [n, classes], labels [n]."""
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return 100.0 * (best == labels[:, None]).any(1).float().mean().item()


def feature_std(features: Tensor) -> float:
    """Standard deviation over samples, mean over channels; features [n, D]. Near 0: all samples look alike."""
    return features.float().std(0).mean().item()


def rankme(features: Tensor) -> float:
    """Effective rank: exp of the entropy of the singular values' shares (RankMe, Garrido et al. 2023, equation 2).

    The features are centred first, unlike in the paper: tokens share a large mean that would hide the rest.

    Args:
        features: [n, D].

    Returns:
        Between 1 (all on a line, or all the same) and min(n, D).
    """
    centred = features.double()
    centred = centred - centred.mean(0)
    gram = centred.T @ centred if len(centred) > centred.shape[1] else centred @ centred.T  # the smaller of the two
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    shares = values / values.sum().clamp_min(1e-12)
    return torch.exp(-torch.xlogy(shares, shares).sum()).item()


def knn_accuracy(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, k: int = 10) -> float:
    """Accuracy in per cent of a vote of the k nearest neighbours by cosine, weighted by distance.

    Args:
        train_x, test_x: features [n, D].
        train_y, test_y: labels [n].
    """
    model = KNeighborsClassifier(min(k, len(train_x)), metric="cosine", weights="distance")
    model.fit(train_x.float().cpu().numpy(), train_y.cpu().numpy())
    return 100.0 * float(model.score(test_x.float().cpu().numpy(), test_y.cpu().numpy()))


def collapse_warning(now: dict[str, float], first: dict[str, float]) -> str | None:
    """Says in words that the encoder is collapsing, or None.

    Args:
        now: feature_std and rankme of the target encoder's tokens.
        first: the same before training.
    """
    if now["feature_std"] < 0.1 * first["feature_std"]:
        return (
            f"the encoder is collapsing: the features of different clips and tokens hardly differ any more (std "
            f"{now['feature_std']:.3f}, {first['feature_std']:.3f} at the start). Lower the learning rate, raise the "
            "EMA momentum, or add a regulariser (reg_coeff, sigreg_coeff)."
        )
    if now["rankme"] < max(2.0, 0.05 * first["rankme"]):
        return (
            f"the encoder is collapsing: its features use {now['rankme']:.1f} dimensions ({first['rankme']:.1f} at the "
            "start). Lower the learning rate, or add a regulariser (reg_coeff, sigreg_coeff)."
        )
    return None
