from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastbn.experiments.bn_before_or_after import BODIES, build


def test_directions(quick: Callable[[str], dict[str, Any]]) -> None:
    numbers = quick("bn-before-or-after")["numbers"]
    for body in BODIES:
        accuracy = {
            place: numbers[f"{body}, {place}"]["mean_accuracy"]["mean"]
            for place in ("no BN", "BN before", "BN behind")
        }
        assert accuracy["BN before"] > accuracy["no BN"] + 0.1
        assert accuracy["BN behind"] > accuracy["no BN"] + 0.1


def test_places() -> None:
    kinds = {
        place: [type(layer).__name__ for layer in build("MLP, tanh", place, (4, 4, 1), 3, 0)]
        for place in ("no BN", "BN before", "BN behind")
    }
    assert kinds["no BN"][:4] == ["Flatten", "Linear", "Tanh", "Linear"]
    assert kinds["BN before"][:4] == ["Flatten", "Linear", "BatchNorm", "Tanh"]
    assert kinds["BN behind"][:4] == ["Flatten", "Linear", "Tanh", "BatchNorm"]
