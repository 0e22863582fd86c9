"""Lookahead and EMA against their formulas, their states, and the statistics beside weights."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest

from fastbn import nn, optim
from fastbn.optim import schedules

Array = np.ndarray[Any, Any]


def network(seed: int = 0) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, rng=seed), nn.BatchNorm(3), nn.Flatten(), nn.Linear(12, 2, rng=seed)
    )


def batch(step: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(step)
    x = rng.standard_normal((6, 4, 4, 2)).astype(np.float32)
    return x, rng.standard_normal((6, 2)).astype(np.float32)


def train(net: nn.Module, optimizer: Any, first: int, last: int, ema: Any = None) -> None:
    for step in range(first, last):
        x, target = batch(step)
        net.backward(net(x) - target)
        optimizer.step()
        if ema is not None:
            ema.update()


def values(net: nn.Module) -> dict[str, Array]:
    """Return all floating point state in float64."""
    return {
        name: array.astype(np.float64)
        for name, array in net.state_dict().items()
        if array.dtype.kind == "f"
    }


def assert_close(net: nn.Module, expected: dict[str, Array]) -> None:
    for name, array in values(net).items():
        np.testing.assert_allclose(array, expected[name], rtol=2e-6, atol=1e-7, err_msg=name)


def through_json(state: Any) -> Any:
    return json.loads(json.dumps(state, default=lambda array: array.tolist()))


def sgd(net: nn.Module) -> optim.SGD:
    return optim.SGD(net.parameters(), lr=0.02, momentum=0.9)


@pytest.mark.parametrize("with_statistics", [True, False])
@pytest.mark.parametrize("alpha", [0.5, lambda step: 1 - 0.8 * (step / 12) ** 3])
def test_lookahead_is_the_formula(alpha: Any, with_statistics: bool) -> None:
    net, other = network(), network()
    lookahead = optim.Lookahead(sgd(net), k=3, alpha=alpha, net=net if with_statistics else None)
    plain = sgd(other)
    slow = values(other)
    for step in range(12):
        train(net, lookahead, step, step + 1)
        train(other, plain, step, step + 1)
        if (step + 1) % 3 == 0:
            part = alpha if isinstance(alpha, float) else alpha(step + 1)
            for name, fast in values(other).items():
                if "running" in name and not with_statistics:
                    slow[name] = fast
                slow[name] = slow[name] + part * (fast - slow[name])
            tracked = other.state_dict()["1.num_batches_tracked"]
            kept = {name: array.astype(np.float32) for name, array in slow.items()}
            other.load_state_dict({**kept, "1.num_batches_tracked": tracked})
        assert_close(net, values(other))
    train(net, lookahead, 12, 14)
    lookahead.finish()
    assert_close(net, slow | ({} if with_statistics else running(net)))


def running(net: nn.Module) -> dict[str, Array]:
    return {name: array for name, array in values(net).items() if "running" in name}


def test_lookahead_is_an_optimizer() -> None:
    net = network()
    lookahead = optim.Lookahead(optim.AdamW(optim.no_decay(net, 0.1), lr=0.01))
    lookahead.lr = 0.005
    assert [group["lr"] for group in lookahead.param_groups] == [0.005, 0.005]
    with pytest.raises(ValueError, match=r"Invalid learning rate: -1\.0"):
        lookahead.lr = -1.0
    train(net, lookahead, 0, 3)
    assert lookahead.steps == 3


@pytest.mark.parametrize("decay", [0.9, schedules.polynomial(0.0, 5, end=0.9)])
def test_ema_is_the_formula(decay: Any) -> None:
    net = network()
    optimizer, ema = sgd(net), optim.EMA(net, decay)
    average = values(net)
    for step in range(8):
        train(net, optimizer, step, step + 1, ema)
        d = decay if isinstance(decay, float) else decay(step)
        average = {name: d * average[name] + (1 - d) * a for name, a in values(net).items()}
    trained = net.state_dict()
    with ema.applied() as same:
        assert same is net
        assert_close(net, average)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, trained[name])
    ema.apply()
    assert_close(net, average)


def test_statistics_are_taken_anew_for_the_averages() -> None:
    net = network()
    optimizer, ema = sgd(net), optim.EMA(net, decay=0.5)
    train(net, optimizer, 0, 5, ema)
    batches = [batch(step)[0] for step in range(3)]
    trained, averages = net.state_dict(), ema.state_dict()
    with ema.applied(batches):
        inside = net.state_dict()
    for name, array in net.state_dict().items():  # the count of batches, too
        np.testing.assert_array_equal(array, trained[name])
    assert through_json(ema.state_dict()) == through_json(averages)
    ema.apply(batches)
    expected = network()
    expected.load_state_dict({**net.state_dict(), "1.running_mean": np.zeros(3)})
    nn.population_statistics(expected, batches)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, expected.state_dict()[name])
        np.testing.assert_array_equal(array, inside[name])
    assert np.abs(net[1].running_mean - averages["average"]["1.running_mean"]).max() > 1e-3


def test_weights_come_back_after_an_error() -> None:
    net = network()
    ema = optim.EMA(net)
    train(net, sgd(net), 0, 2, ema)
    trained = net.state_dict()
    with pytest.raises(KeyError), ema.applied():
        raise KeyError
    with pytest.raises(ValueError, match="no batches"), ema.applied([]):
        pass
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, trained[name])


@pytest.mark.parametrize("carry", [lambda state: state, through_json], ids=["kept", "json"])
def test_states_go_on_bit_by_bit(carry: Any) -> None:
    def make(net: nn.Module) -> tuple[optim.Lookahead, optim.EMA]:
        alpha = schedules.polynomial(1.0, 12, end=0.2)
        return optim.Lookahead(sgd(net), k=2, alpha=alpha, net=net), optim.EMA(net, 0.9)

    net = network()
    lookahead, ema = make(net)
    train(net, lookahead, 0, 5, ema)
    other = network(seed=1)
    lookahead2, ema2 = optim.Lookahead(sgd(other), net=other), optim.EMA(other)
    other.load_state_dict(net.state_dict())
    lookahead2.load_state_dict(carry(lookahead.state_dict()))
    ema2.load_state_dict(carry(ema.state_dict()))
    assert repr(lookahead2) == repr(lookahead)
    assert (repr(ema2), ema2.updates) == (repr(ema), 5)
    for one, optimizer, average in ((net, lookahead, ema), (other, lookahead2, ema2)):
        train(one, optimizer, 5, 9, average)
        average.apply()
        optimizer.finish()
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, other.state_dict()[name], err_msg=name)


@pytest.mark.parametrize("double", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_train_on_by_themselves(double: Any) -> None:
    net = network()
    lookahead, ema = optim.Lookahead(sgd(net), k=2, net=net), optim.EMA(net, 0.5)
    train(net, lookahead, 0, 3, ema)
    other, lookahead2, ema2 = double((net, lookahead, ema))
    assert ema2.net is other
    assert lookahead2.net is other
    for one, optimizer, average in ((net, lookahead, ema), (other, lookahead2, ema2)):
        train(one, optimizer, 3, 8, average)
        average.apply()
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, other.state_dict()[name], err_msg=name)


def test_they_follow_a_network_into_another_dtype() -> None:
    net = network()
    lookahead, ema = optim.Lookahead(sgd(net), k=1, net=net), optim.EMA(net, 0.5)
    train(net, lookahead, 0, 1, ema)
    net.astype(np.float64)
    before = ema.copies["3.weight"].astype(np.float64)
    x, target = batch(1)
    net.backward(net(x.astype(np.float64)) - target)
    lookahead.step()
    ema.update()
    assert ema.copies["3.weight"].dtype == np.float64
    expected = (before + net[3].weight.data) / 2
    np.testing.assert_allclose(ema.copies["3.weight"], expected, rtol=1e-14)


def test_any_number_of_threads_gives_the_same_bits(set_threads: Any) -> None:
    found = set()
    for threads in (1, 2, 3, 4):
        set_threads(threads)
        weight = nn.Linear(300, 301, rng=0)
        ema = optim.EMA(weight, 0.7)
        weight.weight.data = np.random.default_rng(1).standard_normal((301, 300))
        ema.update()
        found.add(ema.copies["weight"].tobytes())
    assert len(found) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net: optim.EMA(net, 1.5), "Invalid decay: 1.5"),
        (lambda net: optim.EMA(net, -0.1), "Invalid decay: -0.1"),
        (lambda net: optim.EMA(net, lambda step: 2.0).update(), "Invalid decay: 2.0"),
        (lambda net: optim.Lookahead(sgd(net), alpha=1.5), "Invalid alpha: 1.5"),
        (lambda net: optim.Lookahead(sgd(net), k=0), "k should be a positive integer"),
        (lambda net: optim.EMA(net).load_state_dict({}), "EMA has no decay, updates, average"),
        (lambda net: optim.Lookahead(sgd(net)).load_state_dict({}), "Lookahead has no optimizer"),
        (
            lambda net: optim.EMA(net).load_state_dict(optim.EMA(net[0]).state_dict()),
            r"average of 0.weight has shape None, expected \(3, 2, 3, 3\)",
        ),
        (
            lambda net: optim.EMA(net[0]).load_state_dict(optim.EMA(net).state_dict()),
            r"average of weight has shape None, expected \(3, 2, 3, 3\)",
        ),
    ],
)
def test_arguments_are_checked(make: Any, message: str) -> None:
    net = network()
    with pytest.raises(ValueError, match=message):
        make(net)
