from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_directions(quick: Callable[[str], dict[str, Any]]) -> None:
    numbers = quick("paper-mnist")["numbers"]
    for key in ("first_accuracy", "test_accuracy"):
        assert numbers["BN"][key]["mean"] > numbers["no BN"][key]["mean"]
    assert numbers["BN"]["test_accuracy"]["mean"] > 0.95


def test_verdicts(verdicts: Callable[[str], dict[str, str]]) -> None:
    assert verdicts("paper-mnist")["The network with BN leads all the way."] == "holds"
