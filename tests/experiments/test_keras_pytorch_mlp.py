from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from fastbn.experiments import training
from fastbn.experiments.keras_pytorch_mlp import FIRST, Settings, measure
from fastbn.experiments.keras_pytorch_mlp_peers import installed


def test_directions(quick: Callable[[str], dict[str, Any]]) -> None:
    numbers = quick("keras-pytorch-mlp")["numbers"]
    accuracy = {name: of["final_accuracy"]["mean"] for name, of in numbers.items()}
    assert accuracy["BN"] > 0.93
    assert accuracy["BN"] > accuracy["no BN"]
    assert accuracy["BN, rate 0.1"] > accuracy["no BN, rate 0.1"]
    assert abs(accuracy["BN"] - accuracy["BN, ε 0.001"]) < 0.02


@pytest.mark.parametrize("peer", ["PyTorch", *(name for name in installed() if name == "Keras")])
def test_peers_compute_the_same(peer: str, torch: ModuleType) -> None:
    pytest.importorskip("sklearn", reason="the digits are part of scikit-learn")
    settings = Settings(data=("digits",), images=400, epochs=3)
    ours = measure(settings, "BN" if peer == "PyTorch" else "BN, Keras' conventions", 0)
    theirs = measure(settings, peer, 0)
    steps = training.load("digits", 400, 2000).y_train.size * 4 // 5 // 32
    assert theirs["first"][steps : steps + 1] == [None]
    assert len(theirs["first"]) == len(ours["first"]) == FIRST
    assert ours["first"][:steps] == pytest.approx(theirs["first"][:steps], abs=1e-4)
    assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=0.01)
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.01)
