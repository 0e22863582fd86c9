from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastbn import nn
from fastbn.experiments.five_layer_cnn_network import SQUARES, ZERO_ONE, build
from fastbn.experiments.mistakes import SecondMomentNorm


def test_directions(quick: Callable[[str], dict[str, Any]]) -> None:
    numbers = quick("five-layer-cnn")["numbers"]

    def of(variant: str, key: str = "test_accuracy", rate: str = "0.99") -> float:
        value = numbers[f"digits, {variant}, rate {rate}"][key]["mean"]
        assert isinstance(value, float)
        return value

    assert of("BN") > 0.9
    assert of("BN") > of("no BN") + 0.3
    assert of("BN", "variance") == pytest.approx(1, abs=0.02)
    assert of(SQUARES, "variance") < 0.95
    assert of(ZERO_ONE) < 0.2
    assert of(ZERO_ONE, "first_layer_moves") == 0
    assert abs(of("BN") - of("BN", "with_batch_statistics")) < 0.05


def test_verdicts(verdicts: Callable[[str], dict[str, str]]) -> None:
    found = verdicts("five-layer-cnn")
    assert found["The scale starts at 0, the offset at 1."] == "does not"
    assert found["The variance of a batch is the mean of x²."] == "does not"


def test_it_has_five_layers() -> None:
    for variant in ("no BN", "BN", SQUARES, ZERO_ONE):
        net = build((28, 28, 1), 10, variant, 0)
        assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in net) == 5
        assert net.output_shape((28, 28, 1)) == (10,)


def test_second_moment_norm(rng: np.random.Generator) -> None:
    layer = SecondMomentNorm(3)
    x = rng.normal(2.0, 1.0, (50, 4, 4, 3)).astype(np.float32)
    y = layer(x)
    expected = (x - x.mean((0, 1, 2))) / np.sqrt((x.astype(float) ** 2).mean((0, 1, 2)))
    np.testing.assert_allclose(y, expected, atol=1e-4)
    assert nn.check_gradients(SecondMomentNorm(3), (4, 3)) < 1e-6
    layer.eval()
    np.testing.assert_allclose(
        layer.running, 0.1 * np.array([x.mean((0, 1, 2)), (x**2).mean((0, 1, 2)) + 9]), rtol=1e-5
    )
