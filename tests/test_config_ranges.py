"""Numbers without meaning are refused before any work."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf, nan

import pytest

from openvjepa.config import ModelConfig, check_ranges, from_mapping
from openvjepa.errors import ConfigError

BASE = {"arch": "vit_femto", "img_size": 32, "num_frames": 4, "levels": (1, 3), "predictor_out_dim": 96}
NUMBERS = [field.name for field in fields(ModelConfig) if "int" in str(field.type) or "float" in str(field.type)]
ALLOWED = {("num_mask_tokens", 0)}


def test_the_fields_with_numbers() -> None:
    assert len(NUMBERS) == 15
    assert from_mapping(ModelConfig, BASE).levels == (1, 3)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [nan, inf, -inf, 0, -1, 1e30, 10**12, 10**40])
def test_every_number_of_a_model_has_a_range(name: str, value: float) -> None:
    given = (value, 3) if name == "levels" else value
    if name == "levels" and value == 0:
        given = (0, 0, 3)
    if (name, value) in ALLOWED:
        assert getattr(from_mapping(ModelConfig, {**BASE, name: given}), name) == value
        return
    with pytest.raises(ConfigError, match=name) as caught:
        from_mapping(ModelConfig, {**BASE, name: given})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    with pytest.raises(ConfigError, match=name):  # and from Python, where nothing is converted
        ModelConfig(**{**BASE, name: given})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_heads": 2.5, "embed_dim": 100}, "num_heads 2.5: give a whole number from 1 to 1024"),
        ({"mlp_ratio": 0.005}, "mlp_ratio 0.005 leaves the MLP no channels"),
        ({"num_frames": 1, "embed_dim": 98, "num_heads": 1, "levels": ()}, "embed_dim 98: .* a multiple of 4"),
        ({"uniform_power": False, "predictor_embed_dim": 12}, "predictor_embed_dim 12: .* a multiple of 8"),
        ({"positions": "rope", "num_heads": 32}, "embed_dim 96 has heads of 3 channels: .* even number, at least 6"),
        (
            {"positions": "rope", "interpolate_rope": True, "patch_size": 256, "img_size": 256},
            "patch_size 256: interpolate_rope works with patches up to 128 px",
        ),
        ({"img_size": 16384, "patch_size": 8}, "a clip of 8388608 tokens"),
        ({"arch": "x" * 10_000}, "is unknown: choose one of vit_femto"),
    ],
)
def test_combinations_that_no_model_has(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        ModelConfig(**{**BASE, **values})
    assert len(str(caught.value)) < 400


def test_a_range_holds_for_every_number_of_a_tuple() -> None:
    @dataclass(frozen=True)
    class Sizes:
        sides: tuple[float, ...]
        share: float | None

    check_ranges(Sizes((1, 2.5), None), {"sides": (1.0, 3.0), "share": (0.0, 1.0)})
    with pytest.raises(ConfigError, match=r"^sides 3\.5: give a number from 1 to 3$"):
        check_ranges(Sizes((1, 3.5), None), {"sides": (1.0, 3.0)})
    with pytest.raises(ConfigError, match=r"^sides 2\.5: give a whole number from 1 to 3$"):
        check_ranges(Sizes((1, 2.5), None), {"sides": (1, 3)})
