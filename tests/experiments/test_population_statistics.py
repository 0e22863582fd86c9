from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastbn import models, nn, optim
from fastbn.experiments import averages, training
from fastbn.train import Trainer


def test_directions(quick: Callable[[str], dict[str, Any]]) -> None:
    numbers = quick("population-statistics")["numbers"]
    found = {n: {k: v["mean"] for k, v in of.items()} for n, of in numbers.items()}
    for size, of in ((4, found["batch 4"]), (16, found["batch 16"]), (64, found["batch 64"])):
        assert of["unbiased_ratio"] == pytest.approx(1.0, abs=0.02)
        assert of["biased_ratio"] == pytest.approx(1.0 - 1.0 / size, abs=0.02)
        assert abs(of["algorithm_2"] - of["recalibrated"]) < 0.02
        assert of["momentum_0.001"] < of["algorithm_2"] - 0.02  # not there yet
    assert found["batch 4"]["momentum_1"] < found["batch 4"]["algorithm_2"] - 0.05


def test_averages_are_those_of_batch_norm() -> None:
    rng = np.random.default_rng(0)
    data = rng.standard_normal((32, 5)).astype(np.float32), np.arange(32) % 2
    usual, watched = (models.mlp((5,), 2, hidden=(3,), rng=0) for _ in range(2))
    kept = averages.Averages(watched, [0.1])
    for net, callbacks in ((usual, []), (watched, [kept])):
        trainer = Trainer(net, optimizer=optim.SGD(net.parameters(), lr=0.1))
        training.fit(trainer, data, 7, 8, 0, callbacks)
    (mean, var) = kept.of[0.1][0]
    norm = averages.norms_of(usual)[0]
    np.testing.assert_allclose(mean, norm.running_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(var, norm.running_var, rtol=1e-5)
    before = averages.statistics_of(watched)
    with averages.using(watched, kept.of[0.1]):
        np.testing.assert_array_equal(averages.norms_of(watched)[0].running_mean, mean)
    np.testing.assert_array_equal(averages.norms_of(watched)[0].running_mean, before[0][0])


def test_every_batch_has_its_own_parameters() -> None:
    net = nn.Sequential(nn.Linear(2, 3, rng=0), nn.BatchNorm(3))
    own = averages.OwnAffine(net, 2)
    trainer = Trainer(net)
    weight = averages.norms_of(net)[0].weight
    assert weight is not None
    for step in (1, 2, 3):
        weight.data[...] += step  # as a step of training would
        trainer.steps = step
        own.on_step(trainer)
    assert [values[0][0] for values in own.of] == [5.0, 3.0]
    assert weight.data[0] == 3.0
    assert own.mean()[0][0] == 4.0
