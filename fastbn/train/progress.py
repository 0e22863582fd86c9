"""The progress bar of a training run; silent where nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from fastbn.train.history import Epoch

INTERVAL = 0.1  # seconds between two updates: a step may take a tenth of a millisecond


class Bar:
    """One bar for one epoch: steps, loss, accuracy, images per second, time left."""

    def __init__(self, progress: Progress, label: str, steps: int) -> None:
        self._progress = progress
        self._task: TaskID = progress.add_task(label, total=steps, numbers="")
        self._due = 0.0

    def update(self, step: int, loss: float, accuracy: float | None, rate: float) -> None:
        """Show the numbers after `step` steps, unless some were shown a moment ago."""
        now = time.perf_counter()
        if now >= self._due:
            self._due = now + INTERVAL
            self._progress.update(
                self._task, completed=step, numbers=_numbers(loss, accuracy, rate)
            )

    def finish(self, epoch: Epoch) -> None:
        """Show the numbers of the whole epoch."""
        numbers = _numbers(epoch.loss, epoch.accuracy, epoch.images_per_second)
        if epoch.val_accuracy is not None:
            numbers += f" val {epoch.val_accuracy:.4f}"
        self._progress.update(self._task, completed=epoch.steps, numbers=numbers)


def _numbers(loss: float, accuracy: float | None, rate: float) -> str:
    # Short, so that a line of 80 columns has room for the bar and the time left.
    shown = "" if accuracy is None else f" accuracy {accuracy:.4f}"
    return f"loss {loss:.4f}{shown} {rate:,.0f} images/s"


class Display:
    """Where bars come from."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def bar(self, label: str, steps: int) -> Bar:
        """Add a bar below the ones before."""
        return Bar(self._progress, label, steps)


@contextmanager
def display(wanted: bool | None) -> Iterator[Display | None]:
    """Show bars on standard error for a ``with`` block.

    Parameters
    ----------
    wanted : bool or None
        None shows them if standard error is a terminal. Where they are not shown, rich is not
        imported, and None takes the place of the display.
    """
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield None
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
        yield Display(progress)
