"""Trainer: the loop around forward, loss, backward and step, and what belongs to it."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fastbn.data import Rows, as_batches, as_samples
from fastbn.data.batches import Augment, Rng, seed_of
from fastbn.distributed import Communicator
from fastbn.distributed.communicator import broadcast_bytes
from fastbn.files import require_file
from fastbn.nn import CrossEntropyLoss, Module
from fastbn.optim import Adam
from fastbn.train import checkpoint, inputs, probe
from fastbn.train.evaluation import Evaluation, Metric, evaluate_batches, metric_name
from fastbn.train.fit import Fit
from fastbn.train.guard import NaNGuard
from fastbn.train.history import History
from fastbn.train.position import Position
from fastbn.train.progress import bars
from fastbn.train.ranks import CHECK_EVERY, Ranks, RankTimes

Array = NDArray[Any]

ROWS = 256  # at a time where nothing is trained: enough for all threads, few for the caches


class Loss(Protocol):
    """What Trainer takes as a loss: a function of predictions and targets.

    It may have ``value(pred, target)``, the loss without a gradient, and, where there are classes,
    ``correct(pred, target)``, the number of rows whose class was found.
    """

    def __call__(self, pred: Array, target: Array) -> tuple[float, Array]:
        """Return the loss, a mean over the rows, and its gradient with respect to pred."""


class Stepper(Protocol):
    """What Trainer takes as an optimizer."""

    def step(self) -> None:
        """Move the parameters by their gradients."""


class Trainer:
    """Train a network, evaluate it, predict with it.

    Parameters
    ----------
    net : Module
        The network.
    loss : callable, default CrossEntropyLoss()
        ``loss(pred, target)`` returns the loss and its gradient; a plain function will do.
    optimizer : Optimizer, default Adam(net.parameters())
        Has a ``step()``. Learning rates and their schedules are its own.
    metrics : sequence of callable
        ``metric(pred, target)`` returns a number of the whole validation set; see
        `fastbn.train.metrics`. The history has them under their function's name.
    communicator : Communicator, optional
        The other processes that train the same network; see `fastbn.distributed`. All call the
        same methods with the same arguments, and with the same data: each takes its part of every
        batch and of what is evaluated. Rank 0 writes the files and shows the progress.
    bn : {"sync", "local", "ghost"}
        With several processes, whose rows a BatchNorm normalises by. "sync": those of all ranks,
        so that results do not depend on their number; "ghost": a rank's own, while running
        statistics follow those of all; "local": a rank's own, running statistics are merged after
        every epoch.
    check_every : int, default 100
        With several processes, steps from one comparison of their weights to the next.

    Attributes
    ----------
    history : History
        All epochs of all calls of `fit`.
    steps : int
        Updates of the weights so far.
    last_loss : float
        Loss of the latest step.
    should_stop : bool
        Set it in a callback, or from a signal handler: training stops after the current step.
    plan : fastbn.train.fit.Fit or None
        The fit that is running or was last.

    Examples
    --------
    >>> from fastbn import data, models
    >>> digits = data.load("digits")
    >>> trainer = Trainer(models.mlp(digits.input_shape, rng=0))
    >>> history = trainer.fit(digits, epochs=3, batch_size=32, validation=0.1, rng=0)
    >>> len(history.loss), history.val_accuracy[-1] > 0.9
    (3, True)
    >>> trainer.predict(digits.x_test[:5]).shape
    (5, 10)
    >>> trainer.evaluate(digits).accuracy > 0.9
    True
    """

    def __init__(
        self,
        net: Module,
        loss: Loss | None = None,
        optimizer: Stepper | None = None,
        metrics: Sequence[Metric] = (),
        *,
        communicator: Communicator | None = None,
        bn: str = "sync",
        check_every: int = CHECK_EVERY,
    ) -> None:
        self.net = net
        self.loss: Loss = CrossEntropyLoss() if loss is None else loss
        self.optimizer: Any = Adam(net.parameters()) if optimizer is None else optimizer
        inputs.require_object("loss", self.loss, "__call__")
        inputs.require_object("optimizer", self.optimizer, "step")
        self.metrics = inputs.listed("metrics", metrics, "__call__")
        names = [metric_name(metric) for metric in self.metrics]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two metrics are called {name}")
        self.history = History()
        self.steps = 0
        self.last_loss = float("nan")
        self.should_stop = False
        self.plan: Fit | None = None
        self.ranks = None if communicator is None else Ranks(communicator, bn, check_every)
        self._resumed: checkpoint.Interrupted | None = None

    def fit(
        self,
        data: Any,
        epochs: int = 1,
        batch_size: int = 32,
        validation: Any = None,
        *,
        callbacks: Iterable[Any] = (),
        rng: Rng = None,
        drop_last: bool = False,
        augment: Augment | None = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
        class_weight: inputs.ClassWeight = None,
        max_seconds: float | None = None,
        progress: bool | None = None,
    ) -> History:
        """Train for some epochs; call it again to continue.

        Data, labels and arguments are checked as a whole before the first step. A network in
        inference mode is put into training mode; in one that is in training mode, layers that were
        put into inference mode by themselves stay there. When interrupted, it keeps the weights of
        the last whole step.

        After `resume`, pass the arguments of the interrupted fit again; it continues. `epochs`
        counts from where that fit began.

        Parameters
        ----------
        data : Dataset, (x, y), (x, y, sample_weight), or batches
            Training samples; of a Dataset the training part. See `fastbn.data.as_batches`.
        epochs : int
            Times to go through them.
        batch_size : int
            Samples in a batch. What is left at the end of an epoch makes a smaller one; a single
            sample that is left stays out, for it has no batch statistics.
        validation : float, (x, y), or Dataset, optional
            What to evaluate after every epoch: a share of the training samples that is held out
            by the seed, the same of every class; other samples; of a Dataset the validation part.
        callbacks : iterable of Callback
            Called between the steps; see `fastbn.train.Callback`. A `NaNGuard` is added unless
            there is one.
        rng : numpy.random.Generator or int, optional
            Seed of order and augmentation, or a generator that gives one.
        drop_last : bool, default False
            Leave out the smaller batch, too.
        augment : callable, optional
            ``augment(images, rng)`` returns changed training images; see `fastbn.data.augment`.
        accumulate : int, default 1
            Batches whose gradients make one step, that of their mean over all rows.
        clip_norm : float, optional
            Largest norm of the gradients of a step, taken together.
        class_weight : dict, sequence or "balanced", optional
            Weights of the classes in the loss.
        max_seconds : float, optional
            Stop after the step in which this time runs out; the epoch that was running
            counts as one.
        progress : bool, optional
            Whether to show a progress bar; by default if standard error is a terminal.

        Returns
        -------
        History
            Of this and all earlier calls.

        Raises
        ------
        ValueError, TypeError
            If an argument is out of range, samples and labels do not fit network and loss, or there
            is not one step to do. Nothing has been changed then.
        fastbn.train.NotFiniteError
            If a loss or a gradient is not finite; see `fastbn.train.NaNGuard`.
        """
        epochs, batch_size, accumulate = (
            inputs.whole(name, number)
            for name, number in (
                ("epochs", epochs),
                ("batch_size", batch_size),
                ("accumulate", accumulate),
            )
        )
        callbacks = list(inputs.listed("callbacks", callbacks))
        if epochs < 0:
            raise ValueError(f"epochs should not be negative, but got {epochs}")
        if accumulate < 1:
            raise ValueError(f"accumulate should be a positive integer, but got {accumulate}")
        if clip_norm is not None and not clip_norm > 0.0:
            raise ValueError(f"clip_norm should be above 0, but got {clip_norm}")
        if max_seconds is not None and not max_seconds > 0.0:
            raise ValueError(f"max_seconds should be above 0, but got {max_seconds}")
        interrupted = self._resumed
        seed = seed_of(rng) if interrupted is None else interrupted.position.seed
        ranks = self.ranks
        if ranks is not None:
            seed = ranks.same_seed(seed)
        given = inputs.checked(
            self.net,
            self.loss,
            data,
            validation,
            batch_size=batch_size,
            seed=seed,
            drop_last=drop_last,
            augment=augment,
            class_weight=class_weight,
        )
        if ranks is not None:
            given = ranks.cut(given, batch_size)
        position = Position(seed, epochs, batch_size, accumulate, given.samples)
        if interrupted is not None:
            position = interrupted.position.asked_for(position)
            if position.whole:
                warnings.warn(
                    f"the run that was resumed has its {position.epoch} epochs: ask for more "
                    "than that to go on",
                    stacklevel=2,
                )
        if not any(isinstance(callback, NaNGuard) for callback in callbacks):
            callbacks.insert(0, NaNGuard())
        if ranks is not None:
            callbacks.append(RankTimes())
            progress = progress if self.is_first else False
        before = self.plan
        with bars(progress) as shown:
            self.plan = plan = Fit(
                self,
                given,
                position,
                [*callbacks, *shown],
                clip_norm=clip_norm,
                max_seconds=max_seconds,
            )
            try:
                plan.run([] if interrupted is None else interrupted.callbacks)
            finally:
                if not plan.begun:  # a callback has refused it
                    self.plan = before
        return self.history

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "plan": None, "ranks": None}  # they hold data, callbacks, others

    @property
    def is_first(self) -> bool:
        """Whether this process writes files: rank 0, or the only one."""
        return self.ranks is None or self.ranks.rank == 0

    # --- without training -------------------------------------------------------------------

    def evaluate(self, data: Any, batch_size: int = ROWS) -> Evaluation:
        """Return mean loss and accuracy in inference mode; the network stays as it is.

        Parameters
        ----------
        data : Dataset, (x, y), or batches
            Samples; of a Dataset the test part.
        batch_size : int
            Samples to go through the network at a time.

        Returns
        -------
        Evaluation
            ``(loss, accuracy)``, with the trainer's `metrics` beside; `accuracy` is None where the
            loss knows no classes.

        Raises
        ------
        ValueError
            If there are no samples, or not as many labels.
        """
        expected = inputs.expected_by(self.net, self.loss, inputs.samples_of(data, "test"))
        batches = as_batches(data, batch_size, expected, part="test", shuffle=False)
        return self.evaluate_batches(batches)

    def evaluate_batches(self, batches: inputs.Source) -> Evaluation:
        """Return what `evaluate` does, for batches that have been checked."""
        communicator = None if self.ranks is None else self.ranks.communicator
        return evaluate_batches(self.net, self.loss, self.metrics, batches, communicator)

    def predict(self, x: Any, batch_size: int = ROWS) -> Any:
        """Return the outputs for any number of rows; see `fastbn.nn.Module.predict`.

        Parameters
        ----------
        x : array_like
            Whatever `fit` takes as samples; a tuple of arrays where there are several inputs.
        batch_size : int
            Samples to go through the network at a time.
        """
        if type(x) is not tuple and not isinstance(x, Rows):
            x = as_samples(x, inputs.expected_by(self.net, self.loss))
        if isinstance(x, Rows):  # converted batch by batch
            steps = range(0, max(len(x), 1), inputs.whole("batch_size", batch_size))
            found = [self.net.predict(x[i : i + batch_size]) for i in steps]
            if isinstance(found[0], tuple):  # several outputs
                return tuple(map(np.concatenate, zip(*found, strict=True)))
            return np.concatenate(found)
        return self.net.predict(x, batch_size)

    @property
    def learning_rate(self) -> float | None:
        """Learning rate of the latest step, of the first group; None where there is none."""
        groups = getattr(self.optimizer, "param_groups", None)
        lr = groups[0].get("lr") if groups else None
        return float(lr(max(self.optimizer.steps - 1, 0)) if callable(lr) else lr) if lr else lr

    # --- looks before training --------------------------------------------------------------

    def lr_find(
        self,
        data: Any,
        batch_size: int = 32,
        *,
        start: float = 1e-7,
        end: float = 10.0,
        steps: int = 100,
        rng: Rng = None,
    ) -> probe.LearningRates:
        """Try learning rates from small to large; everything is as before afterwards.

        Each step has a rate that is larger by one factor, until the loss has exploded (Smith
        2017). The rate that is suggested is that of the steepest fall of the smoothed loss.

        Parameters
        ----------
        data, batch_size, rng
            As of `fit`.
        start, end : float
            Range of the learning rates.
        steps : int
            From one end to the other.

        Returns
        -------
        LearningRates
            ``lr`` and ``loss`` of every step, and the ``suggestion``.
        """
        return probe.learning_rates(self, data, batch_size, start, end, steps, rng)

    def overfit_one_batch(
        self, data: Any, batch_size: int = 32, *, steps: int = 100, rng: Rng = None
    ) -> list[float]:
        """Train on one batch again and again; everything is as before afterwards.

        A network, loss and optimizer that fit together bring the loss close to its least value;
        if they do not, look for the mistake before training on everything.

        Parameters
        ----------
        data, batch_size, rng
            As of `fit`.
        steps : int

        Returns
        -------
        list of float
            Loss of every step.
        """
        return probe.overfit(self, data, batch_size, steps, rng)

    # --- interruptions ----------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], **described: Any) -> None:
        """Write a checkpoint: all that is needed to go on as if nothing had happened.

        It is a file of weights, too: `fastbn.train.load` and the command line read it.

        Parameters
        ----------
        path : path
            A safetensors file; an older one is replaced in one step.
        **described
            What `fastbn.train.save` takes besides: classes, input_normalization, model, arguments.
        """
        if self.is_first:
            checkpoint.save(self, path, **described)

    def resume(self, path: str | os.PathLike[str]) -> Self:
        """Take over a checkpoint: weights, the optimizer's state, random states, history.

        The next `fit`, called as the interrupted one was, continues where that was, and ends
        with the weights it would have had.

        Parameters
        ----------
        path : path
            What `save` or a `Checkpoint` wrote.

        Returns
        -------
        Trainer
            This object.

        Raises
        ------
        ValueError
            If the file is damaged, no checkpoint, or of another network or optimizer; nothing has
            been changed then.
        OSError
            If it cannot be read.
        """
        with self._file_of_rank_0(path) as file:
            self._resumed = checkpoint.resume(self, file)
        return self

    @contextmanager
    def _file_of_rank_0(self, path: str | os.PathLike[str]) -> Iterator[str | os.PathLike[str]]:
        """Give the path of a file that rank 0 can read, or that of a copy of it."""
        if self.ranks is None:
            yield path
            return
        with self.ranks.telling():
            content = require_file(path).read_bytes() if self.is_first else None
        content = broadcast_bytes(self.ranks.communicator, content)
        if self.is_first:
            yield path
            return
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as copy:
            copy.write(content)
            copy.flush()
            yield copy.name
