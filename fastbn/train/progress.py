"""What a person sees of a training run: bars in a terminal, lines in a log; else nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastbn.train.callbacks import Callback

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from fastbn.train.history import Epoch
    from fastbn.train.trainer import Trainer

INTERVAL = 0.1  # seconds between two updates: a step may take a tenth of a millisecond


class Bars(Callback):
    """One bar for one epoch: steps, loss, accuracy, images per second, time left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._due = 0.0

    def on_step(self, trainer: Trainer) -> None:
        """Show the numbers of the epoch so far, unless some were shown a moment ago."""
        now = time.perf_counter()
        if now < self._due:
            return
        self._due = now + INTERVAL
        assert trainer.plan is not None
        at = trainer.plan.position
        accuracy = at.correct / at.seen if hasattr(trainer.loss, "correct") else None
        text = _numbers(at.total / at.seen, accuracy, at.seen / max(at.seconds, 1e-9))
        self._progress.update(self._begun(trainer), completed=at.step, numbers=text)

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Show the numbers of the whole epoch."""
        epoch = trainer.history.last
        task = self._begun(trainer, epoch.epoch)
        self._progress.update(task, completed=epoch.steps, total=epoch.steps, numbers=said(epoch))
        self._task = None

    def _begun(self, trainer: Trainer, epoch: int | None = None) -> TaskID:
        if self._task is None:
            assert trainer.plan is not None
            label = f"epoch {epoch or len(trainer.history.epochs) + 1}"
            self._task = self._progress.add_task(label, total=trainer.plan.steps, numbers="")
        return self._task


class Lines(Callback):
    """One line for every epoch, for a log."""

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Print the numbers of the epoch on standard error."""
        epoch = trainer.history.last
        print(
            f"epoch {epoch.epoch}: {said(epoch)}, {epoch.seconds:.1f} s",
            file=sys.stderr,
            flush=True,
        )


def said(epoch: Epoch) -> str:
    """Return the numbers of an epoch in a few words."""
    text = _numbers(epoch.loss, epoch.accuracy, epoch.images_per_second)
    if epoch.val_accuracy is not None:
        return f"{text} val {epoch.val_accuracy:.4f}"
    return text if epoch.val_loss is None else f"{text} val loss {epoch.val_loss:.4f}"


def _numbers(loss: float, accuracy: float | None, rate: float) -> str:
    # Short, so that a line of 80 columns has room for the bar and the time left.
    shown = "" if accuracy is None else f" accuracy {accuracy:.4f}"
    return f"loss {loss:.4f}{shown} {rate:,.0f} images/s"


@contextmanager
def bars(wanted: bool | None) -> Iterator[list[Callback]]:
    """Show bars on standard error for a ``with`` block.

    Parameters
    ----------
    wanted : bool or None
        None shows them if standard error is a terminal. Where they are not shown, rich is not
        imported, and there are no callbacks.
    """
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield []
        return

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield [Bars(progress)]
