"""``fastbn reproduce``: what the literature claims about batch normalisation, as experiments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastbn.cli.errors import DONE, WRONG
from fastbn.cli.table import show

if TYPE_CHECKING:
    from collections.abc import Mapping


def reproduce(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="An experiment of --list, or all.")
    ] = None,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Output folder. Default: NAME.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Other data than the experiment's own, as fastbn train takes them."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Random seeds, from 0 on.", min=1)] = 3,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small settings, about ten seconds an experiment.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the experiments.")] = False,
    threads: Annotated[
        int | None, typer.Option(help="Number of threads. Default: one per core.", min=1)
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> int:
    """Reproduce what the literature claims: result.json, plots, index.html, README.md.

    What was measured in the folder before an interruption is not measured again.
    """
    from fastbn import experiments, set_num_threads
    from fastbn.cli.environment import describe

    if threads is not None:
        set_num_threads(threads)
    if list_:
        titles = {each: experiments.get(each).title for each in experiments.NAMES}
        show("fastbn reproduce", titles)
        return DONE
    if name is None:
        raise typer.BadParameter("name an experiment, all, or ask for the --list")
    folder = Path(name) if output is None else output
    options: dict[str, Any] = {
        "data": data or (),
        "seeds": seeds,
        "quick": quick,
        "environment": describe(),
        "say": (lambda line: None) if quiet else _say,
    }
    if name == "all":
        missing = experiments.reproduce_all(folder, **options)
        for each, why in missing.items():
            print(f"fastbn: error: {each}: {why}", file=sys.stderr)
        if not quiet:
            print(folder / "index.html")
        return WRONG if missing else DONE
    told = experiments.reproduce(name, folder, **options)
    if not quiet:
        _print(told, folder)
    return DONE


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _print(told: Mapping[str, Any], folder: Path) -> None:
    claims = {c["claim"]: f"{c['verdict']}: {c['figures']}" for c in told["claims"]}
    show(told["title"], {**claims, "page": str(folder / "index.html")})
