"""``fastbn models``. Nothing heavy is imported before it runs."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from fastbn.cli.errors import DONE
from fastbn.cli.options import Threads

LONG_ENOUGH = 0.2  # seconds in which a network's forward is repeated


def models(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Default: all.")
    ] = None,
    *,
    size: Annotated[
        int | None,
        typer.Option(help="Height and width of the image. Default: what each was made for.", min=1),
    ] = None,
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> int:
    """List the networks: parameters, FLOP and milliseconds of a forward of one image."""
    import fastbn
    from fastbn import models as package
    from fastbn.nn.table import short

    for name in names or []:
        if name not in package.names():
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(package.names())}")
    if threads is not None:
        fastbn.set_num_threads(threads)
    rows = [measured(name, size) for name in names or package.names()]
    if as_json:
        print(json.dumps(rows, indent=2))
        return DONE
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for head in ("model", "input", "parameters", "FLOP", "ms"):
        table.add_column(head, justify="left" if head in {"model", "input"} else "right")
    for row in rows:
        shape = "×".join(map(str, row["input_shape"]))
        numbers = short(row["parameters"]), short(row["flop"]), f"{row['ms']:.3g}"
        table.add_row(row["model"], shape, *numbers)
    Console().print(table)
    return DONE


def measured(name: str, size: int | None) -> dict[str, Any]:
    """Return what the table says of a network, in whose weights nothing is random."""
    import inspect

    import numpy as np

    from fastbn import models as package

    class Flat(np.random.Generator):
        """Initial weights that take no time."""

        def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
            return np.broadcast_to(np.float64(high), size)

    shape = inspect.signature(getattr(package, name)).parameters["input_shape"].default
    shape = shape if size is None else (size, size, shape[2])
    net = package.build(name, input_shape=shape, rng=Flat(np.random.PCG64(0)))
    x = np.zeros((1, *shape), np.float32)
    seconds: list[float] = []
    net.predict(x)
    while not seconds or sum(seconds) < LONG_ENOUGH:
        begin = time.perf_counter()
        net.predict(x)
        seconds.append(time.perf_counter() - begin)
    return {
        "model": name,
        "input_shape": list(shape),
        "parameters": sum(parameter.size for parameter in net.parameters()),
        "flop": net.flops(shape),
        "ms": 1e3 * float(np.median(seconds)),
    }
