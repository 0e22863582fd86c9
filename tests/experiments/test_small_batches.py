from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastbn.experiments import get


def test_directions(quick: Callable[[str], dict[str, Any]]) -> None:
    numbers = quick("small-batches")["numbers"]
    assert "ghost BN, batch 2" not in numbers
    for name, of in numbers.items():
        lost = of["accuracy"]["mean"] - of["half_contrast"]["mean"]
        if name.startswith(("GroupNorm", "LayerNorm", "InstanceNorm")):
            assert abs(lost) < 0.02, name
    assert numbers["BN, batch 32"]["accuracy"]["mean"] > 0.8
    of_bn = numbers["BN, batch 32"]
    assert of_bn["accuracy"]["mean"] - of_bn["half_contrast"]["mean"] > 0.05


def test_ghosts_are_for_larger_batches() -> None:
    experiment = get("small-batches")
    names = list(experiment.networks(experiment.full))
    assert [name for name in names if "ghost" in name] == [
        "ghost BN, batch 32",
        "ghost BN, batch 128",
    ]
