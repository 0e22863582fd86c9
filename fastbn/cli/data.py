"""The commands ``fastbn data …``. Nothing heavy is imported before one of them runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastbn.cli.errors import DONE

data_app = typer.Typer(help="Download data sets.")


@data_app.callback()
def main() -> None:
    """Download data sets."""


@data_app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="mnist or cifar10.")],
    root: Annotated[
        Path | None, typer.Option(help="Folder of the data sets. Default: ~/.cache/fastbn.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="URL of a mirror: a folder with the published files.")
    ] = None,
) -> int:
    """Download a data set, verified against its published hashes."""
    from fastbn import data
    from fastbn.data.progress import DownloadBar

    with DownloadBar() as bar:
        folder = data.fetch(name, root, base_url=base_url, progress=bar)
    print(f"{folder}: {data.load(folder)}")
    return DONE
