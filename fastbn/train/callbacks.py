"""What can happen beside training: stop early, reduce the learning rate, keep, write, show."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastbn.files import atomic

if TYPE_CHECKING:
    from fastbn.nn import Module
    from fastbn.train.trainer import Trainer

Hook = Callable[["Trainer"], None]

# What is better when it is larger; everything else is a loss or an error.
GROWING = ("accuracy", "f1", "r2", "top_k", "top", "precision", "recall")


class Callback:
    """Base class; each method gets the trainer. Those that are not overridden cost nothing.

    A callback may set ``trainer.should_stop`` to end training after the current step, or
    `finished` to end it after the epoch. `state_dict` returns what it needs to continue after an
    interruption.

    Examples
    --------
    >>> class Print(Callback):
    ...     def on_epoch_end(self, trainer):
    ...         print(trainer.history.last.steps, "steps")
    """

    @property
    def finished(self) -> bool:
        """Whether no more epochs are wanted."""
        return False

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Come before the first step, when all arguments have been checked."""

    def on_step(self, trainer: Trainer) -> None:
        """Act after every update of the weights; the loss is ``trainer.last_loss``."""

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Act after every epoch and its validation; see ``trainer.history.last``."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """Act after the last epoch, or when training was stopped, but not after an error."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: arrays, and values of JSON's types."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; is called after `on_fit_begin`."""


def hooks(callbacks: Iterable[Any], name: str) -> list[Hook]:
    """Return the method of this name of each callback that has its own.

    Examples
    --------
    >>> len(hooks([Callback(), EarlyStopping()], "on_epoch_end"))
    1
    """
    nothing = getattr(Callback, name)
    return [
        getattr(callback, name)
        for callback in callbacks
        if getattr(type(callback), name, nothing) is not nothing
    ]


class _Watcher(Callback):
    """Watches one number of every epoch, and knows its best value."""

    def __init__(self, monitor: str, min_delta: float, mode: str) -> None:
        if mode not in {"auto", "min", "max"}:
            raise ValueError(f"mode should be 'auto', 'min' or 'max', got {mode!r}")
        if not min_delta >= 0.0:
            raise ValueError(f"min_delta should not be negative, got {min_delta}")
        self.monitor = monitor
        self.min_delta = min_delta
        grows = (
            monitor.removeprefix("val_").startswith(GROWING) if mode == "auto" else mode == "max"
        )
        self._sign = -1.0 if grows else 1.0
        self._reset()

    def _reset(self) -> None:
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.waited = 0

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Begin anew; ValueError if nothing is validated and a ``val_`` number is watched."""
        self._reset()
        if (
            self.monitor.startswith("val_")
            and trainer.plan is not None
            and trainer.plan.validation is None
        ):
            raise ValueError(
                f"{type(self).__name__} watches {self.monitor}, but nothing is validated: give fit "
                "validation=0.1, or watch monitor='loss'"
            )

    def improved(self, trainer: Trainer) -> bool:
        """Tell whether the latest epoch is the best, and count the epochs since that one."""
        row = trainer.history.last.as_row()
        value = row.get(self.monitor)
        if value is None:
            known = ", ".join(name for name, number in row.items() if number is not None)
            raise ValueError(
                f"{type(self).__name__}: there is no {self.monitor!r} to watch; there are {known}"
            )
        if math.isfinite(value) and (
            self.best is None or self._sign * (self.best - value) > self.min_delta
        ):
            self.best, self.best_epoch, self.waited = float(value), trainer.history.last.epoch, 0
            return True
        self.waited += 1
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, its epoch, and the epochs since."""
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self.waited = state["waited"]


class EarlyStopping(_Watcher):
    """Stop when a number has not become better for some epochs, and give the best weights back.

    Parameters
    ----------
    patience : int, default 3
        Epochs without improvement after which training stops.
    monitor : str, default "val_loss"
        A number of `fastbn.train.Epoch`, or ``val_`` and the name of a metric.
    min_delta : float, default 0
        What counts as an improvement is more than this.
    mode : {"auto", "min", "max"}
        Whether less or more is better; "auto" takes more for accuracies and scores.
    restore_best : bool, default True
        Whether the network has the weights and running statistics of the best epoch in the end.

    Attributes
    ----------
    best, best_epoch : float and int, or None
        The best value so far, and its epoch.

    Examples
    --------
    >>> from fastbn import data, models
    >>> from fastbn.train import Trainer
    >>> digits = data.load("digits")
    >>> trainer = Trainer(models.mlp(digits.input_shape, rng=0))
    >>> stopping = EarlyStopping(patience=2)
    >>> history = trainer.fit(digits, 100, 32, validation=0.2, callbacks=[stopping], rng=0)
    >>> len(history.epochs) < 100, len(history.epochs) - stopping.best_epoch
    (True, 2)
    """

    def __init__(
        self,
        patience: int = 3,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        mode: str = "auto",
        restore_best: bool = True,
    ) -> None:
        if patience < 1:
            raise ValueError(f"patience should be a positive integer, got {patience}")
        super().__init__(monitor, min_delta, mode)
        self.patience = patience
        self.restore_best = restore_best

    def _reset(self) -> None:
        super()._reset()
        self._weights: dict[str, Any] | None = None
        self._last: dict[str, Any] | None = None  # of the last epoch, where others were put back
        self._net: Module | None = None

    @property
    def finished(self) -> bool:
        """Whether training has gone on in vain for long enough."""
        return self.waited >= self.patience

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Begin anew; ValueError if nothing is validated and a ``val_`` number is watched."""
        super().on_fit_begin(trainer)
        self._net = trainer.net

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Keep the weights, or count one more epoch in vain."""
        if self.improved(trainer) and self.restore_best:
            self._weights = trainer.net.state_dict()

    def on_fit_end(self, trainer: Trainer) -> None:
        """Give the best weights back."""
        self._net = None
        if self._weights is not None:
            self._last = trainer.net.state_dict()
            trainer.net.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the best weights, too, and those that a resumed fit continues from."""
        return super().state_dict() | {"weights": self._weights, "last": self._last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; the network gets the weights of the last epoch."""
        super().load_state_dict(state)
        self._weights = state["weights"]
        if self._net is not None and (last := state.get("last")) is not None:
            self._net.load_state_dict(last)


class ReduceOnPlateau(_Watcher):
    """Multiply the learning rate by a factor when a number has not become better for some epochs.

    Parameters
    ----------
    factor : float, default 0.1
        In (0, 1).
    patience : int, default 10
        Epochs without improvement before each reduction.
    monitor, min_delta, mode
        As of `EarlyStopping`.
    min_lr : float, default 0
        The learning rate falls no further.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn import models, optim
    >>> from fastbn.train import Trainer
    >>> x, y = np.random.default_rng(0).random((64, 4)), np.arange(64) % 2
    >>> net = models.mlp((4,), 2, rng=0)
    >>> trainer = Trainer(net, optimizer=optim.SGD(net.parameters(), lr=0.1))
    >>> halve = ReduceOnPlateau(0.5, patience=2, monitor="loss", min_delta=10.0)
    >>> history = trainer.fit((x, y), epochs=6, callbacks=[halve], rng=0)
    >>> [epoch.lr for epoch in history.epochs]
    [0.1, 0.1, 0.1, 0.05, 0.05, 0.025]
    """

    def __init__(
        self,
        factor: float = 0.1,
        patience: int = 10,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        mode: str = "auto",
        min_lr: float = 0.0,
    ) -> None:
        if not 0.0 < factor < 1.0:
            raise ValueError(f"factor should be between 0 and 1, got {factor}")
        if patience < 1:
            raise ValueError(f"patience should be a positive integer, got {patience}")
        super().__init__(monitor, min_delta, mode)
        self.factor = factor
        self.patience = patience
        self.min_lr = min_lr

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Begin anew; ValueError if the learning rate has a schedule of its own."""
        super().on_fit_begin(trainer)
        if any(callable(group["lr"]) for group in trainer.optimizer.param_groups):
            raise ValueError(
                "ReduceOnPlateau changes a learning rate that is a number, but the optimizer's is "
                "a schedule: give it lr=0.001, say"
            )

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Reduce the learning rate, if it is time."""
        if not self.improved(trainer) and self.waited >= self.patience:
            self.waited = 0
            for group in trainer.optimizer.param_groups:
                group["lr"] = max(group["lr"] * self.factor, min(self.min_lr, group["lr"]))


class Checkpoint(_Watcher):
    """Write checkpoints from which `fastbn.train.Trainer.resume` continues.

    Parameters
    ----------
    path : path
        The file; a new checkpoint replaces it in one step.
    every : int, optional
        Write also after every `every` steps.
    best_only : bool, default False
        Write only after epochs that are better than all before.
    monitor, min_delta, mode
        As of `EarlyStopping`, for `best_only`.
    **described
        What `fastbn.train.save` takes besides: classes, input_normalization, model, arguments.

    Examples
    --------
    >>> import tempfile
    >>> from fastbn import data, models, train
    >>> digits = data.load("digits")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "last.safetensors"
    ...     trainer = train.Trainer(models.mlp(digits.input_shape, rng=0))
    ...     _ = trainer.fit(digits, 1, callbacks=[Checkpoint(path, every=20)], rng=0)
    ...     again = train.Trainer(models.mlp(digits.input_shape)).resume(path)
    >>> again.steps
    45
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        every: int | None = None,
        best_only: bool = False,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        mode: str = "auto",
        **described: Any,
    ) -> None:
        if every is not None and every < 1:
            raise ValueError(f"every should be a positive integer, got {every}")
        super().__init__(monitor, min_delta, mode)
        self.path = Path(path)
        self.every = every
        self.best_only = best_only
        self.described = described
        self._saved_at: tuple[int, int] | None = None  # steps, epochs

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Begin anew; OSError if the folder is not there."""
        if self.best_only:
            super().on_fit_begin(trainer)
        self._saved_at = None
        if trainer.is_first and not self.path.absolute().parent.is_dir():
            raise FileNotFoundError(f"{self.path.parent}: there is no such folder")

    def on_step(self, trainer: Trainer) -> None:
        """Write, if it is time."""
        if self.every is not None and trainer.steps % self.every == 0:
            self._save(trainer)

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Write, if the epoch was good enough."""
        if not self.best_only or self.improved(trainer):
            self._save(trainer)

    def on_fit_end(self, trainer: Trainer) -> None:
        """Write where training was stopped between two checkpoints."""
        if not self.best_only and self._saved_at != (trainer.steps, len(trainer.history.epochs)):
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save(self.path, **self.described)
        self._saved_at = trainer.steps, len(trainer.history.epochs)


class CSVLog(Callback):
    """Write the history as a CSV file after every epoch, one row for each.

    Parameters
    ----------
    path : path
        The file; it is replaced in one step.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from fastbn import models
    >>> from fastbn.train import Trainer
    >>> x, y = np.random.default_rng(0).random((64, 4)), np.arange(64) % 2
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = CSVLog(Path(folder) / "history.csv")
    ...     history = Trainer(models.mlp((4,), 2, rng=0)).fit((x, y), epochs=2, callbacks=[log])
    ...     lines = (Path(folder) / "history.csv").read_text().splitlines()
    >>> lines[0].split(",")[:3], len(lines)
    (['epoch', 'steps', 'loss'], 3)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Write all epochs so far."""
        if not trainer.is_first:
            return
        rows = trainer.history.as_rows()
        with atomic(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as f:
            table = csv.DictWriter(f, list(rows[-1]), restval="", extrasaction="ignore")
            table.writeheader()
            table.writerows(rows)


class TensorBoard(Callback):
    """Write every epoch's numbers for TensorBoard; needs the package tensorboardX.

    Parameters
    ----------
    folder : path
        Folder of the event files.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from fastbn import models
    >>> from fastbn.train import Trainer
    >>> x, y = np.random.default_rng(0).random((64, 4)), np.arange(64) % 2
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = TensorBoard(folder)
    ...     history = Trainer(models.mlp((4,), 2, rng=0)).fit((x, y), callbacks=[log])
    ...     files = [path.name.split(".")[1] for path in Path(folder).iterdir()]
    >>> files
    ['out']
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._writer: Any = None

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Open the event file; ImportError if tensorboardX is not installed."""
        if not trainer.is_first:
            return
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError("TensorBoard needs tensorboardX: pip install tensorboardX") from error
        self._writer = SummaryWriter(str(self.folder), purge_step=len(trainer.history.epochs) + 1)

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Write the numbers of the latest epoch."""
        if self._writer is None:
            return
        row = trainer.history.last.as_row()
        epoch = row.pop("epoch")
        for name, value in row.items():
            if value is not None:
                self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def on_fit_end(self, trainer: Trainer) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_writer": None}
