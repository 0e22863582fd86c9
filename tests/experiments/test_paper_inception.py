from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastbn import nn
from fastbn.experiments import inceptions, paper_inception
from fastbn.experiments.inceptions import Kind, Settings


def test_directions(quick: Callable[[str], dict[str, Any]]) -> None:
    told = quick("paper-inception")
    best = {name: of["best_accuracy"]["mean"] for name, of in told["numbers"].items()}
    assert best["BN-x5"] > best["Inception"] + 0.1
    assert best["BN-x5"] > best["BN-x5, slow rate"]
    assert best["Inception-Sigmoid"] < 0.2
    assert len(told["claims"]) == 6 + 7


def test_seven_changes_make_the_networks() -> None:
    kinds = paper_inception.networks(Settings())
    assert kinds["BN-x5"] == Kind()
    assert kinds["BN-Baseline"] == Kind(True, "relu", 1.0, 0.4, 5e-4, 1.0, True, False, True)
    assert len(kinds) == 6 + 7
    for name in ("Inception", "Inception-Sigmoid"):
        net = inceptions.inception(Settings(), kinds[name], (16, 16, 3), 0)
        types = {type(layer) for layer in net.modules()}
        assert nn.BatchNorm not in types
        assert {nn.LocalResponseNorm, nn.Dropout} <= types


def test_rate_falls_six_times_faster() -> None:
    settings = Settings(steps=100, rate=0.1, decay=0.5)
    for kind, first, last in ((Kind(), 0.5, 0.5 / 64), (Kind(faster=1.0, decay=1.0), 0.1, 0.05)):
        net = inceptions.inception(settings, kind, (16, 16, 3), 0)
        rate = inceptions.trainer_of(settings, kind, net).optimizer.param_groups[0]["lr"]
        assert abs(rate(0) / first - 1) < 1e-9
        assert abs(rate(100) / last - 1) < 1e-9
