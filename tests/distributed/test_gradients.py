"""Buckets of gradients: sent in the order backward finishes them, while the rest of it runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastbn import nn
from fastbn.data import Batches
from fastbn.distributed import Gradients

Array = NDArray[Any]


class Sent:
    """A message that is done at once: the sum of two ranks that have the same gradients."""

    def __init__(self, buffer: Array) -> None:
        buffer *= 2.0
        self.waited = False

    def test(self) -> bool:
        return True

    def wait(self, timeout: float | None = None) -> None:
        self.waited = True


class Fake:
    """A communicator that keeps what was sent."""

    rank, size = 0, 2

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def start_allreduce(self, buffer: Array) -> Sent:
        self.events.append(f"send {buffer.size}")
        return Sent(buffer)


class Told(nn.Linear):
    """Says when its backward begins."""

    events: list[str]

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Any:
        self.events.append("backward")
        return super().backward(dy, saved, need_dx)


def network(events: list[str]) -> nn.Sequential:
    layers = [Told(8, 8, rng=n) for n in range(4)]
    for layer in layers:
        layer.events = events
    return nn.Sequential(*layers).astype(np.float64)


def step(net: nn.Sequential, gradients: Gradients | None) -> None:
    y = net(np.ones((4, 8)))
    if gradients is not None:
        gradients.begin()
    net.backward(np.ones_like(y))
    if gradients is not None:
        gradients.finish()


def test_buckets_go_out_while_backward_runs() -> None:
    events: list[str] = []
    net, alone = network(events), network([])
    step(alone, None)
    gradients = Gradients(net.parameters(), Fake(events), bucket_bytes=512)  # type: ignore[arg-type]
    step(net, gradients)  # finds the order
    for _ in range(3):
        events.clear()
        step(net, gradients)
        first = next(place for place, event in enumerate(events) if event.startswith("send"))
        assert "backward" in events[first:]
        for ours, theirs in zip(net.parameters(), alone.parameters(), strict=True):
            assert ours.grad is not None
            np.testing.assert_array_equal(ours.grad, 2.0 * theirs.grad)  # type: ignore[operator]
    sent = sum(int(event.split()[1]) for event in events if event.startswith("send"))
    assert sent >= sum(parameter.size for parameter in net.parameters())


def test_frozen_layers_are_not_sent() -> None:
    events: list[str] = []
    net = network(events)
    gradients = Gradients(net.parameters(), Fake(events))  # type: ignore[arg-type]
    net[0].requires_grad_(False)
    step(net, gradients)
    assert net[0].weight.grad is None  # type: ignore[attr-defined]
    assert [event for event in events if event.startswith("send")] == ["send 216"]  # 3 of 4
    net[0].requires_grad_(True)
    step(net, gradients)
    assert net[0].weight.grad is not None  # type: ignore[attr-defined]


def test_added_gradients_are_sent_once() -> None:
    events: list[str] = []
    net, alone = network(events), network([])
    step(alone, None)
    gradients = Gradients(net.parameters(), Fake(events))  # type: ignore[arg-type]
    for number in range(2):
        net.backward(np.ones_like(net(np.ones((4, 8)))), accumulate=number > 0)
    gradients.finish()
    for ours, theirs in zip(net.parameters(), alone.parameters(), strict=True):
        np.testing.assert_allclose(ours.grad, 4.0 * theirs.grad, rtol=1e-14)  # type: ignore


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shards_of_all_ranks_are_the_batches_of_one(size: int) -> None:
    x, y = np.arange(23.0)[:, None], np.arange(23)
    whole = [labels for _, labels in Batches(x, y, 5, rng=3).epoch(2, start=1)]
    shards = []
    for rank in range(size):
        batches = Batches(x, y, 5, rng=3)
        batches.shard = rank, size
        shards.append([labels for _, labels in batches.epoch(2, start=1)])
    for number, labels in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([own[number] for own in shards]), labels)
