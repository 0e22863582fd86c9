"""A bar for downloads, in the form pooch asks for."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class DownloadBar:
    """Shows how much of each file has arrived; silent where stderr is not a terminal.

    pooch sets `total`, calls `update` with every chunk, and at the end of a file `reset`, `update`
    with the whole size, and `close`.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

        console = Console(stderr=True)
        self._progress = Progress(
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None, visible=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    @property
    def total(self) -> float | None:
        """Bytes of the file that arrives now."""
        return self._progress.tasks[-1].total

    @total.setter
    def total(self, size: int) -> None:
        self._task = self._progress.add_task("", total=size or None)

    def update(self, count: int) -> None:
        """Count bytes that have arrived."""
        self._progress.advance(self._task, count)

    def reset(self) -> None:
        """Count from zero again."""
        self._progress.reset(self._task)

    def close(self) -> None:
        """Stop the clock of this file."""
        self._progress.stop_task(self._task)
