from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_directions(quick: Callable[[str], dict[str, Any]]) -> None:
    numbers = quick("vanishing-gradient")["numbers"]
    growth = {name: of["growth_a_layer"]["mean"] for name, of in numbers.items()}
    assert growth["sigmoid, no BN, × 1"] < 0.25
    assert growth["ReLU, no BN, × 100"] > 10
    for activation in ("sigmoid", "ReLU"):
        with_bn = [growth[f"{activation}, BN, × {factor}"] for factor in ("0.1", "1", "100")]
        assert max(with_bn) / min(with_bn) < 1.05
        assert 0.9 < min(with_bn) < 1.5
    accuracy = {name: of["test_accuracy"]["mean"] for name, of in numbers.items()}
    assert accuracy["sigmoid, BN, × 1"] > accuracy["sigmoid, no BN, × 1"] + 0.2


def test_verdicts(verdicts: Callable[[str], dict[str, str]]) -> None:
    found = verdicts("vanishing-gradient")
    assert found["Weights of 100 make the gradients explode."] == "holds"
