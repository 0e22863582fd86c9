from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastbn import nn, optim
from fastbn.experiments.landscape import Look, Noise
from fastbn.train import Trainer


def test_directions(quick: Callable[[str], dict[str, Any]]) -> None:
    numbers = quick("shift")["numbers"]
    of = {name: {k: v["mean"] for k, v in each.items()} for name, each in numbers.items()}
    assert of["BN"]["shift"] < 0.1 * of["no BN"]["shift"] < of["BN + noise"]["shift"]
    for key in ("loss_range", "gradient_change", "beta"):
        assert of["BN"][key] < of["no BN"][key], key


def test_looking_changes_nothing(rng: np.random.Generator) -> None:
    body = nn.Conv2d(1, 3, 1, rng=0), nn.BatchNorm(3), Noise(0), nn.ReLU()
    net = nn.Sequential(*body, nn.GlobalAvgPool2d(), nn.Linear(3, 2, rng=1))
    x, labels = rng.standard_normal((8, 4, 4, 1)).astype(np.float32), np.arange(8) % 2
    trainer = Trainer(net, optimizer=optim.SGD(net.parameters(), lr=0.1))
    before = {key: value.copy() for key, value in net.state_dict().items()}
    look = Look(x, labels, 0.1, 3)
    seen = look.along(trainer)
    assert seen == look.along(trainer)
    mean, _ = look.means(trainer)
    assert mean.shape == (3,)
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[key], err_msg=key)
    assert net.training


def test_noise(rng: np.random.Generator) -> None:
    layer = Noise(0)
    x = np.ones((500, 2, 2, 3), np.float32)
    y, scale = layer.forward(x)
    assert scale is not None
    assert (y[:, 0] == y[:, 1]).all()  # of a channel and a sample
    assert 0.05 < (y - scale).mean(axis=(1, 2)).std(axis=0).min() < 0.07  # of U(-0.1, 0.1)
    np.testing.assert_array_equal(layer.backward(x, scale), scale * x)
    layer.eval()
    assert layer.forward(x)[0] is x
    assert y.mean() != pytest.approx(layer.train().forward(x)[0].mean())
