from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastbn.experiments import deep_regression


def test_directions(quick: Callable[[str], dict[str, Any]]) -> None:
    told = quick("deep-regression")
    numbers = told["numbers"]
    assert numbers["ReLU, no BN"]["cost_at_the_end"]["mean"] is None
    assert numbers["ReLU, no BN"]["dead_or_saturated"]["mean"] > 0.3
    assert numbers["ReLU, BN"]["dead_or_saturated"]["mean"] < 0.1
    assert numbers["ReLU, BN"]["cost_at_the_end"]["mean"] < 100
    assert numbers["tanh, no BN"]["dead_or_saturated"]["mean"] > 0.5
    cost = {name: numbers[name]["cost_at_the_end"]["mean"] for name in ("tanh, BN", "tanh, no BN")}
    assert cost["tanh, BN"] < cost["tanh, no BN"] / 2
    assert told["plots"]["fit-over-steps"].endswith(".gif")


def test_the_tutorials_numbers() -> None:
    settings = deep_regression.Settings()
    x, y = deep_regression.points(settings, 0)
    assert x.shape == y.shape == (500, 1)
    assert (x.min(), x.max()) == (-7, 10)
    assert 7 < (y - (x**2 - 5)).std() < 9
    net = deep_regression.build(settings, "tanh, BN", 0)
    assert [type(layer).__name__ for layer in net][:5] == [
        "BatchNorm",
        "Linear",
        "BatchNorm",
        "Tanh",
        "Linear",
    ]
    weights = net.state_dict()["4.weight"]
    assert weights.shape == (30, 30)
    assert 0.9 < np.std(weights) < 1.1
