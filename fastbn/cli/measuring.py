"""What the commands of ``fastbn bench`` have in common: lists, consoles, tables and files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from fastbn.bench.rows import Row


def names(text: str) -> list[str]:
    """Parts of a list with commas.

    Examples
    --------
    >>> names("nchw, nc")
    ['nchw', 'nc']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def thread_counts(text: str | None) -> list[int]:
    """Numbers of threads; one and as many as there are by default.

    Examples
    --------
    >>> thread_counts("1,2")
    [1, 2]
    """
    if text is None:
        import fastbn

        return sorted({1, fastbn.get_num_threads()})
    try:
        counts = sorted({int(part) for part in names(text)})
    except ValueError:
        counts = []
    if not counts or counts[0] < 1:
        raise typer.BadParameter(f"threads: expected positive numbers as in 1,2, got {text!r}")
    return counts


def printer() -> Console:
    """Return a console for tables: as wide as they are where nobody's terminal is in the way."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)


def warn_if_busy(console: Console) -> None:
    """Say so if other programs compute while this one is going to measure."""
    from fastbn.bench.load import busy_cores

    busy = busy_cores()
    if busy is not None and busy > 0.1:
        console.print(
            f"warning: other programs keep {busy:.1f} cores busy; these figures mean little",
            style="yellow",
        )


def in_a_folder(path: Path | None) -> Path | None:
    """Refuse a file that cannot be written before anything is measured."""
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"{path.parent} is no folder; make it first")
    return path


@contextmanager
def showing(
    found: Sequence[Row],
    threads: Sequence[int],
    json_file: Path | None,
    tables: Callable[[dict[str, Any]], Iterable[object]],
) -> Iterator[Callable[[str], None]]:
    """Show and write what is found in a ``with`` block, also if an error or the user ends it.

    Parameters
    ----------
    found : sequence of Row
        What the block adds rows to.
    threads : sequence of int
        What is said of the machine.
    json_file : path or None
        Where the rows are written.
    tables : callable
        Takes the description of the machine, returns what is printed.

    Yields
    ------
    callable
        Tells what is measured next: in a terminal one line that changes, in a log line by line.
    """
    from rich.console import Console

    from fastbn.bench import rows

    console = Console(stderr=True)
    warn_if_busy(console)

    def line_by_line(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    try:
        with console.status("") as status:
            yield status.update if console.is_terminal else line_by_line
    finally:
        if found:
            machine = rows.machine(threads)
            if json_file is not None:
                rows.write(json_file, machine, found)
            output = printer()
            for each in tables(machine):
                output.print(each)


def warn_of(left_out: Sequence[str]) -> None:
    """Say what could not be measured, and why."""
    from rich.console import Console

    console = Console(stderr=True)
    for line in left_out:
        console.print(f"warning: left out: {line}", style="yellow", markup=False, soft_wrap=True)


JsonFile = Annotated[
    Path | None,
    typer.Option("--json", help="Write the rows to this file.", callback=in_a_folder),
]
