"""The commands ``fastbn bench …``. Nothing heavy is imported before one of them runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

bench_app = typer.Typer(help="Measure against the machine's limits, PyTorch, TensorFlow and JAX.")


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


@bench_app.callback()
def main() -> None:
    """Measure against the machine's limits, PyTorch, TensorFlow and JAX."""


@bench_app.command()
def kernels(
    threads: Annotated[str | None, typer.Option(help="Numbers of threads, as in 1,2.")] = None,
    shapes: Annotated[
        str, typer.Option(help="resnet50, small, or a file with a shape (64@56, 256x1024) a line.")
    ] = "resnet50",
    layouts: Annotated[str, typer.Option(help="Out of nchw,nhwc,nc.")] = "nchw,nhwc,nc",
    ops: Annotated[
        str | None, typer.Option(help="Out of forward,inference,backward …; all by default.")
    ] = None,
    dtypes: Annotated[str, typer.Option(help="Out of float32,float64,bfloat16.")] = "float32",
    rounds: Annotated[int, typer.Option(help="Turns of every side.", min=1)] = 7,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the rows to this file.")
    ] = None,
) -> int:
    """Batch normalisation, in multiples of a copy's time."""
    from rich.console import Console

    from fastbn.bench import cases, kernels, rows, table, targets
    from fastbn.bench.shapes import shapes as shapes_of

    counts = thread_counts(threads)
    console = Console(stderr=True)
    with console.status("") as status:
        found = kernels.run(
            kernels.cases(shapes_of(shapes), names(layouts), names(dtypes)),
            names(ops) if ops else cases.ALONE,
            counts,
            rounds=rounds,
            progress=status.update,
        )
    machine = rows.machine(counts)
    output = Console()
    output.print(table.kernels_table(found, machine))
    output.print(table.results_table(targets.judge(found)))
    if json_file is not None:
        rows.write(json_file, machine, found)
    return 0
