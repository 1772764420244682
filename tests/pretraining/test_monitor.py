"""The collapse warning."""

from __future__ import annotations

from openvjepa.pretraining.monitor import collapse_warning


def test_collapse_is_said_in_words() -> None:
    first = {"feature_std": 0.8, "rankme": 60.0}
    assert collapse_warning({"feature_std": 0.5, "rankme": 40.0}, first) is None
    alike = collapse_warning({"feature_std": 0.02, "rankme": 40.0}, first)
    assert alike is not None
    assert "collapsing" in alike
    assert "0.020" in alike
    few = collapse_warning({"feature_std": 0.5, "rankme": 1.7}, first)
    assert few is not None
    assert "1.7 dimensions" in few
