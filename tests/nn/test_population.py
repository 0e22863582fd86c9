"""Statistics of a whole data set (Algorithm 2 of the 2015 paper)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastbn import nn


@pytest.fixture
def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 6, rng=0), nn.BatchNorm(6), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(6, 3, rng=1), nn.BatchNorm(3, momentum=0.3),
    )  # fmt: skip


@pytest.fixture
def batches(rng: np.random.Generator) -> list[Any]:
    return [rng.standard_normal((n, 4)).astype(np.float32) + 2 for n in (5, 8, 3)]


def buffers(net: nn.Module) -> dict[str, Any]:
    return {k: v.copy() for k, v in net.state_dict().items() if "running" in k or "num" in k}


def test_they_are_the_average_over_the_batches(net: nn.Sequential, batches: list[Any]) -> None:
    first, bn1, linear2, bn2 = net[0], net[1], net[4], net[5]
    means, variances = [], []
    means2, variances2 = [], []
    for x in batches:
        z = x.astype(np.float64) @ first.weight.data.T + first.bias.data
        means.append(z.mean(axis=0))
        variances.append(z.var(axis=0, ddof=1))
        h = np.maximum((z - z.mean(axis=0)) / np.sqrt(z.var(axis=0) + bn1.eps), 0)  # no dropout
        z2 = h @ linear2.weight.data.T + linear2.bias.data
        means2.append(z2.mean(axis=0))
        variances2.append(z2.var(axis=0, ddof=1))
    assert nn.population_statistics(net, iter(batches)) == 3
    for layer, mean, var in ((bn1, means, variances), (bn2, means2, variances2)):
        np.testing.assert_allclose(layer.running_mean, np.mean(mean, axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(layer.running_var, np.mean(var, axis=0), rtol=1e-5)
        assert layer.num_batches_tracked == 3
    assert (bn1.momentum, bn2.momentum) == (0.1, 0.3)
    assert all(module.training for module in net.modules())


def test_modes_and_a_pending_backward_stay(net: nn.Sequential, batches: list[Any]) -> None:
    y = net(batches[0])
    net[1].eval()
    nn.population_statistics(net, batches)
    assert not net[1].training
    assert net[3].training
    net.backward(np.ones_like(y))


def test_frozen_layers_keep_theirs(net: nn.Sequential, batches: list[Any]) -> None:
    net[1].freeze()
    before = net[1].running_mean.copy()
    nn.population_statistics(net, batches)
    np.testing.assert_array_equal(net[1].running_mean, before)
    assert net[5].num_batches_tracked == 3


def test_nothing_changes_where_a_batch_cannot_be_taken(
    net: nn.Sequential, batches: list[Any]
) -> None:
    before = buffers(net)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.population_statistics(net, [*batches, batches[0][:1]])
    with pytest.raises(ValueError, match="no batches"):
        nn.population_statistics(net, [])
    for name, value in buffers(net).items():
        np.testing.assert_array_equal(value, before[name])
    assert net[1].momentum == 0.1
    assert net[1].training
    net[1].freeze()
    net[5].freeze()
    with pytest.raises(ValueError, match="no BatchNorm"):
        nn.population_statistics(net, batches)
