"""Memory stays flat over many training steps, and over many short threads.

A few by default; ``FASTBN_FUZZ_SOAK=10000`` trains so many steps, and starts a
tenth as many threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import numpy as np
import psutil

from fastbn import functional as F
from fastbn import models, nn, optim

STEPS = int(os.environ.get("FASTBN_FUZZ_SOAK", "400"))
# What an allocator may keep of a run of any length; a leak of 1 KB a step is more in the long form.
SLACK = 8 << 20


def growth(turn: Callable[[], object], turns: int) -> int:
    """Bytes that the process holds more after the turns than after the first tenth of them."""
    process = psutil.Process()
    for _ in range(turns // 10):
        turn()
    before = process.memory_info().rss
    for _ in range(turns - turns // 10):
        turn()
    return int(process.memory_info().rss - before)


def test_training_steps(rng: np.random.Generator) -> None:
    x = rng.standard_normal((16, 8, 8, 1)).astype(np.float32)
    labels = rng.integers(10, size=16)
    net = models.convnet(input_shape=(8, 8, 1), channels=(8, 8), hidden=16, rng=rng)
    loss, adam = nn.CrossEntropyLoss(), optim.Adam(net.parameters(), lr=1e-3)

    def step() -> None:
        _, dlogits = loss(net(x), labels)
        net.backward(dlogits)
        adam.step()

    assert growth(step, STEPS) < SLACK


def test_short_threads(rng: np.random.Generator) -> None:
    x = rng.standard_normal((4, 16, 16, 32)).astype(np.float32)
    weight = rng.standard_normal((32, 32, 3, 3)).astype(np.float32)

    def thread() -> None:
        short = threading.Thread(target=F.conv2d, args=(x, weight), kwargs={"padding": 1})
        short.start()
        short.join()

    assert growth(thread, max(STEPS // 10, 20)) < SLACK
