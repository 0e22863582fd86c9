"""What a step of `Trainer` costs over one of a bare loop, by processor time, in turns."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

import fastbn
from fastbn.bench.networks import CLASSES, NETWORKS
from fastbn.bench.timing import no_collection
from fastbn.data import Batches
from fastbn.nn import CrossEntropyLoss
from fastbn.train import Callback, Trainer

STEPS = 40


@dataclass
class Cost:
    """Processor time of a step in microseconds: medians, and the median of each round's ratio."""

    network: str
    threads: int
    bare_us: float
    trainer_us: float
    ratio: float


def cost(
    network: str,
    *,
    batch: int | None = None,
    threads: int = 1,
    rounds: int = 7,
    steps: int = STEPS,
) -> Cost:
    """Train one epoch of random images by a bare loop and by a Trainer, in every round.

    Both begin with the same weights, take the same batches and make the same steps. On several
    threads, processor time counts those that look for work as well.
    """
    recipe = NETWORKS[network]
    batch = recipe.batches[0] if batch is None else batch
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch * steps, *recipe.input_shape), np.float32)
    y = rng.integers(0, CLASSES, len(x))

    def bare() -> float:
        net, loss = recipe.make(), CrossEntropyLoss()
        optimizer = recipe.make_optimizer(net)
        begin = time.process_time()
        for images, labels in Batches(x, y, batch, rng=0):
            _, dlogits = loss(net(images), labels)
            net.backward(dlogits)
            optimizer.step()
        return time.process_time() - begin

    def trainer() -> float:
        net = recipe.make()
        clock = _Clock()
        training = Trainer(net, CrossEntropyLoss(), recipe.make_optimizer(net))
        training.fit((x, y), 1, batch, callbacks=[clock], rng=0, progress=False)
        return clock.seconds

    before = fastbn.get_num_threads()
    fastbn.set_num_threads(threads)
    taken: list[tuple[float, float]] = []
    try:
        with no_collection():
            for number in range(rounds):
                if number % 2:
                    second = trainer()
                    taken.append((bare(), second))
                else:
                    taken.append((bare(), trainer()))
    finally:
        fastbn.set_num_threads(before)
    loop, fit = (1e6 / steps * float(np.median(side)) for side in zip(*taken, strict=True))
    return Cost(network, threads, loop, fit, float(np.median([b / a for a, b in taken])))


def line(found: Cost) -> str:
    """Return one line about a network.

    Examples
    --------
    >>> line(Cost("mlp", 1, 280.0, 294.0, 1.05))
    'mlp, threads 1: a step takes 280 µs in a bare loop, 294 µs in a Trainer, 5.0 % more'
    """
    return (
        f"{found.network}, threads {found.threads}: a step takes {found.bare_us:.0f} µs in a bare "
        f"loop, {found.trainer_us:.0f} µs in a Trainer, {100.0 * (found.ratio - 1.0):.1f} % more"
    )


class _Clock(Callback):
    """Takes the time of an epoch, what comes before its first step included."""

    def __init__(self) -> None:
        self.seconds = self._begin = 0.0

    def on_fit_begin(self, trainer: Trainer) -> None:
        self._begin = time.process_time()

    def on_epoch_end(self, trainer: Trainer) -> None:
        self.seconds = time.process_time() - self._begin
