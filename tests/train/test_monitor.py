"""Monitor: percentiles of outputs and running statistics, dead and saturated units."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastbn import nn, train
from fastbn.train import Monitor, Trainer


def data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((100, 6)).astype(np.float32), rng.integers(0, 4, 100)


def net() -> nn.Sequential:
    rng = np.random.default_rng(1)
    body = nn.Sequential(nn.Linear(16, 16, rng=rng), nn.BatchNorm(16))
    first = [nn.Linear(6, 16, rng=rng), nn.BatchNorm(16), nn.ReLU(), nn.Residual(body)]
    return nn.Sequential(*first, nn.Tanh(), nn.Dropout(0.5, rng=rng), nn.Linear(16, 4, rng=rng))


def test_what_is_recorded() -> None:
    x, y = data()
    mlp = net()
    dead = mlp[1]
    assert isinstance(dead, nn.BatchNorm)
    dead.bias.data[:4] = -100.0  # type: ignore[union-attr]
    monitor = Monitor()
    Trainer(mlp).fit((x, y), 3, 25, callbacks=[monitor], rng=0)
    assert [record["epoch"] for record in monitor.records] == [1, 2, 3]
    layers = monitor.records[-1]["layers"]
    assert list(layers) == ["0", "1", "2", "3.body.0", "3.body.1", "3", "4", "5", "6"]
    assert layers["2"]["dead"] >= 4 / 16
    assert 0.0 <= layers["4"]["saturated"] <= 1.0
    found = np.percentile(mlp.predict(x[:64]), [15, 50, 85])
    np.testing.assert_allclose(layers["6"]["percentiles"], found, rtol=1e-4, atol=1e-5)
    statistics = monitor.records[-1]["statistics"]
    assert list(statistics) == ["1", "3.body.1"]
    expected = np.percentile(dead.running_mean, [15, 50, 85])  # type: ignore[arg-type]
    np.testing.assert_allclose(statistics["1"]["running_mean"], expected, rtol=1e-6)


def test_graphs_are_looked_into() -> None:
    x, y = data()
    inputs = nn.Input((6,))
    h = nn.ReLU()(nn.BatchNorm(8)(nn.Linear(6, 8, rng=0)(inputs)))
    graph = nn.Graph(inputs, nn.Linear(8, 4, rng=1)(nn.add(h, nn.Linear(6, 8, rng=2)(inputs))))
    monitor = Monitor()
    Trainer(graph).fit((x, y), 1, 25, callbacks=[monitor], rng=0)
    layers = monitor.records[0]["layers"]
    kinds = [told["class"] for told in layers.values()]
    assert sorted(kinds) == ["Add", "BatchNorm", "Linear", "Linear", "Linear", "ReLU"]
    assert len(monitor.records[0]["statistics"]) == 1
    last = list(layers.values())[-1]["percentiles"]
    found = np.percentile(graph.predict(x[:64]), [15, 50, 85])
    np.testing.assert_allclose(last, found, rtol=1e-4, atol=1e-5)


def test_looking_changes_nothing() -> None:
    watched, plain = net(), net()
    Trainer(watched).fit(data(), 3, 25, callbacks=[Monitor(every=2)], rng=0)
    Trainer(plain).fit(data(), 3, 25, rng=0)
    np.testing.assert_equal(watched.state_dict(), plain.state_dict())


def test_records_are_part_of_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    monitors = [Monitor(), Monitor()]
    first = Trainer(net())
    other = Trainer(copy.deepcopy(first.net))
    first.fit(data(), 2, 25, callbacks=[monitors[0], train.Checkpoint(path)], rng=0)
    other.resume(path).fit(data(), 3, 25, callbacks=[monitors[1]], rng=0)
    assert monitors[1].records[:2] == monitors[0].records
    assert len(monitors[1].records) == 3


def test_batches_have_no_samples_to_look_at() -> None:
    x, y = data()
    with pytest.raises(ValueError, match="fit got batches"):
        Trainer(net()).fit([(x, y)], 1, callbacks=[Monitor()])
