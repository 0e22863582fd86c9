"""The library's own training steps, in a process of their own like those of the peers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import fastbn
from fastbn.bench.load import undisturbed
from fastbn.bench.networks import NETWORKS
from fastbn.bench.peers.suite import Training
from fastbn.bench.profile import Profile
from fastbn.bench.timing import Call
from fastbn.kernels import yardsticks
from fastbn.nn import CrossEntropyLoss


class Suite(Training):
    """fastbn with so many threads."""

    def __init__(self, threads: int) -> None:
        fastbn.set_num_threads(threads)
        super().__init__()

    def prepare(
        self, network: str, batch: int, variant: str
    ) -> tuple[Call, Callable[[int], float]]:
        """See `Training.prepare`; there is one variant."""
        recipe = NETWORKS[network]
        data = recipe.data(batch)
        net = recipe.make()
        loss = CrossEntropyLoss()
        initial = net.state_dict()
        optimizer = recipe.make_optimizer(net)

        def reset() -> None:
            nonlocal optimizer
            net.discard()
            net.load_state_dict(initial)
            optimizer = recipe.make_optimizer(net)

        def step(i: int) -> float:
            x, labels = data[i % len(data)]
            value, dlogits = loss(net(x), labels)
            net.backward(dlogits)
            optimizer.step()
            return value

        return reset, step

    def profile(self, steps: int) -> dict[str, Any]:
        """Time every operation of some steps; count the arithmetic of one."""
        assert self._step is not None
        assert self._reset is not None
        self._reset()
        self._step(0)
        with Profile() as profile:
            for i in range(steps):
                self._step(i)
        return {"operations": profile.operations(steps), "flops": profile.flops / steps}

    def limit(self) -> dict[str, Any]:
        """Return the multiply-adds that all threads can do, as GFLOP/s: the best of some."""
        rounds = 1_000_000
        done = yardsticks.multiply_adds(1)

        def once() -> float:
            start = time.perf_counter()
            yardsticks.multiply_adds(rounds)
            return time.perf_counter() - start

        best = min(undisturbed(once, float) for _ in range(5))
        return {"gflops": 2e-9 * done * rounds / best}
