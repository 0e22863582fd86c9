"""What a training run leaves behind: one row of numbers for every epoch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Epoch:
    """Numbers of one epoch.

    Attributes
    ----------
    epoch : int
        Counts from 1.
    steps : int
        Updates of the weights.
    loss, accuracy : float
        Means over the samples seen, each at the weights of its step. `accuracy` is None where the
        loss knows no classes.
    val_loss, val_accuracy : float or None
        Of the validation set after the epoch, in inference mode.
    seconds : float
        Time of the training steps, without validation.
    images_per_second : float
    lr : float or None
        Learning rate of the last step, of the first parameter group.
    metrics : dict of str to float
        Of the validation set, those that `Trainer` was given, by their names.

    Examples
    --------
    >>> epoch = Epoch(1, 40, 0.5, 0.8, 0.6, 0.75, seconds=2.0, images_per_second=640.0)
    >>> epoch.loss, epoch.val_accuracy, epoch.lr
    (0.5, 0.75, None)
    """

    epoch: int
    steps: int
    loss: float
    accuracy: float | None
    val_loss: float | None
    val_accuracy: float | None
    seconds: float
    images_per_second: float
    lr: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    def as_row(self) -> dict[str, float | int | None]:
        """Return all numbers by name; a metric of the validation set is called ``val_name``."""
        row = asdict(self)
        metrics = row.pop("metrics")
        return row | {f"val_{name}": value for name, value in metrics.items()}


@dataclass
class History:
    """The epochs of a training run, and each of their numbers as a list.

    Examples
    --------
    >>> history = History([Epoch(1, 10, 0.5, 0.9, None, None, 2.0, 160.0)])
    >>> history.loss, history.last.accuracy
    ([0.5], 0.9)
    """

    epochs: list[Epoch] = field(default_factory=list)

    @property
    def last(self) -> Epoch:
        """The latest epoch; IndexError if there is none."""
        return self.epochs[-1]

    @property
    def steps(self) -> int:
        """Updates of the weights in all epochs."""
        return sum(epoch.steps for epoch in self.epochs)

    @property
    def seconds(self) -> float:
        """Time of the training steps of all epochs."""
        return sum(epoch.seconds for epoch in self.epochs)

    @property
    def images_per_second(self) -> float:
        """Mean over the whole run; 0 before the first epoch."""
        images = sum(epoch.images_per_second * epoch.seconds for epoch in self.epochs)
        return images / self.seconds if self.seconds else 0.0

    @property
    def loss(self) -> list[float]:
        """Training loss of every epoch."""
        return [epoch.loss for epoch in self.epochs]

    @property
    def accuracy(self) -> list[float | None]:
        """Training accuracy of every epoch."""
        return [epoch.accuracy for epoch in self.epochs]

    @property
    def val_loss(self) -> list[float | None]:
        """Validation loss of every epoch."""
        return [epoch.val_loss for epoch in self.epochs]

    @property
    def val_accuracy(self) -> list[float | None]:
        """Validation accuracy of every epoch."""
        return [epoch.val_accuracy for epoch in self.epochs]

    def as_rows(self) -> list[dict[str, float | int | None]]:
        """Return one dictionary for every epoch, as JSON takes it."""
        return [epoch.as_row() for epoch in self.epochs]
