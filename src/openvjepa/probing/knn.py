"""The kNN probe: votes of the nearest training videos.

n videos, V clips of each, D channels, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from openvjepa.metrics import Labels
from openvjepa.probing.features import Scaler, Trained, mean_tokens, score

NEIGHBORS = (1, 5, 10, 20)


def train_knn(
    train_x: NDArray[np.float64], train_y: Labels, val_x: NDArray[np.float64], val_y: Labels, *, classes: int
) -> Trained:
    """Vote of the nearest plain training clips by cosine of standardized mean tokens, near ones counting more.

    The number of neighbors is chosen on validation. Arguments as for `train_linear`; the first view of a training
    video is its plain one.
    """
    scaler = Scaler.of(train_x)
    rows = scaler(train_x[:, :1])[:, 0]

    def probabilities(model: KNeighborsClassifier, means: NDArray[np.float64]) -> NDArray[np.float64]:
        votes = np.asarray(model.predict_proba(scaler(means).reshape(-1, means.shape[-1])))
        full = np.zeros((len(votes), classes))
        full[:, model.classes_] = votes
        return full.reshape(len(means), -1, classes).mean(1)

    fitted = {
        k: KNeighborsClassifier(k, metric="cosine", weights="distance").fit(rows, train_y)
        for k in sorted({min(k, len(rows)) for k in NEIGHBORS})
    }
    scores = {k: score(probabilities(model, val_x), val_y) for k, model in fitted.items()}
    best = max(scores, key=lambda k: scores[k])
    return Trained(lambda x: probabilities(fitted[best], mean_tokens(x)), {"k": best, "val_top1": scores[best][0]})
