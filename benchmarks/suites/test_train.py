"""A training step of every quick network that ``fastbn bench train`` measures."""

from __future__ import annotations

from typing import Any

import pytest

from fastbn.bench.networks import NETWORKS, QUICK
from fastbn.nn import CrossEntropyLoss

STEPS = [(name, batch) for name in QUICK for batch in NETWORKS[name].batches]


@pytest.mark.parametrize(("name", "batch"), STEPS)
def test_step(benchmark: Any, name: str, batch: int, threads: int) -> None:
    network = NETWORKS[name]
    net, loss = network.make(), CrossEntropyLoss()
    optimizer = network.make_optimizer(net)
    x, labels = network.data(batch)[0]

    def step() -> None:
        _, dlogits = loss(net(x), labels)
        net.backward(dlogits)
        optimizer.step()

    benchmark.group = f"{name}, batch {batch}, threads {threads}"
    benchmark.extra_info["threads"] = threads
    benchmark(step)
