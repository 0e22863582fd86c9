"""``fastbn info``."""

from __future__ import annotations

from typing import Annotated

import typer

from fastbn.cli.errors import DONE
from fastbn.cli.table import show


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> int:
    """Show versions, instruction set, threads, caches and the data sets that are found."""
    from fastbn.cli.environment import describe

    environment = describe()
    if as_json:
        import json

        print(json.dumps(environment, indent=2))
    else:
        show("fastbn", environment)
    return DONE
