"""What experiments train with: the Trainer for a number of steps, and looks in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import data as datasets
from fastbn.data import Batches, Dataset
from fastbn.train import Callback, NotFiniteError, Trainer

Array = NDArray[Any]


@lru_cache(maxsize=4)
def load(name: str, train: int | None = None, test: int | None = None, seed: int = 0) -> Dataset:
    """Return a data set, or random samples of it: so many for training, so many for the test."""
    whole = datasets.load(name)
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(whole.y_train))[:train]
    test_rows = rng.permutation(len(whole.y_test))[:test]
    return replace(
        whole,
        x_train=np.ascontiguousarray(np.asarray(whole.x_train)[rows]),
        y_train=whole.y_train[rows],
        x_test=np.ascontiguousarray(np.asarray(whole.x_test)[test_rows]),
        y_test=whole.y_test[test_rows],
    )


class Watch(Callback):
    """Look at the trainer before the first step, and after certain steps.

    Parameters
    ----------
    steps : iterable of int
        When; 0 is before the first.
    look : callable
        ``look(trainer)`` returns what is kept.

    Attributes
    ----------
    steps : list of int
    values : list
        What was kept at each; None where training did not come so far.
    """

    def __init__(self, steps: Iterable[int], look: Callable[[Trainer], Any]) -> None:
        self.steps = sorted(set(steps))
        self.values: list[Any] = [None] * len(self.steps)
        self._look = look
        self._next = 0

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Look, if wanted."""
        self.on_step(trainer)

    def on_step(self, trainer: Trainer) -> None:
        """Look, if it is time."""
        if self._next < len(self.steps) and trainer.steps == self.steps[self._next]:
            self.values[self._next] = self._look(trainer)
            self._next += 1


def accuracy_on(data: Dataset) -> Callable[[Trainer], float | None]:
    """Return a look at the accuracy on the test set."""
    return lambda trainer: trainer.evaluate(data).accuracy


def last_loss(trainer: Trainer) -> float:
    """Look at the loss of the step."""
    return trainer.last_loss


def fit(
    trainer: Trainer,
    data: Any,
    steps: int,
    batch_size: int,
    seed: int,
    callbacks: Sequence[Any] = (),
    **options: Any,
) -> int | None:
    """Train for a number of steps of whole batches.

    Parameters
    ----------
    trainer : Trainer
    data : Dataset, (x, y) or Batches
    steps, batch_size : int
    seed : int
        Of the order.
    callbacks : sequence of Callback
        `Watch`, mostly.
    **options
        Of `Trainer.fit`.

    Returns
    -------
    int or None
        The step at which loss or gradients were not finite: there it ended.
    """
    if isinstance(data, Batches):
        an_epoch = len(data)
    else:
        samples = len(data.y_train if isinstance(data, Dataset) else data[1])
        an_epoch = samples // batch_size
    epochs = -(-steps // max(an_epoch, 1))
    try:
        trainer.fit(
            data,
            epochs,
            batch_size,
            rng=seed,
            drop_last=True,
            callbacks=[*callbacks, Stop(trainer.steps + steps)],
            progress=False,
            **options,
        )
    except NotFiniteError as error:
        return error.step
    return None


class Stop(Callback):
    """Stop after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, trainer: Trainer) -> None:
        """Stop, if it is time."""
        if trainer.steps >= self.step:
            trainer.should_stop = True
