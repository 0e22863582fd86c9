"""Population statistics of data, and what a network's are off."""

from __future__ import annotations

import numpy as np
import pytest
from checks import error

from fastbn import nn

RNG = np.random.default_rng(0)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, rng=0), nn.BatchNorm(4), nn.ReLU(),
        nn.Residual(nn.Sequential(nn.Conv2d(4, 4, 1, rng=1), nn.BatchNorm(4))),
        nn.GlobalAvgPool2d(), nn.Linear(4, 3, rng=2), nn.BatchNorm(3),
    ).astype(np.float64)  # fmt: skip


def test_recalibration_is_exact_for_batches_of_any_size() -> None:
    x = RNG.standard_normal((37, 6, 6, 2)) + 1.0
    one, parts = network(), network()
    nn.recalibrate(one, x, batch_size=64)
    nn.recalibrate(parts, [x[:1], x[1:20], x[20:]])
    for (name, a), (_, b) in zip(one.named_buffers(), parts.named_buffers(), strict=True):
        assert error(a, b) < 1e-12, name
    # in inference every BatchNorm now gives mean 0 and variance 1, as in training on all data
    expected = network()
    assert error(one.predict(x), expected(x)) < 0.02  # the unbiased variance is inference's
    assert all(layer.shift < 1e-12 for layer in nn.diagnose(one, x))


def test_all_at_once_takes_the_old_statistics_in_front() -> None:
    x = RNG.standard_normal((64, 6, 6, 2)) + 1.0
    once, each = network(), network()
    moved = nn.recalibrate(once, x, at_once=True)
    assert set(moved) == {"1", "3.body.1", "6"}
    assert set(nn.recalibrate(each, x)) == set(moved)
    assert error(once[1].running_mean, each[1].running_mean) < 1e-12
    assert error(once[6].running_mean, each[6].running_mean) > 1e-3


def test_a_diagnosis_names_what_is_wrong() -> None:
    net = network()
    x = RNG.standard_normal((64, 6, 6, 2))
    nn.recalibrate(net, x)
    training = [module.training for module in net.modules()]
    assert [layer.name for layer in nn.diagnose(net, x)] == ["1", "3.body.1", "6"]
    assert max(layer.gap for layer in nn.diagnose(net, x)) < 0.02
    net[1].running_mean[...] += 3.0
    net[1].weight.data = [1e-5, 1.0, 1.0, 1.0]
    net[0].weight.data = net[0].weight.data * np.array([1, 0, 1, 1])[:, None, None, None]
    first, *_ = nn.diagnose(net, x)
    assert (first.name, first.dead, first.faint) == ("1", 1, 1)
    assert first.shift > 1.0
    assert first.gap > 1.0
    assert "3.body.1" in str(nn.diagnose(net, x))
    assert [module.training for module in net.modules()] == training


def test_refusals() -> None:
    with pytest.raises(ValueError, match="no BatchNorm with running"):
        nn.recalibrate(nn.Sequential(nn.Linear(2, 2)), np.zeros((4, 2), np.float32))
    with pytest.raises(ValueError, match="no batches"):
        nn.diagnose(network(), np.zeros((0, 6, 6, 2)))
    net = network()
    net[1].freeze()
    before = net[1].running_mean.copy()
    nn.recalibrate(net, RNG.standard_normal((8, 6, 6, 2)))
    np.testing.assert_array_equal(net[1].running_mean, before)
