"""Where a fit stands: what a checkpoint has to say for the rest to be the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

PLACE = ("seed", "epoch", "step", "seen", "labelled", "total", "correct", "seconds")


class Part(NamedTuple):
    """What one step has seen.

    Attributes
    ----------
    rows, labelled : int
        Samples, and those of them that have a label.
    loss : float
        What the loss function said.
    total : float
        Sum of the losses of these samples.
    correct : int
        How many of them were found.
    """

    rows: int
    labelled: int
    loss: float
    total: float
    correct: int


@dataclass
class Position:
    """A place between two steps of one call of `Trainer.fit`.

    Attributes
    ----------
    seed : int
        Of order and augmentation.
    epochs, batch_size, accumulate : int
        As asked for.
    samples : int or None
        Training samples; None where only batches are known.
    epoch : int
        Whole epochs of this fit.
    step : int
        Whole steps of the epoch that is running.
    seen, labelled : int
        Samples in these steps, and those of them that have a label.
    total : float
        Sum of their losses.
    correct : int
        How many of them were found.
    seconds : float
        Time of these steps.
    """

    seed: int
    epochs: int
    batch_size: int
    accumulate: int
    samples: int | None
    epoch: int = 0
    step: int = 0
    seen: int = 0
    labelled: int = 0
    total: float = 0.0
    correct: int = 0
    seconds: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether all epochs that were asked for are done."""
        return self.epoch >= self.epochs

    def asked_for(self, other: Position) -> Position:
        """Return this place in a fit that is asked for as `other` says.

        Raises
        ------
        ValueError
            If that one has other steps, and this place is between two of them.
        """
        names = ("batch_size", "accumulate", "samples")
        differ = [name for name in names if getattr(self, name) != getattr(other, name)]
        if differ and self.step:
            told = ", ".join(
                f"{name} {getattr(self, name)}, not {getattr(other, name)}" for name in differ
            )
            raise ValueError(
                f"the interrupted epoch had {told}: call fit as it was called then, to go on"
            )
        return replace(other, **{name: getattr(self, name) for name in PLACE})

    def advance(self, part: Part) -> None:
        """Count a step."""
        self.step += 1
        self.seen += part.rows
        self.labelled += part.labelled
        self.total += part.total
        self.correct += part.correct

    def next_epoch(self) -> None:
        """Stand at the beginning of the next epoch."""
        self.epoch += 1
        self.step = self.seen = self.labelled = self.correct = 0
        self.total = self.seconds = 0.0
