"""Options that name files, and the files that commands write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastbn.files import require_output

ReportFile = Annotated[
    Path | None, typer.Option("--report", help="Also write the whole report to this JSON file.")
]
CheckData = Annotated[
    Path | None,
    typer.Option(help="An .npz file of inputs by name, used besides random ones."),
]


def need_other_files(written: Path | None, *others: Path | None) -> None:
    """Refuse to write over a file of the same command, or where there is no folder."""
    if written is not None:
        try:
            require_output(written)
        except OSError as error:
            raise typer.BadParameter(str(error)) from None
    for other in others:
        if written is None or other is None:
            continue
        same = written.resolve() == other.resolve()
        if same or (written.exists() and other.exists() and written.samefile(other)):
            raise typer.BadParameter(f"{written} would be written over {other}; name another file")


def write_text(path: Path | None, text: str) -> None:
    """Write a report, if a file was named, in one step."""
    if path is not None:
        from fastbn.files import atomic

        with atomic(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
