"""Trainer: the loop around forward, loss, backward and step."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastbn.data import Batches, Dataset
from fastbn.nn import CrossEntropyLoss, Module
from fastbn.optim import Adam
from fastbn.train.history import Epoch, History
from fastbn.train.progress import Bar, display

Array = NDArray[Any]
Samples = tuple[Array, Array]

ROWS = 256  # at a time where nothing is trained: enough for all threads, few for the caches


class Loss(Protocol):
    """What Trainer takes as a loss; one with classes has ``correct(pred, target)``, too."""

    def __call__(self, pred: Array, target: Array) -> tuple[float, Array]:
        """Return the loss, a mean over the rows, and its gradient by pred."""

    def value(self, pred: Array, target: Array) -> float:
        """Return the loss alone."""


class Stepper(Protocol):
    """What Trainer takes as an optimizer."""

    def step(self) -> None:
        """Move the parameters by their gradients."""


class Evaluation(NamedTuple):
    """Mean loss over a set of samples, and the share of them whose class was found."""

    loss: float
    accuracy: float | None


class Trainer:
    """Train a network, evaluate it, predict with it.

    Parameters
    ----------
    net : Module
        The network.
    loss : callable, default CrossEntropyLoss()
        Returns the loss and its gradient.
    optimizer : Optimizer, default Adam(net.parameters())
        Has a ``step()``.

    Attributes
    ----------
    history : History
        All epochs of all calls of `fit`.

    Examples
    --------
    >>> from fastbn import data, models
    >>> digits = data.load("digits")
    >>> trainer = Trainer(models.mlp(digits.input_shape, rng=0))
    >>> history = trainer.fit(digits, epochs=3, batch_size=32, validation=digits, rng=0)
    >>> len(history.loss), history.val_accuracy[-1] > 0.9
    (3, True)
    >>> trainer.predict(digits.x_test[:5]).shape
    (5, 10)
    """

    def __init__(
        self, net: Module, loss: Loss | None = None, optimizer: Stepper | None = None
    ) -> None:
        self.net = net
        self.loss: Loss = CrossEntropyLoss() if loss is None else loss
        self.optimizer: Stepper = Adam(net.parameters()) if optimizer is None else optimizer
        self.history = History()

    def fit(
        self,
        data: Dataset | Samples,
        epochs: int = 1,
        batch_size: int = 32,
        validation: Dataset | Samples | None = None,
        *,
        rng: np.random.Generator | int | None = None,
        drop_last: bool = False,
        progress: bool | None = None,
    ) -> History:
        """Train for some epochs; call it again to go on.

        A network in inference mode is put into training mode; in one that is in training mode,
        layers that were put into inference mode by themselves stay there. When interrupted, it
        keeps the weights of the last whole step.

        Parameters
        ----------
        data : Dataset or (x, y)
            Training samples; of a Dataset the training set.
        epochs : int
            Times to go through them.
        batch_size : int
            Samples in a step. What is left at the end of an epoch makes a smaller step; a single
            sample that is left stays out, for it has no batch statistics.
        validation : Dataset or (x, y), optional
            What to evaluate behind every epoch; of a Dataset the test set.
        rng : numpy.random.Generator or int, optional
            Source of the order, a new one for every epoch.
        drop_last : bool, default False
            Leave out the smaller step, too.
        progress : bool, optional
            Whether to show a progress bar; by default if standard error is a terminal.

        Returns
        -------
        History
            Of this and all earlier calls.

        Raises
        ------
        ValueError
            If an argument is out of range, samples and labels differ in number, or there is not
            one step to do.
        """
        x, y = (data.x_train, data.y_train) if isinstance(data, Dataset) else data
        if epochs < 0:
            raise ValueError(f"epochs should not be negative, but got {epochs}")
        batches = Batches(x, y, batch_size, rng=rng, drop_last=drop_last)
        single = batch_size > 1 and not drop_last and len(x) % batch_size == 1
        steps = len(batches) - single
        if steps < 1:
            raise ValueError(
                f"there is nothing to train on: {len(x)} samples in batches of {batch_size}"
            )

        self.net.discard()  # of a call to have a look, say: no backward will come
        if not self.net.training:
            self.net.train()
        with display(progress) as shown:
            for _ in range(epochs):
                number = len(self.history.epochs) + 1
                bar = None if shown is None else shown.bar(f"epoch {number}", steps)
                epoch = self._epoch(batches, steps, number, bar)
                if validation is not None:
                    loss, accuracy = self.evaluate(validation)
                    epoch = replace(epoch, val_loss=loss, val_accuracy=accuracy)
                if bar is not None:
                    bar.finish(epoch)
                self.history.epochs.append(epoch)
        return self.history

    def _epoch(self, batches: Batches, steps: int, number: int, bar: Bar | None) -> Epoch:
        """Do the steps of one epoch."""
        net, loss, optimizer = self.net, self.loss, self.optimizer
        count_correct = getattr(loss, "correct", None)
        seen, correct, total = 0, 0, 0.0
        accuracy = None
        begin = time.perf_counter()
        try:
            for step, (x, y) in enumerate(islice(batches, steps), start=1):
                pred = net(x)
                value, dpred = loss(pred, y)
                net.backward(dpred)
                optimizer.step()
                seen += len(x)
                total += value * len(x)
                if count_correct is not None:
                    correct += count_correct(pred, y)
                    accuracy = correct / seen
                if bar is not None:
                    bar.update(step, total / seen, accuracy, seen / (time.perf_counter() - begin))
        except BaseException:
            net.discard()  # what is pending would stand in the way of the next forward
            raise
        seconds = time.perf_counter() - begin
        return Epoch(
            number, steps, total / seen, accuracy, None, None, seconds, seen / max(seconds, 1e-9)
        )

    def evaluate(self, data: Dataset | Samples, batch_size: int = ROWS) -> Evaluation:
        """Return mean loss and accuracy in inference mode; the network stays as it is.

        Parameters
        ----------
        data : Dataset or (x, y)
            Samples; of a Dataset the test set.
        batch_size : int
            Samples to go through the network at a time.

        Returns
        -------
        Evaluation
            ``(loss, accuracy)``; `accuracy` is None where the loss knows no classes.

        Raises
        ------
        ValueError
            If there are no samples, or not as many labels.
        """
        x, y = (data.x_test, data.y_test) if isinstance(data, Dataset) else data
        if not len(x):
            raise ValueError("there is nothing to evaluate: 0 samples")
        count_correct = getattr(self.loss, "correct", None)
        correct, total = 0, 0.0
        with self.net.evaluating() as net:
            for rows, labels in Batches(x, y, batch_size, shuffle=False):
                pred = net(rows)
                total += self.loss.value(pred, labels) * len(rows)
                if count_correct is not None:
                    correct += count_correct(pred, labels)
        return Evaluation(total / len(x), None if count_correct is None else correct / len(x))

    def predict(self, x: Array, batch_size: int = ROWS) -> Array:
        """Return the outputs for any number of rows; see `fastbn.nn.Module.predict`."""
        predicted: Array = self.net.predict(x, batch_size)
        return predicted
