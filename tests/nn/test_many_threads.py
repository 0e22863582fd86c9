"""Python threads: predictions at once and beside training; two that train are told so."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastbn import models, nn
from fastbn.nn.buffers import Pool
from fastbn.train import Trainer


def all_at_once(*works: Callable[[], None]) -> list[BaseException]:
    """Run each in a thread of its own; return what they raise."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(works))

    def run(work: Callable[[], None]) -> None:
        start.wait()
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def network() -> nn.Sequential:
    net = models.resnet20((8, 8, 3), 4, channels=(4, 8), blocks=1, rng=0)
    net.append(nn.Dropout(0.5, rng=1))
    rng = np.random.default_rng(2)
    for _ in range(3):
        net(rng.standard_normal((16, 8, 8, 3)).astype(np.float32))
        net.discard()
    return net


def test_predictions_at_once_are_right_and_change_nothing() -> None:
    net = network()
    rng = np.random.default_rng(0)
    # the sizes of images differ, too: nothing that a layer remembers of a call is another one's
    inputs = [rng.standard_normal((7 + i, 8 + i, 8, 3)).astype(np.float32) for i in range(3)]
    y = net(inputs[0])  # a backward is pending all the time
    before = net.state_dict()

    def predict(x: Any) -> Callable[[], None]:
        expected = net.predict(x, batch_size=4)

        def many() -> None:
            for _ in range(60):
                np.testing.assert_array_equal(net.predict(x, batch_size=4), expected)
                assert net.training

        return many

    assert all_at_once(*map(predict, inputs)) == []
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    net.backward(np.ones_like(y))


def test_predicting_beside_fit_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 6)).astype(np.float32)
    labels = rng.integers(0, 3, 300)
    states = []
    for beside in (False, True):
        net = models.mlp((6,), 3, hidden=(16, 8), rng=0)
        trainer = Trainer(net)
        done = threading.Event()

        def fit(trainer: Trainer = trainer, done: threading.Event = done) -> None:
            trainer.fit((x, labels), 20, 32, (x, labels), rng=0)
            done.set()

        def predict(net: nn.Module = net, done: threading.Event = done) -> None:
            while not done.is_set():
                assert np.isfinite(net.predict(x)).all()

        assert all_at_once(fit, *([predict, predict] if beside else [])) == []
        states.append(net.state_dict())
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name], err_msg=name)


def test_evaluating_is_the_business_of_one_thread() -> None:
    net, teacher = models.mlp((6,), 3, rng=0), models.mlp((6,), 3, rng=1)
    x = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    expected = net.predict(x)
    modes: list[bool] = []

    def look() -> None:
        modes.append(net.training)
        net.backward(net(x))

    with net.evaluating():
        assert not net.training
        np.testing.assert_array_equal(net(x), expected)
        assert all_at_once(look) == []
        assert teacher.training
        teacher.backward(teacher(x))  # another network is not concerned
        with teacher.evaluating():
            assert not net.training
            teacher(x)
    assert modes == [True]
    assert net.training
    assert net[2].running_mean.any()  # type: ignore[attr-defined]


def test_two_threads_that_train_are_told_so() -> None:
    net = network()
    x = np.ones((4, 8, 8, 3), dtype=np.float32)
    y = net(x)
    errors = all_at_once(lambda: net(x))
    assert len(errors) == 1
    assert isinstance(errors[0], RuntimeError)
    assert "another thread is training this network" in str(errors[0])
    net.backward(np.ones_like(y))

    inside, go_on = threading.Event(), threading.Event()

    class Waits(nn.ReLU):
        def forward(self, x: Any) -> Any:
            inside.set()
            assert go_on.wait(60)
            return super().forward(x)

    slow = nn.Sequential(nn.Linear(3, 3), Waits())
    small = np.ones((2, 3), dtype=np.float32)
    first = threading.Thread(target=lambda: slow(small))
    first.start()
    assert inside.wait(60)
    with pytest.raises(RuntimeError, match="only one thread trains a network at a time"):
        slow(small)
    go_on.set()
    first.join()
    slow.backward(small)  # the first one's; nothing was lost


def test_memory_of_threads_goes_with_them() -> None:
    net = models.mlp((6,), 3, rng=0)
    x = np.ones((8, 6), dtype=np.float32)

    def pools() -> int:
        return sum(type(each) is Pool for each in gc.get_objects())

    before = pools()
    for _ in range(20):
        assert all_at_once(lambda: net.predict(x)) == []
    gc.collect()
    assert pools() <= before
