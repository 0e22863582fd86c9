"""``fastbn report | compare``: what is known of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fastbn.cli.errors import DONE
from fastbn.cli.options import AsJson, Quiet
from fastbn.cli.table import show

# What a table shows of a run's report.
SHOWN = (
    "model",
    "data",
    "best_epoch",
    "test_loss",
    "test_accuracy",
    "test_mae",
    "test_r2",
    "steps",
    "seconds",
    "images_per_second",
    "bn_before",
    "bn_after",
    "max_rel_f64",
    "max_rel_ort",
    "argmax_agreement",
)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run.")],
    *,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> int:
    """Make report.json, training.png and report.html of a run again, finished or not."""
    from fastbn.cli.environment import describe
    from fastbn.cli.tuned import parts_of
    from fastbn.train import run
    from fastbn.train.folder import find

    told = run.report(folder, describe(), **parts_of(find(folder)))
    show_report(told, str(folder), quiet, as_json)
    return DONE


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of runs.")],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a page with all curves, too.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Set runs side by side: results, and the arguments that differ."""
    from fastbn.train import page
    from fastbn.train.folder import REPORT

    if len(folders) < 2:
        raise typer.BadParameter("name two folders or more")
    reports: dict[str, dict[str, Any]] = {}
    for folder in folders:
        path = folder / REPORT
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: make it with fastbn report {folder}")
        reports[str(folder)] = json.loads(path.read_text(encoding="utf-8"))
    rows: dict[str, dict[str, Any]] = {
        name: {run: told.get(name) for run, told in reports.items()}
        for name in SHOWN
        if any(told.get(name) is not None for told in reports.values())
    }
    for name, values in page.differing(reports).items():
        rows[name] = dict(zip(reports, values, strict=True))
    if output is not None:
        page.write_comparison(output, reports)
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        _show_columns(list(reports), rows)
    return DONE


def show_report(report: Mapping[str, Any], folder: str, quiet: bool, as_json: bool) -> None:
    """Show the report of a run: a table, JSON, or nothing."""
    if as_json:
        from fastbn.train.report import finite

        print(json.dumps(finite(report), indent=2))
    elif not quiet:
        shown = {name: report[name] for name in SHOWN if report.get(name) is not None}
        files = sorted(path.name for path in Path(folder).iterdir() if path.name[0] != ".")
        show(f"{report['model']} on {report['data']}", {**shown, folder: files})


def _show_columns(runs: list[str], rows: Mapping[str, Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from fastbn.cli.table import readable

    table = Table()
    for head in ("", *runs):
        table.add_column(head, overflow="fold")
    for name, values in rows.items():
        table.add_row(name, *(readable(values[run]) for run in runs))
    Console().print(table)
